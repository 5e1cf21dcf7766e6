"""YOLO's and Pascal VOC's labels as COCO documents."""

import math
import os
import struct
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from PIL import Image

from botvision.files import read_text
from botvision.inputs import ON_THE_SIDE, image_suffixes, is_hidden, opened, orientation

Document = dict[str, Any]
OVER = 0.05  # of the image's side by which a box may reach out of it
# what Pillow says of a file that is no image, and its tags; ImportError where ultralytics looks for a HEIF reader
UNREADABLE = (OSError, ValueError, SyntaxError, ImportError, struct.error, Image.DecompressionBombError)


def read_yolo(sources: Iterable[Path], names: Mapping[int, str], root: Path, *, keypoints: int = 0) -> Document:
    """Images with YOLO's text labels: `class x y w h`, or `class x1 y1 x2 y2 …` for a polygon, in shares of the image.

    Read here and not by supervision, which would hold a dense mask of every object in memory and round corners to
    whole pixels (docs/decisions/0025).

    Args:
        sources: folders of images, whose labels lie in `labels` where the path says `images`, or text files that list
            images.
        names: of the classes, by their numbers in labels.
        root: what file names are told from.
        keypoints: numbers of them behind each box, which are left out.

    Raises:
        FileNotFoundError: no image or no label, or an image that a list names is not there.
        ValueError: a line that is neither a box nor a polygon, a class that has no name, or two images of one label.
    """
    document, label = empty_document(names.values()), root
    number_of = {kind: number for number, kind in enumerate(names, 1)}
    unlabelled: list[Path] = []
    image_of: dict[Path, Path] = {}
    for path in (path for source in sources for path in images_in(source)):
        width, height = size_of(path)
        image = add_image(document, file_name=relative(path, root), width=width, height=height)
        label = label_of(path, root)
        lines = read_text(label).splitlines() if label.is_file() else []
        unlabelled += [] if label.is_file() else [path]
        if lines and image_of.setdefault(label, path) != path:
            raise ValueError(f"{label} is the label of both {image_of[label]} and {path}; leave one of the images out")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            kind, places = yolo_line(line, where=f"{label}, line {number}", keypoints=keypoints)
            if kind not in names:
                raise ValueError(f"{label}, line {number}: class {kind} has no name among {len(names)}; correct either")
            add_annotation(document, image, number_of[kind], **yolo_form(places, width=width, height=height))
    if not document["images"]:
        raise FileNotFoundError(f"{', '.join(map(str, sources))} hold no image; check train and val")
    if len(unlabelled) == len(document["images"]):
        raise FileNotFoundError(
            f"none of {len(document['images'])} images has a label: the last one's was looked for at {label}; put "
            "labels into a folder labels beside images, or beside the images"
        )
    if unlabelled:
        say(
            f"{len(unlabelled)} of {len(document['images'])} images have no label file and count as images without "
            f"objects, e.g. {unlabelled[0]}; add the files where there are objects"
        )
    others = {one for folder in {label.parent for label in image_of} for one in folder.glob("*.txt")}
    others = {one for one in others - set(image_of) if one.name != "classes.txt" and one.stat().st_size}
    known = {Path(entry["file_name"]).stem for entry in document["images"]}
    if alone := sorted(one for one in others if one.stem not in known):
        say(f"{len(alone)} label files belong to no image that is read, e.g. {alone[0]}")
    if keypoints:
        say("the keypoints of the labels are left out, and their boxes kept")
    return document


class VocFile(NamedTuple):
    """What a Pascal VOC's XML file says.

    Attributes:
        size: width and height as text; empty where it does not say.
        image: name of the image; empty where it does not say.
        objects: class, x1, y1, x2, y2 from 0, and whether it is difficult, of each.
    """

    size: tuple[str, str]
    image: str
    objects: list[tuple[str, list[float], bool]]


def read_voc(
    images: Path, annotations: Path, *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> Document:
    """Images with Pascal VOC's XML files: boxes; files are told from `images`.

    A difficult object is a crowd: left out of training, and neither right nor wrong where it is found, as VOC counts.

    Args:
        images: folder of the images.
        annotations: folder of the XML files.
        only: stems of the files that are wanted; none for all.
        but: stems of those that are not.

    Raises:
        FileNotFoundError: no image.
        ValueError: an XML file that is not Pascal VOC's, of an image of another size, or of two images.
    """
    read: dict[str, VocFile] = {}
    places: dict[str, Path] = {}
    for path in sorted(path for path in images.iterdir() if path.suffix.lower() in image_suffixes()):
        if is_hidden(path, images):
            continue
        if path.stem in but or (only is not None and path.stem not in only):
            continue
        label = annotations / f"{path.stem}.xml"
        if label.is_file():
            read[path.stem] = own = read.get(path.stem) or voc_file(label)
            first = places.setdefault(path.stem, path)
            if first != path:  # a mask beside its photograph, say
                named = [one for one in (first, path) if one.name == Path(own.image).name]
                if not named:
                    raise ValueError(f"{label} is the label of both {first} and {path}; leave one of them out")
                places[path.stem] = named[0]
        else:
            places.setdefault(path.stem, path)
    names = sorted({kind for own in read.values() for kind, _, _ in own.objects})
    document = empty_document(names)
    difficult = 0
    for stem, path in places.items():
        width, height = size_of(path)
        image = add_image(document, file_name=path.name, width=width, height=height)
        if stem not in read:
            continue
        check_voc_size(annotations / f"{stem}.xml", read[stem].size, path, (width, height))
        for kind, (x1, y1, x2, y2), hard in read[stem].objects:
            form = {"bbox": [x1, y1, x2 - x1, y2 - y1], **({"iscrowd": 1} if hard else {})}
            add_annotation(document, image, names.index(kind) + 1, **form)
            difficult += hard
    if not document["images"]:
        raise FileNotFoundError(f"{images} holds no image of the files in {annotations}; check the folders")
    if difficult:
        say(f"{difficult} objects are marked difficult: not trained on, and neither right nor wrong where found")
    labels = {path.stem for path in annotations.glob("*.xml")}
    wanted = (labels if only is None else set(only)) - set(but)
    if absent := sorted(wanted - set(places)):
        say(f"{len(absent)} of {len(wanted)} images are left out, for they are not in {images}, e.g. {absent[0]}")
    if unlabelled := sorted(set(places) - labels):
        say(
            f"{len(unlabelled)} of {len(places)} images have no XML file and count as images without objects, e.g. "
            f"{unlabelled[0]}"
        )
    return document


def voc_file(path: Path) -> VocFile:
    """Read an XML file; VOC counts pixels from 1, and a box's last pixel belongs to it.

    Raises:
        ValueError: it is no XML, or lacks what every Pascal VOC file has.
    """
    try:
        root = ElementTree.parse(path).getroot()
        objects = []
        for own in root.iter("object"):
            name, box = own.findtext("name"), own.find("bndbox")
            if name is None or not name.strip() or box is None:
                raise ValueError("an object has no name or no bndbox")
            x1, y1, x2, y2 = (float(box.findtext(corner) or "") for corner in ("xmin", "ymin", "xmax", "ymax"))
            if min(x1, y1) >= 0 and 0 < max(x2, y2) <= 1:
                raise ValueError(f"box {[x1, y1, x2, y2]} is in shares of the image, and not in pixels")
            hard = (own.findtext("difficult") or "0").strip() in ("1", "true", "True")
            objects.append((" ".join(name.split()), [x1 - 1, y1 - 1, x2, y2], hard))
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not Pascal VOC's: {error}; correct it") from error
    size = root.find("size")
    width, height = ((size.findtext(side) or "" if size is not None else "").strip() for side in ("width", "height"))
    return VocFile((width, height), (root.findtext("filename") or "").strip(), objects)


def check_voc_size(label: Path, told: tuple[str, str], image: Path, size: tuple[int, int]) -> None:
    """Refuse an XML file that tells another width and height than its image has; many tools tell none, or zeros.

    Raises:
        ValueError: its boxes would lie elsewhere.
    """
    if "" in told or "0" in told or told == tuple(map(str, size)):
        return
    raise ValueError(
        f"{label} is of an image of {'×'.join(told)} px, but {image} has {size[0]}×{size[1]}: its boxes would lie "
        "elsewhere; correct its size, or give the image that was labelled"
    )


def say(line: str) -> None:
    """Tell what was read."""
    print(f"data: {line}", file=sys.stderr)


def empty_document(names: Iterable[str]) -> Document:
    """A COCO document of these classes, with nothing in it."""
    categories = [{"id": number, "name": str(name)} for number, name in enumerate(names, 1)]
    return {"images": [], "annotations": [], "categories": categories}


def with_names(document: Document, names: Sequence[str]) -> Document:
    """The same document with these classes, which must hold its own, in their order."""
    number = {name: place for place, name in enumerate(names, 1)}
    now = {category["id"]: number[category["name"]] for category in document["categories"]}
    annotations = [{**a, "category_id": now[a["category_id"]]} for a in document["annotations"]]
    return {**empty_document(names), "images": document["images"], "annotations": annotations}


def add_image(document: Document, **entry: Any) -> int:
    """One more image; its id."""
    number = len(document["images"]) + 1
    document["images"].append({"id": number, **entry})
    return number


def add_annotation(document: Document, image: int, category: int, **form: Any) -> None:
    """One more object."""
    width, height = form["bbox"][2:]
    own = {"id": len(document["annotations"]) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
    document["annotations"].append({**own, "area": width * height, **form})


def images_in(source: Path) -> list[Path]:
    """A folder's images, those in folders below it too, or those that a text file lists."""
    if source.is_dir():
        every = (Path(folder) / name for folder, _, names in os.walk(source, followlinks=True) for name in names)
        seen = (path for path in every if path.suffix.lower() in image_suffixes())
        return sorted(path for path in seen if not is_hidden(path, source))
    paths = [Path(line.strip()) for line in read_text(source).splitlines() if line.strip()]
    paths = [path if path.is_absolute() else source.parent / path for path in paths]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{source} lists {path}, which is not there; correct the list")
    return paths


def label_of(image: Path, root: Path) -> Path:
    """Where an image's label is: `labels` for the last `images` of its path below the root, or beside the image."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    own = len(root.parts) if image.is_relative_to(root) else 0
    places = [place for place in range(own, len(parts) - 1) if parts[place] == "images"]
    if not places:
        return beside
    parts[places[-1]] = "labels"
    label = Path(*parts).with_suffix(".txt")
    return beside if beside.is_file() and not label.is_file() else label


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown: upright by its EXIF tag.

    Raises:
        ValueError: not an image.
    """
    try:
        with opened(path) as image:
            return (image.height, image.width) if orientation(image) in ON_THE_SIDE else image.size
    except UNREADABLE as error:
        raise ValueError(f"cannot read image {path}: {error}; replace the file or leave it out") from error


def yolo_line(line: str, *, where: str, keypoints: int = 0) -> tuple[int, list[float]]:
    """Class and numbers of a line: four of a box, or six and more of a polygon; a fifth of a box is a confidence.

    Where a set has keypoints, so many numbers of them behind a box are left out.
    """
    try:
        kind, *places = map(float, line.split())
    except ValueError:
        places = []
        kind = math.nan
    if len(places) == 5 or (keypoints and len(places) == 4 + keypoints):
        places = places[:4]
    polygon = len(places) >= 6 and len(places) % 2 == 0
    if not kind.is_integer() or not (len(places) == 4 or polygon) or not all(map(math.isfinite, places)):
        raise ValueError(
            f"{where} is neither `class x y w h` nor a class and a polygon of x y: {line!r:.60}; correct it"
        )
    if max(map(abs, places)) > 2:
        raise ValueError(
            f"{where} has numbers beyond the image; they are shares of it, 0 … 1: {line!r:.60}; correct it"
        )
    if len(places) == 4 and any(
        abs(centre - 0.5) + size / 2 > 0.5 + OVER for centre, size in zip(places[:2], places[2:], strict=True)
    ):
        raise ValueError(
            f"{where} has a box that reaches out of the image, as a line of two corners would: {line!r:.60}; boxes are "
            "`class x y w h` with x and y of the centre; correct it"
        )
    return int(kind), places


def yolo_form(places: list[float], *, width: int, height: int) -> dict[str, Any]:
    """A box's or a polygon's form in pixels, as COCO has it."""
    if len(places) == 4:
        x, y, w, h = places
        return {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    across = [min(max(x, 0.0), 1.0) * width for x in places[::2]]
    down = [min(max(y, 0.0), 1.0) * height for y in places[1::2]]
    polygon = [value for place in zip(across, down, strict=True) for value in place]
    box = [min(across), min(down), max(across) - min(across), max(down) - min(down)]
    area = abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in around(across, down))) / 2
    return {"bbox": box, "segmentation": [polygon], "area": area}


def around(across: list[float], down: list[float]) -> Iterable[tuple[float, float, float, float]]:
    """A polygon's edges, x and y of both ends."""
    return zip(across, down, across[1:] + across[:1], down[1:] + down[:1], strict=True)


def relative(path: Path, root: Path) -> str:
    """A file's name from a folder; its whole path where it lies elsewhere."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return str(path.resolve())
