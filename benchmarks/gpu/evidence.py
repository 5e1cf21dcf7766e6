"""Stage 6: how long the evidence's GPU grid takes, and its first runs as far as the time goes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import InexactError, SkippedError, is_there, main, needs
from botvision.files import read_json

PLACE = Path("runs/evidence")  # scenes and trainings; kept, so that a second call goes on with them
WORLD, VARIANTS, SEED = "match_far", ("resnet", "relative"), 0  # a pair that can be compared
LOOK = 5.0  # seconds between looks at how far it is
SPARE = 20.0  # seconds to end a training in: it saves before it ends
TOY = Path(__file__).with_name("toy_grid.yaml")


def evidence(out: Path, toy: bool) -> str:
    """Begin the grid's runs, and file what they have measured, again and again.

    Raises:
        SkippedError: something that trains or scores is missing.
        InexactError: a run failed.
    """
    needs("timm", "torchvision", "lightning", "jsonargparse", "yaml", "sklearn", "scipy", "jinja2")
    if not is_there("hotcoco") and not is_there("pycocotools"):
        raise SkippedError("it needs hotcoco or pycocotools, and neither is installed")
    results = Results(out / "6_evidence.json", "Evidence, the first runs of the GPU grid", toy=toy)
    end = time.monotonic() + float(os.environ.get("BOUND", 600)) - SPARE
    place = out / "evidence" if toy else PLACE
    grid = TOY if toy else Path("gpu")
    with subprocess.Popen([*command(grid, place), "--results", str(place / "results")]) as sweep:
        while sweep.poll() is None:
            time.sleep(LOOK if not toy else 0.2)
            results.rows = [state(place / grid.stem, place / "results", variant) for variant in VARIANTS]
            results.save()
            if time.monotonic() > end:
                sweep.send_signal(signal.SIGTERM)
                break
    results.rows = [state(place / grid.stem, place / "results", variant) for variant in VARIANTS]
    results.save()
    told = ", ".join(f"{row['variant']}: {row['steps']} steps at {row['step_ms']} ms" for row in results.rows)
    if time.monotonic() <= end and not all(row["result"] for row in results.rows):
        raise InexactError(f"a run failed, its log is under {place}; {told}")
    return told


def command(grid: Path, place: Path) -> list[str]:
    """The runs of one world and seed."""
    chosen = ["--worlds", WORLD, "--seeds", str(SEED), "--variants", *VARIANTS]
    return [sys.executable, "-m", "studies.evidence", "--grid", str(grid), *chosen, "--out", str(place)]


def state(place: Path, results: Path, variant: str) -> dict[str, Any]:
    """How far a run is: its steps, their milliseconds, its curves, and its result where it has one."""
    from studies.evidence.worker import history, metrics  # they need what the stage has looked for

    name = f"{WORLD}_{variant}_seed{SEED}"
    rows = metrics(place / "runs" / name)
    done = results / f"{name}.json"
    return {
        "variant": variant,
        "steps": max((int(row["step"]) for row in rows if row.get("step")), default=0),
        **history(rows),
        "result": read_json(done, what="result of a run") if done.is_file() else None,
    }


if __name__ == "__main__":
    sys.exit(main(evidence))
