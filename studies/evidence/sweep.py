"""`python -m studies.evidence`: the runs of a grid that are not there yet, and their page."""

import shlex
from pathlib import Path
from typing import NamedTuple

from studies.evidence.commands import commands
from studies.evidence.page import write_page
from studies.evidence.runs import Runs, result_of
from studies.grid import Run, read_grid

OUT = Path("runs/evidence")


class Sweep(NamedTuple):
    """What `evidence` did.

    Attributes:
        grid: by its name or file.
        done: runs of the grid that have a result now, whenever they ran.
        failed: a line for each that could not be run.
        missing: runs without a result.
        results: folder of the run files.
        report: the page, where one was asked for.
        flags: where the runs go, for the commands that make those that are missing.
    """

    grid: str
    done: int
    failed: list[str]
    missing: list[Run]
    results: Path
    report: Path | None
    flags: str = ""

    def __str__(self) -> str:
        lines = [f"{self.done} runs of grid {self.grid} have a result, at {self.results}"]
        if self.report is not None:
            lines.append(f"page at {self.report}")
        lines += [f"failed: {line}" for line in self.failed]
        if self.missing:
            lines += [
                f"not run: {len(self.missing)}; to run them:",
                *commands(self.missing, self.grid, more=self.flags),
            ]
        return "\n".join(lines)


def evidence(
    *,
    grid: str = "cpu",
    worlds: tuple[str, ...] = (),
    variants: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    limit: int | None = None,
    jobs: int = 1,
    out: Path = OUT,
    results: Path | None = None,
    report: Path | None = None,
) -> Sweep:
    """Train the paper's ablations and their ResNet baseline on scenes, under one recipe, over several seeds.

    A run whose result is there is skipped; one that was broken off is gone on with.

    Args:
        grid: "cpu", "gpu", or a YAML file of one's own.
        worlds, variants, seeds: only these; none for all that the grid has.
        limit: most runs to make now; none for all, 0 only reports.
        jobs: runs at a time, which share the cores; more than one on a CPU alone.
        out: folder for scenes, trainings and results, each grid's in one of its own.
        results: folder of the run files instead of the one under `out`.
        report: Markdown file to write of all runs that have a result, with its images in `images` beside it.

    Raises:
        FileNotFoundError, ValueError: no such grid or name in it, or results that other settings gave.
    """
    if jobs < 1 or (limit or 0) < 0:
        raise ValueError(f"jobs={jobs} must be at least 1 and limit={limit} at least 0; e.g. 2 and 6")
    chosen = read_grid(grid)
    place = out / chosen.name
    filed = place / "results" if results is None else results
    wanted = chosen.runs(worlds=worlds, variants=variants, seeds=seeds)
    missing = [run for run in wanted if result_of(run, filed) is None]
    begun = missing if limit is None else missing[:limit]
    failed = Runs(place, filed, jobs=jobs).carry_out(begun)
    if report is not None:
        write_page(chosen, filed, report, place=place)
    have = [run for run in chosen.runs() if result_of(run, filed) is not None]
    places = (("--out", out, OUT), ("--results", results, None))
    flags = "".join(f" {flag} {shlex.quote(str(value))}" for flag, value, usual in places if value != usual)
    return Sweep(grid, len(have), failed, [run for run in chosen.runs() if run not in have], filed, report, flags)
