"""Which backends were measured fastest on GPUs: a table by architecture, dtype, pass and tokens."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("measured.json")  # benchmarks/gpu/table.py writes it

Table = Mapping[str, Any]


def fastest(device: torch.device, dtype: torch.dtype, *, learning: bool, tokens: int) -> tuple[str, ...]:
    """Backends from the fastest on, or none where this was not measured.

    The table is read once, and only where there is an NVIDIA GPU: a graph that is being recorded never comes here.
    """
    name = architecture(device)
    return () if name is None else looked_up(table(), name, dtype, learning=learning, tokens=tokens)


def looked_up(table: Table, name: str, dtype: torch.dtype, *, learning: bool, tokens: int) -> tuple[str, ...]:
    """The backends of the first row that goes up to so many tokens; the last row has no end."""
    rows = table.get(name, {}).get(str(dtype).removeprefix("torch."), {}).get("training" if learning else "forward", [])
    for row in rows:
        if row["up_to"] is None or tokens <= row["up_to"]:
            return tuple(row["backends"])
    return ()


@functools.cache
def architecture(device: torch.device) -> str | None:
    """An NVIDIA GPU's compute capability, e.g. "9.0"; none of any other device."""
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


@functools.cache
def table() -> Table:
    """The shipped table: architecture → dtype → "training" or "forward" → rows by tokens."""
    found: Table = json.loads(TABLE.read_text(encoding="utf-8"))
    return found
