"""Train at ten times a recipe's rate in bf16: what is refused, what is left out, and whether a weight is no number.

python -m tests.faults.rates --steps 500 --report benchmarks/results/rates_<hardware>_<date>.md
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from botvision.classify.commands import train as train_classifier
from botvision.files import write_text
from botvision.maskrcnn.commands import train as train_detector

RECIPES = {
    "maskrcnn": Path(train_detector.__code__.co_filename).parent / "recipes" / "demo.yaml",
    "classify": Path(train_classifier.__code__.co_filename).parent / "recipes" / "demo.yaml",
}
RATES = {"maskrcnn": "lr", "classify": "lr_per_256"}
MODEL = ("state_dict", "averaging_state", "current_model_state", "optimizer_states")  # of a checkpoint
DIGITS = 1347  # to train on
SMALL = {  # models of seconds, which learn at the recipe's own rate too
    "maskrcnn": [
        "--model.backbone=botnet14", "--model.preset=nano", "--model.img_size=64",
        "--model.backbone_options={channels: [16, 32, 64, 128]}",
    ],
    "classify": ["--model.name=botnet14", "--model.options={channels: [16, 32, 64, 128]}"],
}  # fmt: skip


class Run(NamedTuple):
    """How a run went.

    Attributes:
        code: of its exit.
        left_out: steps without finite gradients.
        said: its refusal, warnings and closing line.
        rate: base rate.
        steps: of its last checkpoint.
        wrong: numbers in its checkpoints that are none, of weights, averages, buffers and the optimiser's state.
        largest: of all weights, by magnitude.
    """

    code: int
    left_out: int
    said: list[str]
    rate: float
    steps: int
    wrong: int
    largest: float


def tensors(content: Any) -> Iterator[torch.Tensor]:
    """All floating-point tensors of a checkpoint, the optimiser's and the averages too."""
    if isinstance(content, torch.Tensor):
        if content.is_floating_point():
            yield content
        return
    if isinstance(content, dict | list | tuple):
        for part in content.values() if isinstance(content, dict) else content:
            yield from tensors(part)


def trained(task: str, out: Path, *, factor: float, flags: list[str]) -> Run:
    """A run of the demo's recipe at so many times its rate."""
    optim = yaml.safe_load(RECIPES[task].read_text())["optim"]
    rate = factor * float(optim[RATES[task]])
    command = [sys.executable, "-W", "ignore", "-m", "botvision", task, "train", "--recipe", "demo", "--out", str(out)]
    command += [f"--optim.{RATES[task]}={rate}", "--engine.precision=bf16-mixed", "--engine.accelerator=cpu"]
    command += ["--engine.progress=false", "--engine.log_every=1", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out.joinpath("log.txt").write_text(done.stdout + done.stderr)
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line]
    said = [line for line in lines if re.match("botvision: |warning: |top-1|box AP|ended ", line)]
    left_out = sum("the step is left out" in line for line in lines)
    return Run(done.returncode, left_out, said, rate, *looked_at(out))


def looked_at(out: Path) -> tuple[int, int, float]:
    """Of a run's checkpoints: steps, numbers that are none, and the largest weight."""
    kept = [torch.load(path, weights_only=True) for path in out.glob("checkpoints/*.ckpt")]
    of_model = [tensor for content in kept for part in MODEL for tensor in tensors(content.get(part))]
    wrong = sum(int((~torch.isfinite(tensor)).sum()) for tensor in of_model)
    weights = [tensor.abs().max() for content in kept for tensor in tensors(content["state_dict"])]
    steps = max((content["global_step"] for content in kept), default=0)
    return steps, wrong, float(max(weights, default=torch.zeros(())))


def flags_of(task: str, folder: Path, steps: int, *, clipped: bool) -> list[str]:
    """So many steps of the demo, with its clipping of gradients or without."""
    own = SMALL[task] + ([] if clipped else ["--optim.clip=null"])
    if task == "classify":
        return [*own, f"--optim.epochs={-(-steps // (DIGITS // 32))}", "--data.workers=0"]
    scenes = folder / "scenes"
    if not scenes.exists():
        command = ["scenes", str(scenes), "--train", str(2 * steps), "--val", "50", "--size", "64"]
        subprocess.run([sys.executable, "-m", "botvision", *command], check=True)
    files = {
        "train_annotations": "annotations/train.json", "train_images": "train",
        "val_annotations": "annotations/val.json", "val_images": "val",
    }  # fmt: skip
    return [*own, "--optim.epochs=4", "--data.workers=0", *(f"--data.{k}={scenes / v}" for k, v in files.items())]


def main() -> int:
    """Train, and count; 1 where a weight is no number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--factor", type=float, default=10)
    parser.add_argument("--folder", type=Path, help="where the runs are made, and kept; none is a temporary one")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    rows, said, begun, wrong = [], [], time.monotonic(), 0
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        for task in RECIPES:
            for clipped in (True, False):
                name = f"{task}, {'clipped as the recipe does' if clipped else 'not clipped'}"
                flags = flags_of(task, folder, options.steps, clipped=clipped)
                run = trained(task, folder / f"{task}-{clipped}", factor=options.factor, flags=flags)
                wrong += run.wrong
                numbers = f"{run.rate:g} | {run.code} | {run.steps} | {run.left_out} | {run.wrong} | {run.largest:.3g}"
                rows.append(f"| {name} | {numbers} |")
                said += [f"- {name}: `{line.replace(str(folder), '…')}`" for line in run.said]
                print(rows[-1], *run.said, sep="\n  ", flush=True)
    machine = f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, torch {torch.__version__}"
    report = "\n".join([
        f"# {options.factor:g} times the recipe's rate, bf16, {options.steps} steps: {wrong} numbers that are none",
        "",
        f"`python -m tests.faults.rates --steps {options.steps} --factor {options.factor:g}`, {machine}, "
        f"{(time.monotonic() - begun) / 60:.1f} min. Recipe `demo` of each task, on smaller models. Counted in every "
        "checkpoint of a run: weights, averages, running statistics and the optimiser's state.",
        "",
        "| run | rate | exit code | steps | steps left out | numbers that are none | largest weight |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "What the runs said at their ends:",
        "",
        *said,
        "",
    ])  # fmt: skip
    print(report)
    if options.report is not None:
        write_text(options.report, report)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
