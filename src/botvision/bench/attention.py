"""The attention layer beside timm's, and its core beside attention without positions."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from botvision.attention import MHSA2d
from botvision.files import write_text

HEADS, HEAD_DIM = 4, 128  # the paper's, in c5


class Row(NamedTuple):
    """One contender on one map.

    Attributes:
        name: what ran.
        side: of the square map.
        batch: pictures at a time.
        seconds: of each run.
        ratio: median of its time over the yardstick's of the same round.
    """

    name: str
    side: int
    batch: int
    seconds: list[float]
    ratio: float

    def __str__(self) -> str:
        middle, best, worst = (1e3 * f(self.seconds) for f in (statistics.median, min, max))
        spread = f"{best:.1f} … {worst:.1f}"
        return f"| {self.name} | {self.batch} × {self.side}² | {middle:.1f} | {spread} | {self.ratio:.2f} |"


class Report(NamedTuple):
    """Rows and what they were measured on, as Markdown."""

    rows: list[Row]
    machine: str

    def __str__(self) -> str:
        head = ["| what | batch × map | median ms | spread ms | × yardstick |", "|---|---|---|---|---|"]
        note = (
            "Forward, float32, 4 heads of 128. The yardstick is attention without positions on the same map and batch."
        )
        return "\n".join([self.machine, "", note, "", *head, *map(str, self.rows)])


def attention(
    *, sides: tuple[int, ...] = (14, 32, 64), rounds: int = 7, threads: int | None = None, out: Path | None = None
) -> Report:
    """Time BoTNet's attention beside position-free attention and beside timm's layer.

    Contenders run in turn, round after round, so a machine whose speed drifts treats them alike.

    Args:
        sides: of the square maps; 14 runs with batch 8, the others with batch 1.
        rounds: of every contender.
        threads: torch's threads; none leaves its choice.
        out: Markdown file for the table.

    Raises:
        ValueError: no round, or a side below 1.
    """
    if rounds < 1 or min(sides, default=0) < 1:
        raise ValueError(f"rounds={rounds} and sides={sides} must be at least 1; e.g. 7 and [14, 32, 64]")
    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[Row] = []
    for side in tqdm(sides, desc="bench attention", unit="map", disable=None):
        batch = 8 if side <= 14 else 1
        rows += race(contenders(side, batch=batch), side=side, batch=batch, rounds=rounds)
    report = Report(rows, machine())
    if out is not None:
        write_text(out, f"# Attention, {report}\n")
    return report


def contenders(side: int, *, batch: int) -> dict[str, Callable[[], Any]]:
    """What to time on one map; the first is the yardstick."""
    dim = HEADS * HEAD_DIM
    x = torch.randn(batch, dim, side, side)
    bare = MHSA2d(dim, HEADS, position="none").eval()

    def layer(backend: str) -> nn.Module:
        return MHSA2d(dim, HEADS, max_size=(side, side), backend=backend).eval()

    layers = {f"MHSA2d {backend}": layer(backend) for backend in ("auto", "explicit", "onehot")}
    layers["timm BottleneckAttn"] = BottleneckAttn(dim, dim, feat_size=(side, side), num_heads=HEADS).eval()
    q, k, v = (torch.randn(batch, HEADS, side * side, HEAD_DIM) for _ in range(3))
    runs: dict[str, Callable[[], Any]] = {"layer without positions": partial(bare, x)}
    runs |= {name: partial(module, x) for name, module in layers.items()}
    runs["torch SDPA alone"] = partial(scaled_dot_product_attention, q, k, v)
    return runs


@torch.inference_mode()
def race(runs: dict[str, Callable[[], Any]], *, side: int, batch: int, rounds: int) -> list[Row]:
    """Each contender in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    yardstick = next(iter(seconds.values()))
    return [
        Row(name, side, batch, own, statistics.median(a / b for a, b in zip(own, yardstick, strict=True)))
        for name, own in seconds.items()
    ]


def machine() -> str:
    """What the figures were measured on."""
    parts = [f"torch {torch.__version__}", f"timm {timm.__version__}", f"{torch.get_num_threads()} threads"]
    parts += [f"{os.cpu_count()} cores {platform.machine()}", f"{datetime.now(UTC):%Y-%m-%d}"]
    return ", ".join(parts)
