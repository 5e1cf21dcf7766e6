"""Weights in: a ResNet's, a BoTNet's or another port's, with a word on each that stays fresh."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from botvision.attention import MHSA2d
from botvision.backbone.blocks import BoTBlock
from botvision.backbone.botnet import EXTRA
from botvision.backbone.convert import Converted, convert, find_port, first
from botvision.backbone.registry import check_name

log = logging.getLogger("botvision.backbone")


class LoadReport(NamedTuple):
    """What was loaded, tensor by tensor.

    Attributes:
        loaded: names now equal to the source's.
        fresh: names that the source lacks; they keep their initialisation.
        unused: names of the source that this model has no place for.
    """

    loaded: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded; fresh: {first(self.fresh)}; not used: {first(self.unused)}"


def load_weights(
    model: nn.Module,
    source: Mapping[str, Tensor] | str | Path,
    *,
    prefix: str = "",
    scaled_positions: bool = False,
    exact: bool = True,
) -> LoadReport:
    """Load weights of a BoTNet, of its ResNet twin, or of another port, found out by their names.

    Tables of another size are read at this model's. A classifier for another number of classes stays fresh.

    Args:
        model: a BoTNet, a stage, a block or an `MHSA2d`.
        source: a state dict, a file of one (.pt, .pth, .safetensors), or a timm model name, which downloads.
        prefix: take only the source's names that begin with it, without it.
        scaled_positions: of timm's `BottleneckAttn`, see `convert`.
        exact: refuse what would not compute the same; otherwise load what fits and report the rest.

    Returns:
        Which tensors were loaded, stayed fresh, were not used.

    Raises:
        ValueError: names or shapes that do not fit, or a model built otherwise than the port's, with the cure.
        FileNotFoundError: a path that is not there.
    """
    state = source if isinstance(source, Mapping) else read_weights(source)
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    port = find_port(state)
    if port is None:
        ours = any(".mhsa." in f".{key}" or key in {"rel_h", "abs_h"} for key in state)
        return load_own(model, state) if ours or not hasattr(model, "layer1") else load_resnet(model, state)
    layers = [module for module in model.modules() if isinstance(module, MHSA2d)]
    converted = convert(state, num_heads=layers[0].num_heads if layers else None, scaled_positions=scaled_positions)
    if exact:
        check_same_function(model, converted, port=port)
        report = load_own(model, converted.tensors)
    else:
        own = model.state_dict()
        fitting = {k: v for k, v in converted.tensors.items() if k in own and own[k].shape == v.shape}
        report = load_what_fits(model, fitting, all_names=list(converted.tensors))
    return report._replace(unused=report.unused + list(converted.left_out))


def load_resnet(model: nn.Module, source: Mapping[str, Tensor] | str | Path) -> LoadReport:
    """Load a ResNet's weights into a BoTNet; only attention stays fresh (paper section 4.1).

    Takes timm's and torchvision's ResNets and SE-ResNets. BoT blocks that the source has no block for (the scaled
    family's longer c5, inserted blocks) stay fresh too.

    Args:
        model: a BoTNet, or a features_only model around one.
        source: a state dict, a file of one (.pt, .pth, .safetensors), or a timm model name, which downloads.

    Returns:
        Which tensors were loaded, stayed fresh, were not used.

    Raises:
        ValueError: no tensor fits, a shape differs, or the two networks differ in more than attention.
        FileNotFoundError: a path that is not there.
    """
    state = source if isinstance(source, Mapping) else read_weights(source)
    if port := find_port(state):
        raise ValueError(f"these are {port}'s weights, not a ResNet's: {first(list(state))}; use load_weights")
    own = model.state_dict()
    state = fitting_head(own, state)
    attention = {key.partition(".mhsa.")[0] for key in own if ".mhsa." in key}  # paths of the BoT blocks
    attention |= {key.partition(f".{EXTRA}.")[0] + f".{EXTRA}" for key in own if f".{EXTRA}." in key}
    absent = {block for block in attention if not any(key.startswith(f"{block}.") for key in state)}
    clash = [key for key in own if key in state and own[key].shape != state[key].shape]
    strangers = [
        key
        for key in own
        if key not in state and block_of(key) not in absent and not is_expendable(key) and ".mhsa." not in key
    ]
    homeless = [
        key
        for key in state
        if key not in own and block_of(key) not in {"", *attention} and not key.endswith("num_batches_tracked")
    ]
    if clash or strangers or homeless or not any(key in own for key in state):
        raise ValueError(
            f"these weights are not of this model's ResNet twin: missing {first(strangers)}; "
            f"other shape {first(clash)}; no place for {first(homeless)}; "
            "give a ResNet with the same blocks per stage, e.g. resnet50 for botnet50"
        )
    return load_what_fits(model, {k: v for k, v in state.items() if k in own}, all_names=list(state))


def load_own(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load tensors that must be all of this model's, its classifier and table sizes aside."""
    own = model.state_dict()
    state = fitting_head(own, state)
    clash = [k for k in own if k in state and own[k].shape != state[k].shape and not is_table_of(own[k], state[k], k)]
    missing = [k for k in own if k not in state and not is_expendable(k)]
    foreign = [k for k in state if k not in own and not is_expendable(k)]
    if clash or missing or foreign:
        raise ValueError(
            f"these weights are another model's: missing {first(missing)}; other shape {first(clash)}; "
            f"no place for {first(foreign)}; build the model that they were saved from"
        )
    return load_what_fits(model, state, all_names=list(state))


def load_what_fits(model: nn.Module, state: Mapping[str, Tensor], *, all_names: list[str]) -> LoadReport:
    """Copy the tensors over, and report on every other name."""
    own = model.state_dict()
    model.load_state_dict(state, strict=False)
    fresh = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    report = LoadReport([k for k in own if k in state], fresh, [k for k in all_names if k not in state])
    log.info("%s", report)
    return report


def check_same_function(model: nn.Module, converted: Converted, *, port: str) -> None:
    """Refuse a model that is built otherwise than the port's weights need, and say how to build it."""
    blocks = [m for m in model.modules() if isinstance(m, BoTBlock) and m.downsample is not None]
    layers = [m for m in model.modules() if isinstance(m, MHSA2d)]
    built = [{"position": m.position, "num_heads": m.num_heads, "qkv_bias": m.qkv.bias is not None} for m in layers] + [
        {"shortcut_act": m.shortcut_act} for m in blocks
    ]
    wrong = {
        name: value
        for name, value in converted.options.items()
        if any(name in options and options[name] != value for options in built)
    }
    if wrong:
        cure = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        named = "".join(f"; {key}: {why}" for key, why in converted.left_out.items())
        raise ValueError(
            f"{port}'s weights compute the same only in a model built with {cure}{named}; "
            "build it so, or load what fits with exact=False"
        )


def fitting_head(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without a classifier that this model lacks or has in another size."""
    heads = {key for key in state if key.startswith("fc.")}
    unfit = {key for key in heads if key not in own or own[key].shape != state[key].shape}
    return {key: value for key, value in state.items() if key not in (heads if unfit else ())}


def block_of(key: str) -> str:
    """The path of the residual block that a tensor belongs to: everything up to its stage and number."""
    parts = key.split(".")
    stage = next((i for i, part in enumerate(parts) if part.startswith("layer")), None)
    return "" if stage is None else ".".join(parts[: stage + 2])


def is_table_of(own: Tensor, came: Tensor, key: str) -> bool:
    """Whether a tensor is a position table whose rows `MHSA2d` reads at its own size."""
    return key.rpartition(".")[2] in {"rel_h", "rel_w", "abs_h", "abs_w"} and own.shape[::2] == came.shape[::2]


def is_expendable(key: str) -> bool:
    """Names whose absence changes no feature: classifiers, counters."""
    return key.startswith("fc.") or key.endswith("num_batches_tracked")


def read_weights(source: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a file or from timm's hub; data-parallel and compiled models' prefixes are taken off."""
    path = Path(source)
    if path.is_file():
        try:
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except Exception as error:  # torch and safetensors raise eight kinds between them
            raise ValueError(f"{source} is not a file of weights; give a .pth or .safetensors state dict") from error
        for key in ("state_dict", "model_state", "model"):
            content = content.get(key, content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
            raise ValueError(f"{source} holds no state dict; give a file with tensors by name")
        return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in content.items()}
    if path.suffix in {".pt", ".pth", ".safetensors", ".bin"} or path.is_absolute():
        raise FileNotFoundError(f"no weights at {source}; give a file that exists, or a timm model name")
    check_name(str(source))
    return timm.create_model(str(source), pretrained=True).state_dict()
