"""Find and read images: a file, a folder or a glob, upright, as RGB."""

import glob
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def find_images(source: str | Path) -> list[Path]:
    """Paths of an image, of a folder's images (sorted, not in subfolders), or of a glob's.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not found:
        raise FileNotFoundError(
            f"no image at {source}; give an image, a folder or a quoted glob of {', '.join(sorted(SUFFIXES))} files"
        )
    return found


def read_image(path: Path) -> Tensor:
    """An image as (3, H, W) uint8 RGB, turned upright by its EXIF tag; alpha and palettes become plain RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a truncated one.
    """
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1)


def open_image(path: Path, content: bytes | None = None) -> Image.Image:
    """An image as RGB, turned upright by its EXIF tag; from `content` where its bytes are at hand.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or a truncated one.
    """
    if content is None and not path.is_file():
        raise FileNotFoundError(f"no image at {path}; check the folder and the file name")
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as opened:
            return to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}; replace the file or leave it out") from error
    except ImportError as error:  # ultralytics puts an Image.open in PIL's place that then asks for a HEIF reader
        if not isinstance(error.__context__, UnidentifiedImageError):
            raise
        raise ValueError(f"cannot read image {path}: {error.__context__}; replace the file or leave it out") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; 16-bit grey keeps its upper eight bits.

    Raises:
        OSError: 32-bit integers or floats, whose range an image does not tell.
    """
    if image.mode in {"I", "F"}:
        raise OSError(f"mode {image.mode} has no known range of brightness")
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def stream(paths: list[Path]) -> Iterator[tuple[Path, Tensor | None, str]]:
    """Each path with its image, or with None and the reason where it cannot be read."""
    for path in paths:
        try:
            yield path, read_image(path), ""
        except (ValueError, FileNotFoundError) as error:
            yield path, None, str(error)
