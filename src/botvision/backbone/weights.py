"""Load pretrained weights: a ResNet's into a BoTNet, a BoTNet's, or another port's."""

import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from botvision.attention import MHSA2d
from botvision.backbone.archive import check_archive, check_tensors
from botvision.backbone.blocks import BoTBlock
from botvision.backbone.botnet import EXTRA
from botvision.backbone.convert import Converted, convert, find_port, first, is_last, without_prefix
from botvision.backbone.registry import check_name

log = logging.getLogger("botvision.backbone")

Source = Mapping[str, Tensor] | str | Path
SUFFIXES = {".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors"}
WRAPPERS = ("module.", "_orig_mod.")  # put before every name by data-parallel and compiled models
OURS = "model."  # of a classifier's run
# where training scripts keep a state dict: the averaged weights before the last ones, as timm's loaders take them
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
AVERAGES = "n_averaged"  # torch's AveragedModel counts them beside its weights


class LoadReport(NamedTuple):
    """What was loaded, tensor by tensor.

    Attributes:
        loaded: names that now hold the source's values (tables of another size: read at this model's).
        fresh: names that the source lacks, or has for another number of classes; they keep their initialisation.
        unused: names of the source that were not loaded.
    """

    loaded: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded; fresh: {first(self.fresh)}; not used: {first(self.unused)}"


class Difference(NamedTuple):
    """Names in which a state dict and a model differ: lacking in one, or of another shape."""

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        return (
            f"missing {first(self.missing)}; other shape {first(self.mismatched)}; "
            f"no place for {first(self.unexpected)}"
        )


def load_weights(
    model: nn.Module, source: Source, *, prefix: str = "", scaled_positions: bool = False, exact: bool = True
) -> LoadReport:
    """Load weights of a BoTNet, of its ResNet baseline, or of another port, found out by their names.

    Tables of another size are read at this model's. A classifier for another number of classes stays fresh. A port's
    options are compared with the model's; a BoTNet's own are not in its state dict, `from_pretrained` brings them.

    Args:
        model: a BoTNet, a stage, a block or an `MHSA2d`.
        source: a state dict, a file of one (.pt, .pth, .safetensors, …; of a training script that keeps averaged
            weights too, those), or a timm model name, which downloads.
        prefix: take only the source's names that begin with it, without it.
        scaled_positions: of timm's `BottleneckAttn`, see `convert`.
        exact: refuse what would not compute the same; otherwise load what fits and report the rest.

    Returns:
        Which tensors were loaded, stayed fresh, were not used.

    Raises:
        ValueError: names or shapes that do not fit, or a model built otherwise than the port's, with the cure.
        FileNotFoundError: a path that is not there.
    """
    model = unwrapped(model)
    state = without_prefix(read_state(source), prefix)
    port = find_port(state)
    if port is None:
        ours = any(is_last(key, name) for key in state for name in ("qkv.weight", "rel_h", "abs_h"))
        if exact and hasattr(model, "layer1") and not ours:
            return load_resnet(model, state)
        return load_own(model, state) if exact else load_what_fits(model, state)
    layers = [module for module in model.modules() if isinstance(module, MHSA2d)]
    converted = convert(state, num_heads=layers[0].num_heads if layers else None, scaled_positions=scaled_positions)
    if exact:
        check_same_function(model, converted, port=port)
    report = load_own(model, converted.tensors) if exact else load_what_fits(model, converted.tensors)
    return report._replace(unused=report.unused + list(converted.left_out))


def load_resnet(model: nn.Module, source: Source) -> LoadReport:
    """Load a ResNet's weights into a BoTNet; only attention stays fresh (paper section 4.1).

    Takes timm's and torchvision's ResNets and SE-ResNets. BoT blocks that the source has no block for (the scaled
    family's longer c5, inserted blocks) stay fresh too.

    Args:
        model: a BoTNet, or a features_only model around one.
        source: a state dict, a file of one (.pt, .pth, .safetensors, …), or a timm model name, which downloads.

    Returns:
        Which tensors were loaded, stayed fresh, were not used.

    Raises:
        ValueError: no tensor fits, a shape differs, or the two networks differ in more than attention.
        FileNotFoundError: a path that is not there.
    """
    model, state = unwrapped(model), read_state(source)
    if port := find_port(state):
        raise ValueError(f"these are {port}'s weights, not a ResNet's: {first(list(state))}; use load_weights")
    own = model.state_dict()
    attention = {key.partition(".mhsa.")[0] for key in own if ".mhsa." in key}
    attention |= {block_of(key) for key in own if f".{EXTRA}." in key}
    new = {block for block in attention if not any(key.startswith(f"{block}.") for key in state)}
    stages = {stage_of(key) for key in own}
    found = difference(model, state)
    found = found._replace(
        missing=[key for key in found.missing if block_of(key) not in new and ".mhsa." not in key],
        # what the model has no stage for (a shorter pyramid), and what attention replaces, is left out on purpose
        unexpected=[k for k in found.unexpected if block_of(k) not in attention and stage_of(k) in stages - {""}],
    )
    if any(found) or not any(key in own for key in state):
        raise ValueError(
            f"these weights are not of this model's ResNet baseline: {found}; give those of a ResNet with the same "
            "blocks, stem, squeeze-excitation and input channels, by timm's or torchvision's names (resnet50 for "
            "botnet50)"
        )
    return load_what_fits(model, state)


def load_own(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load tensors that must be all of this model's, its classifier and table sizes aside."""
    found = difference(model, state)
    if any(found):
        raise ValueError(f"these weights are another model's: {found}; build the model that they were saved from")
    return load_what_fits(model, state)


def difference(model: nn.Module, state: Mapping[str, Tensor]) -> Difference:
    """Where a state dict is not this model's; classifiers, counters and tables' sizes may differ."""
    own = model.state_dict()
    free = {key for key in {*own, *state} if key.startswith("fc.") or key.endswith("num_batches_tracked")}
    return Difference(
        missing=[key for key in own if key not in state and key not in free],
        unexpected=[key for key in state if key not in own and key not in free],
        mismatched=[
            key for key in own if key in state and key not in free and not fits(model, key, own[key], state[key])
        ],
    )


def load_what_fits(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy over the tensors that have a place, and report on every name."""
    own = model.state_dict()
    chosen = {key: value for key, value in state.items() if key in own and fits(model, key, own[key], value)}
    heads = [key for key in own if key.startswith("fc.")]
    if not all(key in chosen for key in heads):  # a classifier is loaded whole or not at all
        chosen = {key: value for key, value in chosen.items() if key not in heads}
    model.load_state_dict(chosen, strict=False)
    report = LoadReport(
        loaded=[key for key in own if key in chosen],
        fresh=[key for key in own if key not in chosen and not key.endswith("num_batches_tracked")],
        unused=[key for key in state if key not in chosen],
    )
    log.info("%s", report)
    return report


def fits(model: nn.Module, key: str, own: Tensor, came: Tensor) -> bool:
    """Whether a tensor loads: it has the same shape, or is a position table, which `MHSA2d` reads at its own size."""
    if own.shape == came.shape:
        return True
    path, _, name = key.rpartition(".")
    layer = model.get_submodule(path)
    return isinstance(layer, MHSA2d) and name in layer.table_names() and layer.is_table(came)


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


def stage_of(key: str) -> str:
    """The ResNet stage that a tensor belongs to, e.g. "layer4"; empty for the stem and the classifier."""
    return next((part for part in key.split(".") if part.startswith("layer")), "")


def block_of(key: str) -> str:
    """The path of the residual block that a tensor belongs to: everything up to its stage and number."""
    stage = stage_of(key)
    if not stage:
        return ""
    head, _, tail = key.partition(f"{stage}.")
    return f"{head}{stage}.{tail.partition('.')[0]}"


def other_normalisation(weights: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """A warning where timm's weights of this name were trained on images normalised otherwise than a model's."""
    known = None if Path(weights).exists() else timm.get_pretrained_cfg(weights, allow_unregistered=True)
    if known is None or (tuple(known.mean), tuple(known.std)) == (tuple(mean), tuple(std)):
        return ""
    return (
        f"warning: {weights} was trained on images normalised with mean {known.mean} and std {known.std}; this model's "
        f"have {tuple(mean)} and {tuple(std)}, so its layers see another contrast than they have learnt"
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and data-parallel wrappers."""
    for name in WRAPPERS:
        model = getattr(model, name.rstrip("."), model)
    return model


def read_state(source: Source) -> dict[str, Tensor]:
    """A state dict from wherever it is, without the prefixes of data-parallel and compiled models and of our runs."""
    if not isinstance(source, Mapping | str | Path):
        raise ValueError(f"weights come as a state dict, a file or a timm name; got {type(source).__name__}")
    tensors = source if isinstance(source, Mapping) else read_weights(source)
    state = {key: value for key, value in tensors.items() if key != AVERAGES}
    while wrapper := next((w for w in (*WRAPPERS, OURS) if state and all(key.startswith(w) for key in state)), None):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def read_weights(source: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a file or from timm's hub."""
    path = Path(source)
    if path.is_file():
        try:
            check_archive(path)
            content: Any
            if path.suffix == ".safetensors":
                content = load_file(path)
            else:
                with torch.serialization.safe_globals([Namespace]):  # what timm's training script puts beside weights
                    content = torch.load(path, "cpu", weights_only=True)
        except Exception as error:  # torch and safetensors raise nine kinds between them
            raise ValueError(f"{source} is not a file of weights; give a .pth or .safetensors state dict") from error
        for key in CONTAINERS:
            content = content.get(key) or content if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise ValueError(f"{source} holds no state dict; give a file with tensors by name")
        check_tensors(content, source)
        return content
    on_hub = str(source).startswith(("hf_hub:", "hf-hub:", "timm/"))
    if isinstance(source, Path) or path.suffix in SUFFIXES or ("/" in str(source) and not on_hub):
        raise FileNotFoundError(f"no weights at {source}; give a file that exists, or a timm model name")
    check_name(source)
    try:
        return timm.create_model(source, pretrained=True).state_dict()
    except RuntimeError as error:
        raise ValueError(f"timm has no weights under {source!r}: {error}; give another name, or a file") from error
