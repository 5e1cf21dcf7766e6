"""scikit-learn's handwritten digits as images: in memory, as class folders, or as tar shards."""

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from botvision.files import whole_folder, write_json, write_text

Digit = NDArray[np.float32]  # (8, 8) in 0 … 1
CLASSES = [str(digit) for digit in range(10)]
SPLITS = ("train", "val")


def load_digits(split: str) -> tuple[Digit, NDArray[np.int64]]:
    """scikit-learn's digits (N, 8, 8) in 0 … 1 and labels (N,): every fourth is val's, the others are train's.

    Raises:
        ValueError: another split, which would leak, or scikit-learn is missing.
    """
    if split not in SPLITS:
        raise ValueError(f"the digits have the splits {' and '.join(SPLITS)}; got {split!r}; give one of them")
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ValueError("the digits come with scikit-learn; pip install 'botvision[scenes]'") from error
    digits = datasets.load_digits()
    held_out = np.arange(len(digits.target)) % 4 == 0
    mine = held_out if split == "val" else ~held_out
    return (digits.images[mine] / 16).astype(np.float32), digits.target[mine]


def digit_images(split: str, *, size: int = 32) -> list[tuple[Image.Image, int]]:
    """Images of `size` px, grey on black as RGB, with their labels."""
    digits, labels = load_digits(split)
    small = (Image.fromarray((255 * digit).astype(np.uint8)) for digit in digits)
    large = (image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB") for image in small)
    return [(image, int(label)) for image, label in zip(large, labels, strict=True)]


def make_digits(out: Path, *, size: int = 32, shards: int = 0) -> str:
    """Write the digits as ImageNet is laid out, class folders under train and val; or as WebDataset shards.

    Args:
        out: folder to make.
        size: side of an image in pixels.
        shards: 0 for class folders; otherwise so many tar files for train and one for val, with their index.

    Returns:
        A line that says what was made.

    Raises:
        ValueError: `out` holds something already, or a number below its least.
    """
    if size < 8 or shards < 0:
        raise ValueError(f"size={size} must be at least 8 and shards={shards} at least 0; e.g. 32 and 4")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something already; give a folder that is empty or not there yet")
    counts = {}
    with whole_folder(out) as unfinished:
        for split in SPLITS:
            images = digit_images(split, size=size)
            counts[split] = len(images)
            if split == "train" and shards > len(images):
                raise ValueError(f"shards={shards} must be at most {len(images)}, the images of train; e.g. 4")
            if shards:
                write_shards(unfinished, split, images, number=shards if split == "train" else 1)
            else:
                write_folders(unfinished / split, images)
        if shards:
            write_text(unfinished / "classes.txt", "\n".join(CLASSES) + "\n")
    form = f"in {shards} + 1 shards" if shards else "in class folders"
    return f"{counts['train']} + {counts['val']} digits of {size} px {form} at {out}"


def write_folders(folder: Path, images: list[tuple[Image.Image, int]]) -> None:
    """One folder a class."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(images):
        image.save(folder / CLASSES[label] / f"{number:05d}.png")


def write_shards(folder: Path, split: str, images: list[tuple[Image.Image, int]], *, number: int) -> None:
    """Tar files of (name.png, name.cls) pairs, and `<split>.json`, their index in WebDataset's form."""
    listed = []
    for shard in range(number):
        mine = range(shard, len(images), number)
        name = f"{split}-{shard:04d}.tar"
        with tarfile.open(folder / name, "w") as tar:
            for index in mine:
                image, label = images[index]
                png = io.BytesIO()
                image.save(png, "PNG")
                for ending, content in (("png", png.getvalue()), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{index:05d}.{ending}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        listed.append({"url": name, "nsamples": len(mine)})
    write_json(folder / f"{split}.json", {"wids_version": 1, "shardlist": listed})
