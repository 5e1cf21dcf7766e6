"""Benchmark of backbones beside their ResNet baseline: as they are, fused, with timm's layer."""

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import Tensor, nn

from botvision.backbone import BoTNet, create_model, fuse
from botvision.backbone.blocks import BoTBlock
from botvision.backbone.registry import check_name
from botvision.backbone.spec import VARIANTS
from botvision.bench.race import Engine, Report, Row, Setting, race, trained

FUSED, TIMMS = " fused", " with timm's layer"
CHANCES = (FUSED, TIMMS)  # endings that a contender's name may have


def race_backbone(
    models: tuple[str, ...],
    *,
    sizes: tuple[int, ...],
    batch: int,
    rounds: int,
    train: bool,
    memory: bool,
    engine: Engine,
) -> Report:
    """The races of `botvision bench backbone`, which says what its arguments are."""
    if not models:
        raise ValueError("bench backbone needs at least one model; e.g. resnet50 botnet50")
    names = [name for name in models if not (train and name.endswith(FUSED))]
    if len(names) == 0 or names[0] != models[0]:
        raise ValueError(f"{models[0]!r} cannot be trained and is the baseline; put a model that is not fused first")
    for name in models:
        base, ending = parted(name)
        check_name(base)
        if ending == TIMMS and base not in VARIANTS:
            raise ValueError(f"{name!r}: only a BoTNet has attention to put timm's layer for; leave the ending out")
    if not sizes:
        raise ValueError("bench backbone needs at least one size; e.g. --sizes 1024")
    rows: list[Row] = []
    for size in sizes:
        setting = Setting(size, batch, train, engine)
        rows += race(build, names, setting, what="backbone", rounds=rounds, memory=memory)
    note = "Backbones without classifier, channels_last, random weights; rounds in random order."
    if left_out := [name for name in models if name not in names]:
        note += f" Not here, since fused models cannot be trained: {', '.join(left_out)}."
    return Report("Backbones", note, str(engine), rows)


def build(name: str, setting: Setting) -> Callable[[], Any]:
    """A backbone's step on random images."""
    engine = setting.engine
    model = prepared(name, setting).to(engine.device).to(memory_format=torch.channels_last)
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=engine.device)
    images = images.to(memory_format=torch.channels_last)
    called = torch.compile(model) if engine.compile else model

    def forward() -> Tensor:
        with engine.autocast():
            features: Tensor = called(images)
        return features

    return trained(forward, list(model.parameters())) if setting.train else forward


def parted(name: str) -> tuple[str, str]:
    """A contender's name as its model's and the ending, if it has one."""
    ending = next((ending for ending in CHANCES if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def prepared(name: str, setting: Setting) -> nn.Module:
    """The model that a contender's name says."""
    base, ending = parted(name)
    model = create_model(base, num_classes=0, global_pool="").train(setting.train)
    if ending == TIMMS:
        with_timms_layer(cast("BoTNet", model), setting.size)
    return fuse(model) if ending == FUSED else model


def with_timms_layer(model: BoTNet, size: int) -> None:
    """Put timm's layer, which fits one size, in the place of every `MHSA2d`."""
    places = {id(layer): side for layer, side in model.attention_maps(size)}
    for block in model.modules():
        if isinstance(block, BoTBlock):
            ours = block.mhsa
            theirs = BottleneckAttn(ours.dim, ours.dim, feat_size=places[id(ours)], num_heads=ours.num_heads)
            block.mhsa = cast("Any", theirs.train(model.training))
