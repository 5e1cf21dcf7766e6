"""Model names: `create_model`, `list_models`, and registration of every variant with timm."""

import difflib
import sys
from collections.abc import Callable
from typing import Any, cast

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from botvision.backbone.botnet import BoTNet, both_sides
from botvision.backbone.spec import VARIANTS, Variant

LOADING = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """`timm.create_model` with BoTNets among its names.

    Args:
        name: any of `list_models()`, or any other timm model name.
        pretrained: download timm's weights; BoTNets have none to download.
        **options: as for `timm.create_model`, and those of `BoTNet`.

    Raises:
        ValueError: a name that timm does not know, with the nearest suggested; an option that the model lacks.
    """
    check_name(name)
    try:
        return cast("nn.Module", timm.create_model(name, pretrained=pretrained, **options))
    except TypeError as error:  # an option that this model's constructor lacks
        reason = str(error).partition("() ")[2] or str(error)  # without the constructor's name
        raise ValueError(
            f"{name} does not take these options: {reason}; leave it out or correct its name (a recipe's options: "
            "--model.options null, or --model.backbone_options null of a detector)"
        ) from error


def check_name(name: str) -> None:
    """Refuse an unknown model name and suggest the nearest known one."""
    if timm.is_model(name.removeprefix("timm/").split(".")[0]) or name.startswith(("hf_hub:", "hf-hub:", "local-dir:")):
        return
    near = difflib.get_close_matches(name, sorted({*VARIANTS, *timm.list_models()}), n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "see botvision.list_models()"
    raise ValueError(f"unknown model {name!r}; {hint}")


def check_offline(name: str, options: dict[str, Any] | None = None) -> None:
    """Refuse a model that timm would fetch, or read from a place that its name or options tell.

    A checkpoint says what model it is of: opening one must not ask the network, nor read other files.

    Raises:
        ValueError: `hf-hub:…`, `local-dir:…`, or an option that loads.
    """
    if ":" in name:
        raise ValueError(
            f"model {name!r} is of a hub or a folder, which a checkpoint cannot be built from; give timm's own name, "
            "e.g. resnet50, and its weights apart"
        )
    loading = sorted(LOADING & set(options or {}))
    if loading:
        raise ValueError(f"options of {name} cannot be {', '.join(loading)}, which load files; leave them out")


def list_models() -> list[str]:
    """Names of the BoTNet family, small to large."""
    return list(VARIANTS)


def _entrypoint(name: str, variant: Variant) -> Callable[..., nn.Module]:
    """Timm's way to build a model: a function that bears the model's name."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        defaults: dict[str, Any] = {
            "layers": variant.blocks,
            "img_size": variant.img_size,
            "output_stride": 32 if variant.c5_stride == 2 else 16,
        }
        if variant.scaled:
            defaults |= {"act_layer": "silu", "block_args": {"attn_layer": "se"}}
        wanted = defaults | options
        wanted["img_size"] = both_sides(wanted["img_size"])  # checked before timm takes it apart
        return cast("nn.Module", build_model_with_cfg(BoTNet, name, pretrained, **wanted))

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}: {variant}"
    return build


def _default_cfg(variant: Variant) -> dict[str, Any]:
    """What timm's data code wants to know of a model: input, normalisation, first and last layer."""
    side = variant.img_size
    final = side // (32 if variant.c5_stride == 2 else 16)
    return {
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (final, final),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _default_cfg(v) for name, v in VARIANTS.items()})

__all__ = ["create_model", "list_models"]  # register_model adds the models' names

for _name, _variant in VARIANTS.items():
    setattr(sys.modules[__name__], _name, register_model(_entrypoint(_name, _variant)))
