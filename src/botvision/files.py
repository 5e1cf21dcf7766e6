"""Whole files or none: what is written replaces the old file in one move."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o644)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, not there yet or empty, that takes its place only without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        if path.exists():
            path.rmdir()
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path) as unfinished:
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
    except ValueError as error:
        raise ValueError(f"{what} {path} is not JSON: {error}; is the file whole?") from error
