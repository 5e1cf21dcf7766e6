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
        found: boxes (N, 4) in the image's pixels, labels (N,) from 1, scores (N,), mask_probs (N, 28, 28) if any.
        categories: by label.
        image_id: of the results.
        size: (height, width) of the image.
    """
    height, width = size
    results = []
    for number, (box, label, confidence) in enumerate(
        zip(*(found[key].cpu() for key in ("boxes", "labels", "scores")), strict=True)
    ):
        x1, y1, x2, y2 = box.tolist()
        result = {
            "image_id": image_id,
            "category_id": categories[int(label) - 1].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(confidence),
        }
        if "mask_probs" in found:
            dense = masks.paste(found["mask_probs"][number].cpu(), box, height=height, width=width)
            result["segmentation"] = masks.encode(dense)
        results.append(result)
    return results


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
    results: Sequence[Result], categories: Sequence[Category], *, size: tuple[int, ...]
) -> sv.Detections:
    """COCO results of one image of (height, width) `size` as `supervision.Detections`; class_id from 0."""
    height, width = size
    index = {category.id: number for number, category in enumerate(categories)}
    class_id = np.array([index[result["category_id"]] for result in results], dtype=int)
    boxes = np.array([result["bbox"] for result in results], np.float32).reshape(-1, 4)
    has_masks = all("segmentation" in result for result in results)
    dense = [masks.decode(result["segmentation"], height=height, width=width) for result in results if has_masks]
    return sv.Detections(
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        mask=None if not has_masks else np.stack(dense).astype(bool) if dense else np.zeros((0, height, width), bool),
        confidence=np.array([result["score"] for result in results], np.float32),
        class_id=class_id,
        data={"class_name": np.array([categories[number].name for number in class_id], dtype=str)},
    )
