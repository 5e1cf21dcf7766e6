"""Relative position attention by scaled_dot_product_attention: positions as one-hot channels."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from botvision.attention.graphs import is_traced_for_onnx
from botvision.attention.position import places


def attend_onehot(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w` as one dot product, with no N×N tensor.

    The bias is a row term plus a column term, so `[scale·q, rel_h, rel_w] · [k, onehot(y), onehot(x)]` is the exact
    logit. q, k and v are padded with zeros to one width, a multiple of 8, as fused kernels want.
    """
    assert rel_h is not None
    assert rel_w is not None
    rows, columns = row_and_column(rel_h, rel_w, dtype=k.dtype)  # N H, N W
    query = torch.cat([q * scale, rel_h, rel_w], -1)  # B M N D+H+W
    key = torch.cat([k, repeated(rows, like=v), repeated(columns, like=v)], -1)
    lack = max(v.shape[-1] - q.shape[-1], 0)  # at 0 content channels the positions alone may be narrower than v
    spare = lack + -(query.shape[-1] + lack) % 8
    query, key = widened(query, spare), widened(key, spare)
    value = widened(v, query.shape[-1] - v.shape[-1])
    if torch.jit.is_scripting() or not is_traced_for_onnx():
        return scaled_dot_product_attention(query, key, value, scale=1.0)[..., : v.shape[-1]]  # B M N D
    return (query @ key.transpose(-2, -1)).softmax(-1) @ v  # what the exporter makes of it, at any opset


def repeated(x: Tensor, *, like: Tensor) -> Tensor:
    """(N, S) for every image and head of another, (B, M, N, S).

    In a traced graph by a sum: ONNX's tracing exporter writes the batch that it saw into an `expand`.
    """
    if torch.jit.is_tracing():
        return like[..., :1] * 0 + x
    return x.expand(like.shape[0], like.shape[1], x.shape[0], x.shape[1])


def widened(x: Tensor, by: int) -> Tensor:
    """Zeros behind the last dimension; joined in a traced graph, whose padding onnxslim turns round."""
    if torch.jit.is_tracing():
        return torch.cat([x, (x[..., :1] * 0).expand(-1, -1, -1, by)], -1)  # made of x, so that sizes stay free
    return pad(x, (0, by))


def row_and_column(rel_h: Tensor, rel_w: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One-hot row and column of each token: (N, H) and (N, W). `arange ==` alone exports right at every size."""
    height, width = rel_h.shape[-1], rel_w.shape[-1]
    token = torch.arange(height * width, device=rel_h.device)
    row, column = places(token, width)
    return (row[:, None] == token[:height]).to(dtype), (column[:, None] == token[:width]).to(dtype)


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Needs position logits to append."""
    if rel_h is None or rel_w is None:
        return "onehot appends position logits, but rel_h or rel_w is missing; use plain"
    return None
