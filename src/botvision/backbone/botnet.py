"""`BoTNet`: timm's ResNet with attention in the last stage."""

import math
from typing import Any

import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from botvision.attention import MHSA2d
from botvision.backbone.blocks import BoTBlock


class BoTNet(ResNet):
    """ResNet whose last stage is made of BoT blocks (arXiv 2101.11605, Table 1); any image size.

    Everything that timm's ResNet does (features_only, forward_intermediates, gradient checkpointing, stems,
    `output_stride=16` for the S1 models) works unchanged, and its options are taken.

    Args:
        layers: bottlenecks in c2 … c5.
        img_size: side, or (height, width), of the image whose position tables have a row for every offset. Other
            sizes need no rebuild: smaller ones read the centre rows, larger ones follow `extend`.
        num_heads, position, extend: see `MHSA2d`.
        shortcut_act: see `BoTBlock`.
        **resnet: options of timm's ResNet, as timm's own models take them.
    """

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        *,
        img_size: int | tuple[int, int] = 224,
        num_heads: int = 4,
        position: str = "relative",
        extend: str = "stretch",
        shortcut_act: bool = False,
        output_stride: int = 32,
        **resnet: Any,
    ) -> None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        last_stage = _Stage(
            map_size=(math.ceil(height / 16), math.ceil(width / 16)),
            options={"num_heads": num_heads, "position": position, "extend": extend, "shortcut_act": shortcut_act},
        )
        super().__init__(
            block=(Bottleneck, Bottleneck, Bottleneck, last_stage),
            layers=layers,
            output_stride=output_stride,
            **resnet,
        )

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Timm's initialisation, then attention's own, which timm would overwrite."""
        super().init_weights(zero_init_last)
        for module in self.modules():
            if isinstance(module, MHSA2d):
                module.reset_parameters()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the position tables, as timm's optimisers ask for them."""
        layers = ((path, module) for path, module in self.named_modules() if isinstance(module, MHSA2d))
        return {f"{path}.{table}" for path, layer in layers for table in layer.no_weight_decay()}


class _Stage:
    """Stands where timm expects a block class, and gives each block the size of the map it will see."""

    expansion = BoTBlock.expansion

    def __init__(self, *, map_size: tuple[int, int], options: dict[str, Any]) -> None:
        self.map_size = map_size
        self.options = options

    def __call__(
        self, inplanes: int, planes: int, stride: int, downsample: nn.Module | None, **timm_options: Any
    ) -> BoTBlock:
        block = BoTBlock(inplanes, planes, stride, downsample, max_size=self.map_size, **timm_options, **self.options)
        self.map_size = (math.ceil(self.map_size[0] / stride), math.ceil(self.map_size[1] / stride))
        return block
