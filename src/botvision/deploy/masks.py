"""Predicted 28×28 masks over their boxes → dense masks of the image, in numpy."""

# S side of a predicted mask, h×w pixels of the box, H×W image

import numpy as np
from numpy.typing import ArrayLike, NDArray


def paste(probabilities: ArrayLike, box: ArrayLike, *, height: int, width: int) -> NDArray[np.uint8]:
    """A mask (S, S) of probabilities over its box as a dense (H, W) mask, cut at one half.

    Each pixel of the box reads the mask at its own centre, between the four nearest cells; others are not computed.

    Args:
        probabilities: (S, S), an array or a tensor on the CPU.
        box: x1, y1, x2, y2 in the image's pixels.
        height, width: of the image.
    """
    dense = np.zeros((height, width), np.uint8)
    cells = np.asarray(probabilities, np.float64)
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return dense
    down = weights(top, bottom, y1, y2, cells.shape[0])  # h S
    across = weights(left, right, x1, x2, cells.shape[1])  # w S
    dense[top:bottom, left:right] = down @ cells @ across.T >= 0.5
    return dense


def weights(first: int, last: int, low: float, high: float, cells: int) -> NDArray[np.float64]:
    """What each pixel first … last - 1 reads of each cell of a mask that reaches from `low` to `high`: (pixels, S)."""
    places = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-3) * cells - 0.5
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
