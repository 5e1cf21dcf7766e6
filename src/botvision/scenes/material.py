"""Digits, photographs and colours of the synthetic dataset; splits share nothing."""

# S image side, all geometry in pixels

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from botvision.digits import load_digits

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Material(NamedTuple):
    """One split's digits and photograph regions; nothing is shared between splits."""

    images: Floats  # (N, 8, 8) in 0 … 1
    labels: NDArray[np.int64]
    photos: list[Pixels]

    def specimen(self, digit: int, rng: np.random.Generator, *, other_than: int | None = None) -> int:
        """Number of a random sample of this digit; never the one given."""
        while (number := int(rng.choice(np.flatnonzero(self.labels == digit)))) == other_than:
            pass  # only where it was met: all else is drawn as it was before
        return number


def load_material(split: str) -> Material:
    """Digits of a split and its half of scikit-learn's photographs: every second column is val's."""
    images, labels = load_digits(split)
    from sklearn.datasets import load_sample_images

    columns = [np.array_split(photo, 4, axis=1) for photo in load_sample_images().images]
    photos = [column for photo in columns for column in photo[split == "val" :: 2]]
    return Material(images, labels, photos)


def draw_background(material: Material, size: int, rng: np.random.Generator) -> Floats:
    """A random square of a random photograph, mirrored half the time."""
    photo = material.photos[int(rng.integers(len(material.photos)))]
    side = int(rng.integers(min(photo.shape[:2]) // 2, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(0, whole - side + 1)) for whole in photo.shape[:2])
    square = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def opacity(digit: Floats, size: int, *, top: int, left: int, side: int) -> Floats:
    """Opacity (S, S) of one digit in a square of the image."""
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    alpha = np.zeros((size, size), np.float32)
    alpha[top : top + side, left : left + side] = np.clip(np.asarray(large) * 1.6 - 0.3, 0, 1)
    return alpha


def random_side(size: int, scale: tuple[float, float], rng: np.random.Generator) -> int:
    """A digit's side, log-uniform: small ones are common."""
    low, high = np.log(scale[0]), np.log(scale[1])
    return max(4, round(size * float(np.exp(rng.uniform(low, high)))))


def painted(canvas: Floats, alpha: Floats, mask: Pixels, rng: np.random.Generator) -> Floats:
    """The canvas with a digit on it, in a random colour that can be seen there."""
    behind = canvas[mask.astype(bool)].mean(0)
    colours = rng.uniform(0, 255, (8, 3))
    colour = np.asarray(colours[np.abs(colours - behind).sum(1).argmax()], dtype=np.float32)
    return canvas + alpha[..., None] * (colour - canvas)


def scrambled(digit: Floats, rng: np.random.Generator) -> Floats:
    """A digit's strokes that are no digit: its quarters in another order, each turned."""
    rows = [digit[top : top + 4, left : left + 4] for top in (0, 4) for left in (0, 4)]
    turned = [np.rot90(rows[i], int(rng.integers(1, 4))) for i in rng.permutation(4)]
    return np.block([[turned[0], turned[1]], [turned[2], turned[3]]])
