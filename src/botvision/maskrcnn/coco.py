"""Read and check COCO annotations: every reference leads somewhere, every image is there."""

import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from botvision.files import read_json
from botvision.maskrcnn.config import OnBad
from botvision.maskrcnn.masks import Box, decode

log = logging.getLogger("botvision.maskrcnn")
LISTS = ("images", "annotations", "categories")
FEW = 0.2  # of the objects may be without a mask for masks to be trained on
NO_MASK = "has no segmentation, and Mask R-CNN needs polygons or RLE"


class Category(NamedTuple):
    """A class to find: COCO's id, and its name."""

    id: int
    name: str


def read_coco(path: Path, images: Path, *, on_bad: OnBad, masks: bool = True) -> dict[str, Any]:
    """A COCO file, checked: every reference leads somewhere and every image is there.

    Args:
        path: of the file.
        images: folder of its images.
        on_bad: what is to be done with annotations that cannot be used.
        masks: whether they need masks.

    Raises:
        FileNotFoundError: no such file or image.
        ValueError: no COCO file, no annotation, a dangling image_id, a category that is not in the list or has no
            name; with `on_bad="refuse"` also a box without area or outside its image, or an annotation without a
            mask. With "skip" these are left out, with a line that says how many.
    """
    document = read_document(path)
    check_categories(path, document["categories"])
    check_images(path, document["images"], images)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    check_references(path, document, sizes)
    reasons = [
        bad_box(a, *sizes[a["image_id"]]) or (bad_mask(a, *sizes[a["image_id"]]) if masks else "")
        for a in document["annotations"]
    ]
    bad = [(a.get("id"), why) for a, why in zip(document["annotations"], reasons, strict=True) if why]
    if bad and on_bad == "refuse":
        number, why = bad[0]
        more = f" ({len(bad)} such annotations)" if len(bad) > 1 else ""
        boxes = "; --model.masks false trains on boxes alone" if why == NO_MASK else ""
        raise ValueError(
            f"{path}: annotation {number} {why}{more}; mend it, or leave such out by --data.on_bad skip{boxes}"
        )
    if len(bad) == len(document["annotations"]):
        number, why = bad[0] if bad else ("", "")
        first = f" that can be used: annotation {number} {why}" if bad else ""
        raise ValueError(f"{path} has no annotation{first}; nothing can be learnt or evaluated from it")
    if bad:
        log.warning("%s: left out %d annotations; the first, %s, %s", path, len(bad), *bad[0])
    document["annotations"] = [a for a, why in zip(document["annotations"], reasons, strict=True) if not why]
    return document


def read_document(path: Path) -> dict[str, Any]:
    """A COCO file's three lists of dictionaries, not looked into.

    Raises:
        FileNotFoundError, ValueError: no such file, or none of COCO's form.
    """
    document: Any = read_json(path, what="COCO annotations")
    if not isinstance(document, dict) or any(not isinstance(document.get(key), list) for key in LISTS):
        raise ValueError(f"{path} is no COCO file: it needs the lists {', '.join(LISTS[:-1])} and {LISTS[-1]}")
    for key in LISTS:
        strange = [entry for entry in document[key] if not isinstance(entry, dict)]
        if strange:
            raise ValueError(f"{path}: {key} must be a list of dictionaries; got {strange[0]!r:.60} in it")
    return document


def has_masks(document: dict[str, Any], path: Path, *, on_bad: OnBad) -> bool:
    """Whether a file's annotations have masks; with `on_bad="skip"` nearly all are enough, and fewer are boxes.

    Raises:
        ValueError: some have and some have not, and none may be left out.
    """
    annotations = [a for a in document["annotations"] if not a.get("iscrowd", 0)]
    bare = sum(not annotation.get("segmentation") for annotation in annotations)
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


def check_categories(path: Path, categories: list[dict[str, Any]]) -> None:
    """Ids that are unique, names that are there."""
    if not categories:
        raise ValueError(f"{path} lists no category; it needs at least one with id and name")
    for category in categories:
        if not isinstance(category.get("id"), int) or not str(category.get("name") or "").strip():
            raise ValueError(f"{path}: category {category} needs a whole-number id and a name; give it both")
    twice = [i for i, count in Counter(c["id"] for c in categories).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: category id {twice[0]} occurs twice; give each category its own")


def check_images(path: Path, entries: list[dict[str, Any]], folder: Path) -> None:
    """Each entry complete, each image in the folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no image folder at {folder}; give the folder that the names in {path} belong to")
    twice = [i for i, count in Counter(entry.get("id") for entry in entries).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: image id {twice[0]} occurs twice; give each image its own")
    there = {entry.name for entry in folder.iterdir()}
    for entry in entries:
        whole = all(isinstance(entry.get(key), int) for key in ("id", "height", "width"))
        if not whole or not isinstance(entry.get("file_name"), str):
            raise ValueError(f"{path}: image {entry} needs id, file_name, height and width; add what is missing")
        if not 0 <= entry["id"] < 2**63:
            raise ValueError(f"{path}: image id {entry['id']} must lie in 0 … 2^63 − 1; renumber the images")
        name = entry["file_name"]
        if name not in there and not (folder / name).is_file():
            raise FileNotFoundError(f"{path} names image {name}, which is not in {folder}; check the folder")


def check_references(path: Path, document: dict[str, Any], sizes: dict[int, tuple[int, int]]) -> None:
    """Each annotation's image and category exist."""
    known = {c["id"] for c in document["categories"]}
    for annotation in document["annotations"]:
        number = annotation.get("id")
        if annotation.get("image_id") not in sizes:
            raise ValueError(
                f"{path}: annotation {number} names image_id {annotation.get('image_id')}, which is not among its "
                f"{len(sizes)} images; remove the annotation or add the image"
            )
        if annotation.get("category_id") not in known:
            raise ValueError(
                f"{path}: annotation {number} has category_id {annotation.get('category_id')}, which is not in its "
                f"list of {len(known)} categories; add the category or mend the annotation"
            )


def bad_box(annotation: dict[str, Any], height: int, width: int) -> str:
    """What is wrong with an annotation's box, or nothing."""
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_finite, bbox)):
        return f"has bbox {bbox}, not [x, y, width, height] in finite numbers"
    if bbox[2] <= 0 or bbox[3] <= 0:
        return f"has a box without area, {bbox}"
    x1, y1, x2, y2 = clip(corners(bbox), height, width)
    if x2 <= x1 or y2 <= y1:
        return f"has a box outside its image of {width}×{height}, {bbox}"
    return ""


def bad_mask(annotation: dict[str, Any], height: int, width: int) -> str:
    """What is wrong with an annotation's polygons or RLE, or nothing."""
    form = annotation.get("segmentation")
    if not form:
        return NO_MASK
    if isinstance(form, list):
        fine = all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_finite, p)) for p in form)
        return "" if fine else "has a polygon that is no list of at least three x, y in finite numbers"
    if not isinstance(form, dict) or not {"size", "counts"} <= set(form):
        return "has a segmentation that is neither polygons nor RLE with size and counts"
    if list(form["size"]) != [height, width]:
        return f"has an RLE of size {form['size']} on an image of height {height}, width {width}"
    counts = form["counts"]
    if isinstance(counts, list):
        fine = all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts) == height * width
        return "" if fine else f"has an RLE whose counts are not whole numbers that add up to {height} × {width}"
    return "" if isinstance(counts, str) else "has an RLE whose counts are neither text nor whole numbers"


def is_finite(value: object) -> bool:
    """Whether it is a number that a place can have."""
    return isinstance(value, int | float) and math.isfinite(value)


def for_counting(document: dict[str, Any], *, masks: bool = True) -> dict[str, Any]:
    """A COCO document as both AP packages read it alike: ids from 1, iscrowd and area there, masks that are masks.

    Without `masks` its annotations are boxes alone.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    annotations: list[dict[str, Any]] = []
    for given in document["annotations"]:
        height, width = sizes[given["image_id"]]
        if bad_box(given, height, width) or (masks and bad_mask(given, height, width)):
            continue
        annotation = {"iscrowd": 0, **given, "id": len(annotations) + 1}
        if not masks:
            annotation.pop("segmentation", None)
        if "area" not in given:
            side, other = given["bbox"][2:]
            mask_area = decode(given["segmentation"], height=height, width=width).sum() if masks else side * other
            annotation["area"] = float(mask_area)
        annotations.append(annotation)
    return {**document, "annotations": annotations}


def corners(bbox: list[float]) -> Box:
    """COCO's x, y, width, height → x1, y1, x2, y2."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


def clip(box: Box, height: int, width: int) -> Box:
    """The part of a box inside the image."""
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2
