"""Attention over its picture as pixels: viridis above grey, the place that looks framed."""

# H×W map, h×w picture

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

STRENGTH = 0.7  # of the colours


def overlay(
    picture: NDArray[np.uint8], weights: NDArray[np.float64], box: tuple[float, float, float, float]
) -> NDArray[np.uint8]:
    """(h, w, 3): a map (H, W) over the picture, brightest at its own maximum, and a box x1, y1, x2, y2 framed."""
    from matplotlib import colormaps

    height, width = picture.shape[:2]
    scaled = np.asarray(weights, np.float32) / max(float(np.max(weights)), 1e-12)
    coloured = (255 * colormaps["viridis"](scaled)[..., :3]).astype(np.uint8)  # H W 3
    large = np.asarray(Image.fromarray(coloured).resize((width, height), Image.Resampling.NEAREST), np.float32)
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"), np.float32)
    image = Image.fromarray((STRENGTH * large + (1 - STRENGTH) * grey).astype(np.uint8))
    frame = ImageDraw.Draw(image)
    for margin, colour in ((1, "black"), (0, "white")):
        frame.rectangle([box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin], outline=colour)
    return np.asarray(image)
