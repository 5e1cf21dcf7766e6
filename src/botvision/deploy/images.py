"""What people hold as an image as an RGB array of uint8, of a bounded size; no torch."""

# H×W image

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from botvision.inputs import open_image, upright

LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)  # pixels: where Pillow speaks of a decompression bomb
TAKEN = "a path, an http(s) URL, a PIL image, or an array (H, W, 3) or (H, W) of uint8"


def as_array(image: object) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB of uint8, upright.

    Raises:
        FileNotFoundError: no such file.
        TypeError: none of these: a path, an http(s) URL, a PIL image, an array.
        ValueError: a file that is no image; an array of another shape or type; more pixels than Pillow takes.
    """
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise ValueError(f"{image} is a folder; give a list of its images")
        return np.asarray(open_image(image))
    if isinstance(image, Image.Image):
        check_pixels(image.height, image.width)
        try:
            return np.asarray(upright(image))
        except OSError as error:
            raise ValueError(f"cannot read the PIL image: {error}; give it as RGB, or as 8-bit grey (L)") from error
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is {TAKEN}; got {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"an array must be (H, W, 3), RGB, or (H, W), grey; got {image.shape}; several are a list")
    if image.dtype != np.uint8:
        raise ValueError(f"an array must be of uint8; got {image.dtype}; scale it to 0 … 255, then .astype(np.uint8)")
    check_pixels(*image.shape[:2])
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)


def check_pixels(height: int, width: int) -> None:
    """Refuse what would take all memory.

    Raises:
        ValueError: more pixels than Pillow takes.
    """
    if height * width > LARGEST:
        raise ValueError(f"an image of {width}×{height} has more than {LARGEST:,} pixels; make it smaller")
