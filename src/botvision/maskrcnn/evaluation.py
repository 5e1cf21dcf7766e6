"""Evaluate a detector: COCO's box and mask AP, with hotcoco or pycocotools."""

import contextlib
import io
import sys
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from botvision.engine.shared_results import EvaluatedPart, SharedResults
from botvision.maskrcnn.checkpoint import Detector
from botvision.maskrcnn.coco import Category, for_counting, for_masks, forget, read_document
from botvision.maskrcnn.config import Backend, BoxFormat
from botvision.maskrcnn.data import CocoInstances, collate
from botvision.maskrcnn.labels import has_mask
from botvision.maskrcnn.masks import encode
from botvision.maskrcnn.resize import padded_alike
from botvision.maskrcnn.results import Result, batch_results

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small",
           "AR_medium", "AR_large")  # fmt: skip


class Metrics(NamedTuple):
    """COCO's twelve figures for boxes and for masks, as fractions; -1 where the truth has no such object.

    A detector of boxes alone has none for masks.
    """

    box: dict[str, float]
    mask: dict[str, float]

    def __str__(self) -> str:
        columns = {"box": self.box, **({"mask": self.mask} if self.mask else {})}
        lines = [f"{name:<10}" + "".join(f" {c[name]:>7.3f}" for c in columns.values()) for name in FIGURES]
        return "\n".join([f"{'':<10}" + "".join(f" {name:>7}" for name in columns), *lines])


def evaluate_detector(
    detector: Detector,
    annotations: Path,
    images: Path,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    backend: Backend,
    box_format: BoxFormat = "auto",
    shared: SharedResults | None = None,
) -> tuple[Metrics, list[Result]] | EvaluatedPart:
    """Metrics of a detector on a COCO file, and the results that they are of.

    Where several processes share the images by `shared`, those that others have left something to do end without.

    Raises:
        FileNotFoundError, ValueError: as `botvision.maskrcnn.evaluate`.
    """
    model = detector.model.to(device)
    objects = [one for one in read_document(annotations)["annotations"] if not one.get("iscrowd")]
    masks = model.masks and (not objects or any(map(has_mask, objects)))
    if masks != model.masks:
        print(f"data: {annotations} has boxes alone, so box AP is counted alone", file=sys.stderr)
    dataset = CocoInstances(annotations, images, on_bad="skip", masks=masks, box_format=box_format)
    known = {category.id for category in dataset.categories}
    use_classes_of(detector, dataset)
    names = [str(dataset.record(place)[0]["id"]) for place in range(len(dataset))]
    read = dataset if shared is None else torch.utils.data.Subset(dataset, shared.own(names))
    loader = torch.utils.data.DataLoader(read, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    results: list[Result] = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=None):
            found: list[dict[str, torch.Tensor]] = [{}] * len(batch.images)
            for places in padded_alike(model.resize.rule, batch.images):
                some_found = model([batch.images[place].to(device) for place in places]).detections
                for place, one in zip(places, some_found, strict=True):
                    found[place] = one
            some = batch_results(found, batch.images, batch.targets, dataset.categories)
            if shared is None:
                results += some
                continue
            for target in batch.targets:
                number = int(target["image_id"])
                shared.add(str(number), objects=[result for result in some if result["image_id"] == number])
    if shared is not None:
        records = shared.together(names)
        if len(records) < len(names):
            return EvaluatedPart(shared.journal.images, len(names) - len(records), shared.out)
        results = [result for record in records for result in record["objects"]]
    results = [result for result in results if result["category_id"] in known]  # of a class that the file lacks
    return coco_metrics(dataset.truth(), results, backend=backend, masks=masks), results


def use_classes_of(detector: Detector, dataset: CocoInstances) -> None:
    """Number a file's classes as the detector does, by their names; one that the file lacks has no object, with a line.

    Raises:
        ValueError: the file has objects of others.
    """
    own = [category.name for category in detector.categories]
    # of two of one name, as Roboflow's first and empty one may have, the one that has objects
    by_name = {c.name: c for c in sorted(dataset.categories, key=lambda category: dataset.counts[category.id])}
    strange = {category.name for category in dataset.categories if dataset.counts[category.id]} - set(own)
    unknown = set(by_name) - set(own)
    if strange or (unknown and not set(own) <= set(by_name)):
        raise ValueError(
            f"the detector finds {len(detector.categories)} classes ({detector.category_names}), but "
            f"{dataset.annotations} has {len(dataset.categories)} "
            f"({', '.join(c.name for c in dataset.categories[:5])}); "
            "give annotations with the categories that it was trained on"
        )
    absent = [name for name in own if name not in by_name]
    if absent:  # as Pascal VOC's files, which list no classes
        print(
            f"data: {dataset.annotations} has no class {', '.join(absent[:5])}: AP is a mean over the others",
            file=sys.stderr,
        )
        unused = count(max(category.id for category in dataset.categories) + 1)
        by_name |= {name: Category(next(unused), name) for name in absent}
    if [category.name for category in dataset.categories] != own:
        dataset.restrict([by_name[name] for name in own])


def coco_metrics(
    truth: Path | dict[str, Any], results: list[Result], *, backend: Backend = "auto", masks: bool = True
) -> Metrics:
    """COCO's twelve figures for boxes and for masks; small, medium and large by the box's and by the mask's own area.

    Args:
        truth: COCO JSON, or its content.
        results: COCO results; several for one image from several processes must be taken apart before.
        backend: who counts; both give the same figures, hotcoco some thirty times sooner.
        masks: whether masks are counted too. An object whose mask is missing or cannot be used counts in box AP; in
            mask AP it is a crowd.

    Raises:
        ValueError: an unknown backend.
    """
    coco, coco_eval = counting_tools(backend)
    content = read_document(truth) if isinstance(truth, Path) else truth
    document = for_counting(content, masks=masks)
    if isinstance(truth, Path):
        forget(truth)
    with contextlib.redirect_stdout(io.StringIO()):  # both print tables of their own
        figures: list[dict[str, float]] = []
        for kind, other in (("bbox", "segmentation"), ("segm", "bbox"))[: 1 + masks]:
            gt = coco()
            gt.dataset = document if kind == "bbox" else for_masks(document)
            gt.createIndex()
            # each by its own area: a result with a box is taken to be as large as it, its mask too; the copies are the
            # package's to write into
            copies = [{k: v for k, v in result.items() if k != other} for result in results or [nothing(document)]]
            counter = coco_eval(gt, gt.loadRes(copies), kind)
            counter.evaluate()
            counter.accumulate()
            counter.summarize()
            figures.append(dict(zip(FIGURES, map(float, counter.stats), strict=True)))
    return Metrics(figures[0], figures[1] if masks else {})


def nothing(document: dict[str, Any]) -> Result:
    """A result that finds nothing, for packages that cannot count an empty list."""
    image = document["images"][0]
    mask = encode(np.zeros((image["height"], image["width"]), np.uint8))
    category_id = document["categories"][0]["id"]
    return {"image_id": image["id"], "category_id": category_id, "bbox": [0.0] * 4, "score": 0.0, "segmentation": mask}


def counting_tools(backend: Backend) -> tuple[Any, Any]:
    """COCO and COCOeval of the wanted package."""
    if backend == "auto":
        backend = "hotcoco" if find_spec("hotcoco") else "pycocotools"
    if backend == "hotcoco":
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval
    if backend == "pycocotools":
        from pycocotools import coco, cocoeval

        return coco.COCO, cocoeval.COCOeval
    raise ValueError(f"backend={backend!r} is unknown; use auto, hotcoco or pycocotools")
