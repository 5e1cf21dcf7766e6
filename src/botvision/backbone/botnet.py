"""`BoTNet`: timm's ResNet with attention in its last stages."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from timm.layers import DropPath, NonLocalAttn, get_act_layer, get_norm_layer
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from botvision.attention import MHSA2d
from botvision.attention.graphs import is_recorded
from botvision.backbone.blocks import POOLS_BIND_SIZES, BoTBlock, StemPool

STAGES = {"c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
INSERT_BLOCKS = ("bot", "non_local")
UNTOLD = {"num_classes", "global_pool", "device", "dtype"}  # options that the model itself tells later
MOST_BLOCKS = 1000  # of all stages; a checkpoint may ask for any number
EXTRA = "extra"  # name of an inserted block; the ResNet's own keep their numbers, and so their weights


class BoTNet(ResNet):
    """ResNet whose last stage is made of BoT blocks (arXiv 2101.11605, Table 1); any image size.

    What timm's ResNet does (features_only, forward_intermediates, gradient checkpointing, stems, `output_stride=16` for
    the S1 models) works unchanged, and its options are taken; but `pretrained`: no weights are published.

    Attributes:
        model_args: the options that rebuild this model from its name.

    Args:
        layers: bottlenecks in c2 … c5.
        img_size: side, or (height, width), of the image whose position tables have a row for every offset. Other
            sizes need no rebuild: smaller ones read the centre rows, larger ones follow `extend`.
        num_heads, position, extend, start, start_distance, qkv_std, position_std: see `MHSA2d`.
        shortcut_act: see `BoTBlock`.
        insert: stages of "c2" … "c5" that get one more block before their last. No block is replaced then: the rest
            is the plain ResNet (the paper's comparison with non-local networks).
        insert_block: "bot", or "non_local" for the block of arXiv 1711.07971.
        **resnet: options of timm's ResNet, as timm's own models take them.

    Raises:
        ValueError: an option out of its list, or a stage to insert into that has a single block.
    """

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        *,
        img_size: int | Sequence[int] = 224,
        num_heads: int = 4,
        position: str = "relative",
        extend: str = "stretch",
        start: str = "paper",
        start_distance: float = 0.25,
        qkv_std: float | None = None,
        position_std: float | None = None,
        shortcut_act: bool = False,
        insert: Sequence[str] = (),
        insert_block: str = "bot",
        output_stride: int = 32,
        **resnet: Any,
    ) -> None:
        if sum(layers) > MOST_BLOCKS:
            raise ValueError(f"layers={layers} have more than {MOST_BLOCKS} blocks; e.g. [3, 4, 6, 3]")
        check_insert(insert, insert_block, layers=layers)
        if insert and insert_block == "non_local" and start != "paper":
            raise ValueError(f"start={start!r} is of BoT blocks; insert_block='non_local' has none; leave start out")
        attention = {
            "num_heads": num_heads,
            "position": position,
            "extend": extend,
            "start": start,
            "start_distance": start_distance,
            "qkv_std": qkv_std,
            "position_std": position_std,
        }
        last_stage = Bottleneck if insert else _BoTBlocks(BoTBlock, **attention, shortcut_act=shortcut_act)
        super().__init__(
            block=(Bottleneck, Bottleneck, Bottleneck, last_stage),
            layers=layers,
            output_stride=output_stride,
            **resnet,
        )
        if POOLS_BIND_SIZES and type(self.get_submodule("maxpool")) is nn.MaxPool2d:  # other stems' may differ
            self.maxpool = StemPool()
        layer_options = {
            "act_layer": get_act_layer(resnet.get("act_layer", nn.ReLU)),
            "norm_layer": get_norm_layer(resnet.get("norm_layer", nn.BatchNorm2d)),
        }
        for stage in insert:
            extra = self._insert(STAGES[stage], insert_block, **attention, **layer_options)
            if isinstance(extra, BoTBlock) and resnet.get("zero_init_last", True):
                extra.zero_init_last()
        own = {"shortcut_act": shortcut_act, "insert": [*insert], "insert_block": insert_block}
        timms = {name: value for name, value in resnet.items() if name not in UNTOLD}
        own |= {"layers": [*layers], "output_stride": output_stride, "in_chans": self.in_chans}
        self.model_args = {**timms, **attention, **own}
        self.set_input_size(img_size)
        for layer, _ in self.attention_maps(img_size):
            layer.reset_parameters()

    def _insert(self, stage: str, kind: str, **options: Any) -> nn.Module:
        """Put one more block before a stage's last."""
        blocks = self.get_submodule(stage)
        *before, (number, last) = blocks.named_children()
        channels = last.conv3.out_channels
        here = {"device": last.conv3.weight.device, "dtype": last.conv3.weight.dtype}
        if kind == "non_local":
            extra = NonLocalAttn(channels, use_scale=False, rd_ratio=0.5, **here)
        else:
            drop_path = DropPath(last.drop_path.drop_prob) if isinstance(last.drop_path, DropPath) else None
            extra = BoTBlock(channels, channels // 4, drop_path=drop_path, **options, **here)
            for module in extra.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        setattr(self, stage, nn.Sequential(OrderedDict([*before, (EXTRA, extra), (number, last)])))
        return extra

    def attention_maps(self, img_size: int | Sequence[int]) -> Iterator[tuple[MHSA2d, tuple[int, int]]]:
        """Each attention layer, with the (H, W) of the map that it sees when the image has `img_size`."""
        height, width = both_sides(img_size)
        for above, info in pairwise(self.feature_info):
            for number, block in enumerate(self.get_submodule(info["module"]).children()):
                stride = (info if number else above)["reduction"]  # a stage's first block sees the map above
                if isinstance(block, BoTBlock):
                    yield block.mhsa, (math.ceil(height / stride), math.ceil(width / stride))

    def __call__(self, x: Tensor) -> Tensor:
        """Refuse what no image is, then run; here and not in `forward`, which must stay scriptable."""
        like = next(self.parameters(), None)  # a replica of nn.DataParallel has none
        if like is not None and not is_recorded():
            check_image(x, channels=self.in_chans, like=like)
        return super().__call__(x)

    @torch.jit.ignore
    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Give every position table a row for each offset of an image of `img_size`, side or (height, width).

        No size needs this: it gives a fine-tuning run at a new size rows of its own to learn, beginning with what
        the tables said there before. The tables become new parameters: make the optimiser afterwards.
        """
        for layer, size in self.attention_maps(img_size):
            layer.set_max_size(size)
        self.model_args["img_size"] = both_sides(img_size)
        self._traits = {**getattr(self, "_traits", {}), "img_size": both_sides(img_size)}  # where timm's exports look

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

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Timm's groups for layer-wise rates; an inserted block stands between its neighbours."""
        matcher = super().group_matcher(coarse)
        if not coarse:
            stages = [(name, len(self.get_submodule(name))) for name in STAGES.values()]
            extras = [(rf"^layer({name[-1]})\.{EXTRA}", (length - 2.5,)) for name, length in stages]
            matcher["blocks"] = [*extras, (matcher["blocks"], None)]
        return matcher


class _BoTBlocks(partial[BoTBlock]):
    """Stands where timm expects a block class, with this model's options bound."""

    expansion = BoTBlock.expansion


def both_sides(img_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image size given either way."""
    sides = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"img_size={img_size} must be a side, or (height, width), in whole pixels, e.g. 224")
    return int(sides[0]), int(sides[1])


def check_image(x: Tensor, *, channels: int, like: Tensor) -> None:
    """Refuse a batch that is no (B, channels, H, W) of floats where the model's weights are."""
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ValueError(f"BoTNet needs images (B, {channels}, H, W) of at least 1×1; got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"BoTNet needs floats; got {x.dtype}; scale to 0 … 1 and normalise, e.g. x.float() / 255")
    if x.device != like.device:
        raise ValueError(f"BoTNet is on {like.device}, its images on {x.device}; move one with .to({str(x.device)!r})")


def check_insert(insert: Sequence[str], insert_block: str, *, layers: Sequence[int]) -> None:
    """Refuse insertions that have no place."""
    if insert_block not in INSERT_BLOCKS:
        raise ValueError(f"insert_block={insert_block!r} is unknown; use one of {', '.join(INSERT_BLOCKS)}")
    if isinstance(insert, str) or not set(insert) <= set(STAGES) or len(set(insert)) < len(insert):
        raise ValueError(f"insert={insert!r} must name stages of {', '.join(STAGES)}, each once, e.g. ('c4', 'c5')")
    short = [stage for stage, blocks in zip(STAGES, layers, strict=True) if stage in insert and blocks < 2]
    if short:
        raise ValueError(f"insert={insert!r} needs a block before the last, but {short[0]} has one; use a deeper model")
