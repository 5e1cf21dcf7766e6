"""Relative and absolute position embeddings: rows per offset or coordinate, for any map size."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim, L longest side that a table covers exactly

import torch
from torch import Tensor

from botvision.attention.graphs import is_followed


def relative_logits(q: Tensor, table_h: Tensor, table_w: Tensor, *, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column logits `q·R[key − query]`, factored as in the paper's published code.

    Args:
        q: (B, heads, H·W, D).
        table_h, table_w: (2H−1, D) and (2W−1, D), row `offset + (side − 1)`; q or they come scaled.
        size: (H, W).

    Returns:
        rel_h (B, heads, N, H) and rel_w (B, heads, N, W).
    """
    if torch.jit.is_scripting() or is_followed():
        return pick_both(q @ table_h.T, q @ table_w.T, size=size)
    of_rows, of_columns = offset_products(q, table_h, table_w)
    rel_h = slide(of_rows.unflatten(2, size), along=2)
    rel_w = slide(of_columns.unflatten(2, size), along=3)
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def offset_products(q: Tensor, table_h: Tensor, table_w: Tensor) -> tuple[Tensor, Tensor]:
    """Queries with every offset of rows and of columns: B M N 2H−1, B M N 2W−1."""
    if torch.is_grad_enabled() and q.requires_grad:
        q = q.contiguous()  # products copy a strided q and keep the copy: one for both
        return q @ table_h.T, q @ table_w.T
    both = q @ torch.cat([table_h, table_w]).T  # faster; its backward would hold one map more
    return both[..., : table_h.shape[0]], both[..., table_h.shape[0] :]


def pick_both(of_rows: Tensor, of_columns: Tensor, *, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column logits by gathering, for graphs: their sizes are free, and strides are not."""
    row, column = places(torch.arange(size[0] * size[1], device=of_rows.device), size[1])
    return pick(of_rows, query=row, side=size[0]), pick(of_columns, query=column, side=size[1])


def places(token: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of each token: without a remainder, which one of torch's ONNX exporters refuses of a free size."""
    row = token // width
    return row, token - row * width


def slide(products: Tensor, *, along: int) -> Tensor:
    """(B, M, H, W, 2S−1) products with every offset → (B, M, H, W, S) with every key, S the side of dimension `along`.

    Key j of a query at place i has offset j − i, row S−1 − i + j: one step along the side is one row back, so the
    result is the same memory under other strides.
    """
    side = products.shape[along]
    strides = [*products.stride()]
    strides[along] -= 1
    return products.as_strided((*products.shape[:-1], side), strides, products.storage_offset() + side - 1)


def pick(products: Tensor, *, query: Tensor, side: int) -> Tensor:
    """What `slide` does, by gathering: (B, M, N, 2·side−1) → (B, M, N, side)."""
    key = torch.arange(side, device=products.device)
    offset = key - query[:, None] + (side - 1)  # N side
    every = torch.zeros_like(products[..., :1], dtype=offset.dtype)  # B M N 1; a size is written down by some exporters
    return products.gather(-1, every + offset)


def offset_table(table: Tensor, side: int, *, extend: str) -> Tensor:
    """Rows for the offsets −(side−1) … side−1 of a map: (1, 2L−1, D) → (2·side−1, D).

    A side up to L reads the centre rows exactly. Beyond it, "clamp" repeats the outermost rows and "stretch" spreads
    all rows over the longer side, in between by linear interpolation. A recorded graph does not branch on a size.
    """
    reach = (table.shape[1] - 1) // 2  # L − 1, the furthest offset that has a row
    if (torch.jit.is_scripting() or not is_followed()) and side - 1 <= reach:
        return table[0, reach + 1 - side : reach + side]  # what the arithmetic below finds, without a kernel
    offsets = torch.arange(1 - side, side, device=table.device)
    if extend == "clamp":
        return table[0, at_least(at_most(offsets, reach), -reach) + reach]
    longest = at_least(offsets[-1], max(reach, 1))
    return interpolate(table[0], (offsets + longest) * reach, longest)


def coordinate_table(table: Tensor, side: int, *, extend: str) -> Tensor:
    """Rows for the coordinates 0 … side−1 of a map: (1, L, D) → (side, D); beyond L as in `offset_table`."""
    last = table.shape[1] - 1
    places = torch.arange(side, device=table.device)
    if extend == "clamp":
        return table[0, at_most(places, last)]
    return interpolate(table[0], places * last, at_least(places[-1], max(last, 1)))


def interpolate(rows: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Read `rows` at the places numerator / denominator, linearly; a whole place returns its row bit for bit."""
    low = torch.div(numerator, denominator, rounding_mode="floor")
    weight = ((numerator - low * denominator).to(rows.dtype) / denominator)[:, None]
    return torch.lerp(rows[low], rows[at_most(low + 1, rows.shape[0] - 1)], weight)


def at_least(x: Tensor, least: int) -> Tensor:
    """`x.clamp(min=least)` of whole numbers, which ONNX knows from opset 12 on alone."""
    return torch.where(x < least, least, x)


def at_most(x: Tensor, most: int) -> Tensor:
    """`x.clamp(max=most)`, as above."""
    return torch.where(x > most, most, x)
