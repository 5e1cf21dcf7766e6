"""The BoT block: a ResNet bottleneck whose 3×3 convolution is global self-attention."""

# B batch, C input channels, P planes (bottleneck width), H×W input map

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from botvision.attention import MHSA2d
from botvision.attention.graphs import is_exported
from botvision.attention.start import mean_behind

POOLS_BIND_SIZES = torch.__version__ < "2.13"  # in an exported graph: whether a pooled side is odd, for good


class BoTBlock(nn.Module):
    """Bottleneck Transformer block (arXiv 2101.11605, Fig. 1 and 3), in timm's block signature.

    1×1 convolution → attention at the input's resolution → 2×2 average pool where the stride is 2 → 1×1 convolution,
    BatchNorm after each, the last one's gamma zero at the start. The 3×3's options (dilation, groups, anti-aliasing)
    and squeeze-excitation do not apply here and are taken but not used, so timm can build a stage of it.

    Args:
        inplanes: channels C of the input.
        planes: channels P of the attention; the output has 4·P.
        stride: 1 or 2, of the whole block.
        downsample: the projection on the shortcut, or None for identity.
        num_heads, position, max_size, extend, start, start_distance, qkv_std, position_std: see `MHSA2d`.
        shortcut_act: activation after the shortcut's BatchNorm, as in the authors' code; ResNets have none.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        reduce_first: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
        act_layer: type[nn.Module] = nn.ReLU,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
        attn_layer: str | None = None,
        aa_layer: type[nn.Module] | None = None,
        drop_block: partial[nn.Module] | None = None,
        drop_path: nn.Module | None = None,
        *,
        num_heads: int = 4,
        position: str = "relative",
        max_size: tuple[int, int] = (14, 14),
        extend: str = "stretch",
        start: str = "paper",
        start_distance: float = 0.25,
        qkv_std: float | None = None,
        position_std: float | None = None,
        shortcut_act: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        here: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = nn.Conv2d(inplanes, planes, kernel_size=1, bias=False, **here)
        self.bn1 = norm_layer(planes, **here)
        self.act1 = act_layer(inplace=True)

        self.mhsa = MHSA2d(
            planes,
            num_heads,
            position=position,
            max_size=max_size,
            extend=extend,
            start=start,
            start_distance=start_distance,
            start_mean=mean_behind(act_layer, start=start),
            qkv_std=qkv_std,
            position_std=position_std,
            device=device,
            dtype=dtype,
        )
        self.pool = HalvingPool() if stride == 2 else nn.Identity()
        self.bn2 = norm_layer(planes, **here)
        self.drop_block = drop_block() if drop_block is not None else nn.Identity()
        self.act2 = act_layer(inplace=True)

        self.conv3 = nn.Conv2d(planes, planes * self.expansion, kernel_size=1, bias=False, **here)
        self.bn3 = norm_layer(planes * self.expansion, **here)

        self.shortcut_act = shortcut_act and downsample is not None
        if downsample is not None and shortcut_act:
            downsample = nn.Sequential(*downsample.children(), act_layer(inplace=True))
        self.downsample = downsample
        self.drop_path = drop_path if drop_path is not None else nn.Identity()
        self.act3 = act_layer(inplace=True)

    def zero_init_last(self) -> None:
        """Zero the last BatchNorm's gamma: the block starts as its shortcut (timm calls this)."""
        nn.init.zeros_(cast("Tensor", self.bn3.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 4·P, ⌈H/stride⌉, ⌈W/stride⌉)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))  # B P H W
        x = self.pool(self.mhsa(x))  # B P H/stride W/stride
        x = self.act2(self.drop_block(self.bn2(x)))
        x = self.drop_path(self.bn3(self.conv3(x)))  # B 4P H/stride W/stride
        return self.act3(x + shortcut)


class HalvingPool(nn.Module):
    """2×2 average pool that rounds odd sides up, as the strided convolution on the shortcut does.

    An odd last row counts twice rather than being averaged alone (`ceil_mode`): the same values, in a form that torch
    can export for free sizes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉)."""
        if torch.jit.is_scripting() or not is_compiled():
            x = pad(x, (0, 1, 0, 1), mode="replicate")
        else:  # the compiler takes the gradient of a replicated edge for one in another memory order, and stops
            x = torch.cat([x, x[..., -1:, :]], -2)
            x = torch.cat([x, x[..., -1:]], -1)
        if torch.jit.is_scripting() or not is_stride_refused():
            return avg_pool2d(x, 2)
        return avg_pool2d(x, 2, stride=1)[..., ::2, ::2]


class StemPool(nn.MaxPool2d):
    """The max pool of timm's stem, in a form that any torch can export for free sizes."""

    def __init__(self) -> None:
        super().__init__(kernel_size=3, stride=2, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉)."""
        if torch.jit.is_scripting() or not is_stride_refused():
            return max_pool2d(input, 3, stride=2, padding=1)
        return max_pool2d(input, 3, stride=1, padding=1)[..., ::2, ::2]


@torch.jit.ignore
def is_compiled() -> bool:
    """Whether torch.compile follows this run, and not torch.export."""
    return torch.compiler.is_compiling() and not is_exported()


@torch.jit.ignore
def is_stride_refused() -> bool:
    """Whether torch.export runs, in a torch that divides a free side by a pool's stride and asks for the remainder.

    A pool of stride 1 whose every second place is kept has the same bits, and leaves the side free.
    """
    # is_exporting() is true in torch 2.11 under torch.compile too, which so makes one graph for all sizes
    return POOLS_BIND_SIZES and torch.compiler.is_exporting()
