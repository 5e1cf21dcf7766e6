"""Predicted 28×28 masks over their boxes → dense masks of the image, in numpy."""

# S side of a predicted mask, h×w pixels of the box, H×W image

import numpy as np
from numpy.typing import NDArray


def pasted(
    probabilities: NDArray[np.float32], box: NDArray[np.float32], *, height: int, width: int
) -> NDArray[np.bool_]:
    """A mask (S, S) of probabilities over its box as a dense (H, W) mask, cut at one half.

    Each pixel of the box reads the mask at its own centre, between the four nearest cells, as
    `botvision.maskrcnn.masks.paste` does.
    """
    dense = np.zeros((height, width), bool)
    x1, y1, x2, y2 = (float(side) for side in box)
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
    if right <= left or bottom <= top:
        return dense
    down = weights(top, bottom, y1, y2, probabilities.shape[0])  # h S
    across = weights(left, right, x1, x2, probabilities.shape[1])  # w S
    dense[top:bottom, left:right] = down @ probabilities.astype(np.float64) @ across.T >= 0.5
    return dense


def weights(first: int, last: int, low: float, high: float, cells: int) -> NDArray[np.float64]:
    """What each pixel first … last - 1 reads of each cell of a mask that reaches from `low` to `high`: (pixels, S)."""
    places = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-3) * cells - 0.5
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
