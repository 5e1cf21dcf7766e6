"""How uniform attention begins: entropy / log N of each MHSA2d of a backbone, on a random image, in float64."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from botvision import MHSA2d, create_model
from botvision.attention import module as layer
from botvision.attention.reference import attend_reference
from botvision.files import write_json
from studies.cli import run

WIDE = {"qkv_std": 0.05, "position_std": 0.7}
SMALL = {"channels": (16, 32, 64, 128), "zero_init_last": False}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "botnet14": ("botnet14", {}),
    "botnet26": ("botnet26", {}),
    "botnet50": ("botnet50", {}),
    "botnet26, wide start": ("botnet26", WIDE),
    "botnet14 of the grid cpu, authors' start": ("botnet14", SMALL),
    "botnet14 of the grid cpu, wide start": ("botnet14", SMALL | WIDE),
}


def weights_of(q: Tensor, k: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float) -> Tensor:
    """(B, M, N, N) softmax weights: the reference, given the identity for values."""
    tokens = k.shape[-2] if k.shape[-1] else q.shape[-2]
    identity = torch.eye(tokens, dtype=q.dtype).expand(*q.shape[:-2], tokens, tokens)
    return attend_reference(q, k, identity, rel_h, rel_w, scale=scale)


def measure(name: str, options: dict[str, Any], size: int, seed: int) -> list[dict[str, Any]]:
    """Each layer's entropy / log N, and how far its output lies from a plain mean of its values."""
    torch.manual_seed(seed)
    model = create_model(name, **options).double().train()  # BatchNorm by the batch: fresh statistics say nothing
    names = {module: path for path, module in model.named_modules() if isinstance(module, MHSA2d)}
    found: list[dict[str, Any]] = []
    running: list[str] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, rel_h: Any, rel_w: Any, scale: float, backend: str) -> Tensor:  # noqa: ARG001
        weights = weights_of(q, k, rel_h, rel_w, scale=scale)
        entropy = -(weights * weights.clamp_min(1e-300).log()).sum(-1)
        out, mean = weights @ v, v.mean(-2, keepdim=True).expand_as(v)
        found.append({
            "layer": running[-1],
            "map": f"{math.isqrt(v.shape[-2])}²",
            "entropy / log N": round((entropy / math.log(v.shape[-2])).mean().item(), 6),
            "least of a query": round((entropy / math.log(v.shape[-2])).min().item(), 6),
            "output off its mean, %": round(100 * ((out - mean).norm() / mean.norm()).item(), 4),
            "spread of the values, %": round(100 * ((v - mean).norm() / mean.norm()).item(), 1),
        })  # fmt: skip
        return out

    for module, path in names.items():
        module.register_forward_pre_hook(lambda _module, _inputs, path=path: running.append(path))
    original, layer.dispatched = layer.dispatched, spy
    try:
        with torch.no_grad():
            model(torch.randn(4, 3, size, size, dtype=torch.float64))
    finally:
        layer.dispatched = original
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
