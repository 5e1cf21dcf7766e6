"""Stage 3: a training step of Mask R-CNN at 1024 px, BoT50 beside ResNet-50, with and without torch.compile."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import can_compile, main, needs
from botvision.bench.config import Engine
from botvision.bench.race import Setting

ROUNDS = 7
BATCH, SMALLER = 8, (4, 2)
NOTE = "Random weights, images and boxes, channels_last; a step has its losses, backward and SGD's update."


def detector(out: Path, toy: bool) -> str:
    """Race the training steps.

    Raises:
        SkippedError: timm or torchvision is missing.
    """
    needs("timm", "torchvision")
    results = Results(out / "3_detector.json", "Mask R-CNN, training", toy=toy, note=NOTE)
    return run_heats(results, heats(toy=toy), rounds=1 if toy else ROUNDS)


def heats(*, toy: bool) -> Iterator[Heat]:
    """As it is, then compiled; torchvision's own detector beside the first, for orientation."""
    from botvision.bench.detector import build

    size, batch = (64, 1) if toy else (1024, BATCH)
    pair = ("botnet14", "botnet26") if toy else ("resnet50", "botnet50")
    peer = () if toy else ("torchvision maskrcnn_resnet50_fpn",)
    step = partial(build, preset="nano" if toy else "paper")
    for compiled in (False, True):
        if compiled and not can_compile(toy=toy):
            print("no compiled heat: torch.compile needs triton, which is not installed")
            return
        engine = Engine(accelerator="cpu" if toy else "cuda", precision="bfloat16", compile=compiled)
        names = pair if compiled else (*pair, *peer)
        yield Heat("Mask R-CNN", step, names, Setting(size, batch, True, engine), () if toy else SMALLER)


if __name__ == "__main__":
    sys.exit(main(detector))
