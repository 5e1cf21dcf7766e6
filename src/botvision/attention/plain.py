"""Attention without positions: torch's scaled_dot_product_attention, nothing added."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from botvision.attention.graphs import is_traced_for_onnx


def attend_plain(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k`, times v; for `position="none"` and `"absolute"`."""
    if torch.jit.is_scripting() or not is_traced_for_onnx():
        return scaled_dot_product_attention(q, k, v, scale=scale)
    return ((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v  # what the exporter makes of it, at any opset


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Plain attention cannot add position logits."""
    if rel_h is not None or rel_w is not None:
        return "plain attention has no position terms, but rel_h or rel_w was given; use chunked, explicit or onehot"
    return None
