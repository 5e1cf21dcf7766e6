"""`attend`: one function over all attention backends, with 2-D relative positions."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from botvision.attention import chunked, explicit, onehot, plain, reference, tiled
from botvision.attention.graphs import autocast_off, is_recorded, is_transformed
from botvision.attention.measured import fastest
from botvision.attention.onehot import attend_onehot
from botvision.attention.plain import attend_plain
from botvision.attention.twice import once

log = logging.getLogger("botvision.attention")

SMALL_MAP = 400  # tokens up to which logits written out are fastest to train (docs/backends.md)


class Backend(NamedTuple):
    """One way to compute `attend`, and the sentence that says why it cannot.

    Attributes:
        once: rests on torch's fused attention, which has first derivatives alone.
        widest: channels of a head's values that it holds at most; None is any number.
    """

    attend: Callable[..., Tensor]
    why_not: Callable[[Tensor, Tensor | None, Tensor | None], str | None]
    once: bool = False
    widest: int | None = None


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference.attend_reference, reference.why_not),
    "plain": Backend(plain.attend_plain, plain.why_not, once=True),
    "explicit": Backend(explicit.attend_explicit, explicit.why_not),
    "chunked": Backend(chunked.attend_chunked, chunked.why_not),
    "onehot": Backend(onehot.attend_onehot, onehot.why_not, once=True),
    "tiled": Backend(tiled.attend_tiled, tiled.why_not, widest=tiled.WIDEST_HEAD),
}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None = None,
    rel_w: Tensor | None = None,
    *,
    scale: float,
    backend: str = "auto",
) -> Tensor:
    """Global attention over an H×W map, with a row and a column logit per query.

    Computes `softmax(scale·q·k + rel_h[y_key] + rel_w[x_key]) · v` (paper Fig. 4). The position logits come already
    scaled, and thin: H + W numbers per query, never N×N.

    Args:
        q, k: (B, heads, N, D) with N = H·W tokens in row-major order; D may be 0 (positions alone).
        v: (B, heads, N, D_v).
        rel_h, rel_w: (B, heads, N, H) and (B, heads, N, W), or both None for no positions.
        scale: multiplies q·k only.
        backend: a name of `BACKENDS`, or "auto".

    Returns:
        (B, heads, N, D_v) in the inputs' dtype, under autocast too (but in a compiled or exported graph).

    Raises:
        ValueError: shapes or dtypes that do not fit, an unknown backend, or one that cannot run, with its reason.
    """
    return dispatched(q, k, v, rel_h, rel_w, scale, backend)


def dispatched(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, scale: float, backend: str
) -> Tensor:
    """`attend` as TorchScript can call it, which takes no defaults by keyword: the one door to every backend."""
    if torch.jit.is_scripting():  # it compiles no tables of functions, and needs one way for every size
        if rel_h is None:
            out = attend_plain(q, k, v, rel_h, rel_w, scale=scale)
        else:
            out = attend_onehot(q, k, v, rel_h, rel_w, scale=scale)
    else:
        out = chosen(q, k, v, rel_h, rel_w, scale, backend)
    return out


def chosen(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, scale: float, backend: str
) -> Tensor:
    """By the backend that was asked for, or the first that can run."""
    check(q, k, v, rel_h, rel_w)
    name = choose(q, v, rel_h, rel_w) if backend == "auto" else backend
    if backend != "auto" and (reason := why_not(backend, q, rel_h, rel_w, v=v)):
        raise ValueError(f"attention backend {backend!r} cannot run: {reason}")
    inputs = once(q, k, v, rel_h, rel_w) if BACKENDS[name].once else (q, k, v, rel_h, rel_w)
    with autocast_off(q.device):
        return BACKENDS[name].attend(*inputs, scale=scale)


def why_not(
    backend: str, q: Tensor, rel_h: Tensor | None = None, rel_w: Tensor | None = None, *, v: Tensor | None = None
) -> str | None:
    """The reason why a backend cannot compute these inputs, or None where it can; without v, of any values."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; use auto, {', '.join(BACKENDS)}")
    known = BACKENDS[backend]
    if v is not None and known.widest is not None and v.shape[-1] > known.widest:
        return f"{backend} holds values of up to {known.widest} channels a head; got {v.shape[-1]}; use onehot"
    return known.why_not(q, rel_h, rel_w)


def choose(q: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str:
    """The first backend that can run, in the order that fits the device and the size."""
    for name in preference(q):
        reason = why_not(name, q, rel_h, rel_w, v=v)
        if reason is None:
            return name
        if not is_recorded():  # a compiled graph cannot log
            log.debug("skipped %s: %s", name, reason)
    raise AssertionError("onehot and plain together take every input")


def preference(q: Tensor) -> tuple[str, ...]:
    """Backends by measured speed (docs/backends.md). A graph must not branch on a size, so it gets one answer."""
    if is_recorded():
        return ("plain", "onehot")
    if is_transformed():  # torch's fused attention has first derivatives alone, and torch.func asks for any
        return ("explicit", "plain", "onehot")
    small, learning = q.shape[-2] <= SMALL_MAP, torch.is_grad_enabled() and q.requires_grad
    if q.device.type == "cpu":
        return ("plain", "explicit", "onehot") if small and learning else ("plain", "chunked", "onehot")
    if order := fastest(q.device, q.dtype, learning=learning, tokens=q.shape[-2]):
        return ("plain", *order, "onehot")
    return ("plain", "explicit", "onehot") if small else ("plain", "onehot")  # a guess: measured on no GPU yet


def check(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> None:
    """Refuse what no backend can compute, by shape and dtype."""
    if q.ndim != 4 or q.shape != k.shape or k.shape[:3] != v.shape[:3] or q.shape[2] == 0:
        raise ValueError(
            "attend needs q and k of shape (B, heads, N, D) and v of shape (B, heads, N, D_v); "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    dtypes = {t.dtype for t in (q, k, v, rel_h, rel_w) if t is not None}
    if len(dtypes) > 1:
        raise ValueError(
            f"attend needs one dtype; got {', '.join(sorted(map(str, dtypes)))}; cast them with .to(q.dtype)"
        )
    devices = {str(t.device) for t in (q, k, v, rel_h, rel_w) if t is not None}
    if len(devices) > 1:
        raise ValueError(f"attend needs one device; got {', '.join(sorted(devices))}; move them with .to(q.device)")
    if (rel_h is None) != (rel_w is None):
        raise ValueError("attend needs both rel_h and rel_w, or neither; got one")
    if rel_h is None or rel_w is None:
        return
    fits = rel_h.shape[:3] == q.shape[:3] == rel_w.shape[:3]
    if not fits or rel_h.shape[-1] * rel_w.shape[-1] != q.shape[-2]:
        raise ValueError(
            "attend needs rel_h (B, heads, H·W, H) and rel_w (B, heads, H·W, W); "
            f"got {tuple(rel_h.shape)} and {tuple(rel_w.shape)} for {q.shape[-2]} tokens"
        )
