"""Memory-efficient attention on the CPU: a block of queries at a time, with position biases."""

# B batch, M heads, G = B·M groups, H×W map, N = H·W tokens, D head dim, C queries of a block

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from botvision.attention.graphs import is_batched, why_not_eager
from botvision.attention.twice import differentiable_gradients

BLOCK_QUERIES = 1024  # torch's CPU kernel works fastest on runs of 256 queries, and needs a few to share among cores
BLOCK_LOGITS = 2**22  # held at a time where groups are small enough to be taken together: 16 MiB in float32


def attend_chunked(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w` for a block of queries at a time, recomputed in the backward."""
    assert rel_h is not None
    assert rel_w is not None
    width = max(q.shape[-1], v.shape[-1])  # torch's kernel wants one for all
    q, k, wide_v = (t if t.shape[-1] == width else pad(t, (0, width - t.shape[-1])) for t in (q, k, v))
    groups = [t.flatten(0, 1) for t in (q, k, wide_v, rel_h, rel_w)]  # G N …
    out: Tensor = _Chunked.apply(*groups, scale)
    return out[0].unflatten(0, q.shape[:2])[..., : v.shape[-1]]  # B M N D


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Needs position logits, and real sizes to loop over."""
    if rel_h is None or rel_w is None:
        return "chunked adds position logits, but rel_h or rel_w is missing; use plain"
    return why_not_eager("chunked", does="loops over the size, which would be fixed")


def plan(q: Tensor, *, queries: int) -> tuple[list[tuple[slice, slice]], Tensor]:
    """Groups and queries whose logits are held together, and the memory that holds them."""
    groups, tokens, _ = q.shape
    queries = min(tokens, queries)
    together = min(max(BLOCK_LOGITS // (queries * tokens), 1), max(groups, 1))
    starts = itertools.product(range(0, groups, together), range(0, tokens, queries))
    blocks = [(slice(group, group + together), slice(start, start + queries)) for group, start in starts]
    return blocks, q.new_empty(together * queries * tokens)


def write_bias(rel_h: Tensor, rel_w: Tensor, memory: Tensor) -> Tensor:
    """Position logits of a block of queries against every key, G C H and G C W → G C N, in memory used again."""
    groups, queries = rel_h.shape[:2]
    bias = memory[: groups * queries * rel_h.shape[-1] * rel_w.shape[-1]].view(groups, queries, -1)
    torch.add(rel_h[..., :, None], rel_w[..., None, :], out=bias.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1])))
    return bias


class _Chunked(torch.autograd.Function):
    """Attention whose backward computes a block's weights again rather than keeping N×N of them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
        """(G, N, …) → (1, G, N, D); its view is taken outside: none that is made here may be changed in place."""
        ctx.save_for_backward(q, k, v, rel_h, rel_w)
        ctx.scale = scale
        (blocks, memory), out = plan(q, queries=BLOCK_QUERIES), None
        for g, c in blocks:
            bias = write_bias(rel_h[g, c], rel_w[g, c], memory)[None]  # torch's CPU kernel takes four dimensions
            part = scaled_dot_product_attention(q[None, g, c], k[None, g], v[None, g], bias, scale=scale)
            if len(blocks) == 1:
                return part  # a copy would take a tenth of a small map's time
            out = v.new_empty(1, *v.shape) if out is None else out
            out[0, g, c] = part[0]
        return v.new_empty(1, *v.shape) if out is None else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With S the logits, dS = P·(dP − Σ dP·P); its sums over a row's and a column's keys are the positions'.

        In float32 at least, as torch's kernels hold logits inside.
        """
        saved = ctx.saved_tensors  # once: gradient checkpointing gives them out a single time
        if torch.is_grad_enabled() or is_batched(grad):  # create_graph: these gradients will be differentiated
            inputs, needed = [t[None] for t in saved], ctx.needs_input_grad[:5]
            found = differentiable_gradients(inputs, grad, scale=ctx.scale, needed=needed)
            return *(None if t is None else t[0] for t in found), None
        dtype = torch.promote_types(grad.dtype, torch.float32)
        q, k, v, rel_h, rel_w, grad = (t.to(dtype) for t in (*saved, grad[0]))
        dq, drel_h, drel_w = (torch.empty_like(t) for t in (q, rel_h, rel_w))
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        # three blocks are held here; products, unlike the kernel, lose nothing by shorter ones
        blocks, memory = plan(q, queries=max(BLOCK_QUERIES // 4, 1))
        with torch.autocast(q.device.type, enabled=False):
            for g, c in blocks:
                logits = write_bias(rel_h[g, c], rel_w[g, c], memory).baddbmm_(q[g, c], k[g].mT, alpha=ctx.scale)
                weights = logits.softmax(-1)  # G C N
                dv[g].baddbmm_(weights.mT, grad[g, c])
                ds = torch.bmm(grad[g, c], v[g].mT, out=logits)
                ds = torch._softmax_backward_data(ds, weights, -1, dtype)
                dq[g, c] = torch.bmm(ds, k[g]).mul_(ctx.scale)
                dk[g].baddbmm_(ds.mT, q[g, c], alpha=ctx.scale)
                on_map = ds.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))  # G C H W
                drel_h[g, c], drel_w[g, c] = on_map.sum(-1), on_map.sum(-2)
        return *(t.to(own.dtype) for t, own in zip((dq, dk, dv, drel_h, drel_w), saved, strict=True)), None
