"""BoTNet's attention as YOLO blocks: a row, a bottleneck, and the CSP blocks around it."""

# B batch, C channels, H×W map

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from botvision.attention import MHSA2d
from botvision.attention.start import mean_behind

HEAD_DIM = 32  # channels a head where num_heads is 0; the blocks here are 32 to 768 channels wide
MAP = (20, 20)  # the P5 map of a 640 px image: the largest whose every offset has a row of its own


class Attention(NamedTuple):
    """The options of a row that are its attention's, in the order in which a row gives them.

    Attributes:
        num_heads: must divide the channels; 0 for as many as give each head at least 32 of them.
        position: "relative", "absolute", "relative_only" or "none", the paper's ablation rows.
        start: initial weights, "paper" or "directional".
        qkv_std, position_std: of the projections and of the tables at the start; by default the start's own.
    """

    num_heads: int = 0
    position: str = "relative"
    start: str = "paper"
    qkv_std: float | None = None
    position_std: float | None = None

    def layer(self, dim: int, *, qkv_bias: bool = False) -> MHSA2d:
        """The paper's layer (arXiv 2101.11605, Fig. 4) for maps of any size.

        Args:
            dim: channels C.
            qkv_bias: a bias on the projections, which the paper does not have.

        Raises:
            ValueError: no channel, or an option that `MHSA2d` refuses.
        """
        if dim < 1:
            raise ValueError(f"attention needs at least 1 channel; got {dim}; raise e or the channels")
        if self.num_heads < 0:
            raise ValueError(f"num_heads={self.num_heads} is negative; use 0 for heads of {HEAD_DIM} channels")
        heads = self.num_heads or next(n for n in range(max(1, dim // HEAD_DIM), 0, -1) if dim % n == 0)
        return MHSA2d(
            dim,
            heads,
            position=self.position,
            max_size=MAP,
            extend="clamp",  # ultralytics evaluates on maps of a cell more than it trains on
            qkv_bias=qkv_bias,
            start=self.start,
            start_mean=mean_behind(lambda: deepcopy(Conv.default_act), start=self.start),  # SiLU, or the yaml's own
            qkv_std=self.qkv_std,
            position_std=self.position_std,
        )


class ResidualMHSA2d(nn.Module):
    """A row of a yaml: `x + BN(attention(x))`, which starts as identity since the BN's gamma is zero.

    In a yaml it is `[-1, 1, MHSA2d, []]`, or with `[num_heads, position, residual, qkv_bias, start, qkv_std,
    position_std]`; the channels are those of the row before.

    Args:
        dim: channels C.
        num_heads, position, start, qkv_std, position_std: see `Attention`.
        residual: without it the row is the bare layer, as in the snippet that YOLO forks share.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 0,
        position: str = "relative",
        residual: bool = True,
        qkv_bias: bool = False,
        start: str = "paper",
        qkv_std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        options = Attention(num_heads, position, start, qkv_std, position_std)
        self.mhsa = options.layer(dim, qkv_bias=qkv_bias)
        self.norm = starts_at_zero(nn.BatchNorm2d(dim)) if residual else None

    def reset_parameters(self) -> None:
        """The start, after `Module.apply` or ultralytics' `reset_weights` has reset the parts."""
        self.mhsa.reset_parameters()
        if self.norm is not None:
            starts_at_zero(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), any H and W."""
        found: Tensor = self.mhsa(x)
        return found if self.norm is None else x + self.norm(found)


class BoTBottleneck(nn.Module):
    """The paper's block: 1×1 convolution → attention → 1×1 convolution, added to its input.

    BatchNorm after each; the last one's gamma is zero, as in the authors' code: the block starts as identity. Its parts
    have other names than `Bottleneck`'s, so that no statistics of a 3×3 convolution are taken for theirs.

    Args:
        c1, c2: channels in and out.
        shortcut: whether the input is added, where c1 = c2.
        e: width of the attention as a share of c2.
        num_heads, position, start, qkv_std, position_std: see `Attention`.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        e: float = 0.5,
        num_heads: int = 0,
        position: str = "relative",
        start: str = "paper",
        qkv_std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        width = int(c2 * e)
        self.add = shortcut and c1 == c2
        self.contract = Conv(c1, width, 1)
        self.mhsa = Attention(num_heads, position, start, qkv_std, position_std).layer(width)
        self.norm = nn.BatchNorm2d(width)
        self.act = Conv.default_act
        self.expand = Conv(width, c2, 1, act=False)
        self.start_at_identity()

    def start_at_identity(self) -> None:
        """Let the branch add nothing yet, where it is added to the input."""
        if self.add:
            starts_at_zero(self.expand.bn)

    def reset_parameters(self) -> None:
        """The start, after the parts have been reset: see `ResidualMHSA2d`."""
        self.mhsa.reset_parameters()
        self.start_at_identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) → (B, c2, H, W), any H and W."""
        found: Tensor = self.expand(self.act(self.norm(self.mhsa(self.contract(x)))))
        return x + found if self.add else found


class C3BoT(nn.Module):
    """`C3` (or `C3k`) with the paper's block for each of its bottlenecks; its other parts keep `C3`'s names.

    Args:
        c1, c2: channels in and out.
        n: blocks.
        shortcut, num_heads, position, start, qkv_std, position_std: see `BoTBottleneck`.
        e: width of the branches as a share of c2.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        e: float = 0.5,
        num_heads: int = 0,
        position: str = "relative",
        start: str = "paper",
        qkv_std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        width = int(c2 * e)
        self.cv1 = Conv(c1, width, 1)
        self.cv2 = Conv(c1, width, 1)
        self.cv3 = Conv(2 * width, c2, 1)
        options = Attention(num_heads, position, start, qkv_std, position_std)
        self.m = bottlenecks(width, n, options, shortcut=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) → (B, c2, H, W), any H and W."""
        out: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))
        return out


class C3k2BoT(nn.Module):
    """`C3k2` (or `C2f`) with the paper's block for each of its bottlenecks; its other parts keep `C3k2`'s names.

    Args:
        c1, c2: channels in and out.
        n: inner blocks.
        c3k: whether an inner block is a `C3BoT` of two, as `C3k2`'s is a `C3k` of two, or one bottleneck.
        e: width of a branch as a share of c2.
        num_heads, position, start, qkv_std, position_std: see `Attention`.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        c3k: bool = False,
        e: float = 0.5,
        num_heads: int = 0,
        position: str = "relative",
        start: str = "paper",
        qkv_std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        self.c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * self.c, 1)
        self.cv2 = Conv((2 + n) * self.c, c2, 1)
        options = Attention(num_heads, position, start, qkv_std, position_std)
        self.m = nn.ModuleList(
            C3BoT(self.c, self.c, 2, True, 0.5, *options) if c3k else BoTBottleneck(self.c, self.c, True, 1.0, *options)
            for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) → (B, c2, H, W), any H and W."""
        branches = list(self.cv1(x).split((self.c, self.c), 1))
        for block in self.m:
            branches.append(block(branches[-1]))
        out: Tensor = self.cv2(torch.cat(branches, 1))
        return out


class C2BoT(nn.Module):
    """`C2PSA` with the paper's block in place of its attention and feed-forward; it keeps its channels.

    Args:
        c1, c2: channels, the same number twice.
        n: blocks.
        e: width of a branch as a share of the channels.
        num_heads, position, start, qkv_std, position_std: see `Attention`.

    Raises:
        ValueError: c1 and c2 differ.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        e: float = 0.5,
        num_heads: int = 0,
        position: str = "relative",
        start: str = "paper",
        qkv_std: float | None = None,
        position_std: float | None = None,
    ) -> None:
        super().__init__()
        if c1 != c2:
            raise ValueError(f"C2BoT keeps its channels; got {c1} in and {c2} out; give the row before it as many")
        self.c = int(c1 * e)
        self.cv1 = Conv(c1, 2 * self.c, 1)
        self.cv2 = Conv(2 * self.c, c1, 1)
        self.m = bottlenecks(self.c, n, Attention(num_heads, position, start, qkv_std, position_std))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), any H and W."""
        kept, attended = self.cv1(x).split((self.c, self.c), 1)
        out: Tensor = self.cv2(torch.cat([kept, self.m(attended)], 1))
        return out


def bottlenecks(width: int, n: int, options: Attention, *, shortcut: bool = True) -> nn.Sequential:
    """The paper's blocks, one after the other, all `width` channels wide."""
    return nn.Sequential(*(BoTBottleneck(width, width, shortcut, 1.0, *options) for _ in range(n)))


def starts_at_zero(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Zero a BatchNorm's gamma, so that the branch it ends adds nothing yet."""
    nn.init.zeros_(norm.weight)
    return norm
