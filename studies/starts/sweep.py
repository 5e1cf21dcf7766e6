"""`python -m studies.starts`: the trials that are not there yet, and a table of all that are."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy import stats
from tqdm import tqdm

from botvision.files import write_json
from studies.hardware import hardware
from studies.pages import NOT_RUN, table
from studies.starts.contenders import CONTENDERS
from studies.starts.reading import STEPS, WORLDS, open_world, trial

OUT = Path("runs/starts")
SEEDS = (0, 1, 2, 3, 4)


class Trial(NamedTuple):
    """One of the sweep's."""

    world: str
    contender: str
    seed: int

    def file(self, results: Path) -> Path:
        """Where its result is filed."""
        return results / f"{self.world}_{self.contender}_seed{self.seed}.json"


class Starts(NamedTuple):
    """What `starts` did: the table, and what it could not run."""

    text: str
    failed: list[str]

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"failed: {line}" for line in self.failed)])


def starts(
    *,
    worlds: tuple[str, ...] = tuple(WORLDS),
    contenders: tuple[str, ...] = tuple(CONTENDERS),
    seeds: tuple[int, ...] = SEEDS,
    steps: int = STEPS,
    limit: int | None = None,
    jobs: int = 1,
    out: Path = OUT,
    results: Path | None = None,
) -> Starts:
    """Train small backbones from different starts of attention on scenes, and count what they name right.

    A trial whose result is there is skipped.

    Args:
        worlds, contenders: by name.
        seeds: of scenes, weights and order alike: a seed's trials see the same images.
        steps: of training.
        limit: most trials to make now; none for all, 0 only reports.
        jobs: trials at a time, one thread each.
        out: folder for scenes and results.
        results: folder of the result files instead of the one under `out`.

    Raises:
        ValueError: a name that there is not, or a number below its least.
    """
    for what, asked, known in (("world", worlds, WORLDS), ("contender", contenders, CONTENDERS)):
        for one in asked:
            if one not in known:
                raise ValueError(f"no {what} {one!r}; there are {', '.join(known)}")
    if jobs < 1 or steps < 1 or (limit or 0) < 0:
        raise ValueError(f"jobs={jobs} and steps={steps} must be at least 1 and limit={limit} at least 0")
    filed = out / "results" if results is None else results
    wanted = [Trial(world, one, seed) for seed in seeds for world in worlds for one in contenders]
    missing = [one for one in wanted if not one.file(filed).is_file()]
    failed = carry_out(missing if limit is None else missing[:limit], filed, out / "scenes", steps=steps, jobs=jobs)
    return Starts(summary(filed), failed)


def carry_out(trials: Sequence[Trial], results: Path, scenes: Path, *, steps: int, jobs: int) -> list[str]:
    """Run trials, each in a process; gives a line for each that failed."""
    if not trials:
        return []
    results.mkdir(parents=True, exist_ok=True)
    scenes.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    for world, seed in dict.fromkeys((one.world, one.seed) for one in trials):
        open_world(world, seed, scenes)  # made once, before several ask for it
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(one_trial, one, results, scenes, steps, jobs): one for one in trials}
        ended = tqdm(as_completed(running), total=len(running), desc="trials", unit="trial", disable=None)
        errors = {running[one]: one.exception() for one in ended}
    return [f"{one}: {type(error).__name__}: {error}" for one, error in errors.items() if error is not None]


def one_trial(one: Trial, results: Path, scenes: Path, steps: int, jobs: int) -> None:
    """In a process of its own: train and file."""
    torch.set_num_threads(1)
    found = trial(*one, scenes=scenes, steps=steps)
    write_json(one.file(results), found | {"hardware": hardware(jobs)})


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All that are filed."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]


def summary(folder: Path) -> str:
    """Share named right in per cent, mean ± half a 95 % t-interval over the seeds, contenders × worlds."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in read_results(folder):
        found.setdefault((one["contender"], one["world"]), []).append(100 * one["right"])
    worlds = [world for world in WORLDS if any(key[1] == world for key in found)]
    rows = [
        [contender.title, *(mean_interval(found.get((name, world), [])) for world in worlds)]
        for name, contender in CONTENDERS.items()
        if any(key[0] == name for key in found)
    ]
    return table(["", *worlds], rows)


def mean_interval(values: Sequence[float]) -> str:
    """Mean ± half a 95 % t-interval, or each value where there are fewer than three."""
    if len(values) < 3:
        return ", ".join(f"{value:.1f}" for value in values) or NOT_RUN
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return f"{sum(values) / len(values):.1f} ± {half:.1f} (n = {len(values)})"
