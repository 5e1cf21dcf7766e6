"""Resize, normalise and pad images of any size into a batch; boxes back to their image."""

# B batch, H×W image, h×w image resized, S side of the padded batch

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.v2 import functional as F

from botvision.deploy.predictor import alike

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as timm's ResNets expect
DIVISOR = 64  # batches are padded to it, so every map's stride is exact, the pyramid's last one's too


class ImageSize(NamedTuple):
    """How large an image becomes.

    Attributes:
        longest: the longer side after resizing, at most.
        shortest: the shorter side, where `longest` allows; None makes the longer side `longest`.
        square: pad to a square of side `longest` (the paper's way), or only to the batch's largest image.
    """

    longest: int
    shortest: int | None = None
    square: bool = True

    def fit(self, height: int, width: int, *, zoom: float = 1.0) -> tuple[int, int]:
        """Size of an image after resizing, aspect kept; `zoom` jitters the rule."""
        if zoom == 1:
            return self.exact(height, width)
        scale = zoom * self.longest / max(height, width)
        if self.shortest is not None:
            scale = min(scale, zoom * self.shortest / min(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def exact(self, height: int, width: int) -> tuple[int, int]:
        """The same in whole numbers, which a graph of free sizes computes alike."""
        longer, shorter = torch.sym_max(height, width), torch.sym_min(height, width)
        sides: list[Any] = []
        for side in (height, width):
            resized = (2 * side * self.longest + longer) // (2 * longer)
            if self.shortest is not None:
                resized = torch.sym_min(resized, (2 * side * self.shortest + shorter) // (2 * shorter))
            sides.append(torch.sym_max(resized, 1))
        return sides[0], sides[1]


def padded(side: int) -> int:
    """The next multiple of `DIVISOR`."""
    return (side + DIVISOR - 1) // DIVISOR * DIVISOR


def padded_alike(rule: ImageSize, images: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of images that are padded to one size, for what is found in one not to depend on the others.

    Attention sees padding, and a batch of free sizes is padded to its largest image. Of a square rule all go together.

    Args:
        rule: the detector's.
        images: (…, H, W) each.
    """
    sizes = [() if rule.square else tuple(map(padded, rule.fit(*image.shape[-2:]))) for image in images]
    return [numbers for _, numbers in alike(sizes)]


def image_size(img_size: int | tuple[int, int]) -> ImageSize:
    """1024 → square batches of that side; (800, 1333) → free sizes by shortest and longest side.

    Raises:
        ValueError: a side below 32, or shortest above longest.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else img_size
    if len(sides) != 2 or min(sides) < 32 or sides[0] > sides[1]:
        raise ValueError(f"img_size={img_size} must be one side of at least 32, or (shortest, longest); e.g. 1024")
    if isinstance(img_size, int):
        return ImageSize(longest=img_size)
    return ImageSize(longest=img_size[1], shortest=img_size[0], square=False)


class Resize(nn.Module):
    """Images → one normalised, zero-padded batch; detections → the images' own pixels.

    torchvision's own transform either distorts to a fixed size or changes the size with every batch. Here the image
    lies at the top left of a padded square (paper section 4.1) or of a batch of free sizes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, rule: ImageSize) -> None:
        super().__init__()
        self.rule = rule
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, images: list[Tensor]) -> ImageList:
        """(3, H, W) images, uint8 or floats in 0 … 1 → a batch (B, 3, S, S) and each image's (h, w) on it."""
        resized = [self.prepare(image) for image in images]
        sizes = [(p.shape[-2], p.shape[-1]) for p in resized]
        largest = max(h for h, _ in sizes), max(w for _, w in sizes)
        batch = resized[0].new_zeros(len(resized), 3, *self.canvas(largest))
        for place, image in zip(batch, resized, strict=True):
            place[:, : image.shape[-2], : image.shape[-1]] = image
        return ImageList(batch, sizes)

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a batch whose largest image, resized, has this size."""
        height, width = (self.rule.longest,) * 2 if self.rule.square else size
        return padded(height), padded(width)

    def prepare(self, image: Tensor) -> Tensor:
        """Resize by the rule, unless the image has that size already, and normalise.

        Raises:
            ValueError: not (3, H, W).
        """
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"an image must be (3, H, W), RGB, uint8 or floats in 0 … 1; got {tuple(image.shape)}")
        size = self.rule.fit(*image.shape[-2:])
        values = F.to_dtype(image, torch.float32, scale=True)
        if 1 in size:
            values = values.contiguous()  # torch resizes others wrongly to a width of 1
        if size != tuple(image.shape[-2:]):
            values = F.resize(values, list(size), antialias=True)
        return (values - self.mean) / self.std


def move_boxes(boxes: Tensor, *, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """(N, 4) xyxy boxes of an image of (height, width) `source` on the same image at size `target`."""
    ratio = (target[1] / source[1], target[0] / source[0])
    return boxes * boxes.new_tensor(ratio * 2)
