"""How uniform attention begins: entropy / log N of each MHSA2d of a backbone, on a random image, in float64."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from botvision import MHSA2d, create_model
from botvision.attention import attention_weights, entropy_share, on_inputs
from botvision.files import write_json
from studies.cli import run

WIDE = {"qkv_std": 0.05, "position_std": 0.7}
PUBLISHED = {"position_std": 1.0}  # the deviation that it has, since it passes what was meant for it as the mean
SMALL = {"channels": (16, 32, 64, 128), "zero_init_last": False}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "botnet14": ("botnet14", {}),
    "botnet26": ("botnet26", {}),
    "botnet50": ("botnet50", {}),
    "botnet26, the authors' code as published": ("botnet26", PUBLISHED),
    "botnet26, wide start": ("botnet26", WIDE),
    "botnet26, directional start": ("botnet26", {"start": "directional"}),
    "botnet14 of the grid cpu, authors' start": ("botnet14", SMALL),
    "botnet14 of the grid cpu, wide start": ("botnet14", SMALL | WIDE),
}


@torch.no_grad()
def measure(name: str, options: dict[str, Any], size: int, seed: int) -> list[dict[str, Any]]:
    """Each layer's entropy / log N, and how far its output lies from a plain mean of its values."""
    torch.manual_seed(seed)
    model = create_model(name, **options).double().train()  # BatchNorm by the batch: fresh statistics say nothing
    found: list[dict[str, Any]] = []

    def look(path: str, layer: MHSA2d, x: Tensor) -> None:
        v = layer.project(x)[2]
        weights = attention_weights(layer, x, torch.arange(v.shape[-2]))
        entropies = entropy_share(weights)
        out, mean = weights @ v, v.mean(-2, keepdim=True).expand_as(v)
        found.append({
            "layer": path,
            "map": f"{math.isqrt(v.shape[-2])}²",
            "entropy / log N": round(entropies.mean().item(), 6),
            "least of a query": round(entropies.min().item(), 6),
            "output off its mean, %": round(100 * ((out - mean).norm() / mean.norm()).item(), 4),
            "spread of the values, %": round(100 * ((v - mean).norm() / mean.norm()).item(), 1),
        })  # fmt: skip

    on_inputs(model, look)
    model(torch.randn(4, 3, size, size, dtype=torch.float64))
    return found


def entropy(*, size: int = 224, seed: int = 0, out: Path | None = None) -> str:
    """How uniform attention begins, in each layer of some backbones.

    Args:
        size: px of the random images.
        seed: of weights and images.
        out: JSON file for the figures.
    """
    found = {title: measure(name, options, size, seed) for title, (name, options) in MODELS.items()}
    if out is not None:
        about = {"size": size, "seed": seed, "torch": torch.__version__.partition("+")[0]}
        write_json(out, about | {"models": found}, indent=1)
    lines = []
    for title, layers in found.items():
        lines += [title, *("   " + ", ".join(f"{name} {value}" for name, value in one.items()) for one in layers)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(entropy))
