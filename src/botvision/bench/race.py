"""Contenders timed in turn, round after round: seconds, ratios, peak memory; table, JSON, plot."""

import random
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from botvision.bench.config import Engine
from botvision.bench.memory import beyond, peak
from botvision.draw.ratios import draw_ratios
from botvision.files import write_json, write_text

WARM_UP = 4  # times smaller a side: the pass that loads what every pass needs, before memory is looked at
READING = 0.02  # seconds that a reading takes at least, by repeating short steps


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
        seconds: of each round; none where it could not run.
        ratio: median over the rounds of its time to the baseline's of the same round.
        peak_mb: memory of a step beyond what was held before it, on a CPU in a process of its own; none where not asked
            for, or where the system ended it.
        why_not: the sentence of a contender that could not run.
    """

    heat: str
    name: str
    seconds: list[float]
    ratio: float | None
    peak_mb: float | None
    why_not: str = ""

    def __str__(self) -> str:
        if self.ratio is None:
            return f"| {self.heat} | {self.name} | {self.why_not} | | | |"
        middle, best, worst = (1e3 * f(self.seconds) for f in (statistics.median, min, max))
        times = f"{middle:.1f} | {best:.1f} … {worst:.1f} | {self.ratio:.2f}"
        return f"| {self.heat} | {self.name} | {times} | {'' if self.peak_mb is None else f'{self.peak_mb:.0f}'} |"


class DeviceLostError(RuntimeError):
    """A contender's error after which the device refuses all work of this process.

    Attributes:
        name: the contender.
        why_not: what it ended with.
    """

    def __init__(self, name: str, why_not: str) -> None:
        super().__init__(f"the device takes no more work after {name!r}: {why_not}; run again without it")
        self.name, self.why_not = name, why_not


class Report(NamedTuple):
    """Rows, and what they were measured on, as Markdown."""

    title: str
    note: str
    engine: str
    rows: list[Row]

    def __str__(self) -> str:
        head = ["| comparison | what ran | median ms | spread ms | × baseline | peak MB |", "|---|---|---|---|---|---|"]
        return "\n".join([f"# {self.title}", "", f"{self.engine}. {self.note}", "", *head, *map(str, self.rows)])

    def save(self, out: Path) -> None:
        """The table as Markdown, every round's seconds beside it as JSON, and the ratios as a plot."""
        write_text(out, f"{self}\n")
        content = {"title": self.title, "engine": self.engine, "rows": [row._asdict() for row in self.rows]}
        write_json(out.with_suffix(".json"), content)
        heats: dict[str, dict[str, float]] = {row.heat: {} for row in self.rows}
        for row in self.rows:
            if row.ratio is not None:
                heats[row.heat][row.name] = row.ratio
        draw_ratios(heats, out.with_suffix(".png"), title=f"{self.title}: time × the first row's")


def race(
    build: Build, names: Sequence[str], setting: Setting, *, what: str, rounds: int, memory: bool = False
) -> list[Row]:
    """Run contenders round after round, in random order, so that a drifting machine treats them alike.

    The first is the baseline. Another that cannot run gets a row that says why.

    Raises:
        ValueError: no round, a size or batch below 1, no such device, or a baseline that cannot run.
        DeviceLostError: a contender left the device unusable.
    """
    if min(rounds, setting.size, setting.batch) < 1:
        got = f"rounds={rounds}, size={setting.size}, batch={setting.batch}"
        raise ValueError(f"rounds, sizes and batch must be at least 1; got {got}; e.g. 7, 64 and 1")
    if setting.engine.threads is not None and setting.engine.threads < 1:
        raise ValueError(f"engine.threads={setting.engine.threads} must be at least 1; leave it out for torch's choice")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"{twice[0]!r} is named twice; name each contender once, and raise rounds to see the spread")
    _ = setting.engine.device  # refused before anything is built, where it is not there
    heat = heat_name(what, setting)
    if setting.engine.threads is not None:
        torch.set_num_threads(setting.engine.threads)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.inference_mode(not setting.train):
        steps, refused = warmed(build, names, setting)
        for number in tqdm(range(rounds), desc=heat, unit="round", disable=None, leave=False):
            for name in random.Random(number).sample(list(steps), len(steps)):  # what ran before leaves its mark
                step, times = steps[name]
                seconds[name].append(setting.engine.run(step, times=times))
        peaks: dict[str, float | None] = {}
        if memory and setting.engine.device.type != "cpu":
            peaks = {name: beyond(step, setting.engine.device) for name, (step, _) in steps.items()}
    del steps
    if memory and setting.engine.device.type == "cpu":
        peaks = {name: peak_alone(build, name, setting) for name in names if name not in refused}
    baseline = seconds[names[0]]
    return [
        Row(heat, name, [], None, None, refused[name])
        if name in refused
        else Row(heat, name, seconds[name], ratio(seconds[name], baseline), peaks.get(name))
        for name in names
    ]


def heat_name(what: str, setting: Setting) -> str:
    """What is compared, for tables."""
    return f"{what}, {setting.batch} × {setting.size}²{', training' if setting.train else ''}"


def warmed(
    build: Build, names: Sequence[str], setting: Setting
) -> tuple[dict[str, tuple[Callable[[], Any], int]], dict[str, str]]:
    """Each contender's step, after a first run, with how often a reading repeats it; and why others cannot run."""
    steps: dict[str, tuple[Callable[[], Any], int]] = {}
    refused: dict[str, str] = {}
    for name in names:
        torch.manual_seed(0)  # the same weights and inputs whoever runs
        try:
            step = build(name, setting)
            setting.engine.run(step)
            steps[name] = step, max(1, min(100, int(READING / setting.engine.run(step))))
        except Exception as error:  # a compiler's or a kernel's own: the others go on
            if not setting.engine.is_usable():
                raise DeviceLostError(name, sentence(error)) from error
            if name == names[0]:
                raise
            refused[name] = sentence(error)
    return steps, refused


def sentence(error: Exception) -> str:
    """An error's first line, with its kind where that is neither a refusal nor want of memory."""
    said = str(error).strip().partition("\n")[0]
    return said if isinstance(error, ValueError | torch.OutOfMemoryError) else f"{type(error).__name__}: {said}"


def ratio(own: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(own, baseline, strict=True))


def peak_alone(build: Build, name: str, setting: Setting) -> float | None:
    """MB that a contender's step takes, in a process of its own; none where the system ended it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        try:
            small = setting._replace(size=max(setting.size // WARM_UP, 1))
            return alone.submit(peak, build, name, setting, small).result()
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError):
            return None
        except Exception as error:  # what was timed is not lost
            print(f"warning: {name}: no peak of memory ({sentence(error)})", file=sys.stderr)
            return None


def trained(forward: Callable[[], torch.Tensor], leaves: Sequence[torch.Tensor]) -> Callable[[], None]:
    """Forward and backward, with ones for the output's gradient; gradients are made anew, not added up."""

    def step() -> None:
        out = forward()
        torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

    return step
