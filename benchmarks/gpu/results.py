"""Results of a stage: rows on file as soon as they are there, gone on with by the next run."""

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from botvision.files import read_json, write_text
from studies.hardware import commit, hardware

Row = dict[str, Any]
ORIGIN = ("title", "toy", "machine", "commit")  # rows of one file have these in common


class Results:
    """The rows of one stage in one JSON file, which is whole at any moment.

    Attributes:
        rows: what was measured.
        left_out: contenders after which the device refused all work, with what they ended with.
    """

    def __init__(self, path: Path, title: str, *, toy: bool, note: str = "") -> None:
        """Open the file, or begin it.

        Raises:
            ValueError: what is there is no such file, or comes from another machine, commit or size.
        """
        self.path = path
        self.about: Row = {"title": title, "toy": toy, "machine": machine(toy=toy), "commit": commit(), "note": note}
        self.about["architecture"] = architecture(toy=toy)
        self.about["date"] = f"{datetime.now(UTC):%Y-%m-%d}"
        self.rows: list[Row] = []
        self.left_out: dict[str, str] = {}
        if path.exists():
            self._go_on()

    def _go_on(self) -> None:
        found = read_json(self.path, what="results of a stage")
        for field in ORIGIN:
            there = found.get(field) if isinstance(found, dict) else None
            if there != self.about[field]:
                raise ValueError(
                    f"{self.path} has {field} {there!r}, and this run {self.about[field]!r}; give another folder"
                )
        self.rows, self.left_out = found["rows"], found["left_out"]

    def has(self, **fields: Any) -> bool:
        """Whether a row with these fields is on file."""
        wanted = json.loads(json.dumps(fields))  # pairs come back as lists
        return any(all(row.get(name) == value for name, value in wanted.items()) for row in self.rows)

    def add(self, *rows: Row) -> None:
        """File more rows."""
        self.rows += json.loads(json.dumps(rows))
        self.save()

    def save(self) -> None:
        """Write the file: whole, or not at all."""
        content = {**self.about, "left_out": self.left_out, "rows": self.rows}
        write_text(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def machine(*, toy: bool) -> str:
    """Processor or GPU, and the versions that decide about speed."""
    if toy:
        return f"CPU, {platform.machine()}, torch {torch.__version__}"
    return f"{hardware()}, CUDA {torch.version.cuda}, Python {sys.version.partition(' ')[0]}"


def architecture(*, toy: bool) -> str:
    """The GPU's compute capability, e.g. 9.0; "cpu" for a toy run."""
    return "cpu" if toy else "{}.{}".format(*torch.cuda.get_device_capability())
