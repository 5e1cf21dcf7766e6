"""Read checkpoints: tensors and plain numbers, which say what they are of."""

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from botvision.files import whole_file

KEY = "botvision"


class TornCheckpointError(ValueError):
    """A file that is no whole checkpoint of tensors."""


def read_checkpoint(path: Path, *, task: str) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, or not one of this task.
    """
    content = whole_content(path, task=task)
    about = content.get(KEY)
    whose = about.get("task", about.get("house")) if about else None  # "house" is the name before 0.1
    if whose != task:
        whose = f"one of `botvision {whose}`" if whose else "no checkpoint of ours"
        raise ValueError(f"{path} is {whose}; give one from runs/{task}/…/checkpoints")
    return dict(content)


def whole_content(path: Path, *, task: str = "…") -> dict[str, Any]:
    """What is in a checkpoint, whatever its task.

    Raises:
        FileNotFoundError: no such file.
        TornCheckpointError: not a whole checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give a file such as runs/{task}/demo/checkpoints/best.ckpt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        beside = ", ".join(sorted(p.name for p in path.parent.glob("[!.]*.ckpt") if p != path))
        hint = f"; beside it: {beside}" if beside else ""
        raise TornCheckpointError(
            f"{path} is not a whole checkpoint of tensors; give a .ckpt that a run has written{hint}"
        ) from error
    return content if isinstance(content, dict) else {}


def task_of(path: Path) -> str:
    """Whose checkpoint it is: maskrcnn or classify.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, or none of ours.
    """
    about = whole_content(path).get(KEY) or {}
    task = about.get("task", about.get("house"))
    if task not in ("maskrcnn", "classify"):
        whose = f"one of `botvision {task}`" if task else "no checkpoint of ours"
        raise ValueError(f"{path} is {whose}; give one from runs/maskrcnn/…/checkpoints or runs/classify/…/checkpoints")
    return str(task)


def newest_whole(folder: Path, *, task: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from and its content: last.ckpt, or the newest whole one where that is torn.

    A torn one is named on stderr, and a torn last.ckpt gives way to a copy of the whole one. None where the folder
    holds no checkpoint: the run had not saved yet.

    Raises:
        ValueError: none is whole, or one is of another task.
    """
    paths = sorted(folder.glob("[!.]*.ckpt"), key=lambda p: (p.name == "last.ckpt", p.stat().st_mtime), reverse=True)
    torn: list[str] = []
    for path in paths:
        try:
            content = read_checkpoint(path, task=task)
        except TornCheckpointError:
            torn.append(path.name)
            continue
        if torn:
            where = f"step {content['global_step']}, epoch {content['epoch']}"
            print(f"{', '.join(torn)} in {folder} is torn; going on from {path.name}, {where}", file=sys.stderr)
            with whole_file(folder / "last.ckpt", sync=True) as unfinished:
                shutil.copyfile(path, unfinished)
        return path, content
    if torn:
        raise ValueError(
            f"no checkpoint in {folder} is whole ({', '.join(torn)}); begin anew with --on_existing replace, or put a "
            "copy back"
        )
    return None


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: Path) -> torch.nn.Module:
    """The checkpoint's weights into the model that it describes; in eval mode.

    Raises:
        ValueError: tensors that do not fit the description.
    """
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the model that it describes: {first}; is the file mixed up?") from error
    return model.eval()
