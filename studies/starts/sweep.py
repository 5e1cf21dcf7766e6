"""`python -m studies.starts`: the trials that are not there yet, and a table of all that are."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from botvision.files import write_json
from studies.hardware import commit, hardware
from studies.pool import each
from studies.starts.contenders import CONTENDERS
from studies.starts.page import share_table, write_page
from studies.starts.picture import draw_picture
from studies.starts.reading import STEPS, WORLDS, open_world, trial
from studies.starts.results import by_seed, read_results

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
    report: Path | None = None,
    picture: Path | None = None,
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
        report: Markdown file to write of all that are filed.
        picture: PNG to draw of a digit's heads, before and after training from two starts; trains both.

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
    if picture is not None:
        draw_picture(picture, scenes=out / "scenes", steps=steps)
    if report is not None:
        write_page(filed, report)
    found = read_results(filed)
    shares = by_seed(found)
    tabled = [world for world in WORLDS if any(key[1] == world for key in shares)]
    return Starts(share_table(shares, tabled, found), failed)


def carry_out(trials: Sequence[Trial], results: Path, scenes: Path, *, steps: int, jobs: int) -> list[str]:
    """Run trials, each in a process; gives a line for each that failed."""
    if trials:
        results.mkdir(parents=True, exist_ok=True)
        scenes.mkdir(parents=True, exist_ok=True)
    for world, seed in dict.fromkeys((one.world, one.seed) for one in trials):
        open_world(world, seed, scenes)  # made once, before several ask for it
    return each(partial(one_trial, results=results, scenes=scenes, steps=steps, jobs=jobs), trials, jobs=jobs)


def one_trial(one: Trial, *, results: Path, scenes: Path, steps: int, jobs: int) -> None:
    """In a process of its own: train and file."""
    torch.set_num_threads(1)
    found = trial(*one, scenes=scenes, steps=steps)
    write_json(one.file(results), found | {"hardware": hardware(jobs), "commit": commit()})
