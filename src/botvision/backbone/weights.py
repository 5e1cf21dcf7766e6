"""Weights in: a ResNet's tensors into a BoTNet, with a word on each that stays fresh."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from botvision.backbone.registry import check_name

log = logging.getLogger("botvision.backbone")


class LoadReport(NamedTuple):
    """What `load_resnet` did, tensor by tensor.

    Attributes:
        loaded: names now equal to the source's.
        fresh: names that the source lacks; they keep their initialisation.
        unused: names of the source that this model has no place for.
    """

    loaded: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded; fresh: {name(self.fresh)}; not used: {name(self.unused)}"


def load_resnet(model: nn.Module, source: Mapping[str, Tensor] | str | Path) -> LoadReport:
    """Load a ResNet's weights into a BoTNet of the same depth; only attention stays fresh (paper section 4.1).

    Args:
        model: a BoTNet, or a features_only model around one.
        source: a state dict, a file of one (.pt, .pth, .safetensors), or a timm model name, which downloads.

    Returns:
        Which tensors were loaded, stayed fresh, were not used.

    Raises:
        ValueError: no tensor fits, a shape differs, or a tensor other than attention's would stay fresh.
        FileNotFoundError: a path that is not there.
    """
    state = source if isinstance(source, Mapping) else read_weights(source)
    own = model.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("fc.") or key in own}
    clash = [k for k in own if k in state and own[k].shape != state[k].shape]
    if clash and all(k.startswith("fc.") for k in clash):  # another number of classes: the head starts fresh
        state = {k: v for k, v in state.items() if k not in clash}
        clash = []
    loaded = [k for k in own if k in state]
    fresh = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    strangers = [k for k in fresh if ".mhsa." not in k and not k.startswith("fc.")]
    if not loaded or clash or strangers:
        raise ValueError(
            f"these weights are not of this model's ResNet twin: missing {name(strangers)}; other shape {name(clash)}; "
            "give a ResNet with the same blocks per stage, e.g. resnet50 for botnet50"
        )
    model.load_state_dict(state, strict=False)
    report = LoadReport(loaded, fresh, [k for k in state if k not in own])
    log.info("%s", report)
    return report


def read_weights(source: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a file or from timm's hub."""
    path = Path(source)
    if path.is_file():
        try:
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except Exception as error:  # torch and safetensors raise eight kinds between them
            raise ValueError(f"{source} is not a file of weights; give a .pth or .safetensors state dict") from error
        for key in ("state_dict", "model"):
            content = content.get(key, content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
            raise ValueError(f"{source} holds no state dict; give a file with tensors by name")
        return content
    if path.suffix in {".pt", ".pth", ".safetensors", ".bin"} or path.is_absolute():
        raise FileNotFoundError(f"no weights at {source}; give a file that exists, or a timm model name")
    check_name(str(source))
    return timm.create_model(str(source), pretrained=True).state_dict()


def name(keys: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    if not keys:
        return "none"
    more = f" and {len(keys) - 9} more" if len(keys) > 9 else ""
    return ", ".join(keys[:9]) + more
