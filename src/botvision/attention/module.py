"""`MHSA2d`: multi-head self-attention of BoTNet, 2-D relative positions, any image size."""

# B batch, M heads, C channels, H×W map, N = H·W tokens, D = C/M head dim, L longest exact side

import logging
from numbers import Integral
from typing import Any, Final

import torch
from torch import Tensor, nn

from botvision.attention.dispatch import BACKENDS, dispatched
from botvision.attention.graphs import has_memory_formats, is_recorded
from botvision.attention.position import coordinate_table, offset_table, relative_logits
from botvision.attention.start import BEHIND_RELU, check_start, check_stds, hills

log = logging.getLogger("botvision.attention")

POSITIONS = ("relative", "absolute", "relative_only", "none")
EXTENSIONS = ("stretch", "clamp")


class MHSA2d(nn.Module):
    """Multi-head self-attention over all pixels, with 2-D positions (BoTNet, arXiv 2101.11605, Fig. 4).

    Query, key and value are 1×1 convolutions without bias; there is no output projection. The query is scaled once by
    D^-0.5, before the content term and the position term. Position tables are shared by the heads. A state dict with
    tables of another size loads: they are read at this layer's size, as `extend` says.

    Positions, in the paper's ablation: "relative" (`q·k + q·r`, offsets key − query), "absolute" (`q·k + q·emb`),
    "relative_only" (`q·r`) and "none" (`q·k`). "relative_only" has no key projection.

    Attributes:
        rel_h, rel_w: (1, 2L−1, D) offset tables, row `offset + L − 1`; with "absolute" `abs_h`, `abs_w` of (1, L, D).
        qkv: the projections in one convolution, channels ordered q, k, v, each head by head.

    Args:
        dim: input and output channels.
        num_heads: must divide `dim`; the paper uses 4.
        position: one of `POSITIONS`. With "none" the output is torch's own attention's, which it keeps for the
            backward: in training nothing behind it may change it in place.
        max_size: (H, W) of the largest map whose every offset has a row of its own; 14×14 is ImageNet at stride 16.
        extend: what larger maps do: "stretch" interpolates the tables, "clamp" repeats the outermost rows.
        qkv_bias: a bias on the projections, which the paper does not have and some other ports do.
        start: initial weights. "paper": the authors', with which attention begins as a plain average over the map.
            "directional": the heads look right, left, down and up from the start, which learns from less data; a
            departure from the paper in the initial weights alone: no parameter more, and the same equation.
        start_distance: how far they look, as a share of `max_size`; the next four heads half as far, a third four one
            and a half times as far, further heads nowhere in particular.
        start_mean: of the input's channels, which a directional start makes its queries of: 0.4 behind BatchNorm and
            ReLU, 0.2 behind SiLU.
        qkv_std: of the projections at the start; by default the authors' 0.01, or with "directional" C^-0.5 / 2.
        position_std: of the tables at the start; by default the authors' D^-0.5, or with "directional" 0.1.
        backend: how `attend` computes it; "auto" chooses.

    Raises:
        ValueError: an option out of its list, `num_heads` that does not divide `dim`, `max_size` below 1, a negative
            standard deviation, or a directional start without relative positions, with more heads than a head has
            channels, or looking farther than a side.
    """

    rel_h: Tensor
    rel_w: Tensor
    abs_h: Tensor
    abs_w: Tensor
    content: Final[bool]  # the logits have q·k
    relative: Final[bool]  # … and q·r
    absolute: Final[bool]  # … and q·emb
    start = "paper"  # of layers pickled whole before there was another
    start_distance = 0.25
    start_mean = BEHIND_RELU

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        position: str = "relative",
        max_size: tuple[int, int] = (14, 14),
        extend: str = "stretch",
        qkv_bias: bool = False,
        start: str = "paper",
        start_distance: float = 0.25,
        start_mean: float = BEHIND_RELU,
        qkv_std: float | None = None,
        position_std: float | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_options(dim, num_heads, position=position, extend=extend, backend=backend)
        head_dim = dim // num_heads
        check_start(start, start_distance, start_mean, position=position, num_heads=num_heads, head_dim=head_dim)
        check_stds(qkv_std=qkv_std, position_std=position_std)
        check_max_size(max_size)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.scale = self.head_dim**-0.5
        self.position = position
        self.content = position != "relative_only"
        self.relative = position in {"relative", "relative_only"}
        self.absolute = position == "absolute"
        self.extend = extend
        self.backend = backend
        self.start = start
        self.start_distance = float(start_distance)
        self.start_mean = float(start_mean)
        looks = start == "directional"
        self.qkv_std = (dim**-0.5 / 2 if looks else 0.01) if qkv_std is None else qkv_std
        self.position_std = (0.1 if looks else self.scale) if position_std is None else position_std
        self.parts = 3 if self.content else 2  # q, (k,) v
        self.qkv = nn.Conv2d(dim, self.parts * dim, kernel_size=1, bias=qkv_bias, device=device, dtype=dtype)
        for name, side in zip(self.table_names(), max_size, strict=False):
            table = torch.empty(1, self.table_rows(side), self.head_dim, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(table))
        self.reset_parameters()

    def table_names(self) -> tuple[str, ...]:
        """Names of the position tables, height first."""
        return ("rel_h", "rel_w") if self.relative else ("abs_h", "abs_w") if self.absolute else ()

    @torch.jit.ignore
    def max_size(self) -> tuple[int, ...]:
        """(H, W) of the largest map whose every offset has a row; empty without tables."""
        rows = [getattr(self, name).shape[1] for name in self.table_names()]
        return tuple(n if self.absolute else (n + 1) // 2 for n in rows)

    def table_rows(self, side: int) -> int:
        """Rows of a table that covers a side exactly: its coordinates, or every offset between two of them."""
        return side if self.absolute else 2 * side - 1

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The position tables: decay would pull every offset towards no opinion."""
        return set(self.table_names())

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """Projections N(0, `qkv_std`²), tables N(0, `position_std`²), as the authors' code says it means; then `start`.

        It passes D^-0.5 as the mean of the tables, which the softmax does not see, and so has a `position_std` of 1.
        """
        nn.init.normal_(self.qkv.weight, std=self.qkv_std)
        if self.qkv.bias is not None:
            nn.init.zeros_(self.qkv.bias)
        for name in self.table_names():
            nn.init.normal_(getattr(self, name), std=self.position_std)
        if self.start == "directional":
            self.look_around()

    @torch.jit.ignore
    @torch.no_grad()
    def look_around(self) -> None:
        """Let each head look to a side: its query's channel m, m the head, meets a hill in the tables' channel m.

        That channel of the query is the mean of the input's channels over `start_mean`, about 1. In the other heads'
        queries it is 0, so a table that all heads share directs one of them.
        """
        looks = hills(self.num_heads, self.max_size(), self.start_distance)
        for head in range(self.num_heads):
            first = head * self.head_dim
            self.qkv.weight[first : first + len(looks)] = 0
            if head < len(looks):
                self.qkv.weight[first + head] = 1 / (self.start_mean * self.dim)
        for name, by_offset in zip(self.table_names(), zip(*looks, strict=True), strict=True):
            getattr(self, name)[0, :, : len(looks)] = torch.stack(by_offset, 1).to(self.qkv.weight) / self.scale

    @torch.jit.ignore
    def set_max_size(self, max_size: tuple[int, int]) -> None:
        """Give the tables a row for each offset on a map of (H, W): what they computed there, they compute still.

        A table whose size changes is a new parameter: make the optimiser afterwards.
        """
        check_max_size(max_size)
        for name, side in zip(self.table_names(), max_size, strict=False):
            table = getattr(self, name)
            if table.shape[1] != self.table_rows(side):
                setattr(self, name, nn.Parameter(self.read_table(table.detach(), side), table.requires_grad))

    @torch.jit.ignore
    def read_table(self, table: Tensor, side: int) -> Tensor:
        """A table of any length as the one that covers `side`: (1, rows, D) → (1, `table_rows(side)`, D)."""
        read = coordinate_table if self.absolute else offset_table
        return read(table, side, extend=self.extend)[None].clone()

    @torch.jit.ignore
    def is_table(self, tensor: Tensor) -> bool:
        """Whether a tensor can be read as a table of this layer's, of whatever size."""
        rows = tensor.shape[1] if tensor.ndim == 3 else 0
        whole = rows > 0 and (self.absolute or rows % 2 == 1)  # offsets go as far to one side as to the other
        return whole and tensor.is_floating_point() and (tensor.shape[0], tensor.shape[2]) == (1, self.head_dim)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Torch's loading, after tables of another size are read at this layer's."""
        for name in self.table_names():
            own, came = getattr(self, name), state_dict.get(prefix + name)
            if came is not None and own.shape != came.shape and self.is_table(came):
                side = own.shape[1] if self.absolute else (own.shape[1] + 1) // 2
                log.info("%s%s: %d rows read as %d (%s)", prefix, name, came.shape[1], own.shape[1], self.extend)
                state_dict[prefix + name] = self.read_table(came, side)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), any H and W."""
        if not torch.jit.is_scripting():
            check_input(x, self.dim, like=self.qkv.weight)
        size = (x.shape[2], x.shape[3])
        if torch.jit.is_scripting() or has_memory_formats():  # as fused kernels and the convolutions around like it
            x = x.contiguous(memory_format=torch.channels_last)
        q, k, v = self.project(x)
        q, k, rel_h, rel_w = self.with_positions(q, k, size)
        out = dispatched(q, k, v, rel_h, rel_w, self.scale, self.backend)
        out = out.transpose(1, 2).flatten(2).view(x.shape[0], size[0], size[1], self.dim)  # B H W C
        out = out.permute(0, 3, 1, 2)
        if torch.jit.is_scripting() or has_memory_formats():
            return out
        return out.contiguous()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) → query, key and value (B, M, N, D); without a key projection the query stands for the key."""
        # fused kernels want a token's channels side by side, and leave for a slow N×N form without a word otherwise
        tokens = self.qkv(x).flatten(2).transpose(1, 2).contiguous()  # B N parts·C; no copy of a channels_last map
        split = (tokens.shape[0], tokens.shape[1], self.parts, self.num_heads, self.head_dim)
        heads = tokens.view(split).permute(2, 0, 3, 1, 4)  # `unflatten` has no ONNX below opset 13
        return heads[0], heads[self.parts - 2], heads[-1]  # B M N D

    def with_positions(
        self, q: Tensor, k: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Query, key, and scaled position logits by rows and by columns, as the layer's positions make them."""
        if self.relative:
            rel_h, rel_w = self.position_logits(q, size)
            if not self.content:
                q = k = q[..., :0]  # content vectors of width 0: the position logits alone
            return q, k, rel_h, rel_w
        if self.absolute:
            rows = coordinate_table(self.abs_h, size[0], extend=self.extend).to(k.dtype)
            columns = coordinate_table(self.abs_w, size[1], extend=self.extend).to(k.dtype)
            k = k + (rows[:, None] + columns).flatten(0, 1)  # q·k + q·emb = q·(k + emb)
        return q, k, None, None

    def position_logits(self, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The scaled `q·r` of a layer with offset tables, by rows and by columns: see `relative_logits`.

        The scale goes into the tables, which are smaller than the query.
        """
        table_h = offset_table(self.rel_h, size[0], extend=self.extend) * self.scale
        table_w = offset_table(self.rel_w, size[1], extend=self.extend) * self.scale
        return relative_logits(q, table_h.to(q.dtype), table_w.to(q.dtype), size=size)

    def extra_repr(self) -> str:
        """Options in the printed model."""
        options = {"num_heads": self.num_heads, "position": self.position, "extend": self.extend}
        options |= {"max_size": self.max_size(), "qkv_bias": self.qkv.bias is not None, "backend": self.backend}
        if self.start != "paper":
            options["start"] = self.start
        return ", ".join([str(self.dim), *(f"{name}={value!r}" for name, value in options.items())])


def check_options(dim: int, num_heads: int, *, position: str, extend: str, backend: str) -> None:
    """Refuse options by rule, value and cure."""
    if dim < 1:
        raise ValueError(f"dim={dim} must be at least 1, the map's channels; e.g. 512")
    if num_heads < 1 or dim % num_heads:
        fitting = [n for n in (1, 2, 4, 8, 16, 32) if dim % n == 0]
        raise ValueError(
            f"num_heads={num_heads} does not divide dim={dim}; use {', '.join(map(str, fitting))} or another divisor"
        )
    if position not in POSITIONS:
        raise ValueError(f"position={position!r} is unknown; use one of {', '.join(POSITIONS)}")
    if extend not in EXTENSIONS:
        raise ValueError(f"extend={extend!r} is unknown; use one of {', '.join(EXTENSIONS)}")
    if backend not in {"auto", *BACKENDS}:
        raise ValueError(f"backend={backend!r} is unknown; use auto, {', '.join(BACKENDS)}")


def check_max_size(max_size: tuple[int, int]) -> None:
    """Refuse what is no (height, width) in pixels of the map."""
    sides = tuple(max_size) if isinstance(max_size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"max_size={max_size} must be two whole sides of at least 1, (height, width), e.g. (14, 14)")


def check_input(x: Tensor, dim: int, *, like: Tensor) -> None:
    """Refuse an input that is no (B, dim, H, W) map of floats where the layer's weights are."""
    if x.ndim != 4 or x.shape[1] != dim:
        raise ValueError(f"MHSA2d needs (B, {dim}, H, W); got {tuple(x.shape)}; build it with dim = the map's channels")
    if not x.is_floating_point():
        raise ValueError(f"MHSA2d needs floats; got {x.dtype}; call .float() on the input")
    if x.device != like.device:
        raise ValueError(f"MHSA2d is on {like.device}, its input on {x.device}; move one with .to({str(x.device)!r})")
    if not is_recorded() and 0 in x.shape[2:]:
        raise ValueError(f"MHSA2d needs a map of at least 1×1; got {tuple(x.shape)}; give a larger image")


torch.fx.wrap("check_input")
torch.fx.wrap("dispatched")
torch.fx.wrap("relative_logits")
torch.fx.wrap("offset_table")
torch.fx.wrap("coordinate_table")
