"""Box and mask AP by COCO's own definition, with hotcoco or pycocotools."""

import contextlib
import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from botvision.engine.checkpoint import pick_device
from botvision.files import read_json, write_json
from botvision.maskrcnn import masks
from botvision.maskrcnn.checkpoint import load_detector
from botvision.maskrcnn.coco import Category, for_counting
from botvision.maskrcnn.data import CocoInstances, collate

Result = dict[str, Any]
Backend = Literal["auto", "hotcoco", "pycocotools"]
FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small",
           "AR_medium", "AR_large")  # fmt: skip


class Scores(NamedTuple):
    """COCO's twelve figures for boxes and for masks, as fractions; -1 where the truth has no such object."""

    box: dict[str, float]
    mask: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{name:<10} {self.box[name]:>7.3f} {self.mask[name]:>7.3f}" for name in FIGURES]
        return "\n".join([f"{'':<10} {'box':>7} {'mask':>7}", *lines])


def score(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    *,
    out: Path | None = None,
    batch_size: int = 8,
    workers: int = 2,
    backend: Backend = "auto",
    device: str = "auto",
) -> Scores:
    """Score a trained detector on any COCO file: box and mask AP.

    Args:
        checkpoint: a `.ckpt` of a run.
        annotations: COCO JSON with the truth.
        images: folder of its pictures.
        out: folder for `scores.json` and `results.json` (COCO results form).
        batch_size: pictures at a time.
        workers: processes that read pictures.
        backend: "hotcoco", "pycocotools", or "auto" for the first that is installed.
        device: "cpu", "cuda", or "auto".

    Returns:
        COCO's twelve figures for boxes and for masks.

    Raises:
        FileNotFoundError, ValueError: files that are not there, not what they should be, or do not fit each other.
    """
    detector = load_detector(checkpoint)
    dataset = CocoInstances(annotations, images, on_bad="skip")
    if [c.name for c in dataset.categories] != [c.name for c in detector.categories]:
        raise ValueError(
            f"{checkpoint} finds {len(detector.categories)} classes ({detector.category_names}), but {annotations} "
            f"has {len(dataset.categories)} ({', '.join(c.name for c in dataset.categories[:5])}); "
            "give annotations with the categories that it was trained on"
        )
    place = pick_device(device)
    model = detector.model.to(place)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    results: list[Result] = []
    with torch.inference_mode():
        for pictures, targets in tqdm(loader, desc="score", unit="batch", disable=None):
            found = model([p.to(place) for p in pictures]).detections
            results += to_results(found, pictures, targets, dataset.categories)
    scores = evaluate(annotations, results, backend=backend)
    if out is not None:
        write_json(out / "results.json", results)
        write_json(out / "scores.json", scores._asdict(), indent=2)
    return scores


def to_results(
    detections: Iterable[dict[str, Tensor]],
    pictures: Iterable[Tensor],
    targets: Iterable[dict[str, Tensor]],
    categories: list[Category],
) -> list[Result]:
    """Detections of a batch as COCO results: image_id, category_id, bbox, score, segmentation."""
    results = []
    for found, picture, target in zip(detections, pictures, targets, strict=True):
        results += picture_results(found, categories, image_id=int(target["image_id"]), size=picture.shape[-2:])
    return results


def picture_results(
    found: dict[str, Tensor], categories: list[Category], *, image_id: int, size: tuple[int, ...]
) -> list[Result]:
    """Detections of one picture of (height, width) `size` as COCO results."""
    height, width = size
    results = []
    parts = (found[key].cpu() for key in ("boxes", "labels", "scores", "mask_probs"))
    for box, label, confidence, probabilities in zip(*parts, strict=True):
        x1, y1, x2, y2 = box.tolist()
        results.append(
            {
                "image_id": image_id,
                "category_id": categories[int(label) - 1].id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(confidence),
                "segmentation": masks.encode(masks.paste(probabilities, box, height=height, width=width)),
            }
        )
    return results


def evaluate(truth: Path | dict[str, Any], results: list[Result], *, backend: Backend = "auto") -> Scores:
    """COCO's twelve figures for boxes and for masks; small, medium and large by the box's and by the mask's own area.

    Args:
        truth: COCO JSON, or its content.
        results: COCO results; several for one picture from several processes must be taken apart before.
        backend: who counts; both give the same figures, hotcoco some thirty times sooner.

    Raises:
        ValueError: an unknown backend.
    """
    coco, coco_eval = counting_tools(backend)
    document = for_counting(read_json(truth, what="COCO annotations") if isinstance(truth, Path) else truth)
    with contextlib.redirect_stdout(io.StringIO()):  # both print tables of their own
        gt = coco()
        gt.dataset = document
        gt.createIndex()
        figures = []
        for kind, own in (("bbox", "segmentation"), ("segm", "bbox")):
            # each by its own area: a result with a box is taken to be as large as it, its mask too; the copies are the
            # package's to write into
            told = [{k: v for k, v in result.items() if k != own} for result in results or [nothing(document)]]
            counter = coco_eval(gt, gt.loadRes(told), kind)
            counter.evaluate()
            counter.accumulate()
            counter.summarize()
            figures.append(dict(zip(FIGURES, map(float, counter.stats), strict=True)))
    return Scores(*figures)


def nothing(document: dict[str, Any]) -> Result:
    """A result that finds nothing, for packages that cannot count an empty list."""
    image = document["images"][0]
    mask = masks.encode(np.zeros((image["height"], image["width"]), np.uint8))
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
