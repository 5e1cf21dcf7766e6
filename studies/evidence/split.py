"""AP and right names of one run: over all objects, by distance to the partner, by size."""

# N detections or objects

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from botvision.maskrcnn.evaluation import coco_metrics
from botvision.maskrcnn.labels import corners
from botvision.maskrcnn.results import Result

FOUND = 0.5  # IoU from which a detection is of an object
Annotation = dict[str, Any]


class Part(NamedTuple):
    """How a run did on some of the objects.

    Attributes:
        low, high: of what they were chosen by, in pixels; none for all objects.
        objects: how many.
        box, mask: COCO's AP, mean over the classes.
        found: share of the objects with a detection of IoU ≥ 0.5, whatever its class.
        named: share of those found whose surest detection has the right class; a coin gives the half of two classes.
    """

    low: float | None
    high: float | None
    objects: int
    box: float
    mask: float
    found: float
    named: float | None


def part(
    document: dict[str, Any],
    results: Sequence[Result],
    classes: Sequence[str],
    bounds: tuple[float, float] | None = None,
    by: Callable[[Annotation], float] | None = None,
) -> Part:
    """Evaluate the objects of some classes, or of those the ones with `by` within [low, high).

    Other objects of these classes are neither to be found nor wrong to find, whatever they are called, as COCO treats
    objects out of a size range.
    """
    kept = {c["id"] for c in document["categories"] if c["name"] in classes}
    own = [a for a in document["annotations"] if a["category_id"] in kept]
    chosen = own
    if by is not None and bounds is not None:
        chosen = [a for a in own if bounds[0] <= by(a) < bounds[1]]
    inside = {a["id"] for a in chosen}
    others = [{**a, "category_id": c, "iscrowd": 1} for a in own if a["id"] not in inside for c in sorted(kept)]
    truth = {
        **document,
        "annotations": [*chosen, *others],
        "categories": [c for c in document["categories"] if c["id"] in kept],
    }
    mine = [result for result in results if result["category_id"] in kept]
    figures = coco_metrics(truth, mine)
    found, named = names(chosen, mine)
    low, high = bounds or (None, None)
    return Part(low, high, len(chosen), figures.box["AP"], figures.mask["AP"], found, named)


def names(annotations: Iterable[Annotation], results: Iterable[Result]) -> tuple[float, float | None]:
    """Share of objects that are found, and of those the share whose surest detection bears the right class."""
    by_image: dict[int, list[Result]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    right: list[bool] = []
    count = 0
    for annotation in annotations:
        count += 1
        own = by_image.get(annotation["image_id"], [])
        if not own:
            continue
        boxes = torch.tensor([corners(result["bbox"]) for result in own])
        iou = box_iou(torch.tensor([corners(annotation["bbox"])]), boxes)[0]  # N
        over = [result for result, share in zip(own, iou.tolist(), strict=True) if share >= FOUND]
        if over:
            surest = max(over, key=lambda result: result["score"])
            right.append(surest["category_id"] == annotation["category_id"])
    return len(right) / max(1, count), (sum(right) / len(right) if right else None)


def in_parts(
    document: dict[str, Any],
    results: Sequence[Result],
    classes: Sequence[str],
    edges: Sequence[float],
    by: Callable[[Annotation], float],
) -> list[Part]:
    """One part between each two edges that holds an object; the last one takes its upper edge in."""
    bounds = [*pairwise(edges)]
    bounds[-1] = (bounds[-1][0], np.nextafter(bounds[-1][1], np.inf))
    parts = (part(document, results, classes, pair, by) for pair in bounds)
    return [p._replace(high=round(float(p.high or 0), 1)) for p in parts if p.objects]


def distance(annotation: Annotation) -> float:
    """To the partner, centre to centre, in pixels."""
    return float(annotation["distance"])


def side(annotation: Annotation) -> float:
    """Of the square that has the box's area, in pixels."""
    return float(np.sqrt(annotation["bbox"][2] * annotation["bbox"][3]))


def thirds(values: Sequence[float]) -> list[float]:
    """Edges of three parts of about as many objects each."""
    low, *inner, high = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
    return [float(edge) for edge in np.unique([np.floor(low), *np.round(inner, 1), np.ceil(high)])]


def steps(low: float, high: float, count: int = 3) -> list[float]:
    """Edges of parts of the same width."""
    return [float(edge) for edge in np.round(np.linspace(low, high, count + 1), 1)]
