"""The core's small offline world in YOLO form: one set of labels for detection and segmentation."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from botvision.files import read_json, whole_folder, write_json, write_text
from botvision.scenes import make_scenes

SPLITS = ("train", "val")


def scenes(out: str | Path, *, train: int = 1100, val: int = 200, size: int = 128, seed: int = 0) -> str:
    """Write digits on photographs as ultralytics reads them: `images/`, `labels/` and `data.yaml`.

    Labels are polygons, from which ultralytics takes boxes where it detects.

    Args:
        out: folder to make; one that holds the same scenes already is left as it is.
        train, val: images.
        size: side of an image in pixels.
        seed: of everything that is drawn.

    Returns:
        A line that says what was made.

    Raises:
        ValueError: `out` holds something else, or a number out of its range.
    """
    out, wanted = Path(out), {"train": train, "val": val, "size": size, "seed": seed}
    if out.exists() and any(out.iterdir()):
        made = out / "scenes.json"
        if made.is_file() and read_json(made, what="scenes") == wanted:
            return f"scenes are already at {out}"
        raise ValueError(f"{out} holds something else; give a folder that is empty or not there yet")
    with whole_folder(out) as unfinished:
        coco = unfinished / "coco"
        make_scenes(coco, train=train, val=val, size=size, seed=seed)
        names = []
        for split in SPLITS:
            names = write_labels(
                read_json(coco / "annotations" / f"{split}.json", what="annotations"), unfinished, split
            )
            (unfinished / "images").mkdir(exist_ok=True)
            (coco / split).rename(unfinished / "images" / split)
        (coco / "CREDITS.txt").rename(unfinished / "CREDITS.txt")
        shutil.rmtree(coco)
        lines = [*(f"{split}: images/{split}" for split in SPLITS), "names:"]
        write_text(unfinished / "data.yaml", "\n".join(lines + [f'  {i}: "{n}"' for i, n in enumerate(names)]) + "\n")
        write_json(unfinished / "scenes.json", wanted)
    return f"{train} + {val} scenes of {size} px at {out / 'data.yaml'}"


def write_labels(document: dict[str, Any], out: Path, split: str) -> list[str]:
    """One text file an image, one line an object: its class and its outline in shares of the sides."""
    classes = {category["id"]: number for number, category in enumerate(document["categories"])}
    lines: dict[int, list[str]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        outline = polygon(rle.decode(annotation["segmentation"]))
        points = " ".join(f"{value:.6f}" for value in outline.ravel())
        lines[annotation["image_id"]].append(f"{classes[annotation['category_id']]} {points}")
    for image in document["images"]:
        write_text(
            out / "labels" / split / f"{Path(image['file_name']).stem}.txt", "\n".join(lines[image["id"]]) + "\n"
        )
    return [category["name"] for category in document["categories"]]


def polygon(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A mask (H, W) as one outline (points, 2) of shares: its parts one after the other, each closed to the first.

    A YOLO label has one polygon an object; parts are joined by lines without area.
    """
    height, width = mask.shape
    parts, _ = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rings = [part[:, 0].astype(np.float64) + 0.5 for part in sorted(parts, key=len, reverse=True) if len(part) >= 3]
    if not rings:  # a line of pixels has no outline; its box has
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        rings = [np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)]
    start = rings[0][:1]
    joined = np.concatenate([rings[0], *(np.concatenate([start, ring, ring[:1], start]) for ring in rings[1:])])
    return joined / (width, height)
