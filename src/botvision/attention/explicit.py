"""Attention with its N×N logits in memory: the fastest backend on small maps, any derivative."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import torch
from torch import Tensor

LIMIT_GIB = 8.0  # one N×N tensor above this more likely ends the process than finishes it


def attend_explicit(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w` with the logits held in memory."""
    if rel_h is None or rel_w is None:
        return ((q * scale) @ k.mT).softmax(-1) @ v  # B M N D
    bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)  # B M N N
    logits = torch.baddbmm(bias.flatten(0, 1), q.flatten(0, 1), k.mT.flatten(0, 1), alpha=scale)
    return logits.softmax(-1).unflatten(0, q.shape[:2]) @ v  # B M N D


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Refuses maps whose logits would not fit in memory."""
    if q.device.type == "meta":
        return None  # nothing is held
    gib = q.shape[:3].numel() * q.shape[2] * q.element_size() / 2**30
    if gib > LIMIT_GIB:
        cure = "plain" if rel_h is None else "chunked" if q.device.type == "cpu" else "onehot"
        return f"explicit holds {gib:.1f} GiB of logits for {q.shape[-2]} tokens, limit {LIMIT_GIB:.0f}; use {cure}"
    return None
