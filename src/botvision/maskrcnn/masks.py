"""Masks: COCO polygons and RLE to 112×112 targets, predicted 28×28 masks to RLE."""

# H×W image, boxes as x1, y1, x2, y2 in pixels

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as rle
from torch import Tensor
from torchvision.ops import roi_align

from botvision.maskrcnn.targets import CROP_SIDE

Mask = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def crop(segmentation: Any, box: Box, *, height: int, width: int) -> Mask:
    """The part of an object's mask inside `box`, at 112×112: polygons exactly, RLE by bilinear sampling."""
    if isinstance(segmentation, list):
        corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
        polygons = [((np.reshape(p, (-1, 2)) - corner) / extent * CROP_SIDE).ravel().tolist() for p in segmentation]
        return decode(polygons, height=CROP_SIDE, width=CROP_SIDE)
    dense = torch.from_numpy(decode(segmentation, height=height, width=width))
    rois = torch.tensor([[0.0, *box]])
    sampled = roi_align(dense[None, None].float(), rois, CROP_SIDE, aligned=True)[0, 0]
    return (sampled >= 0.5).numpy().astype(np.uint8)


def bounds(code: dict[str, Any]) -> Box:
    """The smallest box around a mask of RLE, x, y, width, height; all 0 where the mask is empty."""
    if isinstance(code["counts"], list):
        code = rle.frPyObjects(code, *code["size"])
    x, y, width, height = rle.toBbox(code).tolist()
    return x, y, width, height


def decode(segmentation: Any, *, height: int, width: int) -> Mask:
    """A COCO segmentation (polygons, RLE, uncompressed RLE) as a dense (H, W) mask."""
    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    dense: Mask = rle.decode(code)
    return dense


def encode(mask: Mask) -> dict[str, Any]:
    """A dense (H, W) mask as COCO's compressed RLE, ready for JSON."""
    code = rle.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def paste(probabilities: Tensor, box: Tensor, *, height: int, width: int) -> Mask:
    """A mask of 28×28 probabilities over its box as a dense (H, W) mask, cut at one half.

    Each pixel samples the grid at its own centre, so only the pixels of the box are computed.
    """
    dense = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = (float(side) for side in box)
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return dense
    across = ((torch.arange(left, right) + 0.5 - x1) / max(x2 - x1, 1e-3)) * 2 - 1
    down = ((torch.arange(top, bottom) + 0.5 - y1) / max(y2 - y1, 1e-3)) * 2 - 1
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    values = F.grid_sample(
        probabilities[None, None].float().cpu(), grid[None], align_corners=False, padding_mode="zeros"
    )
    dense[top:bottom, left:right] = (values[0, 0] >= 0.5).numpy()
    return dense
