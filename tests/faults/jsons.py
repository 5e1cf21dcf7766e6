"""COCO files that are wrong in one to three ways, and what may become of them."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import for_counting, has_masks
from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.evaluation import coco_metrics
from botvision.maskrcnn.layouts import find_splits, split_by_image
from tests.faults.harness import Family, Wrong

Document = dict[str, Any]
NAME = "labels.json"
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**9, 10**30, -(10**30), 0.5, -0.0, 1e308, -1e308, math.nan, math.inf, -math.inf,
    "", "0", "1", "a", "é\u202e", "\ud800", "\0", "x" * 300, [], [[]], [1, 2], [None], {}, {"a": 1},
    [[1, 2, 3, 4, 5, 6]],
    [[[[[[1]]]]]], {"size": [1, 1], "counts": "1"}, "1e5", 3.0, 1e-320, 2**31, 2**63, 2**64,
]  # fmt: skip


def base(root: Path) -> Document:
    """Six images with twelve objects, as polygons, RLE, uncompressed RLE and a crowd; written once."""
    rng = random.Random(0)
    document: Document = {"images": [], "annotations": [], "categories": [], "info": {}, "licenses": []}
    document["categories"] = [{"id": n, "name": name, "supercategory": "s"} for n, name in ((3, "cat"), (5, "dog"))]
    for number in range(1, 7):
        width, height = 40 + 4 * number, 60 - 4 * number
        name = f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
        document["images"].append({"id": number, "file_name": name, "height": height, "width": width, "license": 1})
        for _ in range(2):
            x, y = rng.randint(8, width - 22), rng.randint(8, height - 22)
            w, h = rng.randint(8, 12), rng.randint(8, 12)
            polygon = [x, y, x + w, y, x + w, y + h, x + w / 2, y + h, x, y + h / 2]
            code = rle.merge(rle.frPyObjects([polygon], height, width))
            form: Any = [polygon]
            kind = len(document["annotations"]) % 3
            if kind == 1:
                form = {"size": [height, width], "counts": code["counts"].decode()}
            elif kind == 2:
                column = rle.decode(code).T.ravel().astype(int)
                changes = np.flatnonzero(np.diff(np.r_[0, column]))
                form = {"size": [height, width], "counts": np.diff(np.r_[0, changes, column.size]).tolist()}
            document["annotations"].append(
                {"id": len(document["annotations"]) + 1, "image_id": number, "category_id": rng.choice((3, 5)),
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": form}
            )  # fmt: skip
    document["annotations"][-1]["iscrowd"] = 1
    return document


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = []
    for key in keys:
        found += [(*path, key), *places(value[key], (*path, key))]
    return found


def parent(document: Document, path: tuple[Any, ...]) -> Any:
    """What holds the place."""
    holder: Any = document
    for key in path[:-1]:
        holder = holder[key]
    return holder


def odd_value(rng: random.Random, document: Document) -> None:
    path = rng.choice(places(document))
    parent(document, path)[path[-1]] = copy.deepcopy(rng.choice(ODD))


def odd_number(rng: random.Random, document: Document) -> None:
    """A number somewhere becomes another."""
    numbers = [p for p in places(document) if type(parent(document, p)[p[-1]]) in (int, float)]
    if numbers:
        path = rng.choice(numbers)
        parent(document, path)[path[-1]] *= rng.choice((-1, 0, 2, 10, 1e6, 1e12, 0.5))


def gone(rng: random.Random, document: Document) -> None:
    path = rng.choice(places(document))
    del parent(document, path)[path[-1]]


def again(rng: random.Random, document: Document) -> None:
    """An entry of a list a second time."""
    lists = [value for value in document.values() if isinstance(value, list) and value]
    if lists:
        chosen = rng.choice(lists)
        chosen.insert(rng.randrange(len(chosen) + 1), copy.deepcopy(rng.choice(chosen)))


def swapped(rng: random.Random, document: Document) -> None:
    """Two values change places."""
    one, other = (rng.choice(places(document)) for _ in range(2))
    if one[: len(other)] != other and other[: len(one)] != one:
        a, b = parent(document, one), parent(document, other)
        a[one[-1]], b[other[-1]] = b[other[-1]], a[one[-1]]


def objects(document: Document) -> list[dict[str, Any]]:
    return [a for a in document["annotations"] if not a["iscrowd"]]


def corners(rng: random.Random, document: Document) -> None:
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]


def corners_without_masks(rng: random.Random, document: Document) -> None:
    corners(rng, document)
    for a in document["annotations"]:
        a["segmentation"] = []


def short_rle(rng: random.Random, document: Document) -> None:
    form = rng.choice([a["segmentation"] for a in objects(document) if isinstance(a["segmentation"], dict)])
    counts = form["counts"]
    form["counts"] = counts[: rng.randrange(len(counts))]


def long_rle(rng: random.Random, document: Document) -> None:
    form = rng.choice([a["segmentation"] for a in objects(document) if isinstance(a["segmentation"], dict)])
    form["counts"] = form["counts"] + (["11", "Z1", "PP1"] if isinstance(form["counts"], str) else [[4, 5], [10**6]])[
        rng.randrange(2)
    ]  # fmt: skip


def turned_rle(rng: random.Random, document: Document) -> None:
    rng.choice([a["segmentation"] for a in objects(document) if isinstance(a["segmentation"], dict)])["size"].reverse()


def no_place(rng: random.Random, document: Document) -> None:
    """A number of a box or polygon that is none."""
    a = rng.choice(objects(document))
    polygons = isinstance(a["segmentation"], list)
    where = a["segmentation"][0] if polygons and rng.random() < 0.5 else a["bbox"]
    where[rng.randrange(len(where))] = rng.choice((math.nan, math.inf, -math.inf, 1e12, 1e300, 10**40, "4", None))


def flat(rng: random.Random, document: Document) -> None:
    rng.choice(objects(document))["segmentation"] = [[3, 3, 9, 9, 15, 15]]


def elsewhere(rng: random.Random, document: Document) -> None:
    """A polygon that lies beside its box, or beside its image."""
    a = rng.choice([a for a in objects(document) if isinstance(a["segmentation"], list)])
    by = rng.choice((-200, 200, 30, -30))
    a["segmentation"] = [[value + by for value in polygon] for polygon in a["segmentation"]]


def crowd_words(rng: random.Random, document: Document) -> None:
    for a in document["annotations"]:
        a["iscrowd"] = rng.choice(("0", "1", "false"))


def crowds(rng: random.Random, document: Document) -> None:
    for a in document["annotations"]:
        a["iscrowd"] = 1


def listed_twice(rng: random.Random, document: Document) -> None:
    one, other = rng.sample(document["images"], 2)
    other["file_name"] = rng.choice(("", "./", "././")) + one["file_name"]


def other_size(rng: random.Random, document: Document) -> None:
    image = rng.choice(document["images"])
    image[rng.choice(("width", "height"))] += rng.choice((1, -1, 10))


def named_by_number(rng: random.Random, document: Document) -> None:
    rng.choice(document["categories"])["name"] = rng.choice((1, 2.5, ["cat"], {"en": "cat"}))


def negative_ids(rng: random.Random, document: Document) -> None:
    rng.choice([*document["images"], *document["categories"]])["id"] = -rng.randint(1, 10)


def licences(rng: random.Random, document: Document) -> None:
    for image in document["images"]:
        image |= {"license": rng.choice(("CC", None, [1])), "flickr_url": 5, "tags": [{}]}
    document |= {"info": rng.choice((None, 3, "x", [])), "licenses": rng.choice((None, "mine", 4)), "type": 7}


def no_areas(rng: random.Random, document: Document) -> None:
    for a in document["annotations"]:
        a["area"] = rng.choice((None, "12", -4, math.nan, [3], True))


def own_numbers(rng: random.Random, document: Document) -> None:
    """Other ids of the annotations, and entries in another order."""
    for a in document["annotations"]:
        a["id"] = rng.choice((0, -3, "a", None, 2.5, 7))
        a |= {"iscrowd": rng.choice((0, False, None)) if not a["iscrowd"] else rng.choice((1, True)), "keypoints": "no"}
    rng.shuffle(document["annotations"])
    rng.shuffle(document["categories"])


ANY = (odd_value, odd_value, odd_number, gone, again, swapped)
REFUSED = (
    corners, corners_without_masks, short_rle, long_rle, turned_rle, no_place, flat, elsewhere, crowd_words, crowds,
    listed_twice, other_size, named_by_number, negative_ids,
)  # fmt: skip
SAME = (licences, no_areas, own_numbers)


def spoilt_text(rng: random.Random, text: bytes) -> bytes:
    """The file itself cut, flipped, nested or in another encoding."""
    at = rng.randrange(len(text))
    return rng.choice(
        (
            lambda: text[:at],
            lambda: text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :],
            lambda: text[:at] + text[at + rng.randrange(1, 40) :],
            lambda: b"\xef\xbb\xbf" + text,
            lambda: text.decode().encode("utf-16"),
            lambda: b"[" * rng.choice((900, 5000, 200_000)) + text,
            lambda: text + b"}" * rng.randrange(1, 4),
            lambda: text.replace(b'"categories"', b'"annotations"'),
            lambda: b"\0" * at,
            lambda: text[:at] + text,
            lambda: text.replace(b": 1,", b": " + b"9" * 5000 + b",", 1),
            lambda: b"",
        )
    )()


class Files:
    """COCO files by number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.document = base(root)
        self.path = root / NAME

    def case(self, number: int) -> None:
        """Write, open, read every sample, count AP: labels are the file's own, or it is refused."""
        rng = random.Random(f"json {number}")
        document, kind = copy.deepcopy(self.document), number % 5
        used: list[Callable[[random.Random, Document], None]] = []
        if kind == 1:
            used = [REFUSED[number // 5 % len(REFUSED)]]
        elif kind == 2:
            used = [rng.choice(SAME)]
        elif kind != 3:
            used = [rng.choice(ANY) for _ in range(rng.randint(1, 3))]
        for change in used:
            try:
                change(rng, document)
            except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
                if kind in (1, 2):  # a change that was spoilt by the ones before it is none
                    raise
        text = json.dumps(document).encode()
        if kind == 3:
            text = spoilt_text(rng, text)
        self.path.write_bytes(text)
        if used == [corners_without_masks]:
            self.opened(rng, skip=False, masks=False)
        else:
            self.opened(rng, skip=kind not in (1, 2) and rng.random() < 0.4)
        if kind == 1:
            raise Wrong(f"{used[0].__name__} was taken in silence")

    def opened(self, rng: random.Random, *, skip: bool, masks: bool = True) -> None:
        """What training and evaluation do with a file."""
        if rng.random() < 0.2:
            found = find_splits(self.root).train
            has_masks(found.document(), self.path, on_bad="skip" if skip else "refuse")
            split_by_image(found, fraction=0.3, seed=0)
        data = CocoInstances(self.path, self.root, on_bad="skip" if skip else "refuse", masks=masks)
        written = json.loads(self.path.read_bytes())
        samples = [data[index] for index in range(len(data))]
        for entry, (image, target) in zip(written["images"], samples, strict=True):
            compare(written, entry, image, target, data, skip=skip)
        backend = rng.choice(("hotcoco", "pycocotools"))
        metrics = coco_metrics(data.truth(), perfect(data), backend=backend, masks=masks)  # type: ignore[arg-type]
        if metrics.box["AP"] < 0.999:
            raise Wrong(f"the truth itself scores {metrics.box['AP']}")


def compare(written: Document, entry: Any, image: Any, target: Any, data: CocoInstances, *, skip: bool) -> None:
    """A sample against the file as any reader would read it."""
    height, width = image.shape[-2:]
    names = {c["id"]: c["name"] for c in written["categories"]}
    own = [a for a in written["annotations"] if a["image_id"] == entry["id"] and not a.get("iscrowd")]
    got = [
        (box.tolist(), data.categories[int(label) - 1].name)
        for box, label in zip(target["boxes"], target["labels"], strict=True)
    ]
    want = []
    for a in own:
        try:
            x, y, w, h = (float(value) for value in a["bbox"])
            box = [min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height)]
            want.append((box, names[a["category_id"]], a))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            if not skip:
                raise Wrong(f"opened, though annotation {a.get('id')!r:.20} cannot be read: {error!r}") from error
    if not skip and len(got) != len([b for b, _, _ in want if b[2] - b[0] >= 1 and b[3] - b[1] >= 1]):
        raise Wrong(f"{len(got)} of {len(want)} objects of image {entry['id']}")
    place = 0
    for number, (box, name) in enumerate(got):
        while place < len(want) and not (
            np.allclose(want[place][0], box, atol=1e-3)
            and want[place][1] == name
            and (isinstance(want[place][2].get("segmentation"), list | dict) or not data.masks)
        ):
            place += 1
        if place == len(want):
            raise Wrong(f"a box {box} of {name} that is not in the file")
        if "masks" in target:
            compare_mask(target["masks"][number].float(), target["boxes"][number], want[place][2], height, width)
        place += 1


def compare_mask(crop: Any, box: Any, annotation: Any, height: int, width: int) -> None:
    """An object's mask against pycocotools' own reading, inside its box."""
    form = annotation["segmentation"]
    if isinstance(form, list):
        code = rle.merge(rle.frPyObjects(form, height, width))
    else:
        code = form if isinstance(form["counts"], str) else rle.frPyObjects(form, height, width)
    dense = rle.decode(code).astype(bool)
    x1, y1, x2, y2 = (int(value) for value in box.round().tolist())
    inside = np.zeros_like(dense)
    inside[y1:y2, x1:x2] = True
    dense &= inside
    if dense.sum() < 60:  # too small to compare
        return
    ours = masks.paste(crop, box, height=height, width=width).astype(bool)
    shared = (ours & dense).sum() / (ours | dense).sum()
    if shared < 0.7:
        raise Wrong(f"a mask whose IoU with the file's is {shared:.2f}")


def perfect(data: CocoInstances) -> list[dict[str, Any]]:
    """The truth as results; an object whose mask cannot be used is found by its box."""
    truth = for_counting(data.truth(), masks=data.masks)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results = []
    for a in truth["annotations"]:
        if a["iscrowd"]:
            continue
        result = {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        if data.masks:
            height, width = sizes[a["image_id"]]
            result["segmentation"] = masks.encode(masks.decode(a["segmentation"], height=height, width=width))
        results.append(result)
    return results


def family(root: Path, count: int) -> Family:
    """COCO files."""
    root.mkdir(parents=True, exist_ok=True)
    return Family("COCO files", count, Files(root).case, named=(NAME, *(f"{n}.png" for n in range(1, 7)), str(root)))
