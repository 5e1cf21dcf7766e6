"""Checkpoints of forks whose ultralytics had the shared `MHSA` snippet built in, as ones that open anywhere."""

import os
import pickle
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics.nn import tasks

from botvision.backbone.convert import convert as convert_layer
from botvision.files import whole_file
from botvision_yolo.blocks import ResidualMHSA2d
from botvision_yolo.reader import SNIPPET, SNIPPET_HEADS

SAFE_LOAD = "ULTRALYTICS_SAFE_LOAD"  # ultralytics' word for: run nothing that a checkpoint pickles
LAYERS = ("torch.nn.modules.", "ultralytics.nn.modules.", "botvision_yolo.blocks", "botvision.attention.module")
DATA = ("ultralytics.utils.IterableSimpleNamespace",)  # plain, in every checkpoint


class SnippetLayer(nn.Module):
    """What stands in for a fork's `MHSA` while its checkpoint is opened: its tensors and numbers, no code."""


class Shell(nn.Module):
    """What stands in for a model while a file is opened: its constructor would read a yaml, and evaluate some of it.

    Attributes:
        stands_for: the class of the model.
    """

    stands_for: type[nn.Module]


class Unpickler(pickle.Unpickler):
    """Torch's, but that the snippet's class need not exist."""

    def find_class(self, module: str, name: str) -> Any:
        """The class that a checkpoint names."""
        return SnippetLayer if name == SNIPPET else super().find_class(module, name)


def convert(source: str | Path, target: str | Path, *, content_only: bool = False, trust: bool = False) -> str:
    """Rewrite a fork's checkpoint so that it needs this package instead of the fork.

    The snippet's content term is exactly `MHSA2d(position="none", qkv_bias=True)`, and a model of it computes the same
    afterwards. Its position term is transposed and bound to one size, so no layer of ours computes it.

    Args:
        source: the fork's `.pt`. Only tensors, numbers and layers that torch and ultralytics have are taken from it:
            none of its code runs.
        target: the `.pt` to write.
        content_only: leave the position term out, so that the model must be trained on; refused otherwise.
        trust: open it as ultralytics opens a `.pt`, which runs whatever it pickles: for files that hold more, of
            someone whom you trust. Refused under ULTRALYTICS_SAFE_LOAD.

    Returns:
        A line that says what was converted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no checkpoint with the snippet, a position term, classes that are not here or not known to be safe,
            or a target that is there.
    """
    target = Path(target)
    if target.exists():
        raise ValueError(f"{target} is there already; give another name, or remove it")
    checkpoint = opened(Path(source), trust=trust)
    found = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(found, nn.Module):
        raise ValueError(f"{source} holds no model; give a .pt that ultralytics or a fork of it has written")
    model: Any = found
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SnippetLayer)}
    if not layers:
        raise ValueError(f"{source} has no {SNIPPET} in it; it needs no conversion")
    for number, row in enumerate([*model.yaml["backbone"], *model.yaml["head"]]):
        if row[2] == SNIPPET:
            first = next(layer for name, layer in layers.items() if f"{name}.".startswith(f"model.{number}."))
            row[2], row[3] = "MHSA2d", [heads_of(first), "none", False, True]
    for name, layer in layers.items():
        place, _, child = name.rpartition(".")
        setattr(model.get_submodule(place), child, converted(layer, name, content_only=content_only))
    with whole_file(target) as unfinished:
        torch.save({**checkpoint, "model": model.half(), "ema": None, "optimizer": None, "epoch": -1}, unfinished)
    lost = ", their position terms left out: train it on" if content_only else ", exactly"
    return f"{len(layers)} {SNIPPET} converted{lost}: {', '.join(layers)}; saved as {target}"


def opened(path: Path, *, trust: bool) -> dict[str, Any]:
    """A checkpoint's content, with the snippet's layers as stand-ins."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give a .pt that exists")
    if trust and os.environ.get(SAFE_LOAD, "").strip().lower() in {"1", "true", "yes", "on"}:
        raise ValueError(f"trust=True runs what {path} pickles, which {SAFE_LOAD} forbids; unset one of them")
    try:
        content = trusted(path) if trust else restricted(path)
    except (AttributeError, ModuleNotFoundError) as error:
        raise ValueError(f"{path} holds a class that is not here: {error}; only {SNIPPET} can be converted") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, TypeError, LookupError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{path} is no checkpoint of ultralytics: {first}; is the file whole?") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; give a .pt that ultralytics has written")
    return content


def trusted(path: Path) -> Any:
    """A file's content, by running what it pickles."""
    module = SimpleNamespace(Unpickler=Unpickler, load=pickle.load, __name__="botvision_yolo")
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


def restricted(path: Path) -> Any:
    """A file's content, of known layers and plain data alone; nothing that it names is called.

    Raises:
        ValueError: it holds something else, by name.
    """
    known, shells = dict[str, Any](), list[type[Shell]]()
    for name in unsafe_globals(path):
        module, _, attribute = name.rpartition(".")
        if attribute == SNIPPET:
            known[name] = SnippetLayer
        elif module == tasks.__name__ and is_layer(getattr(tasks, attribute, None)):
            shells.append(type(attribute, (Shell,), {"stands_for": getattr(tasks, attribute)}))
            known[name] = shells[-1]
        elif name in DATA or (module.startswith(LAYERS) and attribute != "TorchVision"):
            known[name] = getattr(import_module(module), attribute, None)
        if name not in known or not (name in DATA or is_layer(known[name])):
            raise ValueError(
                f"{path} wants {name}, which is no layer that ultralytics {ultralytics.__version__} or torch has; "
                "trust=True opens it as ultralytics would, which runs what it pickles: only for files that you trust"
            )
    with torch.serialization.safe_globals([(what, name) for name, what in known.items()]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for value in content.values() if isinstance(content, dict) else ():
        if isinstance(value, Shell):
            value.__class__ = value.stands_for  # type: ignore[assignment]
    return content


def unsafe_globals(path: Path) -> list[str]:
    """What a file names besides tensors and containers."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError as error:  # no archive of torch's
        raise RuntimeError(str(error)) from error


def is_layer(found: Any) -> bool:
    """Whether it is a class of layers."""
    return isinstance(found, type) and issubclass(found, nn.Module)


def converted(layer: SnippetLayer, name: str, *, content_only: bool) -> ResidualMHSA2d:
    """One layer of the snippet as ours, with its place in the model."""
    state = {key: value.float() for key, value in layer.state_dict().items()}
    found = convert_layer(state, num_heads=heads_of(layer))
    if found.left_out and not content_only:
        why = "; ".join(f"{key}: {reason}" for key, reason in found.left_out.items())
        raise ValueError(f"{name} cannot be converted exactly: {why}; content_only=True leaves it out, to train on")
    dim = state["query.weight"].shape[0]
    ours = ResidualMHSA2d(dim, found.options["num_heads"], "none", residual=False, qkv_bias=True)
    ours.mhsa.load_state_dict(found.tensors)
    for attribute in ("i", "f", "np", "training"):  # where ultralytics has put it
        if hasattr(layer, attribute):
            setattr(ours, attribute, getattr(layer, attribute))
    vars(ours)["type"] = f"{ResidualMHSA2d.__module__}.{ResidualMHSA2d.__name__}"  # it hides a method of torch's
    return ours


def heads_of(layer: SnippetLayer) -> int:
    """The heads of a layer of the snippet, which keeps them as a number."""
    return int(getattr(layer, "heads", SNIPPET_HEADS))
