"""What is stored of an attention layer: q, k and position tables, as exact as rows need them."""

# M heads, D head dim, H×W map, N = H·W tokens, Q queries that are looked at

import base64
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from botvision.attention import HeadStatistics, Watched, entropy_share
from botvision.attention.position import coordinate_table, offset_table
from botvision.attention.statistics import spread_out

DType = Literal["auto", "float16", "float32"]
EXACT = 1e-6  # largest error of a weight that a row may have
QUERIES = 512  # whose rows are compared to choose
PIECE = 128  # of these at a time
DTYPES = {"float16": torch.float16, "float32": torch.float32}
PARTS = {True: ("both", "content", "position"), False: ("both",)}


@dataclass(frozen=True)
class Block:
    """An attention layer on one image.

    Attributes:
        name: of the layer.
        position: as the layer's.
        size: (H, W).
        scale: of every logit.
        q, k: (M, N, D); k is none where the logits have no content.
        table_h, table_w: (2H−1, D), (2W−1, D) by offset, or with "absolute" (H, D), (W, D); none without positions.
        statistics: of each head.
        shared: entropy of what all places look at together, as a share of log N, of each head: small where they look at
            the same few.
        dtype: that q and k are stored in.
        error: largest difference of a weight to the exact one's, of the rows that were compared.
    """

    name: str
    position: str
    size: tuple[int, int]
    scale: float
    q: Tensor
    k: Tensor | None
    table_h: Tensor | None
    table_w: Tensor | None
    statistics: tuple[HeadStatistics, ...]
    shared: tuple[float, ...] = ()
    dtype: str = "float32"
    error: float = 0.0

    @property
    def parts(self) -> tuple[str, ...]:
        """What its rows can be of."""
        return PARTS[self.k is not None and self.table_h is not None]

    def rows(self, chosen: Tensor, part: str = "both") -> Tensor:
        """(M, Q, N) weights of the chosen queries as the page computes them, in float64."""
        q = self.q[:, chosen].double()
        logits = q.new_zeros(())
        if self.k is not None and part != "position":
            logits = q @ self.k.double().mT
        if self.table_h is not None and self.table_w is not None and part != "content":
            down, across = (q @ table.double().T for table in (self.table_h, self.table_w))  # M Q rows
            if self.position != "absolute":
                y, x = chosen // self.size[1], chosen % self.size[1]
                down, across = (offsets(t, at, n) for t, at, n in zip((down, across), (y, x), self.size, strict=True))
            logits = logits + (down[..., :, None] + across[..., None, :]).flatten(-2)
        return (logits * self.scale).softmax(-1)

    def table_maps(self) -> Tensor:
        """(M, 2H−1, 2W−1) scaled logits of each head's mean query by offset, or by place (M, H, W) with "absolute"."""
        assert self.table_h is not None
        assert self.table_w is not None
        query = self.q.double().mean(1)  # M D
        down, across = (query @ table.double().T * self.scale for table in (self.table_h, self.table_w))
        return down[:, :, None] + across[:, None, :]

    def stored_as(self, dtype: str) -> "Block":
        """The block with q and k rounded, and the error that this makes."""
        kind = DTYPES[dtype]
        q, k = self.q.to(kind).float(), None if self.k is None else self.k.to(kind).float()
        rounded = replace(self, q=q, k=k, dtype=dtype)
        some = product(spread_out(self.size, QUERIES).split(PIECE), self.parts)
        differences = [(rounded.rows(chosen, part) - self.rows(chosen, part)).abs().max() for chosen, part in some]
        return replace(rounded, error=float(max(differences)))

    def plain(self) -> dict[str, Any]:
        """What the page reads, arrays in base64."""
        heads, _, dim = self.q.shape
        stored = {"q": (self.q, self.dtype), "k": (self.k, self.dtype)}
        stored |= {"table_h": (self.table_h, "float32"), "table_w": (self.table_w, "float32")}
        return {
            "kind": "attention", "name": self.name, "position": self.position, "height": self.size[0],
            "width": self.size[1], "heads": heads, "dim": dim, "scale": self.scale, "dtype": self.dtype,
            "error": self.error, "parts": self.parts,
            **{name: None if values is None else encoded(values, dtype) for name, (values, dtype) in stored.items()},
            "statistics": [[head.entropy, head.distance, head.down, head.right] for head in self.statistics],
        }  # fmt: skip


def offsets(products: Tensor, at: Tensor, side: int) -> Tensor:
    """(M, Q, 2·side−1) products with every offset → (M, Q, side) with every key, of queries at the places `at`."""
    wanted = torch.arange(side) - at[:, None] + side - 1  # Q side
    return products.gather(-1, wanted.expand(len(products), -1, -1))


@torch.no_grad()
def block_of(seen: Watched, dtype: DType) -> Block:
    """A layer that has run on one image.

    Args:
        seen: the layer and its input.
        dtype: of q and k: "auto" is float16 where the weights of up to 512 queries, spread over the map, stay within
            1e-6 of the exact ones, or float32.
    """
    layer, (height, width) = seen.layer, seen.size
    q, k, _ = layer.project(seen.input(0))
    read = coordinate_table if layer.absolute else offset_table
    sides = zip(layer.table_names(), (height, width), strict=False)
    tables = [read(getattr(layer, table), side, extend=layer.extend).float().clone() for table, side in sides]
    block = Block(
        name=seen.name.removesuffix(".mhsa").removeprefix("pyramid.body."),
        position=layer.position,
        size=seen.size,
        scale=layer.scale,
        q=q[0].float().contiguous(),
        k=k[0].float().contiguous() if layer.content else None,
        table_h=tables[0] if tables else None,
        table_w=tables[1] if tables else None,
        statistics=tuple(seen.statistics()),
    )
    queries = spread_out(block.size, QUERIES)
    together = torch.stack([block.rows(some).sum(1) for some in queries.split(PIECE)]).sum(0) / len(queries)  # M N
    block = replace(block, shared=tuple(entropy_share(together).tolist()))
    if dtype != "auto":
        return block.stored_as(dtype)
    small = block.stored_as("float16")
    return small if small.error <= EXACT else block.stored_as("float32")


def encoded(values: Tensor, dtype: str = "float32") -> str:
    """Little-endian numbers in base64."""
    array = values.detach().to(DTYPES[dtype]).cpu().contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def in_words(head: HeadStatistics, shared: float, cell: tuple[float, float]) -> str:
    """A sentence on where a head looks, a mean over the map.

    Args:
        head: what it does.
        shared: see `Block`.
        cell: (height, width) px of a cell of the map.
    """
    away = head.distance * (cell[0] + cell[1]) / 2
    down, right = head.down * cell[0], head.right * cell[1]
    drift = (down**2 + right**2) ** 0.5
    if head.entropy >= 0.99:
        return "This head averages: it weighs all places almost alike."
    if shared <= 0.5:
        return "This head looks at the same few places from everywhere."
    if drift >= max(away / 2, min(cell)):
        return f"This head looks {direction(down, right)}, {drift:.0f} px."
    if head.distance <= 1.5:
        return f"This head looks at its own surroundings, {away:.0f} px on average."
    if head.entropy <= 0.5:
        return f"This head picks few places, in no one direction, {away:.0f} px away on average."
    return f"This head spreads widely, {away:.0f} px away on average."


def direction(down: float, right: float) -> str:
    """Left, right, up, down, or two of them where neither is more than twice the other."""
    vertical, horizontal = "down" if down > 0 else "up", "right" if right > 0 else "left"
    if abs(down) > 2 * abs(right):
        return vertical
    return horizontal if abs(right) > 2 * abs(down) else f"{vertical} and {horizontal}"
