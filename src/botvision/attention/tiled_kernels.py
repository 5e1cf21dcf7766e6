"""Triton kernels of attention with 2-D positions: a block of queries × one row of keys."""

# B batch, M heads, G = B·M groups, H×W map, N = H·W tokens, D head dim; rel_h comes transposed, G H N

import triton
import triton.language as tl


@triton.jit
def load_tile(pointer, rows, columns, height, width):
    """A (rows, columns) tile of a (height, width) matrix, zeros outside it."""
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(pointer, tile, rows, columns, height, width):
    """Write a tile into a (height, width) matrix, as far as it is inside."""
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(pointer + rows[:, None] * width + columns[None, :], tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def tile_logits(q, k, rel_h, rel_w, columns, width, scale, PRECISION: tl.constexpr):
    """Logits of a block of queries against one row of keys; keys beyond the map get none of the weight."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + rel_h[:, None] + rel_w
    return tl.where((columns < width)[None, :], logits, -float("inf"))


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, out_ptr, total_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of queries over all rows of keys: an online softmax; rel_h is read transposed, a row at a time."""
    tokens = height * width
    group = tl.program_id(0).to(tl.int64)
    queries = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns, channels, values = tl.arange(0, ROW), tl.arange(0, D), tl.arange(0, DV)
    q = load_tile(q_ptr + group * tokens * dim, queries, channels, tokens, dim)
    rel_w = load_tile(rel_w_ptr + group * tokens * width, queries, columns, tokens, width).to(tl.float32)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, DV], tl.float32)
    for y in range(height):
        k = load_tile(k_ptr + (group * tokens + y * width) * dim, columns, channels, width, dim)
        v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, columns, values, width, value_dim)
        rel_h = tl.load(rel_h_ptr + (group * height + y) * tokens + queries, mask=queries < tokens, other=0.0)
        logits = tile_logits(q, k, rel_h.to(tl.float32), rel_w, columns, width, scale, PRECISION)
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp(logits - new_largest[:, None])
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        largest = new_largest
    store_tile(out_ptr + group * tokens * value_dim, out / total[:, None], queries, values, tokens, value_dim)
    tl.store(total_ptr + group * tokens + queries, largest + tl.log(total), mask=queries < tokens)


@triton.jit
def query_gradient_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, total_ptr, grad_ptr, delta_ptr, dq_ptr, drel_h_ptr, drel_w_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, drel_h and drel_w of one block of queries: sums inside the tile, one writer for each number."""
    tokens = height * width
    group = tl.program_id(0).to(tl.int64)
    queries = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns, channels, values = tl.arange(0, ROW), tl.arange(0, D), tl.arange(0, DV)
    inside = queries < tokens
    q = load_tile(q_ptr + group * tokens * dim, queries, channels, tokens, dim)
    grad = load_tile(grad_ptr + group * tokens * value_dim, queries, values, tokens, value_dim)
    rel_w = load_tile(rel_w_ptr + group * tokens * width, queries, columns, tokens, width).to(tl.float32)
    total = tl.load(total_ptr + group * tokens + queries, mask=inside, other=0.0)
    delta = tl.load(delta_ptr + group * tokens + queries, mask=inside, other=0.0)
    dq = tl.zeros([BLOCK, D], tl.float32)
    drel_w = tl.zeros([BLOCK, ROW], tl.float32)
    for y in range(height):
        k = load_tile(k_ptr + (group * tokens + y * width) * dim, columns, channels, width, dim)
        v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, columns, values, width, value_dim)
        rel_h = tl.load(rel_h_ptr + (group * height + y) * tokens + queries, mask=inside, other=0.0)
        logits = tile_logits(q, k, rel_h.to(tl.float32), rel_w, columns, width, scale, PRECISION)
        weights = tl.exp(logits - total[:, None])
        dlogits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq += tl.dot(dlogits.to(k.dtype), k, input_precision=PRECISION) * scale
        drel_w += dlogits
        sums = tl.sum(dlogits, 1)
        where = drel_h_ptr + (group * height + y) * tokens + queries
        tl.store(where, sums.to(drel_h_ptr.dtype.element_ty), mask=inside)
    store_tile(dq_ptr + group * tokens * dim, dq, queries, channels, tokens, dim)
    store_tile(drel_w_ptr + group * tokens * width, drel_w, queries, columns, tokens, width)


@triton.jit
def key_gradient_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, total_ptr, grad_ptr, delta_ptr, dk_ptr, dv_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one row of keys, over all blocks of queries."""
    tokens = height * width
    group, y = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns, channels, values = tl.arange(0, ROW), tl.arange(0, D), tl.arange(0, DV)
    k = load_tile(k_ptr + (group * tokens + y * width) * dim, columns, channels, width, dim)
    v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, columns, values, width, value_dim)
    dk = tl.zeros([ROW, D], tl.float32)
    dv = tl.zeros([ROW, DV], tl.float32)
    for start in range(0, height * width, BLOCK):  # not `tokens`: see `loop_bound`
        queries = start + tl.arange(0, BLOCK)
        inside = queries < tokens
        q = load_tile(q_ptr + group * tokens * dim, queries, channels, tokens, dim)
        grad = load_tile(grad_ptr + group * tokens * value_dim, queries, values, tokens, value_dim)
        rel_h = tl.load(rel_h_ptr + (group * height + y) * tokens + queries, mask=inside, other=0.0)
        rel_w = load_tile(rel_w_ptr + group * tokens * width, queries, columns, tokens, width).to(tl.float32)
        total = tl.load(total_ptr + group * tokens + queries, mask=inside, other=float("inf"))
        delta = tl.load(delta_ptr + group * tokens + queries, mask=inside, other=0.0)
        logits = tile_logits(q, k, rel_h.to(tl.float32), rel_w, columns, width, scale, PRECISION)
        weights = tl.exp(logits - total[:, None])  # queries beyond the map: exp(−inf) = 0
        dv += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision=PRECISION)
        dlogits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dk += tl.dot(tl.trans(dlogits.to(q.dtype)), q, input_precision=PRECISION) * scale
    store_tile(dk_ptr + (group * tokens + y * width) * dim, dk, columns, channels, width, dim)
    store_tile(dv_ptr + (group * tokens + y * width) * value_dim, dv, columns, values, width, value_dim)
