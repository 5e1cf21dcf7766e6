"""Find images and annotations in a folder: COCO's, Roboflow's, YOLO's and Pascal VOC's layouts."""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from botvision.engine.loader import images_kept
from botvision.engine.settings import read_yaml
from botvision.files import read_names, read_text
from botvision.maskrcnn.coco import read_document
from botvision.maskrcnn.converters import Document, read_voc, read_yolo, say, with_names
from botvision.maskrcnn.labels import is_box

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation")
ROBOFLOW = "_annotations.coco.json"


class Split(NamedTuple):
    """Annotations, as a COCO file or as its content, and the folder that the images' names begin at."""

    annotations: Path | Document
    images: Path

    def document(self) -> Document:
        """Its content."""
        return read_document(self.annotations) if isinstance(self.annotations, Path) else self.annotations

    def placed(self, name: str, folder: Path) -> tuple[Path, Document]:
        """Where a folder keeps this content as a file of annotations, and the content."""
        content = self.document()
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return folder / "annotations" / f"{name}-{digest}.json", content


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        layout: in a few words.
        train: the split to train on.
        val: the split to evaluate on; none where the folder has none.
    """

    layout: str
    train: Split
    val: Split | None


def find_splits(root: Path) -> Found:
    """The two splits of a folder, whatever its layout.

    Raises:
        FileNotFoundError: no such folder, or no layout that we know.
        ValueError: annotations that cannot be read as what they seem to be.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}; give the one that holds your images and annotations")
    for find in (find_roboflow, find_yolo, find_coco, find_voc, find_single):
        found = find(root)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"{root} holds no annotations in a layout that is known: COCO (annotations/*.json and folders of images), "
        "Roboflow (train/_annotations.coco.json), one COCO *.json beside its images, YOLO (data.yaml, images and "
        "labels) or Pascal VOC (*.xml); give a COCO file and the folder of its images instead (in training by "
        "--data.train_annotations and --data.train_images)"
    )


def split_by_image(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part of the images, drawn by a seed, to evaluate on, with every class where that can be; the rest to train on.

    Raises:
        ValueError: a fraction outside 0 … 1, or too few images with objects.
    """
    document = split.document()
    classes: dict[Any, set[Any]] = {image.get("id"): set() for image in document["images"]}
    for annotation in document["annotations"]:
        if counts(annotation):
            classes.get(annotation.get("image_id"), set()).add(annotation.get("category_id"))
    with_objects = {image: own for image, own in classes.items() if own}
    if len(with_objects) < 2:
        raise ValueError(
            f"{len(with_objects)} of {len(classes)} images have objects, which cannot be split into two; label more"
        )
    chosen: set[Any] = set()
    for group in (with_objects, {image: own for image, own in classes.items() if not own}):
        chosen |= drawn(group, images_kept(len(group), fraction=fraction), seed=seed) if group else set()

    def part(inside: bool) -> Split:
        return Split(
            {
                **document,
                "images": [image for image in document["images"] if (image.get("id") in chosen) is inside],
                "annotations": [a for a in document["annotations"] if (a.get("image_id") in chosen) is inside],
            },
            split.images,
        )

    return part(False), part(True)


def counts(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is an object that can be learnt and evaluated: no crowd, and no box without area."""
    box = annotation.get("bbox")
    return not annotation.get("iscrowd") and not (is_box(box) and min(box[2:]) <= 0)


def drawn(classes: Mapping[Any, Collection[Any]], count: int, *, seed: int) -> set[Any]:
    """So many images by a seed: first one of each class, the rarest first, where one more is left to train on.

    Args:
        classes: of each image.
        count: of the images to draw.
        seed: of their order.
    """
    order = list(classes)
    random.Random(seed).shuffle(order)
    left = Counter(name for own in classes.values() for name in own)
    chosen: set[Any] = set()

    def spared(image: Any) -> bool:
        return image not in chosen and all(left[name] > 1 for name in classes[image])

    def take(image: Any) -> None:
        chosen.add(image)
        left.subtract(classes[image])

    there = dict(left)
    for name in sorted(left, key=lambda name: (left[name], str(name))):
        if len(chosen) < count and left[name] == there[name]:
            found = next((image for image in order if name in classes[image] and spared(image)), None)
            if found is not None:
                take(found)
    for wanted in (spared, lambda image: image not in chosen):
        for image in order:
            if len(chosen) < count and wanted(image):
                take(image)
    return chosen


def find_roboflow(root: Path) -> Found | None:
    """`train/_annotations.coco.json` beside its images, and valid likewise."""
    folders = {name: root / name for name in (*TRAIN, *VAL) if (root / name / ROBOFLOW).is_file()}
    splits = {name: Split(folder / ROBOFLOW, folder) for name, folder in folders.items()}
    return pair("Roboflow's COCO export", splits)


def find_coco(root: Path) -> Found | None:
    """`annotations/*train*.json` and `*val*.json`, with images in folders so named, in `images` or at the root."""
    splits = {}
    for name in ("train", "val"):
        own = [path for path in json_files(root) if split_name(path.stem) == name]
        # COCO has captions and keypoints beside instances_train2017; people keep old_train beside train
        own = [path for path in own if re.fullmatch(r"(instances_)?[a-z]+\d*", path.stem.lower())] or own
        own = [path for path in own if is_coco(path)]
        if len(own) > 1:
            names = ", ".join(path.name for path in own[:4])
            raise ValueError(
                f"{root} holds several annotation files for {name} ({names}); name one by --data.{name}_annotations, "
                f"with --data.{name}_images, or leave one in the folder"
            )
        if own:
            splits[name] = Split(own[0], images_of(own[0], root))
    if "train" not in splits or "val" not in splits:
        return None
    return pair("COCO", splits)


def find_single(root: Path) -> Found | None:
    """One COCO file for all images."""
    every = json_files(root)
    paths = [path for path in every if is_coco(path)] or every[:1]
    paths = [path for path in paths if "test" not in words(path.stem)] or paths  # a test split is left alone
    if not paths:
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:4])
        raise ValueError(f"{root} holds several annotation files ({names}); name one by --data.train_annotations")
    return Found("one COCO file", Split(paths[0], images_of(paths[0], root)), None)


def find_yolo(root: Path) -> Found | None:
    """A YAML with `names`, `train` and `val`, or images and labels with a classes.txt."""
    for path in [*sorted(root.glob("data.y*ml")), *sorted(root.glob("*.y*ml"))]:
        try:
            content = read_yaml(path, what="YAML of a YOLO set")
        except ValueError:
            if path.stem != "data":
                continue
            raise
        if isinstance(content, dict) and "names" in content and "train" in content:
            names = content["names"]
            check_names(names, path)
            if not isinstance(names, dict | list) or not names:
                raise ValueError(f"{path}: names must be a list of classes, or numbers and classes; got {names!r:.60}")
            named = dict(enumerate(map(str, names))) if isinstance(names, list) else numbered(names, path)
            base = Path(str(content.get("path") or "."))
            # the folder that was given comes first: a copy's file may name the place of another one
            bases = [root, base] if base.is_absolute() else [root / base, base, root]
            keypoints = keypoints_of(content, path)
            splits = {
                split: Split(
                    read_yolo(yolo_folders(content[split], bases, path, root), named, root, keypoints=keypoints), root
                )
                for split in ("train", "val")
                if content.get(split)
            }
            return pair(f"YOLO ({path.name})", splits)
    classes = next((p for p in (root / "classes.txt", root / "labels" / "classes.txt") if p.is_file()), None)
    if classes is not None and (root / "images").is_dir() and (root / "labels").is_dir():
        named = dict(enumerate(read_names(classes)))
        inner = {name: root / "images" / name for name in (*TRAIN, *VAL) if (root / "images" / name).is_dir()}
        folders = inner or {"train": root / "images"}
        return pair("YOLO", {name: Split(read_yolo([folder], named, root), root) for name, folder in folders.items()})
    return None


def find_voc(root: Path) -> Found | None:
    """`Annotations/*.xml` with lists in `ImageSets`, or XML files beside their images."""
    labels = next((p for p in (root / "Annotations", root / "annotations") if next(p.glob("*.xml"), None)), None)
    if labels is not None:
        stems = {path.stem for path in labels.glob("*.xml")}
        listed = {name: listed_in(root, name, stems) for name in ("train", "val", "trainval", "test")}
        images = next((p for p in (root / "JPEGImages", root / "images") if p.is_dir()), root)
        val = listed["val"]
        train = (listed["train"] if val else set()) or listed["trainval"] or listed["train"]
        documents = {"train": read_voc(images, labels, only=train or None, but=(listed["test"] - train) | val)}
        if val:
            documents["val"] = read_voc(images, labels, only=val)
        return pair("Pascal VOC", alike({name: Split(document, images) for name, document in documents.items()}))
    folders = {name: root / name for name in (*TRAIN, *VAL) if next((root / name).glob("*.xml"), None)}
    if not folders and next(root.glob("*.xml"), None):
        folders = {"train": root}
    found = {name: Split(read_voc(folder, folder), folder) for name, folder in folders.items()}
    return pair("Pascal VOC, files side by side", alike(found))


def alike(splits: dict[str, Split]) -> dict[str, Split]:
    """The same splits, each with the classes of all."""
    documents = {name: split.document() for name, split in splits.items()}
    names = sorted({category["name"] for document in documents.values() for category in document["categories"]})
    return {name: Split(with_names(document, names), splits[name].images) for name, document in documents.items()}


def pair(layout: str, splits: dict[str, Split]) -> Found | None:
    """The splits by their usual names; none without one to train on."""
    train = next((splits[name] for name in TRAIN if name in splits), None)
    val = next((splits[name] for name in VAL if name in splits), None)
    return None if train is None else Found(layout, train, val)


def json_files(root: Path) -> list[Path]:
    """JSON files in `annotations` and at the root, without those that a run into the same folder has converted."""
    every = [*sorted((root / "annotations").glob("*.json")), *sorted(root.glob("*.json"))]
    return [path for path in every if not re.fullmatch(r"(train|val)-[0-9a-f]{8}\.json", path.name)]


def is_coco(path: Path) -> bool:
    """Whether a JSON file is COCO's, and not a log or settings beside it."""
    try:
        read_document(path)
    except ValueError:
        return False
    return True


def split_name(stem: str) -> str:
    """`instances_train2017` → train; empty where a name says neither."""
    said = words(stem)
    return "train" if said & set(TRAIN) else "val" if said & set(VAL) else ""


def words(stem: str) -> set[str]:
    """Of a file's name."""
    return set(re.findall("[a-z]+", stem.lower()))


def images_of(annotations: Path, root: Path) -> Path:
    """The folder in which a COCO file's first image lies.

    Raises:
        FileNotFoundError: in none of the usual ones.
    """
    images = read_document(annotations)["images"]
    first = images[0].get("file_name") if images else None
    if not isinstance(first, str):
        raise ValueError(f"{annotations} is no COCO file: it needs a list of images with a file_name each")
    stem = annotations.stem
    names = [stem, stem.rpartition("_")[2], split_name(stem)]
    folders = [parent / name for parent in (root, root / "images") for name in names if name]
    folders += [root / "images", root, annotations.parent, annotations.parent / "images"]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    tried = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise FileNotFoundError(
        f"{annotations} names image {first}, which is in none of {tried}; give the file and the folder of its images "
        "instead (in training by --data.train_annotations, --data.train_images and those of val)"
    )


def check_names(names: Any, path: Path) -> None:
    """Refuse what YAML reads as something else than it was written as.

    Raises:
        ValueError: a name that is true, false, nothing or a fraction.
    """
    for name in names.values() if isinstance(names, dict) else names if isinstance(names, list) else ():
        if not isinstance(name, str) and type(name) is not int:
            raise ValueError(f"{path}: YAML reads the name of a class as {name!r}; put it in quotes")


def keypoints_of(content: dict[str, Any], path: Path) -> int:
    """Numbers of the keypoints behind each box, by a set's `kpt_shape`; 0 where it has none.

    Raises:
        ValueError: not two whole numbers.
    """
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"{path}: kpt_shape must be keypoints and numbers of each, e.g. [17, 3]; got {shape!r:.60}")
    return int(shape[0] * shape[1])


def yolo_folders(entry: Any, bases: Iterable[Path], path: Path, root: Path) -> list[Path]:
    """Folders, or lists of images, of a split in a YOLO file; one outside the root is told.

    Raises:
        FileNotFoundError: not there.
    """
    folders = []
    for name in entry if isinstance(entry, list) else [entry]:
        text = str(name)
        # Roboflow writes ../train/images for a folder that lies beside the file
        tried = [base / part for part in dict.fromkeys((text.removeprefix("../"), text)) for base in bases]
        there = next((folder for folder in tried if folder.exists()), None)
        if there is None:
            raise FileNotFoundError(f"{path} names {text}, which is not there; correct its path, train and val")
        if not there.resolve().is_relative_to(root.resolve()):
            say(f"{path} names {there.resolve()}, outside {root}")
        folders.append(there)
    return folders


def listed_in(root: Path, split: str, stems: Collection[str]) -> set[str]:
    """Names that `ImageSets` lists for a split, of segmentation or of detection; `stems` are those of the labels."""
    for kind in ("Main", "Segmentation", ""):
        path = root / "ImageSets" / kind / f"{split}.txt"
        if path.is_file():
            lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            # the lists of one class have a column of 1, 0 and -1 beside the names
            return {line if line in stems else re.sub(r"\s+-?[01]$", "", line) for line in lines}
    return set()


def numbered(names: dict[Any, Any], path: Path) -> dict[int, str]:
    """Classes by their numbers, which may have gaps where no label uses them.

    Raises:
        ValueError: keys that are no numbers.
    """
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: names must be numbered from 0, e.g. {{0: cat, 1: dog}}; got {names!r:.60}"
        ) from error
    if min(by_number) < 0:
        raise ValueError(f"{path}: names must be numbered from 0; got {min(by_number)}")
    return dict(sorted(by_number.items()))
