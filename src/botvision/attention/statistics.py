"""Attention statistics: entropy, mean distance and direction of each head, on given images."""

# B batch, M heads, D head dim, H×W map, N = H·W tokens, Q ≤ N queries that are looked at

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from botvision.attention.module import MHSA2d
from botvision.attention.position import coordinate_table

PARTS = ("content", "position")  # of the logits
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

    The model runs once, in the mode that it is in, and stays as it is: buffers, such as BatchNorm's statistics, and
    torch's random numbers come back. A model that was never trained shows its start in training mode alone: in
    evaluation BatchNorm does not normalise yet.

    Args:
        model: one that has `MHSA2d` in it.
        images: (B, channels, H, W), or whatever else the model takes as its one argument.

    Raises:
        ValueError: a model without `MHSA2d`, one that does not call it, or no image.
    """
    found: list[HeadStatistics] = []
    hooks = on_inputs(model, lambda name, layer, x: found.extend(layer_statistics(layer, x, name=name)))
    if not hooks:
        raise ValueError("attention_statistics needs a model with MHSA2d in it, e.g. a BoTNet; this one has none")
    try:
        with torch.no_grad(), unmoved(model), eager():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("the model ran and called none of its attention layers; give the model that calls them")
    return found


def eager() -> AbstractContextManager[Any]:
    """Forward passes without graphs that torch.compile has made: these do not look at hooks."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Forward passes, in any mode, that leave no trace: buffers and torch's random numbers come back."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def on_inputs(model: nn.Module, see: Callable[[str, MHSA2d, Tensor], None]) -> list[RemovableHandle]:
    """Have `see(name, layer, x)` called before each attention layer of a model runs, x (B, C, H, W) its input.

    Returns:
        A handle a layer; `remove()` ends it.
    """

    def hook(name: str, own: MHSA2d) -> Any:
        def look(layer: MHSA2d, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            (x,) = (*inputs, *named.values())
            if layer is own:  # a copy of the model has copies of its hooks
                see(name, layer, x)

        return look

    layers = {name: module for name, module in model.named_modules() if isinstance(module, MHSA2d)}
    return [layer.register_forward_pre_hook(hook(name, layer), with_kwargs=True) for name, layer in layers.items()]


@torch.no_grad()
def layer_statistics(layer: MHSA2d, x: Tensor, *, name: str = "", queries: int = QUERIES) -> list[HeadStatistics]:
    """Where each head of one layer looks.

    Args:
        layer: the attention layer.
        x: (B, C, H, W), what comes into it.
        name: of the layer, for the result.
        queries: at most so many places a map are looked at, evenly spread; on large maps fewer, so that weights take
            64 MB at most.

    Raises:
        ValueError: no image.
    """
    if not len(x):
        raise ValueError("attention_statistics needs an image at least; got a batch of 0")
    height, width = x.shape[2:]
    tokens = torch.arange(height * width, device=x.device)
    queries = max(1, min(queries, WEIGHTS // (len(x) * layer.num_heads * len(tokens))))
    chosen = spread_out((height, width), queries).to(x.device)
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


def spread_out(size: tuple[int, int], most: int) -> Tensor:
    """(Q,) places of a map of (H, W), numbered row by row: all, or `most`, of as many rows and columns as there are."""
    height, width = size
    if height * width <= most:
        return torch.arange(height * width, device="cpu")  # whatever device is the default
    step = next(step for step in count(max(1, round(0.618 * width))) if math.gcd(step, width) == 1)
    number = torch.arange(most, device="cpu")
    rows = (2 * number + 1) * height // (2 * most)
    return rows * width + (number * step + width // 2) % width


def attention_weights(layer: MHSA2d, x: Tensor, chosen: Tensor, *, part: str = "both") -> Tensor:
    """(B, M, Q, N) softmax weights of the chosen queries, in float32 or better.

    Args:
        layer: the attention layer.
        x: (B, C, H, W), what comes into it.
        chosen: (Q,) numbers of the queries, row by row.
        part: the softmax of all logits ("both"), or of the logits of one of `PARTS` alone.

    Raises:
        ValueError: an unknown part, or one that this layer's logits do not have.
    """
    check_part(part, layer)
    size = (x.shape[2], x.shape[3])
    q, k = layer.project(x)[:2]
    precise = torch.promote_types(q.dtype, torch.float32)
    own = q[:, :, chosen].to(precise)
    logits = own.new_zeros(())
    if layer.content and part != "position":
        logits = (own @ k.to(precise).transpose(-1, -2)) * layer.scale
    if part != "content":
        logits = logits + place_logits(layer, q, own, chosen, size)
    return logits.softmax(-1)


def place_logits(layer: MHSA2d, q: Tensor, own: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, M, Q, N) scaled position logits of the chosen queries; a zero of a layer without positions.

    Args:
        layer: the attention layer.
        q: (B, M, N, D) queries of the whole map.
        own: (B, M, Q, D) the chosen ones, in the dtype to compute in.
        chosen: (Q,) their numbers.
        size: (H, W).
    """
    if layer.relative:
        rel_h, rel_w = layer.position_logits(q, size)
        by_place = rel_h[:, :, chosen, :, None].to(own) + rel_w[:, :, chosen, None, :].to(own)
        return by_place.flatten(-2)
    if layer.absolute:
        rows = coordinate_table(layer.abs_h, size[0], extend=layer.extend).to(own)
        columns = coordinate_table(layer.abs_w, size[1], extend=layer.extend).to(own)
        return (own @ (rows[:, None] + columns).flatten(0, 1).T) * layer.scale
    return own.new_zeros(())


def check_part(part: str, layer: MHSA2d) -> None:
    """Refuse a part that is unknown, or that a layer's logits do not have."""
    if part not in ("both", *PARTS):
        raise ValueError(f"part={part!r} is unknown; use both, {' or '.join(PARTS)}")
    if part == "content" and not layer.content:
        raise ValueError(f"a layer with position={layer.position!r} has no content logits; use part='position'")
    if part == "position" and not layer.table_names():
        raise ValueError(f"a layer with position={layer.position!r} has no position logits; use part='content'")


def entropy_share(weights: Tensor) -> Tensor:
    """Entropy of (…, N) softmax weights as a share of log N: (…)."""
    return -torch.special.xlogy(weights, weights).sum(-1) / math.log(max(weights.shape[-1], 2))
