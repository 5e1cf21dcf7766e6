"""What a trained detector does on validation images: figures, errors, calibration, mistakes."""

# K classes, R points of recall, T overlaps

import contextlib
import io
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from botvision.engine.folder import moved
from botvision.engine.record import Record
from botvision.engine.settings import built
from botvision.maskrcnn.checkpoint import load_detector
from botvision.maskrcnn.coco import for_counting, for_masks
from botvision.maskrcnn.config import DataConfig
from botvision.maskrcnn.data import CocoInstances, val_set
from botvision.maskrcnn.evaluation import nothing, use_classes_of
from botvision.maskrcnn.labels import bad_box, bad_mask, without_scraps
from botvision.maskrcnn.mistakes import SHOWN, Verdict, judge, outside_crowds
from botvision.maskrcnn.prediction import Predictor, lots
from botvision.maskrcnn.results import Result, image_results

IMAGES = 256  # validation images that are looked at, at most
SIZES = ("all", "small", "medium", "large")
BATCH = 8

Size = tuple[int, int]


class Counted(NamedTuple):
    """COCO's figures of boxes, or of masks.

    Attributes:
        precision: (T, R, K, 4, 3) of hotcoco: by overlap, recall, class, size and most detections; −1 where there is no
            object.
        overlaps: (T,) IoU.
        recalls: (R,).
    """

    precision: NDArray[np.float64]
    overlaps: NDArray[np.float64]
    recalls: NDArray[np.float64]

    def ap(self, *, kind: int | None = None, size: int = 0, overlap: float | None = None) -> float | None:
        """A mean over overlaps, classes and recalls; none where there is no such object."""
        chosen = self.precision[:, :, slice(None) if kind is None else slice(kind, kind + 1), size, -1]
        if overlap is not None:
            chosen = chosen[np.isclose(self.overlaps, overlap)]
        there = chosen[chosen > -1]
        return float(there.mean()) if there.size else None

    def curve(self, overlap: float) -> list[tuple[float, float]]:
        """Recall and precision, a mean over the classes that have objects."""
        at = self.precision[np.isclose(self.overlaps, overlap)][0, :, :, 0, -1]  # R K
        there = at[:, (at > -1).all(0)]
        return list(zip(self.recalls.tolist(), there.mean(1).tolist(), strict=True)) if there.size else []


@dataclass(frozen=True)
class Diagnosis:
    """A detector on some validation images.

    Attributes:
        model: the detector, whose attention layers are watched.
        look: runs it on one image (3, H, W) of uint8; (h, w) that it was resized to, and that it was padded to at the
            right and below.
        data: the images, of the detector's classes.
        chosen: numbers of those that were looked at.
        objects: annotations of each of them.
        found: results of each of them, however unsure.
        box: figures of boxes.
        mask: of masks; none without.
        confusion: (K + 1, K + 1) counts, truth down, from score 0.5 on; the last row is background, the last column
            missed.
        errors: AP50 that each of TIDE's kinds of error costs; empty where nothing was found.
        calibration: bins with their confidence, share of right ones and count; none where nothing was found.
        gap: expected calibration error; none where nothing was found.
    """

    model: nn.Module
    look: Callable[[Tensor], tuple[Size, Size]]
    data: CocoInstances
    chosen: Sequence[int]
    objects: Sequence[Sequence[Mapping[str, Any]]]
    found: Sequence[Sequence[Result]]
    box: Counted
    mask: Counted | None
    confusion: NDArray[np.int64]
    errors: Mapping[str, float]
    calibration: Sequence[Mapping[str, float]]
    gap: float | None

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return [category.name for category in self.data.categories]

    @property
    def counted(self) -> str:
        """What the figures are of."""
        every = len(self.data)
        some = f"{len(self.chosen)} of {every:,}" if len(self.chosen) < every else f"all {every}"
        return f"figures by class and examples are of {some} validation images"

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """On each image."""
        names = {category.id: category.name for category in self.data.categories}
        return [judge(objects, found, names) for objects, found in zip(self.objects, self.found, strict=True)]

    @property
    def recall(self) -> float | None:
        """Share of the objects that are found, named and placed at score 0.5; none without objects."""
        there = sum(verdict.objects for verdict in self.verdicts)
        return sum(verdict.right for verdict in self.verdicts) / there if there else None

    @property
    def precision(self) -> float | None:
        """Share of right ones among the detections from score 0.5 on; none without detections."""
        right = sum(verdict.right for verdict in self.verdicts)
        shown = right + sum(verdict.wrong for verdict in self.verdicts)
        return right / shown if shown else None


def diagnose(
    record: Record, checkpoint: Path, *, device: torch.device, most: int = IMAGES, seconds: float | None = None
) -> Diagnosis:
    """Run a detector over some of its run's validation images, drawn by a fixed seed, and count.

    Args:
        record: the run.
        checkpoint: of the detector.
        device: where it runs.
        most: images.
        seconds: after which no more batches are begun; none for no limit.

    Raises:
        FileNotFoundError, ValueError: images or a checkpoint that are not there, or do not fit each other.
    """
    detector = load_detector(checkpoint)
    model = detector.model.to(device)
    predictor = Predictor(detector, device, batch_size=BATCH)
    config = built(DataConfig, moved(record.config.get("data"), record.path), record.path / "config.yaml")
    data = val_set(config, masks=model.masks)
    use_classes_of(detector, data)

    def find(images: Sequence[Tensor], numbers: Sequence[int]) -> list[list[Result]]:
        return [
            image_results(own, data.categories, image_id=number, size=image.shape[-2:])
            for number, image, own in zip(numbers, images, predictor.find(images, threshold=0.0), strict=True)
        ]

    def look(image: Tensor) -> tuple[Size, Size]:
        batch = model.resize([image.to(device)])
        predictor.find([image])
        return batch.image_sizes[0], cast("Size", tuple(batch.tensors.shape[-2:]))

    return diagnosed(model, look, data, find, most=most, seconds=seconds)


def diagnosed(
    model: nn.Module,
    look: Callable[[Tensor], tuple[Size, Size]],
    data: CocoInstances,
    find: Callable[[Sequence[Tensor], Sequence[int]], Sequence[list[Result]]],
    *,
    most: int = IMAGES,
    seconds: float | None = None,
) -> Diagnosis:
    """Run any detector over some of the images, drawn by a fixed seed, and count.

    Args:
        model, look: as `Diagnosis` has them.
        data: the images.
        find: images (3, H, W) of uint8 and their image ids → COCO results of each, however unsure.
        most, seconds: as `diagnose`.

    Raises:
        FileNotFoundError, ValueError: an image that cannot be read.
    """
    found: dict[int, list[Result]] = {}
    started = time.monotonic()
    for places in lots(random.Random(0).sample(range(len(data)), min(most, len(data))), BATCH):
        if found and seconds is not None and time.monotonic() - started > seconds:
            break
        numbers = [int(data.record(place)[0]["id"]) for place in places]
        found |= zip(places, find([data.read(place) for place in places], numbers), strict=True)
    chosen = sorted(found)
    results = [result for own in found.values() for result in own]
    document, objects = part_of(data, chosen), [data.record(place)[1] for place in chosen]
    crowds: dict[int, list[Any]] = {}
    for one in not_judged(document, masks=data.masks):
        crowds.setdefault(one["image_id"], []).append(one)
    counting = [
        outside_crowds(found[place], own, crowds.get(data.record(place)[0]["id"], []))
        for place, own in zip(chosen, objects, strict=True)
    ]
    figures = count(document, results, masks=data.masks, counting=counting if crowds else None)
    return Diagnosis(model, look, data, chosen, objects, counting, **figures)


def not_judged(document: dict[str, Any], *, masks: bool) -> list[dict[str, Any]]:
    """Crowds; and where masks are counted, objects without one: on them a detection is neither right nor wrong."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    return [
        one
        for one in document["annotations"]
        if not bad_box(one, *sizes[one["image_id"]])
        and (one.get("iscrowd") or (masks and bad_mask(without_scraps(one), *sizes[one["image_id"]])))
    ]


def part_of(data: CocoInstances, chosen: Sequence[int]) -> dict[str, Any]:
    """The truth of some images as a COCO document, its categories in the order of the classes."""
    images = [data.record(place)[0] for place in chosen]
    numbers, kinds = {entry["id"] for entry in images}, {category.id for category in data.categories}
    every = data.truth()["annotations"]
    own = [one for one in every if one["image_id"] in numbers and one["category_id"] in kinds]
    return {"images": images, "annotations": own, "categories": [category._asdict() for category in data.categories]}


def count(
    document: dict[str, Any],
    results: list[Result],
    *,
    masks: bool,
    counting: Sequence[list[Result]] | None = None,
) -> dict[str, Any]:
    """Figures, confusion, errors and calibration of results against a COCO document.

    Args:
        document: the truth; its categories in the order of the classes.
        results: COCO results, of all classes and scores.
        counting: those of each image that are not in crowds, for confusion and calibration, which know none; all,
            where there are no crowds.
        masks: whether masks are counted too.
    """
    counter = evaluated(document, results, "bbox", masks=masks)
    order = [category["id"] for category in document["categories"]]
    apart = counter
    if counting is not None:
        left = {id(one) for one in not_judged(document, masks=masks)}
        alone = {**document, "annotations": [one for one in document["annotations"] if id(one) not in left]}
        apart = evaluated(alone, [result for own in counting for result in own], "bbox", masks=masks)
    of_images = Counter(one["image_id"] for one in results)  # of all classes together, where AP's 100 are of each
    seen = apart.confusion_matrix(min_score=SHOWN, max_det=max(1, *of_images.values(), 0))
    places = [list(seen["cat_ids"]).index(number) for number in order] + [len(order)]
    calibrated = apart.calibration() if results else {"bins": [], "ece": None}
    return {
        "box": counted(counter, order),
        "mask": counted(evaluated(document, results, "segm", masks=True), order) if masks else None,
        "confusion": np.asarray(seen["matrix"]).astype(np.int64)[np.ix_(places, places)],
        "errors": {name: float(value) for name, value in counter.tide_errors()["delta_ap"].items()} if results else {},
        "calibration": calibrated["bins"],
        "gap": calibrated["ece"],
    }


def evaluated(document: dict[str, Any], results: list[Result], kind: str, *, masks: bool) -> Any:
    """Hotcoco's evaluation of boxes ("bbox") or masks ("segm")."""
    import hotcoco

    truth = for_counting(document, masks=masks)
    truth = for_masks(truth) if kind == "segm" else truth
    other = "segmentation" if kind == "bbox" else "bbox"
    copies = [{name: v for name, v in result.items() if name != other} for result in results or [nothing(truth)]]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of its own
        gt = hotcoco.COCO()
        gt.dataset = truth
        gt.createIndex()
        counter = hotcoco.COCOeval(gt, gt.loadRes(copies), kind)
        counter.evaluate()
        counter.accumulate()
        counter.summarize()
    return counter


def counted(counter: Any, order: Sequence[int]) -> Counted:
    """Its figures, classes in this order."""
    known = list(counter.params.catIds)
    precision = np.asarray(counter.eval["precision"])[:, :, [known.index(number) for number in order]]
    return Counted(precision, np.asarray(counter.params.iouThrs), np.asarray(counter.params.recThrs))
