"""Contenders: the ResNet baselines, and BoT blocks by where their attention begins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from botvision import create_model
from studies.starts.forms import FORMS, give_form

SMALL: dict[str, Any] = {"channels": (16, 32, 64, 128), "zero_init_last": False}  # a quarter of a ResNet-14's channels
AIMED: dict[str, Any] = {"start": "directional"}


@dataclass(frozen=True)
class Contender:
    """A backbone by name and options.

    Attributes:
        title: what it is, for tables.
        backbone, options: for `create_model`.
        form: another form of the start than the layer's own, of `FORMS`.
        dilation: of the last stage's 3×3 convolutions.
    """

    title: str
    backbone: str = "botnet14"
    options: dict[str, Any] = field(default_factory=dict)
    form: str | None = None
    dilation: int = 1

    def build(self, size: int, base: Mapping[str, Any] = SMALL) -> nn.Module:
        """Its last map as a module, for images of `size` px; `base` are options that its own stand above."""
        own: dict[str, Any] = {"img_size": size} if self.backbone.startswith("botnet") else {}
        model = create_model(self.backbone, features_only=True, out_indices=(-1,), **{**base, **own, **self.options})
        if self.form is not None:
            give_form(model, self.form)
        if self.dilation > 1:
            dilate(model.get_submodule("layer4"), self.dilation)
        return model


def dilate(stage: nn.Module, by: int) -> None:
    """Set the taps of a stage's 3×3 convolutions apart; sizes of maps stay as they are."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (by, by)


def resnet(title: str, *, dilation: int = 1, **options: Any) -> Contender:
    """A ResNet of one block a stage, unless said otherwise."""
    return Contender(title, "resnet26", {"layers": (1, 1, 1, 1), **options}, dilation=dilation)


CONTENDERS = {
    "resnet": resnet("ResNet baseline"),
    "se": resnet("ResNet + SE", block_args={"attn_layer": "se"}),
    "deep": resnet("ResNet, deeper", layers=(1, 1, 1, 3)),
    "paper": Contender("BoT, the paper's start"),
    "published": Contender("BoT, the authors' code as published", options={"position_std": 1.0}),
    "wide": Contender("BoT, wide random start", options={"qkv_std": 0.05, "position_std": 0.7}),
    "same_scales": Contender(
        "BoT, random, at the directional start's scales", options={"qkv_std": 128**-0.5 / 2, "position_std": 0.1}
    ),
    "directional": Contender("BoT, directional start", options=AIMED),
    "directional_near": Contender("BoT, directional, ⅙ of the map", options={**AIMED, "start_distance": 1 / 6}),
    "directional_far": Contender("BoT, directional, ⅜ of the map", options={**AIMED, "start_distance": 3 / 8}),
    "directional_8": Contender("BoT, directional, 8 heads at two distances", options={**AIMED, "num_heads": 8}),
    "directional_free": Contender(
        "BoT, directional, 8 heads, 4 of them free", options={**AIMED, "num_heads": 8}, form="free"
    ),
    "soft": Contender("BoT, directional, wide hills", options=AIMED, form="soft"),
    "sharp": Contender("BoT, directional, sharp hills", options=AIMED, form="sharp"),
    "q_bias": Contender("BoT, bias on q, both terms", options=AIMED, form="q_bias"),
    "v_bias": Contender("BoT, bias on q, position term alone", options=AIMED, form="v_bias"),
    "per_head": Contender("BoT, tables per head", options=AIMED, form="per_head"),
    "gated": Contender("BoT, gated positions (ConViT's form)", options=AIMED, form="gated"),
}
assert {one.form for one in CONTENDERS.values()} <= {None, *FORMS}
