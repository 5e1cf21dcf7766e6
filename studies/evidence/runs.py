"""Runs carried out: scenes, then a worker process for each, several at a time; their results filed."""

import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from botvision.files import read_json, write_json
from botvision.scenes import make_scenes
from studies.evidence.worker import metrics, stage_folders
from studies.grid import Run, as_pairs
from studies.hardware import hardware

ROOT = Path(__file__).parent.parent.parent  # where `studies` is found
LOOK = 1.0  # seconds between looks at how far a training is


def result_of(run: Run, results: Path) -> dict[str, Any] | None:
    """A run's result where it is there.

    Raises:
        ValueError: a file of that name which other settings gave.
    """
    path = results / f"{run.name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path, what="result of a run")
    if found.get("settings") != run.settings:
        raise ValueError(f"{path} comes from other settings than grid {run.grid.name}; give another --results")
    return found


class Runs:
    """Runs of a sweep, `jobs` at a time; where one fails, the others go on."""

    def __init__(self, place: Path, results: Path, *, jobs: int) -> None:
        """`place` is for scenes and trainings, `results` for the run files."""
        self.place = place
        self.results = results
        self.jobs = jobs
        self.doing: dict[str, str] = {}  # what each is at, for the progress bar
        self.ending = threading.Event()
        self.drawing = threading.Lock()  # runs of a seed share their scenes

    def carry_out(self, runs: list[Run]) -> list[str]:
        """All of them; a line for each that failed. An interrupt ends the workers, and begins none."""
        failed = []
        with (
            tqdm(total=len(runs), desc="evidence", unit="run", disable=None if runs else True) as bar,
            ThreadPoolExecutor(self.jobs) as pool,
        ):
            waiting = [pool.submit(self.one, run) for run in runs]
            try:
                while waiting:
                    over, unfinished = wait(waiting, timeout=LOOK, return_when=FIRST_COMPLETED)
                    waiting = [future for future in waiting if future in unfinished]
                    failed += [reason for future in over if (reason := why_failed(future))]
                    bar.set_postfix_str("; ".join(f"{name}: {said}" for name, said in [*self.doing.items()]))
                    bar.update(len(over))
            except BaseException:
                self.ending.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failed

    def one(self, run: Run) -> None:
        """Scenes, worker, result."""
        folder = self.place / "runs" / run.name
        scenes = self.place / "scenes" / f"{run.world}_seed{run.seed}"
        task, outcome = (folder.with_suffix(f".{name}.json") for name in ("task", "outcome"))
        self.doing[run.name] = "scenes"
        try:
            with self.drawing:
                make_scenes(scenes, **as_pairs(run.scenes))
            paths = {"scenes": scenes, "folder": folder, "outcome": outcome}
            write_json(task, {"settings": run.settings, **{name: str(path) for name, path in paths.items()}}, indent=2)
            outcome.unlink(missing_ok=True)
            code = self.work(run, task, folder)
            log = folder.with_suffix(".log")
            if not outcome.is_file():
                raise ValueError(f"{run.name}: its process ended with {code} (all that it said: {log})")
            said = read_json(outcome, what="outcome of a run")
            if "error" in said:
                raise ValueError(f"{run.name}: {said['error']} (all that it said: {log})")
            about = {name: getattr(run, name) for name in ("world", "variant", "seed", "settings")}
            content = {"grid": run.grid.name, **about, "hardware": hardware(self.jobs), **said["result"]}
            write_json(self.results / f"{run.name}.json", content)
        finally:
            self.doing.pop(run.name, None)

    def work(self, run: Run, task: Path, folder: Path) -> int:
        """The run in a process of its own; its exit code."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-W", "ignore", "-m", "studies.evidence.worker", str(task)]
        stages, epochs = len(run.stages), sum(number for _, number in run.stages)
        with (
            folder.with_suffix(".log").open("a", encoding="utf-8") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=environment) as worker,
        ):
            while worker.poll() is None:
                if self.ending.wait(LOOK):
                    worker.terminate()
                    worker.wait()
                behind = sum(epochs_behind(stage) for stage in stage_folders(folder, stages))
                self.doing[run.name] = f"{behind} of {epochs} epochs"
        return worker.returncode


def why_failed(future: Future[None]) -> str:
    """What a run was refused for; empty where it is done."""
    try:
        future.result()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def epochs_behind(folder: Path) -> int:
    """Epochs that a training has begun."""
    rows = metrics(folder)
    return int(float(rows[-1]["epoch"])) if rows else 0
