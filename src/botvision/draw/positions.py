"""Plot position logits: where one query looks, on maps of several sizes."""

# D head dim, H×W map, N = H·W tokens

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from botvision.attention import MHSA2d
from botvision.files import whole_file


def position_logits(layer: MHSA2d, query: Tensor, *, size: tuple[int, int], pixel: tuple[int, int]) -> Tensor:
    """What a query at a pixel adds to each key for its place alone (the `q·r` of paper Fig. 4).

    Args:
        layer: with relative positions.
        query: (D,), before the layer's scale.
        size: (H, W) of the map.
        pixel: (row, column) of the query.

    Returns:
        (H, W).

    Raises:
        ValueError: a layer without offset tables, or a pixel outside the map.
    """
    if not layer.relative:
        raise ValueError(f"position={layer.position!r} has no offset tables; use a layer with position='relative'")
    if not (0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]):
        raise ValueError(f"pixel={pixel} is outside a map of {size}; rows and columns count from 0")
    rel_h, rel_w = layer.position_logits(query.expand(1, 1, size[0] * size[1], -1), size)  # 1 1 N H, 1 1 N W
    at = pixel[0] * size[1] + pixel[1]
    return rel_h[0, 0, at, :, None] + rel_w[0, 0, at, None, :]


@torch.no_grad()
def draw_positions(layers: Mapping[str, MHSA2d], query: Tensor, path: Path, *, sides: Sequence[int]) -> None:
    """A row of square maps for each layer: the position logits of the query at the map's centre.

    Args:
        layers: title → layer with relative positions.
        query: (D,), before the layers' scale.
        path: of the PNG.
        sides: of the maps.
    """
    from matplotlib.figure import Figure

    shape = (2.3 * len(sides), 2.5 * len(layers))
    figure = Figure(figsize=shape, layout="constrained")
    axes = figure.subplots(len(layers), len(sides), squeeze=False)
    for row, (title, layer) in zip(axes, layers.items(), strict=True):
        for axis, side in zip(row, sides, strict=True):
            middle = side // 2
            logits = position_logits(layer, query, size=(side, side), pixel=(middle, middle))
            axis.imshow(logits.numpy(), cmap="viridis")
            axis.plot(middle, middle, "o", markersize=5, markerfacecolor="none", markeredgecolor="white")
            axis.set(xticks=[0, side - 1], yticks=[0, side - 1], title=f"{title}, {side} × {side}")
            axis.title.set_fontsize(9)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
