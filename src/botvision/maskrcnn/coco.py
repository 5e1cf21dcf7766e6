"""Read and check COCO annotations: every reference leads somewhere, every image is there."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from posixpath import normpath
from types import NoneType
from typing import Any, NamedTuple, cast

from botvision.files import is_file, key_of, read_json
from botvision.inputs import header, header_size, most_pixels
from botvision.maskrcnn.config import BoxFormat, OnBad
from botvision.maskrcnn.labels import (
    NO_MASK,
    bad_box,
    bad_mask,
    from_corners,
    has_mask,
    look_at_boxes,
    shown,
    told_as_corners,
    told_otherwise,
    without_scraps,
)
from botvision.maskrcnn.masks import decode

log = logging.getLogger("botvision.maskrcnn")
LISTS = ("images", "annotations", "categories")
IDS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
FEW = 0.2  # of the objects may be without a mask for masks to be trained on
KEPT = 2  # documents: a split to train on, and one to evaluate on
HEADERS = 2000  # images whose size is looked up on opening, spread over the file
READERS = 8  # threads that look

Document = dict[str, Any]
_recent: OrderedDict[tuple[str, int, int], Document] = OrderedDict()


class Category(NamedTuple):
    """A class to find: COCO's id, and its name."""

    id: int
    name: str


def read_coco(
    path: Path, images: Path, *, on_bad: OnBad, masks: bool = True, box_format: BoxFormat = "auto"
) -> Document:
    """A COCO file, checked: every reference leads somewhere and every image is there.

    Args:
        path: of the file.
        images: folder of its images.
        on_bad: what is to be done with annotations that cannot be used.
        masks: whether they need masks.
        box_format: of the file's boxes; auto is COCO's own, and refuses a file whose boxes seem to be two corners.

    Returns:
        The document, boxes as x, y, width, height.

    Raises:
        FileNotFoundError: no such file or image.
        ValueError: no COCO file, no annotation, crowds alone, a dangling image_id, a category that is not in the list
            or has no name, an image that is listed twice or is of another size than its entry; with `on_bad="refuse"`
            also a box without area or outside its image, or an annotation without a mask. With "skip" these are left
            out, with a line that says how many.
    """
    document = in_format(read_document(path), box_format)
    forget(path)
    document = {**document, "images": with_sizes(document["images"], images)}
    check_categories(path, document["categories"])
    check_images(path, document["images"], images)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    check_references(path, document, sizes)
    check_repeats(path, document)
    check_corners(path, document, sizes, box_format)
    annotations: list[dict[str, Any]] = document["annotations"]
    if masks and on_bad == "skip":
        annotations = [without_scraps(annotation) for annotation in annotations]
    reasons = [
        bad_box(a, *sizes[a["image_id"]]) or (bad_mask(a, *sizes[a["image_id"]]) if masks else "") for a in annotations
    ]
    names = {image["id"]: image["file_name"] for image in document["images"]}
    bad = [
        (shown(a.get("id")), why, f", in image {names[a['image_id']]:.200}")
        for a, why in zip(annotations, reasons, strict=True)
        if why
    ]
    boxes = "; --model.masks false trains on boxes alone" if bad and bad[0][1] == NO_MASK else ""
    if bad and on_bad == "refuse":
        number, why, where = bad[0]
        more = f" ({len(bad)} such annotations)" if len(bad) > 1 else ""
        raise ValueError(
            f"{path}: annotation {number} {why}{where}{more}; correct it, or leave such out by --data.on_bad "
            f"skip{boxes}"
        )
    if len(bad) == len(annotations):
        number, why, where = bad[0] if bad else ("", "", "")
        first = f" that can be used: annotation {number} {why}{where}" if bad else ""
        raise ValueError(f"{path} has no annotation{first}; nothing can be learnt or evaluated from it")
    by_mask = sum(
        bool(why) and not bad_box(a, *sizes[a["image_id"]]) for a, why in zip(annotations, reasons, strict=True)
    )
    if by_mask:
        boxes = f"{boxes}; in an evaluation the boxes of {by_mask} count in box AP"
    if bad:
        log.warning("%s: left out %d annotations; the first, %s, %s%s%s", path, len(bad), *bad[0], boxes)
    kept = [a for a, why in zip(annotations, reasons, strict=True) if not why]
    if all(a.get("iscrowd") for a in kept):
        raise ValueError(
            f"{path}: all {len(kept)} annotations are crowds (iscrowd 1), and nothing can be learnt or evaluated from "
            "these; set iscrowd to 0 where an annotation is one object"
        )
    check_classes(path, document["categories"], kept)
    tell_twins(path, kept)
    check_headers(path, document["images"], images)
    return {**document, "annotations": kept}


def check_classes(path: Path, categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    """Two categories of one name would be two classes: refused, where both have objects.

    Raises:
        ValueError: they have.
    """
    used = {annotation["category_id"] for annotation in annotations}
    first: dict[str, int] = {}
    for category in (one for one in categories if one["id"] in used):
        number = first.setdefault(category["name"].strip(), category["id"])
        if number != category["id"]:
            raise ValueError(
                f"{path}: categories {number} and {category['id']} are both called {shown(category['name'])}, and both "
                "have objects; give them one id, or two names"
            )


def tell_twins(path: Path, annotations: list[dict[str, Any]]) -> None:
    """Say how many objects are there twice, exactly: AP counts each, as COCO's does."""
    seen = Counter((a["image_id"], a["category_id"], *a["bbox"]) for a in annotations)
    twice = [key for key, count in seen.items() if count > 1]
    if twice:
        log.warning(
            "%s: %d objects repeat the box of another of their image and class, e.g. in image %s, bbox %s; each counts "
            "in AP, so remove them",
            path, sum(seen[key] - 1 for key in twice), twice[0][0], list(twice[0][2:6]),
        )  # fmt: skip


def in_format(document: Document, box_format: BoxFormat) -> Document:
    """A COCO document with boxes as x, y, width, height."""
    if box_format != "xyxy":
        return document
    return {**document, "annotations": from_corners(document["annotations"])}


def read_document(path: Path) -> Document:
    """A COCO file's three lists of dictionaries, not looked into; nobody may write into them.

    The latest ones are kept, so that finding a folder's layout and opening its splits parses each file once.

    Raises:
        FileNotFoundError, ValueError: no such file, or none of COCO's form.
    """
    key = key_of(path)
    if key is not None and key in _recent:
        _recent.move_to_end(key)
        return _recent[key]
    document: Any = read_json(path, what="COCO annotations")
    if not isinstance(document, dict) or any(not isinstance(document.get(key), list) for key in LISTS):
        raise ValueError(
            f"{path} is no COCO file: it needs the lists {', '.join(LISTS[:-1])} and {LISTS[-1]}; export it anew"
        )
    for name in LISTS:
        strange = [entry for entry in document[name] if not isinstance(entry, dict)]
        if strange:
            raise ValueError(f"{path}: {name} must be a list of dictionaries; got {shown(strange[0])} in it; remove it")
        for entry in document[name]:
            for number in IDS[name]:
                if isinstance(entry.get(number), list | dict):
                    raise ValueError(f"{path}: {number} of {shown(entry)} in {name} must be a whole number; correct it")
    if key is not None:
        _recent[key] = document
        while len(_recent) > KEPT:
            _recent.popitem(last=False)
    return document


def forget(path: Path) -> None:
    """Let a document that was kept go: it may take gigabytes."""
    key = key_of(path)
    if key is not None:
        _recent.pop(key, None)


def has_masks(document: Document, path: Path, *, on_bad: OnBad) -> bool:
    """Whether a file's annotations have masks; with `on_bad="skip"` nearly all are enough, and fewer are boxes.

    Raises:
        ValueError: some have and some have not, and none may be left out.
    """
    annotations = [a for a in document["annotations"] if not a.get("iscrowd", 0)]
    bare = sum(not has_mask(annotation) for annotation in annotations)
    if bare <= FEW * len(annotations) and on_bad == "skip":
        return bool(annotations)
    if bare < len(annotations) and on_bad == "skip":
        log.warning(
            "warning: %s: %d of %d objects have no mask: all are trained as boxes; --model.masks true leaves these out",
            path, bare, len(annotations),
        )  # fmt: skip
        return False
    if 0 < bare < len(annotations):
        raise ValueError(
            f"{path}: {bare} of {len(annotations)} annotations have no mask; --data.on_bad skip leaves them "
            "out, --model.masks false trains on boxes alone"
        )
    return bool(annotations) and not bare


def is_id(value: object) -> bool:
    """Whether both AP packages take it for an id."""
    return type(value) is int and 0 <= value < 2**63


def twice_in(values: Sequence[Any]) -> Any:
    """The first value that occurs twice; none where all differ."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def check_categories(path: Path, categories: list[dict[str, Any]]) -> None:
    """Ids that are unique, names that are there."""
    if not categories:
        raise ValueError(f"{path} lists no category; it needs at least one with id and name")
    for category in categories:
        number, name = category.get("id"), category.get("name")
        if type(number) is not int or name is None or name == "" or (isinstance(name, str) and not name.strip()):
            raise ValueError(f"{path}: category {shown(category)} needs a whole-number id and a name; give it both")
        if not isinstance(name, str):
            raise ValueError(f"{path}: the name of category {number} must be text; got {shown(name)}; put it in quotes")
        if not is_id(number):
            raise ValueError(f"{path}: category id {shown(number)} must lie in 0 … 2^63 − 1; renumber the categories")
    twice = twice_in([category["id"] for category in categories])
    if twice is not None:
        raise ValueError(f"{path}: category id {twice} occurs twice; give each category its own")


def with_sizes(entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The images with the height and width that some tools do not write, read from the files themselves."""

    def whole(entry: dict[str, Any]) -> dict[str, Any]:
        if not lacks_size(entry) or not isinstance(entry.get("file_name"), str):
            return entry
        size = header_size(folder / entry["file_name"])
        return entry if size is None else {**entry, "height": size[0], "width": size[1]}

    if not any(map(lacks_size, entries)):
        return entries
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(whole, entries))


def lacks_size(entry: dict[str, Any]) -> bool:
    """Whether an image's entry says neither height nor width."""
    return entry.get("height") is None and entry.get("width") is None


def check_images(path: Path, entries: list[dict[str, Any]], folder: Path) -> None:
    """Each entry complete and listed once, each image in the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder at {folder}; give the folder that the names in {path} belong to")
    there = {entry.name for entry in folder.iterdir()}
    most = most_pixels()
    for entry in entries:
        number, height, width, name = (cast("Any", entry.get(key)) for key in ("id", "height", "width", "file_name"))
        sides = [type(side) for side in (height, width)]
        if type(number) is not int or not isinstance(name, str) or sides not in ([int, int], [NoneType, NoneType]):
            raise ValueError(
                f"{path}: image {shown(entry)} needs id and file_name, and height and width or neither; correct it, "
                "ids and sides as whole numbers"
            )
        if not is_id(number):
            raise ValueError(f"{path}: image id {shown(number)} must lie in 0 … 2^63 − 1; renumber the images")
        if name not in there and not is_file(folder / name):
            named = name if name.isprintable() else ascii(name)
            raise FileNotFoundError(f"{path} names image {named:.200}, which is not in {folder}; check the folder")
        if height is None:
            raise ValueError(f"{path} has no size of image {name:.200}, which cannot be read either; replace the image")
        if min(height, width) < 1 or height * width > most:
            raise ValueError(
                f"{path}: image {number} is said to be {shown(width)}×{shown(height)} px, which must be at least 1×1 "
                f"and at most {most:,.0f} together; correct its entry"
            )
    twice = twice_in([entry["id"] for entry in entries])
    if twice is not None:
        raise ValueError(f"{path}: image id {twice} occurs twice; give each image its own")


def check_repeats(path: Path, document: Document) -> None:
    """An image that is listed several times has the same objects each time, as one that is to be seen more often."""
    ids: dict[str, list[int]] = {}
    for entry in document["images"]:
        ids.setdefault(normpath(entry["file_name"]), []).append(entry["id"])
    repeated = {name: own for name, own in ids.items() if len(own) > 1}
    objects: dict[int, list[str]] = {number: [] for own in repeated.values() for number in own}
    for annotation in document["annotations"] if repeated else ():
        if annotation["image_id"] in objects:
            objects[annotation["image_id"]].append(f"{annotation['category_id']} {shown(annotation.get('bbox'))}")
    for name, own in repeated.items():
        if any(sorted(objects[number]) != sorted(objects[own[0]]) for number in own):
            raise ValueError(
                f"{path} lists image {name} {len(own)} times, as {', '.join(map(str, own[:4]))}: each would be trained "
                "without the others' objects; list it once, with all its annotations"
            )


def check_headers(path: Path, entries: list[dict[str, Any]], folder: Path) -> None:
    """Images whose headers tell another size than their entries: their boxes would lie elsewhere.

    Of a large file some are looked up, spread over it; all are compared when they are read. One that cannot be read is
    told then, too.
    """
    some = entries[:: -(-len(entries) // HEADERS)] if entries else []
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda entry: header(folder / entry["file_name"]), some))
    for entry, seen in zip(some, found, strict=True):
        if seen is not None and seen[:2] != (entry["height"], entry["width"]):
            raise ValueError(other_size(path, entry, seen[:2], turned=seen[2]))
    turned = [entry["file_name"] for entry, seen in zip(some, found, strict=True) if seen is not None and seen[2]]
    if turned:
        log.warning(
            "%s: %d of %d images that were looked up are turned by their EXIF tag, e.g. %s; boxes are taken for those "
            "of the upright images: look at samples.jpg",
            path, len(turned), len(some), turned[0],
        )  # fmt: skip


def other_size(path: Path, entry: dict[str, Any], size: Sequence[int], *, turned: bool = False) -> str:
    """What to say of an image that is not as large as its entry says."""
    cure = "correct the file's entry"
    if turned and (size[1], size[0]) == (entry["height"], entry["width"]):
        cure = (
            "its EXIF tag turns it, and the file's boxes may be of the image before that: save the images without the "
            "tag, as they lie in the file, or turn boxes and sizes"
        )
    return (
        f"image {entry['file_name']} is {size[1]}×{size[0]}, but {path} says {entry['width']}×{entry['height']}; {cure}"
    )


def check_references(path: Path, document: Document, sizes: dict[int, tuple[int, int]]) -> None:
    """Each annotation's image and category exist, and whether it is a crowd is said by 0 or 1."""
    known = {c["id"] for c in document["categories"]}
    for annotation in document["annotations"]:
        number, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        if type(image) is not int or image not in sizes:
            raise ValueError(
                f"{path}: annotation {shown(number)} names image_id {shown(image)}, which is not among its "
                f"{len(sizes)} images; remove the annotation or add the image"
            )
        if type(category) is not int or category not in known:
            raise ValueError(
                f"{path}: annotation {shown(number)} has category_id {shown(category)}, which is not in its "
                f"list of {len(known)} categories; add the category or correct the annotation"
            )
        crowd = annotation.get("iscrowd")
        if crowd is not None and (not isinstance(crowd, int) or crowd not in (0, 1)):
            raise ValueError(
                f"{path}: iscrowd of annotation {shown(number)} must be 0 or 1; got {shown(crowd)}; write the number"
            )


def check_corners(path: Path, document: Document, sizes: dict[int, tuple[int, int]], box_format: BoxFormat) -> None:
    """Refuse boxes that are shares, or not those of their masks; and two corners, unless their format was given."""
    looks = look_at_boxes(document["annotations"], sizes)
    if otherwise := told_otherwise(looks):
        raise ValueError(f"{path}: {otherwise}")
    why = told_as_corners(looks) if box_format == "auto" else ""
    if why:
        raise ValueError(
            f"{path}: {why}: the boxes seem to be two corners, not COCO's [x, y, width, height]; --data.box_format "
            "xyxy reads them so, xywh takes them as they are (evaluate: --box_format)"
        )


def for_counting(document: Document, *, masks: bool = True) -> Document:
    """A COCO document as both AP packages read it alike: what they count by and nothing else, ids from 1.

    An area that is no number is the mask's, or without `masks` the box's. Without `masks` its annotations are boxes
    alone. With them an object whose mask cannot be used has its box for it, and its id in the list `maskless`: its box
    counts, and `for_masks` makes it a crowd.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    annotations: list[dict[str, Any]] = []
    maskless: list[int] = []
    areas = [annotation.get("area") for annotation in document["annotations"]]
    zeros = 2 * sum(type(area) in (int, float) and not area for area in areas) > len(
        areas
    )  # converters write 0 for all
    for given in map(without_scraps, document["annotations"]):
        height, width = sizes[given["image_id"]]
        if bad_box(given, height, width):
            continue
        by_box = not masks or bool(bad_mask(given, height, width))
        kept = {key: given[key] for key in ("image_id", "category_id", "bbox")}
        annotation = {**kept, "id": len(annotations) + 1, "iscrowd": int(bool(given.get("iscrowd")))}
        area = given.get("area")
        x, y, side, other = given["bbox"]
        if masks:
            box = [[x, y, x + side, y, x + side, y + other, x, y + other]]
            annotation["segmentation"] = box if by_box else given["segmentation"]
        if masks and by_box:
            maskless.append(annotation["id"])
        if not is_area(area) or (zeros and not area):
            area = side * other if by_box else float(decode(given["segmentation"], height=height, width=width).sum())
        annotations.append({**annotation, "area": area})
    return {
        "images": [{key: image[key] for key in ("id", "height", "width")} for image in document["images"]],
        "annotations": annotations,
        "categories": [{key: category[key] for key in ("id", "name")} for category in document["categories"]],
        "maskless": maskless,
    }


def for_masks(counted: Document) -> Document:
    """What `for_counting` gave, for masks: an object without one is a crowd, where finds count for nothing."""
    maskless = set(counted["maskless"])
    if not maskless:
        return counted
    annotations = [{**one, "iscrowd": 1} if one["id"] in maskless else one for one in counted["annotations"]]
    return {**counted, "annotations": annotations}


def is_area(value: object) -> bool:
    """Whether it is an area as it can be."""
    return type(value) in (int, float) and 0 <= value < 2**53  # type: ignore[operator]
