"""Reference attention: the paper's equation as plain gathers, slow and exact, for the tests."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import torch
from torch import Tensor


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w`, one gathered bias per pair of pixels (paper Fig. 4)."""
    logits = (q[..., :, None, :] * k[..., None, :, :]).sum(-1) * scale  # B M N N
    if rel_h is not None and rel_w is not None:
        width = rel_w.shape[-1]
        key = torch.arange(k.shape[-2], device=k.device)
        logits = logits + rel_h[..., key // width] + rel_w[..., key % width]  # B M N N
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights[..., None] * v[..., None, :, :]).sum(-2)  # B M N D


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """The reference refuses nothing; `auto` never picks it."""
    return None
