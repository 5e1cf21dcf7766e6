"""Read checkpoints: tensors and plain numbers, which say what they are of."""

import pickle
import shutil
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from botvision.engine.saving import LAST, PREVIOUS
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
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give a file such as runs/{task}/demo/checkpoints/best.ckpt")
    try:
        check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        beside = ", ".join(sorted(p.name for p in path.parent.glob("[!.]*.ckpt") if p != path))
        hint = f"; beside it: {beside}" if beside else ""
        raise TornCheckpointError(
            f"{path} is not a whole checkpoint of tensors; give a .ckpt that a run has written{hint}"
        ) from error
    about = content.get(KEY) if isinstance(content, dict) else None
    whose = about.get("task", about.get("house")) if about else None  # "house" is the name before 0.1
    if whose != task:
        whose = f"one of `botvision {whose}`" if whose else "no checkpoint of ours"
        raise ValueError(f"{path} is {whose}; give one from runs/{task}/…/checkpoints")
    return dict(content)


def check_sums(path: Path) -> None:
    """Compare a checkpoint with the checksums of its parts, which torch writes, and does not look at when it reads.

    Raises:
        ValueError: it was altered.
    """
    try:
        if not zipfile.is_zipfile(path):
            return  # torch's old form has none, and half a file is no zip: torch.load says which
        with zipfile.ZipFile(path) as parts:
            altered = parts.testzip()
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"its list of parts is altered: {error}") from error
    if altered is not None:
        raise ValueError(f"its part {altered} is altered")


def newest_whole(folder: Path, *, task: str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from and its content: last.ckpt, or the one before it where that is torn.

    Altered ones count as torn. A torn one is named on stderr, and a last.ckpt that is torn, or was lost with a kill,
    gives way to a copy of the whole one. None where the folder holds no checkpoint: the run had not saved yet.

    Raises:
        ValueError: none is whole, or one is of another task.
    """
    order = (PREVIOUS, LAST)
    paths = sorted(folder.glob("[!.]*.ckpt"), reverse=True, key=lambda p: (p.name in order and order.index(p.name) + 1,
                                                                           p.stat().st_mtime))  # fmt: skip
    torn: list[str] = []
    for path in paths:
        try:
            content = read_checkpoint(path, task=task)
        except TornCheckpointError:
            torn.append(path.name)
            continue
        if path.name != LAST:
            where = f"step {content['global_step']}, epoch {content['epoch']}"
            why = f"{', '.join(torn)} in {folder} is torn" if torn else f"{folder} has no {LAST}"
            print(f"{why}; going on from {path.name}, {where}", file=sys.stderr)
            with whole_file(folder / LAST, sync=True) as unfinished:
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
