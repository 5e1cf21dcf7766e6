"""Read and write files: whole files or none, and leftovers of killed runs removed."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None

UNFINISHED = ".unfinished-"  # before the name of a file that is being written
LOCKED = ".lock"  # after it, of the file that its process locks meanwhile
STALE = 2.0  # seconds from which an unfinished file that nobody holds is a leftover
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
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    # named before it is there, so that it goes whenever a signal comes
    unfinished = path.parent / f"{UNFINISHED}{uuid.uuid4().hex[:8]}{path.suffix}"
    try:
        with told_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.touch(mode=0o600, exist_ok=False)
            with held(unfinished):
                yield unfinished
                unfinished.chmod(0o644)
                if sync:
                    synced(unfinished)
                if keep is not None and path.exists():
                    path.replace(keep)
                unfinished.replace(path)
            if sync and os.name == "posix":
                with suppress_unsupported():
                    synced(path.parent)
    finally:
        with suppress(OSError):  # a folder that is none
            unfinished.unlink(missing_ok=True)


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """What the system refuses of an unfinished file or folder is told of `path`: the user asked for that name."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise no_space(path) from error
        if UNFINISHED in str(error.filename):
            error.filename = str(path)
        raise


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold an unfinished file or folder, so that no other run takes it for a leftover; a killed process lets go.

    What is locked is an empty file beside it: on a Windows share a locked file cannot be written.
    """
    if fcntl is None:
        yield
        return
    lock = lock_of(path)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def lock_of(path: Path) -> Path:
    """The file that is locked while another, or a folder, is unfinished."""
    return path.with_name(path.name + LOCKED)


def is_leftover(path: Path, *, stale: float) -> bool:
    """Whether nobody holds an unfinished file or folder, and has not only just begun it."""
    if fcntl is None or (stale and time.time() - path.stat().st_mtime < stale):
        return False
    try:
        handle = os.open(lock_of(path), os.O_RDWR)  # NFS locks what may be written alone
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def clear_leftovers(folder: Path, *, prefix: str = UNFINISHED, stale: float = STALE) -> None:
    """Remove unfinished files and folders that killed processes have left, and none that another is writing.

    Args:
        folder: where they are.
        prefix: of their names.
        stale: seconds from which they can be leftovers; 0 where nobody else writes into the folder.
    """
    there = list(folder.glob(f"{glob.escape(prefix)}*")) if folder.is_dir() else []
    for path in dict.fromkeys(path.with_name(path.name.removesuffix(LOCKED)) for path in there):
        with suppress(OSError):  # another process may be quicker
            ours = prefix == UNFINISHED or re.fullmatch("[a-z0-9_]{8}", path.name.removeprefix(prefix))
            is_there = path.exists()
            if not ours or not is_leftover(path if is_there else lock_of(path), stale=stale):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            lock_of(path).unlink(missing_ok=True)


@contextmanager
def suppress_unsupported() -> Iterator[None]:
    """Some file systems in user space cannot confirm a folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def synced(path: Path) -> None:
    """Wait until the disk holds a file, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def no_space(path: Path) -> OSError:
    """What to say of a disk that takes no more: which one, and what became of the old file."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free / 2**20
    return OSError(
        f"no room to write {path}: its disk has {free:.0f} MiB free, or a quota or limit is reached; what was there "
        "before is as it was; make room and go on"
    )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, not there yet or empty, that takes its place only without an error."""
    with told_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, prefix=f"{UNFINISHED}{path.name}-", stale=0)
        unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{UNFINISHED}{path.name}-"))
        try:
            with held(unfinished):
                yield unfinished
                unfinished.chmod(0o755)
                if path.exists():
                    path.rmdir()
                unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def is_file(path: Path) -> bool:
    """Whether there is such a file; false for what can be no name, as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def key_of(path: Path) -> tuple[str, int, int] | None:
    """What tells a file as it is now from any other; none where it cannot be looked up."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return str(path.absolute()), found.st_mtime_ns, found.st_size


def check_no_file(path: Path) -> None:
    """Refuse a folder to write into that is a file.

    Raises:
        ValueError: it is.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file; give a folder as --out")


def check_page(out: Path, *, name: str) -> None:
    """Refuse a place that a page cannot have; `name` is what it is usually called.

    Raises:
        ValueError: a folder, a place in a file, or a file of another kind, which it would replace.
    """
    check_no_file(out.parent)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give a file as --out, e.g. {out / name}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html: a page is written, and replaces what is there")


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written into, before long work for it begins.

    Raises:
        ValueError: it cannot.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = f"{there}: {(error.strerror or str(error)).lower()}"
        raise ValueError(f"nothing can be written into {folder} ({reason}); give another --out") from error


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


def sha256(path: Path, *, digits: int = 16) -> str:
    """The first digits of a file's SHA-256, which has 64."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:digits]


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path, sync=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        ValueError: not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}; write it anew") from error


def read_names(path: Path) -> list[str]:
    """Names of a text file, which are numbered by their lines.

    Raises:
        ValueError: not text, or an empty line between two, behind which every number would be another name's.
    """
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in names:
        raise ValueError(f"{path}: line {names.index('') + 1} is empty, and the names are numbered by line; remove it")
    return names


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
