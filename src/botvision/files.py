"""Write files atomically: whole files or none; clear what killed processes left half done."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-"  # before the name of a file that is being written
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def whole_file(path: Path, *, sync: bool = False, keep: Path | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place only when the block ends without an error.

    Args:
        path: of the file to write.
        sync: have the disk confirm it before the old file goes, so that not even a power cut leaves half of one.
        keep: where the old file goes, in the same folder; a kill between the two renamings leaves it there alone.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    unfinished: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=path.suffix)
        unfinished = Path(name)
        with held(handle):
            yield unfinished
            unfinished.chmod(0o644)
            if sync:
                synced(unfinished)
            if keep is not None and path.exists():
                path.replace(keep)
            unfinished.replace(path)
        if sync and os.name == "posix":
            synced(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise no_space(path) from error
        raise
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


@contextmanager
def held(handle: int) -> Iterator[None]:
    """Others see that what a handle is of is being written until the block ends, or its process; then it is closed."""
    try:
        if fcntl is None:
            os.close(handle)  # Windows renames nothing that is open
        else:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if fcntl is not None:
            os.close(handle)


def is_abandoned(path: Path) -> bool:
    """Whether the process that was writing it is gone; False too where the file system cannot tell."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def clear_unfinished(folder: Path, *, name: str = "") -> None:
    """Remove what killed processes were writing into a folder, of a folder's `name` or of all files."""
    for path in [path for path in folder.glob(f"{UNFINISHED}{name}*") if is_abandoned(path)]:
        if path.is_dir() and name:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)


def synced(path: Path) -> None:
    """Wait until the disk holds a file, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_space(path: Path) -> OSError:
    """What to say of a disk that takes no more: which one, and what became of the old file."""
    free = shutil.disk_usage(path.parent).free / 2**20
    return OSError(
        f"no room to write {path}: its disk has {free:.0f} MiB free, or a quota or limit is reached; what was there "
        "before is as it was; make room and go on"
    )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, not there yet or empty, that takes its place only without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_unfinished(path.parent, name=f"{path.name}-")
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{UNFINISHED}{path.name}-"))
    try:
        with held(os.open(unfinished, os.O_RDONLY)) if fcntl is not None else nullcontext():
            yield unfinished
            unfinished.chmod(0o755)
            if path.exists():
                path.rmdir()
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_no_file(path: Path) -> None:
    """Refuse a folder to write into that is a file.

    Raises:
        ValueError: it is.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; give a folder as --out")


def check_free(paths: Iterable[Path], *, on_existing: str) -> None:
    """Refuse to overwrite files, before any is written.

    Raises:
        ValueError: `on_existing` is neither "refuse" nor "replace", or it is "refuse" and a file is there; a folder to
            write into that is a file.
    """
    paths = list(paths)
    for path in paths:
        check_no_file(path.parent)
    if on_existing not in ("refuse", "replace"):
        raise ValueError(f"on_existing={on_existing!r} is unknown; use refuse or replace")
    there = [path for path in paths if os.path.lexists(path)] if on_existing == "refuse" else []
    if there:
        more = f" and {len(there) - 1} more files are" if len(there) > 1 else " is"
        raise ValueError(
            f"{there[0]}{more} there already and would be overwritten; give another --out, or --on_existing replace"
        )


def sha256(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path, sync=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_json(path: Path, *, what: str) -> Any:
    """Read a JSON file; `what` names it in the error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}; give a JSON file that exists")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} {path} is not JSON: {error}; is the file whole?") from error
