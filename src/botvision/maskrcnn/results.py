"""Detections as COCO results, for evaluation, prediction and drawing alike."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import supervision as sv
from torch import Tensor

from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import Category

Result = dict[str, Any]


def image_results(
    found: dict[str, Tensor], categories: Sequence[Category], *, image_id: int, size: tuple[int, ...]
) -> list[Result]:
    """The model's detections of one image as COCO results: image_id, category_id, bbox, score, segmentation if any.

    Args:
        found: boxes (N, 4) in the image's pixels, labels (N,) from 1, scores (N,), and mask_probs (N, 28, 28) where the
            detector has masks; without them the results have no segmentation.
        categories: by label.
        image_id: of the results.
        size: (height, width) of the image.
    """
    rows = {name: value.cpu().double().numpy() for name, value in found.items()}
    rows |= {"masks": rows["mask_probs"]} if "mask_probs" in rows else {}
    found_here = masks.as_results(rows, ids=[category.id for category in categories], size=size)
    return [{"image_id": image_id, **result} for result in found_here]


def batch_results(
    detections: Iterable[dict[str, Tensor]],
    images: Iterable[Tensor],
    targets: Iterable[dict[str, Tensor]],
    categories: Sequence[Category],
) -> list[Result]:
    """Detections of a batch of images (3, H, W) as COCO results; targets bear the image_id."""
    results = []
    for found, image, target in zip(detections, images, targets, strict=True):
        results += image_results(found, categories, image_id=int(target["image_id"]), size=image.shape[-2:])
    return results


def to_supervision(
    results: Sequence[Result], categories: Sequence[Category], *, size: tuple[int, ...], with_masks: bool = True
) -> sv.Detections:
    """COCO results of one image as `supervision.Detections`.

    Args:
        results: of the image; where they have a `track_id`, it is the detections' tracker_id, -1 where it is None.
        categories: class_id counts them from 0.
        size: (height, width) of the image.
        with_masks: dense masks (N, H, W), where the results have some.
    """
    height, width = size
    index = {category.id: number for number, category in enumerate(categories)}
    class_id = np.array([index[result["category_id"]] for result in results], dtype=int)
    boxes = np.array([result["bbox"] for result in results], np.float32).reshape(-1, 4)
    dense = None
    if with_masks and all("segmentation" in result for result in results):
        decoded = [masks.decode(result["segmentation"], height=height, width=width) for result in results]
        dense = np.stack(decoded).astype(bool) if decoded else np.zeros((0, height, width), bool)
    tracks = [-1 if result["track_id"] is None else result["track_id"] for result in results if "track_id" in result]
    return sv.Detections(
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        mask=dense,
        confidence=np.array([result["score"] for result in results], np.float32),
        class_id=class_id,
        tracker_id=np.array(tracks, dtype=int) if tracks else None,
        data={"class_name": np.array([categories[number].name for number in class_id], dtype=str)},
    )
