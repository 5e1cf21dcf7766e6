"""Attention with its N×N logits in memory: the fastest backend on small maps, any derivative."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import torch
from torch import Tensor

LIMIT_GIB = 8.0  # one N×N tensor above this more likely ends the process than finishes it


def attend_explicit(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w` with the logits held in memory.

    In float32 at least, as torch's fused kernels hold them inside: 16 bits round a logit of 20 by up to 0.06, and its
    weight by as much.
    """
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    query, key = q.to(dtype), k.to(dtype).mT
    if rel_h is None or rel_w is None:
        return ((query * scale) @ key).softmax(-1).to(v.dtype) @ v  # B M N D
    bias = (rel_h.to(dtype)[..., :, None] + rel_w.to(dtype)[..., None, :]).flatten(-2)  # B M N N
    logits = torch.baddbmm(bias.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1), alpha=scale)
    return logits.softmax(-1).to(v.dtype).unflatten(0, q.shape[:2]) @ v  # B M N D


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Refuses maps whose logits would not fit in memory."""
    if q.device.type == "meta":
        return None  # nothing is held
    gib = q.shape[:3].numel() * q.shape[2] * max(q.element_size(), 4) / 2**30
    if gib > LIMIT_GIB:
        cure = "plain" if rel_h is None else "chunked" if q.device.type == "cpu" else "onehot"
        return f"explicit holds {gib:.1f} GiB of logits for {q.shape[-2]} tokens, limit {LIMIT_GIB:.0f}; use {cure}"
    return None
