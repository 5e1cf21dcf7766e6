"""Reach: how far from an object the pixels lie that can change a backbone's, and a whole detector's, answer on it."""

# S side

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from botvision.files import write_json
from botvision.maskrcnn.model import MaskRCNN, build_mask_rcnn
from botvision.maskrcnn.resize import image_size, padded
from studies.cli import run
from studies.grid import Variant, read_grid
from studies.hardware import hardware

STRIDE = 32  # px after which the same alignment comes again
STEP = 2  # px between the places that are tried
LIMIT = 0.99  # share of the gradient that `most` holds
CLASSES = 4


class Reach(NamedTuple):
    """Of one variant, in px from the object's centre along the horizontal.

    Attributes:
        title: of the variant.
        backbone: farthest pixel that the last map's interpolated value at the place depends on, over all offsets to the
            map's cells; and within how many px 99 % of its absolute gradient lie, a mean over the offsets.
        detector: the same of the class logits of a box there, given the box.
        edge: whether the detector's is cut off by the image's edge.
    """

    title: str
    backbone: tuple[int, int]
    detector: tuple[int, int]
    edge: bool


class Reaches(NamedTuple):
    """Of a grid's variants."""

    note: str
    reaches: list[Reach]

    def __str__(self) -> str:
        rows = [
            f"{r.title:<40} backbone {r.backbone[0]:>4} px (99 % within {r.backbone[1]}), "
            f"detector {r.detector[0]:>4} px{', the edge' if r.edge else ''} (99 % within {r.detector[1]})"
            for r in self.reaches
        ]
        return "\n".join([self.note, *rows])


def reach(*, grid: str = "starts", size: int = 384, box: int = 24, out: Path | None = None) -> Reaches:
    """Measure the reach of a grid's variants, with random weights in float64, by the support of the gradient.

    A pixel without gradient cannot change the answer, whatever is trained. All offsets to the maps' cells are tried.

    Args:
        grid: an evidence grid, by its name or file.
        size: px of the image, large enough to hold what is asked.
        box: side of the object's box, px.
        out: JSON file for the numbers.

    Raises:
        FileNotFoundError, ValueError: no such grid, or an image that the boxes do not fit in.
    """
    if not 8 <= box <= size // 2:
        raise ValueError(f"box={box} must be at least 8 and at most half of size={size}")
    whole = read_grid(grid)
    px = padded(image_size(size).longest)
    preset = str(whole.train["model"].get("preset", "paper"))
    variants = [variant for variant in whole.variants.values() if variant.first is None]
    bar = tqdm(variants, desc="reach", unit="model", disable=None)
    found = [reach_of(variant, preset=preset, size=px, box=box) for variant in bar]
    note = f"grid {whole.name}, preset {preset}, image {px} px, box {box} px, random weights; {hardware()}"
    if out is not None:
        write_json(out, {"note": note, "reaches": [one._asdict() for one in found]})
    return Reaches(note, found)


def reach_of(variant: Variant, *, preset: str, size: int, box: int) -> Reach:
    """One variant's."""
    torch.manual_seed(0)
    model = build_mask_rcnn(
        variant.backbone, CLASSES, preset=preset, img_size=size, backbone_options=variant.options, masks=False
    )
    fill_statistics(model, torch.rand(4, 3, size, size))
    model = model.double().eval()
    image = torch.rand(3, size, size, dtype=torch.float64)
    batch = model.resize([image])
    pixels = batch.tensors.double().requires_grad_()
    features, last = model.pyramid(pixels)

    def logits(x: float) -> Tensor:
        heads = cast("Any", model.roi_heads)
        boxes = torch.tensor([[x - box / 2, (size - box) / 2, x + box / 2, (size + box) / 2]], dtype=torch.float64)
        found: Tensor = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, [boxes], batch.image_sizes)))[0]
        return found

    def interpolated(x: float) -> Tensor:
        place = torch.tensor([x / size * 2 - 1, 0], dtype=torch.float64).view(1, 1, 1, 2)
        return nn.functional.grid_sample(last, place, align_corners=False)

    places = [float(x) for x in range(size // 2 - STRIDE // 2, size // 2 + STRIDE // 2 + 1, STEP)]
    backbone, detector = ([column_gradient(answer, pixels, x) for x in places] for answer in (interpolated, logits))
    edge = any(float(columns[0]) > 0 or float(columns[-1]) > 0 for columns in detector)
    return Reach(variant.title, summed_up(backbone, places), summed_up(detector, places), edge)


def summed_up(seen: Sequence[Tensor], places: Sequence[float]) -> tuple[int, int]:
    """Farthest px over all places, and px that hold most of the gradient, a mean over them."""
    ends = [farthest(columns, x) for columns, x in zip(seen, places, strict=True)]
    most = [within(columns, x) for columns, x in zip(seen, places, strict=True)]
    return int(max(ends)), round(fmean(most))


def fill_statistics(model: MaskRCNN, images: Tensor) -> None:
    """BatchNorm's statistics from these images (B, 3, S, S), as a trained model has some."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().pyramid(model.resize(list(images)).tensors)


def column_gradient(answer: Callable[[float], Tensor], pixels: Tensor, x: float) -> Tensor:
    """Absolute gradient by the pixels, summed over channels and rows: (S,)."""
    (gradient,) = torch.autograd.grad(answer(x).sum(), pixels, retain_graph=True)
    return gradient[0].abs().sum((0, 1))


def farthest(columns: Tensor, x: float) -> float:
    """Px from x to the outer edge of the last column with a gradient, to the side where it is farther."""
    seen = torch.nonzero(columns > 0).flatten()
    return max(x - float(seen[0]), float(seen[-1]) + 1 - x) if len(seen) else 0.0


def within(columns: Tensor, x: float) -> float:
    """Px from x that hold `LIMIT` of the gradient."""
    distance = (torch.arange(len(columns)) + 0.5 - x).abs()
    order = distance.argsort()
    share = columns[order].cumsum(0) / columns.sum()
    return float(distance[order][int((share < LIMIT).sum())])


if __name__ == "__main__":
    sys.exit(run(reach))
