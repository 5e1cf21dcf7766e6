"""Other forms of a directional start than the layer's own: they add parameters, and are not in the package."""

# M heads, D head dim, H×W map, N = H·W tokens

from collections.abc import Callable

import torch
from torch import Tensor, nn

from botvision import MHSA2d
from botvision.attention import start as layers_start
from botvision.attention.position import offset_table, relative_logits


def plain_tables(layer: MHSA2d) -> None:
    """Take the layer's own directional start back: its projections and tables as small random numbers."""
    nn.init.normal_(layer.qkv.weight, std=layer.qkv_std)
    for name in layer.table_names():
        nn.init.normal_(getattr(layer, name), std=layer.position_std)


def hills(layer: MHSA2d) -> tuple[Tensor, Tensor]:
    """The same hills as the layer's own start's: (M, 2H−1) and (M, 2W−1)."""
    rows, columns = zip(*layers_start.hills(layer.num_heads, layer.max_size(), layer.start_distance), strict=True)
    return torch.stack(rows).float(), torch.stack(columns).float()


class PositionBias(MHSA2d):
    """A bias added to q in the position term alone: Transformer-XL's v (arXiv 1901.02860)."""

    v: Tensor  # (M, D)

    def position_logits(self, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(q + v)·r."""
        return super().position_logits(q + self.v[None, :, None, :], size)


class PerHead(MHSA2d):
    """A table of logits for each head, rows and columns, added to the paper's."""

    head_h: Tensor  # (M, 2H−1)
    head_w: Tensor  # (M, 2W−1)

    def position_logits(self, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """q·r + the head's own."""
        own = head_logits(self, q, size)
        shared = super().position_logits(q, size)
        return shared[0] + own[0], shared[1] + own[1]


class Gated(PerHead):
    """ConViT's form (arXiv 2103.10697): attention by content and attention by position, mixed by a gate a head."""

    gate: Tensor  # (M,)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        size = (x.shape[2], x.shape[3])
        q, k, v = self.project(x)
        rel_h, rel_w = head_logits(self, q, size)
        by_position = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2).softmax(-1)
        by_content = (q @ k.transpose(-1, -2) * self.scale).softmax(-1)
        gate = self.gate.sigmoid()[None, :, None, None]
        out = ((1 - gate) * by_content + gate * by_position) @ v
        return out.transpose(1, 2).flatten(2).unflatten(1, size).permute(0, 3, 1, 2)


def head_logits(layer: PerHead, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The heads' own tables as logits of every query: (B, M, N, H) and (B, M, N, W)."""
    which = torch.eye(layer.num_heads, dtype=q.dtype)[None, :, None].expand(*q.shape[:3], -1)
    tables = (layer.head_h, layer.head_w)
    by_offset = [
        offset_table(table.T[None], side, extend=layer.extend).to(q.dtype)
        for table, side in zip(tables, size, strict=True)
    ]
    return relative_logits(which, *by_offset, size=size)


def q_bias(layer: MHSA2d) -> None:
    """A bias of 1 on channel m of head m's query, met by the tables' channel m; both terms feel it."""
    layer.qkv.bias = nn.Parameter(one_a_head(layer).flatten())
    tables = [getattr(layer, name).detach().clone() for name in layer.table_names()]
    plain_tables(layer)
    for name, table in zip(layer.table_names(), tables, strict=True):
        getattr(layer, name).data[..., : layer.num_heads] = table[..., : layer.num_heads]
    for head in range(layer.num_heads):  # the other channels that meet a hill are 0, as in the layer's own start
        layer.qkv.weight.data[head * layer.head_dim :][: layer.num_heads] = 0


def one_a_head(layer: MHSA2d) -> Tensor:
    """(parts·M, D): 1 in channel m of head m's query, else 0."""
    bias = torch.zeros(layer.parts * layer.num_heads, layer.head_dim)
    bias[: layer.num_heads].fill_diagonal_(1)
    return bias


def v_bias(layer: MHSA2d) -> None:
    """As `q_bias`, in the position term alone."""
    q_bias(layer)
    layer.qkv.bias = None
    layer.__class__ = PositionBias
    layer.v = nn.Parameter(one_a_head(layer)[: layer.num_heads].clone())


def per_head(layer: MHSA2d) -> None:
    """Each head's hill in a table of its own."""
    plain_tables(layer)
    rows, columns = hills(layer)
    layer.__class__ = PerHead
    layer.head_h, layer.head_w = nn.Parameter(rows), nn.Parameter(columns)


def gated(layer: MHSA2d) -> None:
    """As `per_head`, in an attention of its own; gates at 1, as ConViT's."""
    per_head(layer)
    layer.__class__ = Gated
    layer.gate = nn.Parameter(torch.ones(layer.num_heads))


def begun_with(name: str, value: object) -> Callable[[MHSA2d], None]:
    """The layer's own start with another value of one of its constants."""

    def form(layer: MHSA2d) -> None:
        usual = getattr(layers_start, name)
        setattr(layers_start, name, value)
        try:
            layer.reset_parameters()
        finally:
            setattr(layers_start, name, usual)

    return form


FORMS: dict[str, Callable[[MHSA2d], None]] = {
    "q_bias": q_bias,
    "v_bias": v_bias,
    "per_head": per_head,
    "gated": gated,
    "free": begun_with("MOST", 4),
    "soft": begun_with("WIDTH", 3 / 4),
    "sharp": begun_with("WIDTH", 1 / 6),
}


def give_form(model: nn.Module, form: str) -> None:
    """Begin every attention layer of a model in this form."""
    for layer in model.modules():
        if isinstance(layer, MHSA2d):
            with torch.no_grad():
                FORMS[form](layer)
