"""Effective receptive field: by gradient, what each place of a model's last map depends on."""

# G places a side, h×w picture, M cells a side

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from botvision.explore.blocks import encoded

CELLS = 32  # a side, that the energy is kept in
ENERGY = 0.95


def energy_at(last: Tensor, image: Tensor, place: tuple[int, int], channels: Tensor) -> Tensor:
    """Squared gradient (h, w) of one place of the last map by the picture, summed over colours (arXiv 1701.04128).

    Args:
        last: (1, C, h', w') of `image`, with its graph.
        image: (1, 3, h, w) that it was computed from.
        place: (row, column) of the last map.
        channels: (C,) proportions in which its channels are taken.
    """
    (gradient,) = torch.autograd.grad(last[0, :, place[0], place[1]] @ channels, image, retain_graph=True)
    return gradient[0].double().square().sum(0)


def receptive_fields(
    last_map: Callable[[Tensor], Tensor], batch: Tensor, places: int, *, name: str = "receptive field"
) -> dict[str, Any]:
    """What the page reads: for places spread over the last map, the share of the energy in each cell of the picture.

    Args:
        last_map: of the model, (1, 3, h, w) → (1, C, h', w').
        batch: (1, 3, h, w).
        places: G, a side; at most as many as the last map has.
        name: shown.

    Raises:
        ValueError: no place, or a model whose last features are no map.
    """
    if places < 1:
        raise ValueError(f"field={places} must be at least 1 place a side; e.g. 8")
    with torch.inference_mode(False), torch.enable_grad():
        image = batch.clone().requires_grad_()
        last = last_map(image)
        if last.ndim != 4:
            raise ValueError(f"the receptive field needs a last map (B, C, H, W); this model gives {tuple(last.shape)}")
        channels = torch.randn(last.shape[1], generator=torch.Generator().manual_seed(0)).to(last)
        down, across = (torch.linspace(0, n - 1, min(places, n)).round().long().tolist() for n in last.shape[2:])
        energies = torch.stack([energy_at(last, image, (y, x), channels) for y in down for x in across])
    cells = adaptive_avg_pool2d(energies[:, None], CELLS)[:, 0]
    shares = cells / cells.sum((1, 2), keepdim=True).clamp(min=1e-300)
    sides = [share_holding(one, ENERGY) * one.numel() for one in energies]
    return {
        "kind": "field", "name": name, "height": CELLS, "width": CELLS, "heads": 1, "parts": ["both"],
        "rows": encoded(shares.float()), "side": sum(side**0.5 for side in sides) / len(sides),
        "down": [(y + 0.5) / last.shape[2] for y in down], "across": [(x + 0.5) / last.shape[3] for x in across],
    }  # fmt: skip


def share_holding(energy: Tensor, part: float) -> float:
    """Smallest share of the pixels that holds this part of the energy."""
    falling = energy.flatten().sort(descending=True).values.cumsum(0)
    return float((torch.searchsorted(falling, part * falling[-1]) + 1) / energy.numel())
