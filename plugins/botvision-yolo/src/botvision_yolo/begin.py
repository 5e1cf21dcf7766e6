"""How attention begins in a training: tables for the maps that it will see, every block at its own start."""

# H×W map

import math
from typing import Any

import torch
from torch import Tensor, nn

from botvision.attention import MHSA2d
from botvision_yolo.blocks import BoTBottleneck, ResidualMHSA2d

PROBE = 256  # px of the image that tells how many of them a cell of each map is wide


def begin(model: Any, *, side: int, like: nn.Module | None = None, exactly: bool = False) -> None:
    """Give a new model's position tables the size of the largest training image's maps, and draw its attention anew.

    So a directional start looks a share of the map that is trained on, and no table has rows that no image reaches.

    Args:
        model: an ultralytics model of random weights.
        side: px of the largest training image.
        like: a model whose weights are loaded next, and whose larger tables are kept.
        exactly: keep its smaller ones too, as a training that is resumed must.
    """
    layers = attention_of(model)
    if not layers:
        return
    sizes = [cells(stride, side) for stride in strides(model, layers)]
    others = attention_of(like) if like is not None else []
    if len(others) == len(layers):
        pairs = zip(sizes, (other.max_size() for other in others), strict=True)
        sizes = [size if not own else kept(size, own, exactly=exactly) for size, own in pairs]
    for layer, size in zip(layers, sizes, strict=True):
        layer.set_max_size(size)
    for module in model.modules():
        if isinstance(module, ResidualMHSA2d | BoTBottleneck):
            module.reset_parameters()


def attention_of(model: nn.Module) -> list[MHSA2d]:
    """Its layers of attention, in their order."""
    return [module for module in model.modules() if isinstance(module, MHSA2d)]


@torch.no_grad()
def strides(model: Any, layers: list[MHSA2d]) -> list[tuple[float, float]]:
    """How many px of an image a cell of each layer's map is high and wide."""
    maps: dict[MHSA2d, tuple[float, float]] = {}

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, MHSA2d)
        maps[layer] = (PROBE / given[0].shape[2], PROBE / given[0].shape[3])

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    mode = model.training
    image = next(model.parameters()).new_zeros(1, int(model.yaml.get("channels", 3)), PROBE, PROBE)
    try:
        model.eval()(image)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return [maps[layer] for layer in layers]


def kept(size: tuple[int, int], own: tuple[int, ...], *, exactly: bool) -> tuple[int, int]:
    """The map that a table covers which is `own` large and should be `size`."""
    height, width = own
    return (height, width) if exactly else (max(height, size[0]), max(width, size[1]))


def cells(stride: tuple[float, float], side: int) -> tuple[int, int]:
    """(H, W) of the map of a square image."""
    return math.ceil(side / stride[0]), math.ceil(side / stride[1])


def largest_side(imgsz: Any, multi_scale: Any) -> int:
    """Px of the largest training image, by ultralytics' arguments; True was half of imgsz in older versions."""
    side = max(map(int, imgsz)) if isinstance(imgsz, list | tuple) else int(imgsz or 640)
    share = 0.5 if multi_scale is True else float(multi_scale or 0)
    return math.ceil(side * (1 + share))
