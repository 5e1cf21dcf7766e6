"""The attention layer and its core beside torch's, timm's and lucidrains', in turn, as ratios."""

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
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from tqdm import tqdm

from botvision.attention import MHSA2d, attend
from botvision.attention.position import relative_logits
from botvision.files import write_json, write_text

HEADS, HEAD_DIM = 4, 128  # the paper's, in c5
BACKENDS = ("auto", "chunked", "explicit", "onehot")
Contenders = dict[str, Callable[[], Tensor]]


class Row(NamedTuple):
    """One contender on one map.

    Attributes:
        what: "core" (queries, keys and values given, position logits included) or "layer" (projections too).
        name: what ran.
        side: of the square map.
        batch: pictures at a time.
        seconds: of each run.
        ratio: median of its time over the yardstick's of the same round.
    """

    what: str
    name: str
    side: int
    batch: int
    seconds: list[float]
    ratio: float

    def __str__(self) -> str:
        middle, best, worst = (1e3 * f(self.seconds) for f in (statistics.median, min, max))
        spread = f"{best:.1f} … {worst:.1f}"
        run = f"| {self.what} | {self.name} | {self.batch} × {self.side}² "
        return f"{run}| {middle:.1f} | {spread} | {self.ratio:.2f} |"


class Report(NamedTuple):
    """Rows and what they were measured on, as Markdown."""

    rows: list[Row]
    machine: str
    passes: str

    def __str__(self) -> str:
        head = ["| | what ran | batch × map | median ms | spread ms | × yardstick |", "|---|---|---|---|---|---|"]
        note = (
            f"{self.passes}, float32, {HEADS} heads of {HEAD_DIM}; contenders run in turn. The core's yardstick is "
            "torch's attention on the same q, k, v, without positions; the layer's, the layer without positions."
        )
        return "\n".join([self.machine, "", note, "", *head, *map(str, self.rows)])


def attention(
    *,
    sides: tuple[int, ...] = (14, 32, 64),
    rounds: int = 7,
    train: bool = False,
    threads: int | None = None,
    out: Path | None = None,
) -> Report:
    """Time BoTNet's attention beside position-free attention and beside other ports' arithmetic.

    Contenders run in turn, round after round, so a machine whose speed drifts treats them alike.

    Args:
        sides: of the square maps; 14 runs with batch 8, the others with batch 1.
        rounds: of every contender.
        train: forward and backward instead of forward alone.
        threads: torch's threads; none leaves its choice.
        out: Markdown file for the table; every run's seconds go beside it as JSON.

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
        for what, contenders in (("core", cores), ("layer", layers)):
            with torch.inference_mode(not train):
                runs = contenders(side, batch=batch)
                rows += race(runs, what=what, side=side, batch=batch, rounds=rounds, train=train)
    report = Report(rows, machine(), "Forward and backward" if train else "Forward")
    if out is not None:
        write_text(out, f"# Attention, {report}\n")
        write_json(out.with_suffix(".json"), {"machine": report.machine, "rows": [row._asdict() for row in rows]})
    return report


def cores(side: int, *, batch: int) -> Contenders:
    """Attention on given q, k, v, with position logits from tables; the first is the yardstick."""
    q, k, v = (torch.randn(batch, HEADS, side * side, HEAD_DIM, requires_grad=True) for _ in range(3))
    tables = [torch.randn(2 * side - 1, HEAD_DIM, requires_grad=True) for _ in range(2)]
    scale = HEAD_DIM**-0.5

    def ours(backend: str) -> Tensor:
        rel_h, rel_w = relative_logits(q, tables[0] * scale, tables[1] * scale, size=(side, side))
        return attend(q, k, v, rel_h, rel_w, scale=scale, backend=backend)

    runs: Contenders = {"torch SDPA, no positions": partial(scaled_dot_product_attention, q, k, v, scale=scale)}
    runs |= {f"attend {backend}": partial(ours, backend) for backend in BACKENDS}
    runs["lucidrains' arithmetic"] = lambda: pad_and_shift(q * scale, k, v, *tables, side=side)
    return runs


def pad_and_shift(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, *, side: int) -> Tensor:
    """The authors' way, as ports translate it: offsets to places by padding and reshaping, two N×N biases."""

    def places(on_map: Tensor, table: Tensor) -> Tensor:
        """(B, M, side, side, D) → (B, M, side, side, side): offsets along the fourth dimension to places."""
        offsets = (on_map @ table.T).flatten(1, 2)  # B M·side side 2·side−1
        flat = pad(pad(offsets, (0, 1)).flatten(2), (0, side - 1))
        shifted = flat.unflatten(2, (side + 1, 2 * side - 1))[:, :, :side, side - 1 :]
        return shifted.unflatten(1, (-1, side))

    on_map = q.unflatten(2, (side, side))
    across = places(on_map, table_w)[:, :, :, :, None].expand(-1, -1, -1, -1, side, -1)
    down = places(on_map.transpose(2, 3), table_h).transpose(2, 3)[..., None].expand(-1, -1, -1, -1, -1, side)
    n = side * side
    logits = q @ k.mT
    logits = logits + (across.reshape(*logits.shape[:2], n, n) + down.reshape(*logits.shape[:2], n, n))
    return logits.softmax(-1) @ v


def layers(side: int, *, batch: int) -> Contenders:
    """Whole layers with their projections, channels_last; the first is the yardstick."""
    dim = HEADS * HEAD_DIM
    x = torch.randn(batch, dim, side, side).to(memory_format=torch.channels_last).requires_grad_()
    modules: dict[str, nn.Module] = {"layer without positions": MHSA2d(dim, HEADS, position="none")}
    for backend in BACKENDS:
        modules[f"MHSA2d {backend}"] = MHSA2d(dim, HEADS, max_size=(side, side), backend=backend)
    modules["timm BottleneckAttn"] = BottleneckAttn(dim, dim, feat_size=(side, side), num_heads=HEADS)
    return {name: partial(module, x) for name, module in modules.items()}


def race(runs: Contenders, *, what: str, side: int, batch: int, rounds: int, train: bool) -> list[Row]:
    """Each contender in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            out: Any = run()
            if train:
                out.backward(torch.ones_like(out))
            if number:
                seconds[name].append(time.perf_counter() - start)
            del out
    yardstick = next(iter(seconds.values()))
    return [
        Row(what, name, side, batch, own, statistics.median(a / b for a, b in zip(own, yardstick, strict=True)))
        for name, own in seconds.items()
    ]


def machine() -> str:
    """What the figures were measured on."""
    parts = [f"torch {torch.__version__}", f"timm {timm.__version__}", f"{torch.get_num_threads()} threads"]
    parts += [f"{os.cpu_count()} cores {platform.machine()}", f"{datetime.now(UTC):%Y-%m-%d}"]
    return ", ".join(parts)
