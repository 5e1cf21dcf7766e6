"""Attention statistics: entropy, mean distance and direction of each head, on given images."""

# B batch, M heads, D head dim, H×W map, N = H·W tokens, Q ≤ N queries that are looked at

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from botvision.attention.module import MHSA2d

QUERIES = 256
WEIGHTS = 2**24  # numbers


class HeadStatistics(NamedTuple):
    """Where a head looks, a mean over images and queries.

    Attributes:
        layer: name of the `MHSA2d` in the model.
        head: its number.
        entropy: of the attention weights, as a share of log N; 1 is a plain average over the map, 0 a single place.
        distance: from a query to what it looks at, in cells of the map, weighted by attention.
        down, right: the mean offset of what it looks at, in cells; of a plain average it is about 0.
        size: (H, W) of the map.
    """

    layer: str
    head: int
    entropy: float
    distance: float
    down: float
    right: float
    size: tuple[int, int]


def attention_statistics(model: nn.Module, images: Tensor) -> list[HeadStatistics]:
    """Where each head of each attention layer looks on these images, an entry a head and call of its layer.

    The model runs once, in the mode that it is in. A model that was never trained shows its start in training mode
    alone: in evaluation BatchNorm does not normalise yet. In training mode its statistics move, as in any forward pass.

    Args:
        model: one that has `MHSA2d` in it.
        images: (B, channels, H, W), or whatever else the model takes as its one argument.

    Raises:
        ValueError: a model without `MHSA2d`.
    """
    found: list[HeadStatistics] = []
    hooks = watch(model, lambda name, layer, x: found.extend(layer_statistics(layer, x, name=name)))
    if not hooks:
        raise ValueError("attention_statistics needs a model with MHSA2d in it, e.g. a BoTNet; this one has none")
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def watch(model: nn.Module, see: Callable[[str, MHSA2d, Tensor], None]) -> list[RemovableHandle]:
    """Have `see(name, layer, x)` called before each attention layer of a model runs, x (B, C, H, W) its input.

    Returns:
        A handle a layer; `remove()` ends it.
    """

    def hook(name: str) -> Any:
        def look(layer: MHSA2d, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            (x,) = (*inputs, *named.values())
            see(name, layer, x)

        return look

    layers = {name: module for name, module in model.named_modules() if isinstance(module, MHSA2d)}
    return [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]


@torch.no_grad()
def layer_statistics(layer: MHSA2d, x: Tensor, *, name: str = "", queries: int = QUERIES) -> list[HeadStatistics]:
    """Where each head of one layer looks.

    Args:
        layer: the attention layer.
        x: (B, C, H, W), what comes into it.
        name: of the layer, for the result.
        queries: at most so many places a map are looked at, evenly spread; on large maps fewer, so that weights take
            64 MB at most.
    """
    height, width = x.shape[2:]
    tokens = torch.arange(height * width, device=x.device)
    queries = max(1, min(queries, WEIGHTS // (len(x) * layer.num_heads * len(tokens))))
    chosen = tokens[:: -(-len(tokens) // queries)]
    with torch.autocast(x.device.type, enabled=False):
        weights = attention_weights(layer, x.to(layer.qkv.weight.dtype), chosen)  # B M Q N
        down = (tokens // width - (chosen // width)[:, None]).to(weights)  # Q N
        right = (tokens % width - (chosen % width)[:, None]).to(weights)
        offsets = torch.stack([torch.hypot(down, right), down, right])
        seen = torch.einsum("bmqn,oqn->mo", weights, offsets) / (len(x) * len(chosen))  # M 3
    return [
        HeadStatistics(name, head, entropy, distance, downwards, rightwards, (height, width))
        for head, (entropy, (distance, downwards, rightwards)) in enumerate(
            zip(entropy_share(weights).mean((0, 2)).tolist(), seen.tolist(), strict=True)
        )
    ]


def attention_weights(layer: MHSA2d, x: Tensor, chosen: Tensor) -> Tensor:
    """(B, M, Q, N) softmax weights of the chosen queries, in float32 or better."""
    size = (x.shape[2], x.shape[3])
    q, k, rel_h, rel_w = layer.with_positions(*layer.project(x)[:2], size)
    precise = torch.promote_types(q.dtype, torch.float32)
    logits = (q[:, :, chosen].to(precise) @ k.to(precise).transpose(-1, -2)) * layer.scale
    if rel_h is not None and rel_w is not None:
        by_place = rel_h[:, :, chosen, :, None].to(precise) + rel_w[:, :, chosen, None, :].to(precise)
        logits = logits + by_place.flatten(-2)
    return logits.softmax(-1)


def entropy_share(weights: Tensor) -> Tensor:
    """Entropy of (…, N) softmax weights as a share of log N: (…)."""
    return -torch.special.xlogy(weights, weights).sum(-1) / math.log(max(weights.shape[-1], 2))
