"""Stage 4: the scaled family T3 … T7 beside EfficientNet B4 … B7, training step and forward."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import can_compile, main, needs, time_to_compile
from botvision.bench.config import Engine
from botvision.bench.race import Setting

ROUNDS = 5
BATCH, SMALLER = 32, (16, 8)  # the paper's, a device; of B7 at 600 px a smaller card holds less
RIVALS = (  # of about equal published top-1, the EfficientNet first
    ("tf_efficientnet_b7@600", "botnet_s1_128@384"),
    ("tf_efficientnet_b6@528", "botnet_s1_77@320"),
    ("tf_efficientnet_b5@456", "botnet_s1_128@256"),
    ("tf_efficientnet_b4@380", "botnet_s1_110@224", "botnet_s1_59@224"),
)
TOY = (("tf_efficientnet_b0@64", "botnet14@64"),)
NOTE = "1000 classes, random weights, channels_last, each at its own px; a training step has SGD's update."


def family(out: Path, toy: bool) -> str:
    """Race each BoTNet against the EfficientNet of its accuracy.

    Raises:
        SkippedError: timm is missing.
    """
    needs("timm")
    torch.backends.cudnn.benchmark = True  # the fastest of its convolutions, for both sides
    results = Results(out / "4_family.json", "The scaled family", toy=toy, note=NOTE)
    return run_heats(results, heats(toy=toy), rounds=1 if toy else ROUNDS)


def heats(*, toy: bool) -> Iterator[Heat]:
    """Training, forward, and last the largest pair compiled, which takes minutes to compile."""
    from botvision.bench.classify import build, name_and_size

    where = "cpu" if toy else "cuda"
    engine = Engine(accelerator=where, precision="bfloat16")
    compiled = Engine(accelerator=where, precision="bfloat16", compile=True)
    rivals = TOY if toy else RIVALS
    wanted = [(engine, names, train) for train in (True, False) for names in rivals]
    if can_compile(toy=toy) and time_to_compile():
        wanted.append((compiled, rivals[0], True))
    batch, smaller = (2, (1,)) if toy else (BATCH, SMALLER)
    for how, names, train in wanted:
        largest = max(name_and_size(name)[1] for name in names)
        yield Heat("classifiers, up to", build, names, Setting(largest, batch, train, how), smaller)


if __name__ == "__main__":
    sys.exit(main(family))
