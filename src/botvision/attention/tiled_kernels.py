"""Triton kernels of attention with 2-D positions: a block of queries × some rows of keys."""

# B batch, M heads, G = B·M groups, H×W map, N = H·W tokens, D head dim; rel_h comes transposed and in float32, G H N
# logits are kept in units of ln 2: exp2 is one instruction, and exp is two

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_tile(pointer, rows, columns, inside, width):
    """Rows of a matrix of `width` columns, zeros where a row is not inside, or a column beyond."""
    mask = inside[:, None] & (columns < width)[None, :]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=mask, other=0.0)


@triton.jit
def store_tile(pointer, tile, rows, columns, inside, width):
    """Write a tile into a matrix of `width` columns, as far as it is inside."""
    mask = inside[:, None] & (columns < width)[None, :]
    tl.store(pointer + rows[:, None] * width + columns[None, :], tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_rel_w(pointer, queries, columns, inside, width):
    """Column logits of a block of queries; keys beyond the map get none of the weight."""
    real = (columns < width)[None, :]
    tile = tl.load(pointer + queries[:, None] * width + columns[None, :], mask=inside[:, None] & real, other=0.0)
    return tl.where(real, tile.to(tl.float32) * LOG2E, -float("inf"))


@triton.jit
def add_rel_h(logits, pointer, queries, rows, inside, y, height, tokens, ROWS: tl.constexpr):
    """Row logits on top; rows of keys beyond the map get none of the weight. `pointer` is that of row y."""
    for r in tl.static_range(ROWS):
        rel_h = tl.load(pointer + r * tokens + queries, mask=inside & (y + r < height), other=0.0) * LOG2E
        rel_h = tl.where(y + r < height, rel_h, -float("inf"))
        logits += rel_h[:, None] if ROWS == 1 else tl.where((rows == r)[None, :], rel_h[:, None], 0.0)
    return logits


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, out_ptr, total_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of queries over all rows of keys: an online softmax."""
    tokens = height * width
    group = tl.program_id(1).to(tl.int64)
    queries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = queries < tokens
    keys, channels, values = tl.arange(0, ROWS * ROW), tl.arange(0, D), tl.arange(0, DV)
    rows, columns = keys // ROW, keys % ROW
    places = rows * width + columns
    q = load_tile(q_ptr + group * tokens * dim, queries, channels, inside, dim)
    rel_w = load_rel_w(rel_w_ptr + group * tokens * width, queries, columns, inside, width)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, DV], tl.float32)
    for y in range(0, height, ROWS):
        real = (columns < width) & (y + rows < height)
        k = load_tile(k_ptr + (group * tokens + y * width) * dim, places, channels, real, dim)
        v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, places, values, real, value_dim)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + rel_w
        row_ptr = rel_h_ptr + (group * height + y) * tokens
        if ROWS == 1:  # a number for all of a row's keys: it need not touch the tile
            rel_h = tl.load(row_ptr + queries, mask=inside, other=0.0) * LOG2E
            new_largest = tl.maximum(largest, tl.max(logits, 1) + rel_h)
            weights = tl.exp2(logits - (new_largest - rel_h)[:, None])
        else:
            logits = add_rel_h(logits, row_ptr, queries, rows, inside, y, height, tokens, ROWS)
            new_largest = tl.maximum(largest, tl.max(logits, 1))
            weights = tl.exp2(logits - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(weights, 1)
        out = tl.dot(weights.to(v.dtype), v, out * shrink[:, None], input_precision=PRECISION)
        largest = new_largest
    store_tile(out_ptr + group * tokens * value_dim, out / total[:, None], queries, values, inside, value_dim)
    tl.store(total_ptr + group * tokens + queries, largest + tl.log2(total), mask=inside)


@triton.jit
def query_gradient_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, total_ptr, grad_ptr, out_ptr, delta_ptr, dq_ptr, drel_h_ptr, drel_w_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, drel_h and drel_w of one block of queries, and delta = Σ grad·out, which `key_gradient_kernel` reads.

    Sums inside the tile, one writer for each number.
    """
    tokens = height * width
    group = tl.program_id(1).to(tl.int64)
    queries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = queries < tokens
    keys, channels, values = tl.arange(0, ROWS * ROW), tl.arange(0, D), tl.arange(0, DV)
    rows, columns = keys // ROW, keys % ROW
    places = rows * width + columns
    q = load_tile(q_ptr + group * tokens * dim, queries, channels, inside, dim)
    grad = load_tile(grad_ptr + group * tokens * value_dim, queries, values, inside, value_dim)
    out = load_tile(out_ptr + group * tokens * value_dim, queries, values, inside, value_dim)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + group * tokens + queries, delta, mask=inside)
    rel_w = load_rel_w(rel_w_ptr + group * tokens * width, queries, columns, inside, width)
    total = tl.load(total_ptr + group * tokens + queries, mask=inside, other=0.0)
    dq = tl.zeros([BLOCK, D], tl.float32)
    drel_w = tl.zeros([BLOCK, ROWS * ROW], tl.float32)
    for y in range(0, height, ROWS):
        real = (columns < width) & (y + rows < height)
        k = load_tile(k_ptr + (group * tokens + y * width) * dim, places, channels, real, dim)
        v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, places, values, real, value_dim)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + rel_w
        row_ptr = rel_h_ptr + (group * height + y) * tokens
        logits = add_rel_h(logits, row_ptr, queries, rows, inside, y, height, tokens, ROWS)
        weights = tl.exp2(logits - total[:, None])
        dlogits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(dlogits.to(k.dtype), k, dq, input_precision=PRECISION)
        drel_w += dlogits
        for r in tl.static_range(ROWS):
            sums = tl.sum(dlogits if ROWS == 1 else tl.where((rows == r)[None, :], dlogits, 0.0), 1)
            where = drel_h_ptr + (group * height + y + r) * tokens + queries
            tl.store(where, sums.to(drel_h_ptr.dtype.element_ty), mask=inside & (y + r < height))
    store_tile(dq_ptr + group * tokens * dim, dq * scale, queries, channels, inside, dim)
    if ROWS > 1:
        drel_w = tl.sum(tl.reshape(drel_w, [BLOCK, ROWS, ROW]), 1)
    store_tile(drel_w_ptr + group * tokens * width, drel_w, queries, tl.arange(0, ROW), inside, width)


@triton.jit
def key_gradient_kernel(
    q_ptr, k_ptr, v_ptr, rel_h_ptr, rel_w_ptr, total_ptr, grad_ptr, delta_ptr, dk_ptr, dv_ptr,
    height, width, dim, value_dim, scale,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of some rows of keys, over all blocks of queries.

    Both are summed up transposed: their products then have the channels as rows, and not the keys of a short row,
    which are fewer than a warp group multiplies.
    """
    tokens = height * width
    group, y = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS
    keys, channels, values = tl.arange(0, ROWS * ROW), tl.arange(0, D), tl.arange(0, DV)
    rows, columns = keys // ROW, keys % ROW
    places = rows * width + columns
    real = (columns < width) & (y + rows < height)
    k = load_tile(k_ptr + (group * tokens + y * width) * dim, places, channels, real, dim)
    v = load_tile(v_ptr + (group * tokens + y * width) * value_dim, places, values, real, value_dim)
    dk = tl.zeros([D, ROWS * ROW], tl.float32)
    dv = tl.zeros([DV, ROWS * ROW], tl.float32)
    for start in range(0, height * width, BLOCK):  # not `tokens`: see `loop_bound`
        queries = start + tl.arange(0, BLOCK)
        inside = queries < tokens
        q = load_tile(q_ptr + group * tokens * dim, queries, channels, inside, dim)
        grad = load_tile(grad_ptr + group * tokens * value_dim, queries, values, inside, value_dim)
        rel_w = load_rel_w(rel_w_ptr + group * tokens * width, queries, columns, inside, width)
        total = tl.load(total_ptr + group * tokens + queries, mask=inside, other=float("inf"))
        delta = tl.load(delta_ptr + group * tokens + queries, mask=inside, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2E) + rel_w
        row_ptr = rel_h_ptr + (group * height + y) * tokens
        logits = add_rel_h(logits, row_ptr, queries, rows, inside, y, height, tokens, ROWS)
        weights = tl.exp2(logits - total[:, None])  # queries beyond the map: exp2(−inf) = 0
        dlogits = weights * (tl.dot(grad, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dv = tl.dot(tl.trans(grad), weights.to(grad.dtype), dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(q), dlogits.to(q.dtype), dk, input_precision=PRECISION)
    store_tile(dk_ptr + (group * tokens + y * width) * dim, tl.trans(dk) * scale, places, channels, real, dim)
    store_tile(dv_ptr + (group * tokens + y * width) * value_dim, tl.trans(dv), places, values, real, value_dim)
