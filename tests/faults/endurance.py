"""Train, predict and evaluate in one process for a long time: memory, files, threads and workers must not grow.

python -m tests.faults.endurance --minutes 60 --images 10000 --report benchmarks/results/endurance_<hardware>_<date>.md
"""

import argparse
import gc
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

from botvision import maskrcnn
from botvision.engine.config import DeviceConfig, EngineConfig
from botvision.files import write_text
from botvision.maskrcnn.prediction import Predictor
from botvision.scenes import make_scenes

WARM = 3  # rounds before memory is compared
CPU = DeviceConfig("cpu")


class Held(NamedTuple):
    """What this process holds: resident MiB, open files, threads, child processes."""

    memory: float
    files: int
    threads: int
    children: int


def held() -> Held:
    """By /proc."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Held(int(status["VmRSS"].split()[0]) / 1024, files, threading.active_count(), len(children))


def one_round(world: Path, out: Path) -> Path:
    """Train with two workers, predict, evaluate; the run's checkpoint."""
    data = maskrcnn.config.DataConfig(
        world / "annotations" / "train.json", world / "train", world / "annotations" / "val.json", world / "val",
        batch_size=4, workers=2, on_bad="skip",
    )  # fmt: skip
    run = maskrcnn.train(
        data, out / "run",
        model=maskrcnn.config.ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]}),
        optim=maskrcnn.config.OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=2, epochs=2, ema=0.9),
        engine=EngineConfig(accelerator="cpu", devices=1, progress=False, log_every=1),
    )  # fmt: skip
    maskrcnn.predict(run.checkpoint, str(world / "val"), out=out / "found", threshold=0.05, engine=CPU)
    maskrcnn.evaluate(
        run.checkpoint, world / "annotations" / "val.json", world / "val", out=out / "evaluation", workers=2, engine=CPU
    )
    return run.checkpoint


def predicted(checkpoint: Path, world: Path, out: Path, images: int) -> list[Held]:
    """Predict on so many images, links to a few; what is held after each twentieth of them."""
    folder, known = out / "many", sorted((world / "train").iterdir())
    folder.mkdir()
    for number in range(images):
        (folder / f"{number:06}.jpg").symlink_to(known[number % len(known)])
    seen, states, find = [0], [held()], Predictor.find

    def counted(self: Predictor, some: list[torch.Tensor], **options: float) -> list[dict[str, torch.Tensor]]:
        before, seen[0] = seen[0], seen[0] + len(some)
        if before * 20 // images != seen[0] * 20 // images:
            states.append(held())
        return find(self, some, **options)

    Predictor.find = counted  # type: ignore[method-assign]
    done = maskrcnn.predict(checkpoint, str(folder), out=out / "all", draw=False, engine=CPU)
    Predictor.find = find  # type: ignore[method-assign]
    if done.images != images:
        raise RuntimeError(f"{done.images} of {images} images were predicted")
    return states


def grown(states: list[Held]) -> float:
    """By how much memory grew from the first to the last third, after the warm-up, as a fraction."""
    warm = [state.memory for state in states[WARM:]] or [state.memory for state in states]
    third = max(1, len(warm) // 3)
    return sum(warm[-third:]) / sum(warm[:third]) - 1


def told(name: str, states: list[Held], minutes: float) -> str:
    """A row of the report."""
    warm = states[min(WARM, len(states) - 1)]
    last = states[-1]
    pairs = " | ".join(f"{a:.0f} → {b:.0f}" for a, b in zip(warm, last, strict=True))
    return f"| {name} | {len(states)} | {minutes:.1f} | {pairs} | {100 * grown(states):+.1f} % |"


def rounds(world: Path, out: Path, until: float) -> Iterator[tuple[Held, Path]]:
    """What is held after each round, until the time is over; a checkpoint."""
    while True:
        shutil.rmtree(out, ignore_errors=True)
        checkpoint = one_round(world, out)
        yield held(), checkpoint
        if time.monotonic() > until:
            return


def main() -> int:
    """Run until the time is over; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        world, states, begun = Path(folder) / "world", list[Held](), time.monotonic()
        make_scenes(world, train=16, val=6, size=64, digits=(2, 4), scale=(0.25, 0.5))
        for state, found in rounds(world, Path(folder) / "rounds", begun + 60 * options.minutes):
            states.append(state)
            checkpoint = found
            print(f"{(time.monotonic() - begun) / 60:6.1f} min, round {len(states)}: {state}", flush=True)
        middle = time.monotonic()
        many = predicted(checkpoint, world, Path(folder), options.images)
        ended = time.monotonic()
    report = f"""# Endurance: one process, train – predict – evaluate, then many images through `predict`

`python -m tests.faults.endurance --minutes {options.minutes:g} --images {options.images}`, {time.strftime("%Y-%m-%d")},
{os.cpu_count()} cores, torch {torch.__version__}. Growth is of the last third's mean memory over the first third's,
after {WARM} samples.

| what | samples | minutes | memory, MiB | files | threads | child processes | growth of memory |
|---|---:|---:|---|---|---|---|---:|
{told("rounds of training (2 workers), prediction, evaluation", states, (middle - begun) / 60)}
{told(f"{options.images} images of 64 px through predict", many, (ended - middle) / 60)}
"""
    print(report)
    if options.report is not None:
        write_text(options.report, report)
    last, warm = states[-1], states[min(WARM, len(states) - 1)]
    leaks = last.files > warm.files or last.threads > warm.threads or last.children > warm.children
    return int(leaks or grown(states) > 0.02 or grown(many) > 0.02)


if __name__ == "__main__":
    sys.exit(main())
