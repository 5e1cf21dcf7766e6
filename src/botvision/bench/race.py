"""Contenders in turn, round after round: seconds, ratios, peak memory; table, JSON, picture."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from tqdm import tqdm

from botvision.bench.memory import peak
from botvision.draw.ratios import draw_ratios
from botvision.files import write_json, write_text

WARM_UP = 4  # times smaller a side: the pass that loads what every pass needs, before memory is looked at


@dataclass(frozen=True)
class Engine:
    """Where and how contenders run.

    Attributes:
        device: cpu, cuda or another of torch's.
        precision: of queries, keys and values; of layers and models by autocast.
        compile: contenders by torch.compile.
        threads: torch's on the CPU; none leaves its choice.
    """

    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    threads: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch's."""
        found: torch.dtype = getattr(torch, self.precision)
        return found

    def autocast(self) -> torch.autocast:
        """The precision of layers and models."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def run(self, step: Callable[[], Any]) -> float:
        """Seconds of one step, its last kernel included."""
        start = time.perf_counter()
        step()
        if self.device != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter() - start

    def __str__(self) -> str:
        where = f"{os.cpu_count()} cores {platform.machine()}, {torch.get_num_threads()} threads"
        if self.device != "cpu":
            where = torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else self.device
        how = f"{self.precision}{', compiled' if self.compile else ''}"
        versions = f"torch {torch.__version__}, timm {timm.__version__}"
        return f"{where}, {how}, {versions}, {datetime.now(UTC):%Y-%m-%d}"


class Setting(NamedTuple):
    """What every contender of a heat gets: the side of a map or image, the batch, training or not, and the engine."""

    size: int
    batch: int
    train: bool
    engine: Engine


Build = Callable[[str, Setting], Callable[[], Any]]  # a contender's step, by its name


class Row(NamedTuple):
    """One contender of one heat.

    Attributes:
        heat: what was compared.
        name: what ran.
        seconds: of each round.
        ratio: median over the rounds of its time to the yardstick's of the same round.
        peak_mb: memory of a step beyond what the process held, in a process of its own; none where not asked for.
    """

    heat: str
    name: str
    seconds: list[float]
    ratio: float
    peak_mb: float | None

    def __str__(self) -> str:
        middle, best, worst = (1e3 * f(self.seconds) for f in (statistics.median, min, max))
        times = f"{middle:.1f} | {best:.1f} … {worst:.1f} | {self.ratio:.2f}"
        return f"| {self.heat} | {self.name} | {times} | {'' if self.peak_mb is None else f'{self.peak_mb:.0f}'} |"


class Report(NamedTuple):
    """Rows, and what they were measured on, as Markdown."""

    title: str
    note: str
    engine: str
    rows: list[Row]

    def __str__(self) -> str:
        head = ["| heat | what ran | median ms | spread ms | × yardstick | peak MB |", "|---|---|---|---|---|---|"]
        return "\n".join([f"# {self.title}", "", f"{self.engine}. {self.note}", "", *head, *map(str, self.rows)])

    def save(self, out: Path) -> None:
        """The table as Markdown, every round's seconds beside it as JSON, and the ratios as a picture."""
        write_text(out, f"{self}\n")
        content = {"title": self.title, "engine": self.engine, "rows": [row._asdict() for row in self.rows]}
        write_json(out.with_suffix(".json"), content)
        heats = {heat: {r.name: r.ratio for r in self.rows if r.heat == heat} for heat in heats_of(self.rows)}
        draw_ratios(heats, out.with_suffix(".png"), title=f"{self.title}: time × the first row's")


def heats_of(rows: Sequence[Row]) -> list[str]:
    """Heats in their order."""
    return list(dict.fromkeys(row.heat for row in rows))


def race(
    build: Build, names: Sequence[str], setting: Setting, *, what: str, rounds: int, memory: bool = False
) -> list[Row]:
    """Run contenders in turn, so that a machine whose speed drifts treats them alike; the first is the yardstick.

    Raises:
        ValueError: no round, or a size or batch below 1.
    """
    if min(rounds, setting.size, setting.batch) < 1:
        got = f"rounds={rounds}, size={setting.size}, batch={setting.batch}"
        raise ValueError(f"rounds, sizes and batch must be at least 1; got {got}; e.g. 7, 64 and 1")
    heat = f"{what}, {setting.batch} × {setting.size}²{', training' if setting.train else ''}"
    if setting.engine.threads is not None:
        torch.set_num_threads(setting.engine.threads)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode(not setting.train):
        steps = {name: build(name, setting) for name in names}
        for number in tqdm(range(rounds + 1), desc=heat, unit="round", disable=None, leave=False):
            for name, step in steps.items():
                taken = setting.engine.run(step)
                if number:  # the first round warms up
                    seconds[name].append(taken)
    del steps
    yardstick = seconds[names[0]]
    return [
        Row(heat, name, own, ratio(own, yardstick), peak_alone(build, name, setting) if memory else None)
        for name, own in seconds.items()
    ]


def ratio(own: Sequence[float], yardstick: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(own, yardstick, strict=True))


def peak_alone(build: Build, name: str, setting: Setting) -> float:
    """MB that a contender's step takes, in a process of its own; infinite where the system ended it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        try:
            small = setting._replace(size=max(setting.size // WARM_UP, 1))
            return alone.submit(peak, build, name, setting, small).result()
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError):
            return float("inf")


def trained(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward and backward, with ones for the output's gradient."""

    def step() -> None:
        out = forward()
        out.backward(torch.ones_like(out))

    return step
