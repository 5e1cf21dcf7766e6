"""Training targets of Mask R-CNN, checked: boxes, labels and 112×112 masks of each image."""

# G objects of an image, H×W image

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from botvision.maskrcnn.masks import Box, Mask, decode

CROP_SIDE = 112  # of a mask target, over its object's own box (the detection code that the paper cites)

SMALL = 8  # px: on an image as small a box of one pixel may be meant

Targets = Sequence[dict[str, Tensor]]


def masks_in_boxes(masks: Tensor, boxes: Tensor) -> Tensor:
    """Dense masks, as torchvision's detectors take them, as `MaskRCNN` takes them: each over its object's own box.

    Args:
        masks: (G, H, W), 0 outside and 1 inside.
        boxes: (G, 4), x1, y1, x2, y2 in pixels of the same image.

    Returns:
        (G, 112, 112) uint8.

    Raises:
        ValueError: no such shapes, or other values than 0 … 1.
    """
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"masks (G, H, W) need boxes (G, 4); got {tuple(masks.shape)} and {tuple(boxes.shape)}; give both of one "
            "image"
        )
    if masks.numel() and not bool(((masks >= 0) & (masks <= 1)).all()):
        raise ValueError(
            f"masks must hold 0 outside and 1 inside; got up to {masks.max().item():g}; 0/255 is masks > 0"
        )
    rois = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None].float(), boxes.float()], 1)  # G 5
    return as_masks(roi_align(masks[:, None].float(), rois, CROP_SIDE, aligned=True)[:, 0], boxes)


def crop(segmentation: Any, box: Box, *, height: int, width: int) -> Mask:
    """The part of an object's mask inside `box`, at 112×112: polygons exactly, RLE and thin ones by bilinear sampling.

    Empty where less than a pixel of the mask lies in the box.
    """
    exact = None
    if isinstance(segmentation, list):
        corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
        polygons = [(np.reshape(p, (-1, 2)) - corner) / extent * CROP_SIDE for p in segmentation]
        exact = decode([p.ravel().tolist() for p in polygons], height=CROP_SIDE, width=CROP_SIDE)
        if exact.sum() >= min(CROP_SIDE, sum(map(area, polygons)) / 2):  # a line across, or half of what it encloses
            return exact
    dense = torch.from_numpy(decode(segmentation, height=height, width=width))
    boxes = torch.tensor([box])
    rois = torch.tensor([[0.0, *box]])
    sampled = roi_align(dense[None, None].float(), rois, CROP_SIDE, aligned=True)[:, 0]
    if exact is not None and not bool(thin(sampled, boxes)):  # much of it lies outside the box
        return exact
    found: Mask = as_masks(sampled, boxes)[0].numpy()
    return found


def area(polygon: NDArray[np.float64]) -> float:
    """What a polygon of corners (N, 2) encloses."""
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def thin(shares: Tensor, boxes: Tensor) -> Tensor:
    """Which objects have less than half of their area in places that they cover by half: lines, rings, cracks.

    Args:
        shares: (G, 112, 112), how much of each place of their boxes they cover.
        boxes: (G, 4), of whose pixels there must be one that they cover.
    """
    covered = shares.flatten(1).sum(1)
    pixels = covered * ((boxes[:, 2:] - boxes[:, :2]) / CROP_SIDE).prod(1)
    return (2 * (shares >= 0.5).flatten(1).sum(1) < covered) & (pixels >= 1)


def as_masks(shares: Tensor, boxes: Tensor) -> Tensor:
    """Masks (G, 112, 112) of the shares that they cover: the places of a half and more.

    Of thin objects, which have few or none, as many places as their area has, those that they cover most.
    """
    inside = shares >= 0.5
    for number in thin(shares, boxes).nonzero().flatten().tolist():
        own = shares[number].flatten()
        least = own.topk(math.ceil(float(own.sum()))).values[-1]
        inside[number] = (shares[number] >= least) & (shares[number] > 0)
    return inside.to(torch.uint8)


def check_targets(targets: Targets, *, sizes: Sequence[tuple[int, int]], classes: int, masks: bool = True) -> None:
    """Refuse targets that would train something else than was meant.

    Args:
        targets: a dictionary an image.
        sizes: (height, width) of each image.
        classes: K without background; labels are 1 … K.
        masks: whether masks are needed.

    Raises:
        ValueError: a missing part, a wrong shape or dtype, dense masks, a box without area, outside its image or in
            fractions of it, or a label out of range.
    """
    if isinstance(targets, dict) or len(targets) != len(sizes):
        raise ValueError(
            f"{len(sizes)} images need as many targets, got {len(targets)}; give an empty one where there is nothing"
        )
    for number, target in enumerate(targets):
        if not isinstance(target, dict):
            raise ValueError(f"target {number} must be a dictionary of boxes, labels and masks; got {target!r:.80}")
        needed = ["boxes", "labels", *(["masks"] if masks else [])]
        if missing := set(needed) - target.keys():
            raise ValueError(f"target {number} lacks {', '.join(sorted(missing))}; it needs {', '.join(needed)}")
        for key in needed:
            if not isinstance(target[key], Tensor):
                kind = type(target[key]).__name__
                raise ValueError(f"target {number}: {key} must be a tensor; got {kind}; use torch.as_tensor")
        check_shapes(number, target, masks=masks)
    check_values(targets, sizes=sizes, classes=classes, masks=masks)


def check_shapes(number: int, target: dict[str, Any], *, masks: bool) -> None:
    """Boxes (G, 4) in float32, labels (G,) whole numbers, masks (G, 112, 112)."""
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype not in (torch.float32, torch.float64):
        why = "; 16 bits would move them by pixels" if boxes.dtype in (torch.float16, torch.bfloat16) else ""
        cure = "; an image without objects has torch.zeros(0, 4)" if not boxes.numel() else ""
        raise ValueError(
            f"target {number}: boxes must be (G, 4) in float32, x1, y1, x2, y2 in pixels; got {tuple(boxes.shape)} in "
            f"{boxes.dtype}{why}{cure}"
        )
    if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"target {number}: labels must be ({len(boxes)},) in int64, from 1; got {tuple(labels.shape)} in "
            f"{labels.dtype}"
        )
    if masks and target["masks"].shape != (len(boxes), CROP_SIDE, CROP_SIDE):
        raise ValueError(
            f"target {number}: masks must be ({len(boxes)}, {CROP_SIDE}, {CROP_SIDE}), each over its object's own box; "
            f"got {tuple(target['masks'].shape)}; make them of dense masks by "
            "botvision.maskrcnn.masks_in_boxes(masks, boxes)"
        )


def check_values(targets: Targets, *, sizes: Sequence[tuple[int, int]], classes: int, masks: bool) -> None:
    """Boxes in their image's pixels, labels in 1 … K, masks in 0 … 1; one look at the device for all of them."""
    boxes, labels = (torch.cat([target[key] for target in targets]) for key in ("boxes", "labels"))
    if not len(boxes):
        return
    counts = [len(target["boxes"]) for target in targets]
    extents = torch.tensor([(width, height) for height, width in sizes], dtype=boxes.dtype, device=boxes.device)
    extent = extents.repeat_interleave(torch.tensor(counts, device=boxes.device), 0, output_size=len(boxes))  # G 2
    bad_box = ~(torch.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= extent)).any(1)
    fraction = ((boxes >= 0) & (boxes <= 1)).all(1) & ((boxes > 0) & (boxes < 1)).any(1) & (extent > SMALL).any(1)
    bad_label = (labels < 1) | (labels > classes)
    bad_mask = torch.zeros_like(bad_box)
    if masks:
        inside = torch.cat([target["masks"] for target in targets])
        bad_mask = ~((inside >= 0) & (inside <= 1)).flatten(1).all(1)  # and NaN
    if not bool((bad_box | outside | fraction | bad_label | bad_mask).any()):
        return
    if bool(bad_mask.any()):
        most = inside[bad_mask].max().item()
        raise ValueError(f"a target's masks must hold 0 outside and 1 inside; got up to {most:g}; 0/255 is masks > 0")
    if bool(bad_box.any()):
        which = boxes[bad_box][0].tolist()
        raise ValueError(f"a target's box must be x1 < x2, y1 < y2 in finite pixels; got {which}; leave such out")
    if bool((outside | fraction).any()):
        row = int(torch.where(outside | fraction)[0][0])
        width, height = (int(side) for side in extent[row])
        fault = "lies outside it" if bool(outside[row]) else "lies within its first pixel, as fractions would"
        raise ValueError(
            f"a target's box must be in pixels of its image, {width}×{height}; got {boxes[row].tolist()}, which "
            f"{fault}; multiply fractions by the width and the height, leave boxes outside out"
        )
    label = int(labels[bad_label][0])
    raise ValueError(f"a target's label must lie in 1 … {classes}, the model's classes; got {label}; 0 is background")
