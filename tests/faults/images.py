"""Images of six formats, cut, flipped and mislabelled."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from botvision.inputs import attempt, header_size, most_pixels
from tests.faults.harness import Family, Wrong

FORMATS = {
    "jpg": [{}, {"progressive": True}, {"quality": 30, "optimize": True}, {"mode": "L"}, {"mode": "CMYK"}],
    "png": [{}, {"mode": "P"}, {"mode": "RGBA"}, {"mode": "1"}, {"mode": "I;16"}, {"mode": "LA"}],
    "webp": [{}, {"lossless": True}, {"save_all": True}, {"mode": "RGBA"}],
    "gif": [{}, {"save_all": True}, {"mode": "L"}],
    "tif": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"},
            {"compression": "packbits"}, {"mode": "I;16"}, {"mode": "F"}],
    "bmp": [{}, {"mode": "P"}, {"mode": "1"}, {"mode": "L"}],
}  # fmt: skip


def encoded(suffix: str, rng: random.Random) -> bytes:
    """A small image in one of the format's ways."""
    options = dict(rng.choice(FORMATS[suffix]))
    mode = options.pop("mode", "RGB")
    width, height = rng.randint(1, 70), rng.randint(1, 70)
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    elif mode != "RGB":
        image = image.convert(mode)
    if options.pop("save_all", False):
        options |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    if rng.random() < 0.2 and suffix in ("jpg", "png", "webp"):
        exif = Image.Exif()
        exif[0x0112] = rng.choice((3, 6, 8, 0, 99))
        options["exif"] = exif
    content = io.BytesIO()
    image.save(content, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    return content.getvalue()


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """The file changed in one to three places."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not changed:
            break
        at, header = rng.randrange(len(changed)), rng.randrange(min(len(changed), 80))
        kind = rng.randrange(9)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            for _ in range(rng.randint(1, 20)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 60))
        elif kind == 4:
            del changed[at : at + rng.randint(1, 60)]
        elif kind == 5:
            changed[at : at + 30] = bytes(len(changed[at : at + 30]))
        elif kind == 6:  # a size, a count or an offset of the header
            changed[header : header + 4] = rng.choice(
                (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\1\0\0", bytes(4), b"\0\0\xff\xff")
            )
        elif kind == 7:
            changed[header : header + 4] = struct.pack(
                rng.choice(("<I", ">I")), rng.choice((30_000, 70_000, 2**31, 10))
            )
        else:
            changed += rng.randbytes(rng.randint(1, 100))
    return bytes(changed)


class Images:
    """Image files by number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def case(self, number: int) -> None:
        """Read: an upright RGB image of a bounded size, or a reason."""
        rng = random.Random(f"image {number}")
        suffix = list(FORMATS)[number % len(FORMATS)]
        content = encoded(suffix, rng)
        if number // len(FORMATS) % 10 == 0:  # as it is, and under another name
            suffix = rng.choice(list(FORMATS)) if rng.random() < 0.5 else suffix
        else:
            content = spoilt(content, rng)
        path = self.root / f"case.{suffix}"
        path.write_bytes(content)
        told = header_size(path)
        _, image, reason = attempt(path)
        if image is None:
            raise ValueError(reason)
        if (
            image.dtype != torch.uint8
            or image.ndim != 3
            or len(image) != 3
            or not 0 < image[0].numel() <= most_pixels()
        ):
            raise Wrong(f"an image {tuple(image.shape)} in {image.dtype}")
        if told is not None and told != tuple(image.shape[-2:]) and sorted(told) != sorted(image.shape[-2:]):
            raise Wrong(f"a header of {told} on an image {tuple(image.shape[-2:])}")


def family(root: Path, count: int) -> Family:
    """Images of six formats."""
    return Family("images (JPEG, PNG, WebP, GIF, TIFF, BMP)", count, Images(root).case, named=("case.",))
