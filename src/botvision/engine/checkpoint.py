"""Read checkpoints: tensors and plain numbers, which say what they are of."""

import errno
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from botvision.backbone.archive import check_archive, check_tensors
from botvision.files import is_file, whole_file

KEY = "botvision"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
SLACK = 2**24  # numbers that a model may have besides its weights


class TornCheckpointError(ValueError):
    """A file that is no whole checkpoint of tensors."""


class Newest(NamedTuple):
    """The checkpoint that a run goes on from.

    Attributes:
        path: of the file.
        content: what it holds.
        torn: names of the newer ones that are not whole.
    """

    path: Path
    content: dict[str, Any]
    torn: list[str]


def read_checkpoint(path: Path, *, task: str | None) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU; nothing in it is executed.

    Args:
        path: of the file.
        task: whose it must be; none takes any of ours.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read now, whatever it holds.
        ValueError: not a whole checkpoint, not one of this task, or one that holds no state dict.
    """
    if not is_file(path):
        usual = f"runs/{task or 'maskrcnn'}/demo/checkpoints/best.ckpt"
        raise FileNotFoundError(f"no checkpoint at {str(path)[:300]}; give a file such as {usual}")
    try:
        check_archive(path)
        check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no kind of its own for what is no file of tensors
        if is_passing(error):
            raise OSError(f"{path} cannot be read now: {error}; it may be whole: try again") from error
        beside = ", ".join(sorted(p.name for p in path.parent.glob("[!.]*.ckpt") if p != path))
        hint = f"; beside it: {beside}" if beside else ""
        raise TornCheckpointError(
            f"{path} is not a whole checkpoint of tensors; give a .ckpt that a run has written{hint}"
        ) from error
    about = content.get(KEY) if isinstance(content, dict) else None
    about = about if isinstance(about, dict) else {}
    whose = owner(about)
    if not isinstance(whose, str) or task not in (None, whose):
        whose = f"one of `botvision {whose}`" if isinstance(whose, str) else "no checkpoint of ours"
        raise ValueError(f"{path} is {whose}; give one from runs/{task or 'maskrcnn'}/…/checkpoints")
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise TornCheckpointError(f"{path} holds no state dict; give a .ckpt that a run has written")
    check_tensors(state, path)
    return dict(content)


def is_passing(error: BaseException) -> bool:
    """Whether a file could not be read for a reason that is not its content: the disk, the network, memory."""
    kinds = [error, *(cause for cause in (error.__cause__, error.__context__) if cause is not None)]
    return any(
        isinstance(kind, MemoryError)
        or (isinstance(kind, OSError) and kind.errno not in (None, errno.EINVAL))  # a place before the file's begin
        or "allocate memory" in str(kind)
        for kind in kinds
    )


def owner(about: dict[str, Any]) -> Any:
    """The task that a checkpoint says it is of; none where it says nothing."""
    return about.get("task", about.get("house"))  # "house" is the name before 0.1


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


def newest_whole(folder: Path, *, task: str) -> Newest | None:
    """The checkpoint that a run goes on from: last.ckpt, or the one before it where that is torn. Nothing is changed.

    Altered ones count as torn. None where the folder holds no checkpoint: the run had not saved yet.

    Raises:
        OSError: one cannot be read now.
        ValueError: none is whole, or one is of another task.
    """
    order = (PREVIOUS, LAST)
    there = (path for path in folder.glob("[!.]*.ckpt") if path.is_file())
    paths = sorted(there, reverse=True, key=lambda p: (p.name in order and order.index(p.name) + 1, p.stat().st_mtime))
    torn: list[str] = []
    for path in paths:
        try:
            content = read_checkpoint(path, task=task)
            check_progress(content, path)
        except TornCheckpointError:
            torn.append(path.name)
            continue
        return Newest(path, content, torn)
    if torn:
        raise ValueError(
            f"no checkpoint in {folder} is whole ({', '.join(torn)}); begin anew with --on_existing replace, or put a "
            "copy back"
        )
    return None


def put_back(newest: Newest) -> None:
    """Make the checkpoint that a run goes on from its last.ckpt, and say so on stderr, where it was another.

    One that is torn is kept as last.ckpt.torn.
    """
    path, content, torn = newest
    if path.name == LAST:
        return
    folder, last = path.parent, path.with_name(LAST)
    where = f"step {content['global_step']}, epoch {content['epoch']}"
    why = f"{', '.join(torn)} in {folder} is torn" if torn else f"{folder} has no {LAST}"
    print(f"{why}; going on from {path.name}, {where}", file=sys.stderr)
    if last.is_file():
        last.replace(last.with_name(f"{LAST}.torn"))
    with whole_file(last, sync=True) as unfinished:
        shutil.copyfile(path, unfinished)


def check_progress(content: dict[str, Any], path: Path) -> None:
    """Refuse to go on from what does not say where the run was.

    Raises:
        TornCheckpointError: no numbers of steps and epochs.
    """
    if not all(type(content.get(name)) is int for name in ("global_step", "epoch")):
        raise TornCheckpointError(f"{path} does not say at which step it was saved; give one that a run has written")


@contextmanager
def described_by(path: Path) -> Iterator[None]:
    """Read or build what a checkpoint describes: whatever fails, the description is at fault.

    Raises:
        ValueError: it failed.
    """
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        cure = "" if "; " in str(error) else "; give a .ckpt that a run has written"
        raise ValueError(f"{path}: {error}{cure}") from error
    except Exception as error:  # a description may hold anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} describes no model that can be built: {type(error).__name__}: {reason:.200}; give a .ckpt that a "
            "run has written"
        ) from error


def load_weights(build: Callable[[], torch.nn.Module], content: dict[str, Any], path: Path) -> torch.nn.Module:
    """The model that a checkpoint describes, with its weights; in eval mode.

    Raises:
        ValueError: tensors that do not fit the description.
    """
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    with described_by(path):
        check_size(build, state, path)
        model = build()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()[:300]
        raise ValueError(f"{path} does not fit the model that it describes: {first}; is the file mixed up?") from error
    return model.eval()


def check_size(build: Callable[[], torch.nn.Module], state: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse to allocate a model that is far larger than the weights that are there for it.

    Raises:
        ValueError: it is.
    """
    try:
        with torch.device("meta"):
            model = build()
    except (ValueError, OSError):
        raise
    except Exception:  # a few of timm's models compute with numbers while they are built
        return
    wanted, there = (sum(t.numel() for t in some) for some in (model.state_dict().values(), state.values()))
    if wanted > 2 * there + SLACK:
        raise ValueError(
            f"{path} describes a model of {wanted:,} numbers and holds {there:,}; give a .ckpt that a run has written"
        )
