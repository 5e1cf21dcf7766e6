"""Triton flash attention with 2-D relative positions, added inside the tile; for NVIDIA GPUs."""

# B batch, M heads, G = B·M groups, H×W map, N = H·W tokens, D head dim

import importlib.util
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from botvision.attention.graphs import is_batched, why_not_eager
from botvision.attention.twice import differentiable_gradients

LONGEST_ROW = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}  # of keys, that shared memory holds
WIDEST_HEAD = 128
KEYS = 64  # of a tile in 16 bits, where a row is not longer
BLACKWELL = (10, 11)  # first numbers of compute capabilities whose kernels ask for more shared memory
MOST_GROUPS = 65_535  # blocks along a grid's second axis


def attend_tiled(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, *, scale: float
) -> Tensor:
    """Softmax of `scale·q·k + rel_h + rel_w` in one kernel; its backward is two, each number with one writer."""
    assert rel_h is not None
    assert rel_w is not None
    out: Tensor = _Tiled.apply(q, k, v, rel_h, rel_w, scale)
    return out


def why_not(q: Tensor, rel_h: Tensor | None, rel_w: Tensor | None) -> str | None:
    """Needs position logits, a GPU with Triton, a dtype that it multiplies, and a row that fits into a tile."""
    if rel_h is None or rel_w is None:
        return "tiled adds position logits, but rel_h or rel_w is missing; use plain"
    if reason := why_not_eager("tiled", does="starts its kernels itself, which is not recorded"):
        return reason
    if not q.is_cuda and not is_interpreted():
        return f"tiled is a Triton kernel for GPUs, and these tensors are on {q.device}; use chunked"
    if q.is_cuda and (torch.version.hip or torch.cuda.get_device_capability(q.device) < (8, 0)):
        return "tiled is made for NVIDIA GPUs of compute capability 8.0 and on; use onehot"
    if importlib.util.find_spec("triton") is None:
        return "tiled needs Triton, which is not installed; pip install triton, or use onehot"
    longest = LONGEST_ROW.get(q.dtype)
    if longest is None:
        return f"tiled multiplies float16, bfloat16 and float32; got {q.dtype}; use onehot"
    if rel_w.shape[-1] > longest:
        return f"tiled holds up to {longest} columns in {q.dtype}; got {rel_w.shape[-1]}; use onehot"
    if q.dtype == torch.float32 and rel_w.shape[-1] > 32 and on_chip(q.device)[0] < 165_000:
        return f"tiled needs 164 KB of shared memory for {rel_w.shape[-1]} columns in float32; use onehot"
    if q.shape[:2].numel() > MOST_GROUPS:
        return f"tiled takes up to {MOST_GROUPS} images × heads; got {q.shape[:2].numel()}; use onehot"
    if q.shape[-1] > WIDEST_HEAD:
        return f"tiled holds heads of up to {WIDEST_HEAD} channels; got {q.shape[-1]}; use onehot"
    return None


def is_interpreted() -> bool:
    """Whether Triton's own interpreter runs the kernels in numpy, without a GPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class _Tiled(torch.autograd.Function):
    """The three kernels as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
        """(B, M, N, …) → (B, M, N, D_v)."""
        from botvision.attention.tiled_kernels import forward_kernel

        inputs = (q, k, v, rel_h, rel_w)
        q, k, v, rel_h, rel_w = laid_out(*inputs)
        out = torch.empty_like(v)
        total = q.new_empty(q.shape[:-1], dtype=torch.float32)  # log2 of the softmax's denominator
        ctx.save_for_backward(*inputs, out, total)
        ctx.scale = scale
        rest, groups = arguments(q, v, rel_h, rel_w, scale), q.shape[:2].numel()
        if groups:
            blocks = -(-q.shape[2] // rest["BLOCK"])
            with torch.cuda.device_of(q):
                forward_kernel[blocks, groups](q, k, v, rel_h, rel_w, out, total, **rest)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Over the queries for dq and the positions, then over the keys for dk and dv; weights computed again."""
        *inputs, out, total = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(grad):  # create_graph: these gradients will be differentiated
            return *differentiable_gradients(inputs, grad, scale=ctx.scale, needed=ctx.needs_input_grad[:5]), None
        from botvision.attention.tiled_kernels import key_gradient_kernel, query_gradient_kernel

        q, k, v, rel_h, rel_w = laid_out(*inputs)
        grad = grad.contiguous()
        delta = torch.empty_like(total)  # Σ grad·out, B M N
        dq, dk, dv, drel_w = (torch.empty_like(t) for t in (q, k, v, rel_w))
        drel_h = torch.empty_like(rel_h, dtype=rel_w.dtype)
        inputs = (q, k, v, rel_h, rel_w, total, grad)
        rest, groups = arguments(q, v, rel_h, rel_w, ctx.scale), q.shape[:2].numel()
        if groups:
            blocks, rows = -(-q.shape[2] // rest["BLOCK"]), -(-rel_h.shape[2] // rest["ROWS"])
            with torch.cuda.device_of(q):  # one after the other: the second reads the first's delta
                query_gradient_kernel[blocks, groups](*inputs, out, delta, dq, drel_h, drel_w, **rest)
                key_gradient_kernel[rows, groups](*inputs, delta, dk, dv, **rest)
        return dq, dk, dv, drel_h.mT, drel_w, None


def laid_out(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, ...]:
    """The inputs as the kernels read them; rel_h is turned, B M H N: a row of keys at a time.

    And in float32: copies of two bytes a thread cannot run beside the products.
    """
    turned = rel_h.mT.to(torch.float32, memory_format=torch.contiguous_format)  # as it is, where it is float32 already
    return *(t.contiguous() for t in (q, k, v)), turned.contiguous(), rel_w.contiguous()


def arguments(q: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> dict[str, Any]:
    """What every kernel is told besides its tensors: true sizes, tile sizes, and how exact float32 products are."""
    row = tile_side(rel_w.shape[3])
    return {
        "height": loop_bound(rel_h.shape[2]),
        "width": loop_bound(rel_w.shape[3]),
        "dim": q.shape[3],
        "value_dim": v.shape[3],
        "scale": scale,
        "ROW": row,
        "D": tile_side(q.shape[3]),
        "DV": tile_side(v.shape[3]),
        "PRECISION": precision(q.dtype),
        **tiles(q, row),
    }


def tiles(q: Tensor, row: int) -> dict[str, int]:
    """Queries (BLOCK) and rows of keys (ROWS) of a tile, warps and stages.

    Chosen by what the compiler reports for compute capability 9.0, heads of 128 channels. Of chained products each warp
    group takes 64 queries, so 8 warps need 128, or half of them multiply the others' numbers again; 64 keys a
    tile spill next to nothing in 16 bits, 128 keys do. The key gradients then hold 199,680 bytes; with 64 queries and 4
    warps 116,224 in two stages, 73,728 in one. For capabilities 10.x and 11.x the compiler keeps products elsewhere:
    tiles of 128 queries come to 280,640 bytes, more than a block may have; with 64 to 165,440.
    """
    if q.dtype == torch.float32:
        return {"BLOCK": 32, "ROWS": 1, "num_warps": 8, "num_stages": 1}
    if row > KEYS:
        return {"BLOCK": 32, "ROWS": 1, "num_warps": 8, "num_stages": 2}
    memory, processors, major = on_chip(q.device)
    rows = KEYS // row
    if memory >= 200_000 and major not in BLACKWELL and q.shape[:2].numel() * -(-q.shape[2] // 128) >= processors:
        return {"BLOCK": 128, "ROWS": rows, "num_warps": 8, "num_stages": 2}
    return {"BLOCK": 64, "ROWS": rows, "num_warps": 4, "num_stages": 2 if memory >= 117_000 else 1}


@lru_cache
def on_chip(device: torch.device) -> tuple[int, int, int]:
    """Bytes of shared memory that a block may have, multiprocessors, and the compute capability's first number.

    An interpreted kernel has a large GPU's.
    """
    if device.type != "cuda":
        return 232_448, 0, 9
    about = torch.cuda.get_device_properties(device)
    memory = getattr(about, "shared_memory_per_block_optin", 101_376)
    return memory, about.multi_processor_count, about.major


def loop_bound(side: int) -> Any:
    """A side that kernels count up to; for the interpreter a constant, which a compiled kernel would be made anew for.

    Triton 3.6's interpreter holds a number as an array of one, which numpy from 2.4 on does not take for a number.
    """
    if not is_interpreted():
        return side
    from triton.language import constexpr

    return constexpr(side)


def precision(dtype: torch.dtype) -> str:
    """How exact products are: as exact as the dtype, unless torch was told that TensorFloat will do for float32."""
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def tile_side(size: int) -> int:
    """The power of two that covers `size`, 16 at least, as tensor cores want."""
    return max(16, 1 << max(size - 1, 0).bit_length())
