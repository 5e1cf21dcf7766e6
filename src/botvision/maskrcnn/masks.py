"""Masks and detections in COCO's form: polygons and RLE, rows as results; no torch."""

# N objects, H×W image

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from botvision.deploy.masks import paste

Mask = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def bounds(code: dict[str, Any]) -> Box:
    """The smallest box around a mask of RLE, x, y, width, height; all 0 where the mask is empty."""
    from pycocotools import mask as rle  # a detector that is only timed needs none

    if isinstance(code["counts"], list):
        code = rle.frPyObjects(code, *code["size"])
    x, y, width, height = rle.toBbox(code).tolist()
    return x, y, width, height


def decode(segmentation: Any, *, height: int, width: int) -> Mask:
    """A COCO segmentation (polygons, RLE, uncompressed RLE) as a dense (H, W) mask."""
    from pycocotools import mask as rle

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
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def as_results(found: Mapping[str, NDArray[Any]], *, ids: Sequence[int], size: tuple[int, ...]) -> list[dict[str, Any]]:
    """What was found in one image as COCO results: category_id, bbox, score, and segmentation where there are masks.

    Args:
        found: boxes (N, 4), x1, y1, x2, y2 in the image's pixels, labels (N,) from 1, scores (N,), and masks
            (N, 28, 28) of probabilities, or none.
        ids: of the categories, by label.
        size: (height, width) of the image.
    """
    height, width = size
    boxes, labels, scores = (found[name].tolist() for name in ("boxes", "labels", "scores"))
    results = []
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        box = [x1, y1, x2 - x1, y2 - y1]
        result = {"category_id": ids[int(labels[number]) - 1], "bbox": box, "score": scores[number]}
        if (probabilities := found.get("masks")) is not None:
            dense = paste(probabilities[number], (x1, y1, x2, y2), height=height, width=width)
            result["segmentation"] = encode(dense)
        results.append(result)
    return results
