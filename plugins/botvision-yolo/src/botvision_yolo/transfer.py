"""Weights by aligned rows: what a model has learnt survives a row that is put in or changed."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv
from ultralytics.utils import LOGGER

from botvision_yolo.reader import SNIPPET
from botvision_yolo.variants import derive


class Transfer(NamedTuple):
    """What a model took over.

    Attributes:
        kept: tensors of the model that hold the source's values.
        total: tensors of the model.
        rows: for each row of the model its row in the source; None for a row that has none.
        fresh: the tensors that keep their initialisation, by the row they are in.
    """

    kept: int
    total: int
    rows: list[int | None]
    fresh: dict[str, int]

    def __str__(self) -> str:
        fresh = ", ".join(f"{row} ({count})" for row, count in self.fresh.items()) or "none"
        return f"{self.kept} of {self.total} tensors kept; fresh, by row: {fresh}"


def load_pretrained(model: nn.Module, weights: Any, *, verbose: bool = True) -> Transfer:
    """Load a YOLO's weights into another whose rows were inserted or changed.

    Rows are aligned by what they hold, not by their number; the rest (another number of classes or input channels,
    names) is ultralytics' own loader's.

    Args:
        model: an ultralytics model, or a `YOLO` around one.
        weights: a `YOLO`, an ultralytics model, a checkpoint's content, or a `.pt` file.
        verbose: whether to log what was kept.

    Returns:
        What was kept, and what stays fresh.

    Raises:
        ValueError: a source that is no ultralytics model, or one that is fused.
    """
    target, source = unwrapped(model), unwrapped(weights)
    if is_fused(source):
        raise ValueError(
            "these weights are fused for inference: their BatchNorms are folded into the convolutions, so few tensors "
            "would fit; give the checkpoint that was opened before fuse(), e.g. the run's best.pt or last.pt"
        )
    placed = align_rows(list(target.model), list(source.model))
    aligned = copy.deepcopy(source)  # ultralytics' loader makes its source float
    aligned.model = nn.Sequential(*(nn.Identity() if row is None else aligned.model[row] for row in placed))
    target.load(aligned, verbose=False)
    if placed[-1] is not None and is_numbered(target.names) and len(target.names) == len(source.names):
        target.names = dict(source.names)  # as ultralytics does, but only where every tensor fits
    own, came = target.state_dict(), aligned.state_dict()
    fresh = [key for key, value in own.items() if key not in came or came[key].shape != value.shape]
    report = Transfer(len(own) - len(fresh), len(own), placed, by_row(target.model, fresh))
    if verbose:
        LOGGER.info(f"Transferred by aligned rows: {report}")
    return report


def botify(model: Any, variant: str = "insert") -> Any:
    """Put BoTNet's attention into a trained model, in place.

    "insert" and "mhsa" add a block that starts as identity: the model computes what it did, until it is trained on.
    "botnet" and "c2bot" take layers away: the model must be trained on before it is of use.

    Args:
        model: a `YOLO`, of ours or of ultralytics', or the model in it.
        variant: one of `variants.VARIANTS`.

    Returns:
        The same object.

    Raises:
        ValueError: see `derive`; a fused model; not an ultralytics model.
    """
    net = unwrapped(model)
    if is_fused(net):
        raise ValueError("this model is fused for inference; botify the checkpoint that it was opened from")
    like = next(net.parameters())
    changed = derive(net.yaml, variant)
    changed["nc"] = len(net.names)
    fresh = type(net)(changed, ch=changed.get("channels", changed.get("ch", 3)), verbose=False)
    fresh.names = net.names
    LOGGER.info(f"botify, {variant}: {load_pretrained(fresh, net, verbose=False)}")
    fresh.train(net.training).to(like.device, like.dtype)
    net.model, net.save, net.yaml = fresh.model, fresh.save, fresh.yaml
    if model is not net:
        # .train() starts from it; an unfinished run of the model before is none of this one
        model.ckpt = {**(model.ckpt or {}), "model": net, "ema": None, "optimizer": None, "epoch": -1}
        model.predictor = None
    return model


def align_rows(target: Sequence[nn.Module], source: Sequence[nn.Module]) -> list[int | None]:
    """For each row of a model its row in another, in order, such that most tensors fit (Needleman and Wunsch, 1970)."""
    own, came = [shapes(row) for row in target], [shapes(row) for row in source]
    best = [[0.0] * (len(source) + 1) for _ in range(len(target) + 1)]
    for i in range(1, len(target) + 1):
        for j in range(1, len(source) + 1):
            worth = gain(target[i - 1], source[j - 1], own[i - 1], came[j - 1])
            best[i][j] = max(best[i - 1][j], best[i][j - 1], best[i - 1][j - 1] + worth)
    placed: list[int | None] = [None] * len(target)
    i, j = len(target), len(source)
    while i and j:
        worth = gain(target[i - 1], source[j - 1], own[i - 1], came[j - 1])
        if worth and best[i][j] == best[i - 1][j - 1] + worth:
            i, j = i - 1, j - 1
            placed[i] = j
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return placed


def gain(target: nn.Module, source: nn.Module, own: dict[str, Any], came: dict[str, Any]) -> float:
    """What aligning two rows is worth: the tensors that fit, and a half for the same class."""
    same_class = type(target).__name__ == type(source).__name__  # by name: a fork's stand where ours do
    return sum(came.get(key) == shape for key, shape in own.items()) + 0.5 * same_class


def shapes(row: nn.Module) -> dict[str, Any]:
    """A row's tensors by name, as shapes."""
    return {key: value.shape for key, value in row.state_dict().items()}


def is_numbered(names: dict[int, str]) -> bool:
    """Whether classes have no names yet, only numbers."""
    return all(str(number) == str(name) for number, name in names.items())


@contextmanager
def telling_forks(path: Any) -> Iterator[None]:
    """Say how to convert a checkpoint that wants the shared `MHSA` snippet, where opening it fails by that."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        cause = error.__cause__ or error
        if f"'{SNIPPET}'" not in str(cause) and f".{SNIPPET} " not in str(cause):
            raise
        raise ValueError(
            f"{path} was written by a fork whose ultralytics has {SNIPPET} built in; convert it: "
            f"bot-yolo convert {path} new.pt"
        ) from error


def by_row(rows: nn.Sequential, keys: list[str]) -> dict[str, int]:
    """How many tensors of each row are among the keys; rows by number and class."""
    counts: dict[str, int] = {}
    for key in keys:
        number = key.split(".")[1]
        row = f"{number} {type(rows[int(number)]).__name__}"
        counts[row] = counts.get(row, 0) + 1
    return counts


def is_fused(model: nn.Module) -> bool:
    """Whether ultralytics' convolutions have lost their BatchNorms; ours behind attention stay, and are not counted."""
    return any(isinstance(part, Conv) and not hasattr(part, "bn") for part in model.modules())


def unwrapped(model: Any) -> Any:
    """The ultralytics model inside a `YOLO`, a checkpoint or a file."""
    if isinstance(model, str | Path):
        with telling_forks(model):
            model = tasks.load_checkpoint(model)[0]
    elif isinstance(model, dict):
        model = model.get("ema") or model.get("model")
    if not isinstance(model, tasks.BaseModel):
        model = getattr(model, "model", model)
    if not isinstance(model, tasks.BaseModel):
        raise ValueError(f"{type(model).__name__} is no ultralytics model; give a YOLO, the model in it, or a .pt file")
    return model
