"""Options of hardware, precision and logging; loads no torch."""

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Schedule = Literal["steps", "cosine"]
OnExisting = Literal["refuse", "resume", "replace"]
Final = Literal["last", "best"]


@dataclass(frozen=True)
class EngineConfig:
    """Hardware, precision, logging, and how often a run is evaluated and saved.

    Args:
        seed: of weights, order and jitter.
        accelerator: auto, cpu, gpu, …: as lightning names them.
        devices: how many a node, or auto.
        num_nodes: nodes under torchrun or SLURM.
        precision: 32-true, bf16-mixed, …: as lightning names them; auto is bf16-mixed where the hardware multiplies it.
        channels_last: memory order that convolutions are fastest in.
        compile: torch.compile for the backbone (Mask R-CNN: with the pyramid, and a square size).
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        save_every: steps between saves inside an epoch, from which the run can go on; none saves at its end.
        log_every: steps between rows of metrics.csv.
        progress: show a progress bar.
        live: tensorboard, or wandb where it is installed: the run's numbers as they come, besides metrics.csv.
        report: write report.html at the end, which takes seconds.
        stop_after: end this session after so many epochs, to be resumed later; none runs to the end.
    """

    seed: int = 0
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: Any = "32-true"
    channels_last: bool = True
    compile: bool = False
    evaluate_every: int = 1
    save_every: int | None = None
    log_every: int = 10
    progress: bool = True
    live: Literal["tensorboard", "wandb"] | None = None
    report: bool = True
    stop_after: int | None = None


@dataclass(frozen=True)
class DeviceConfig:
    """Where a trained model runs.

    Args:
        accelerator: auto (the GPU where there is one), cpu, gpu, or torch's name of a device, e.g. cuda:1.
    """

    accelerator: str = "auto"

    @property
    def device(self) -> "torch.device":
        """Torch's device.

        Raises:
            ValueError: an unknown name, or a GPU that is not there.
        """
        import torch

        gpu = "cuda" if "LOCAL_RANK" not in os.environ else f"cuda:{os.environ['LOCAL_RANK']}"  # torchrun's process
        name = {"auto": gpu if torch.cuda.is_available() else "cpu", "gpu": gpu}.get(self.accelerator)
        try:
            device = torch.device(name or self.accelerator)
        except RuntimeError as error:
            raise ValueError(f"accelerator={self.accelerator!r} is unknown; use auto, cpu or gpu") from error
        there = torch.accelerator.current_accelerator(check_available=True)
        if device.type != "cpu" and (there is None or device.type != there.type):
            raise ValueError(
                f"accelerator={self.accelerator!r} is not there: torch sees no such device; use auto or cpu"
            )
        return device


def hardware(device: "torch.device", devices: int = 1) -> str:
    """What a model runs on, in words: the GPU, or the CPU's cores and torch's threads; and torch's version."""
    import torch

    where = f"{os.cpu_count()} CPU cores {platform.machine()}, {torch.get_num_threads()} threads"
    if device.type != "cpu":
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{f'{devices} × ' if devices > 1 else ''}{where}, torch {torch.__version__}"


def epochs_for(images: int) -> int:
    """Passes over so many training images that `epochs: auto` means: 3,200 images seen, in 12 to 100 passes."""
    return min(100, max(12, round(3200 / max(1, images))))


def check_milestones(milestones: Sequence[float]) -> None:
    """Refuse milestones that are no rising fractions of a run.

    Raises:
        ValueError: epochs, or fractions in another order.
    """
    if not all(0 <= share <= 1 for share in milestones) or list(milestones) != sorted(milestones):
        given = ", ".join(f"{share:g}" for share in milestones)
        raise ValueError(
            f"optim.milestones ({given}) must be rising fractions of the run, in 0 … 1; e.g. 0.67 for epoch 60 of 90"
        )


RATES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("lr", "lr_per_256", "backbone_lr"), (lambda x: 0 < x < math.inf, "a number above 0")),
    "layer_decay": (lambda x: 0 < x <= 1, "a share above 0, at most 1; e.g. 0.75"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "0 or more; e.g. 0.05"),
    "momentum": (lambda x: 0 <= x < 1, "at least 0 and below 1; e.g. 0.9"),
    "lr_batch_size": (lambda x: x >= 1, "at least 1: the batch that lr is given for"),
    **dict.fromkeys(("warmup_steps", "warmup_epochs"), (lambda x: 0 <= x < math.inf, "0 or more; 0 is no warm-up")),
    "warmup": (lambda x: 0 <= x < math.inf, "0 or more, a share of the run; e.g. 0.05"),
    "warmup_from": (lambda x: 0 <= x <= 1, "a share in 0 … 1"),
}


def check_rates(optim: object) -> None:
    """Refuse numbers of an optimiser that are no such: torch takes negative ones of a group without a word.

    Args:
        optim: a task's; those of its fields that `RATES` has a rule for are looked at.

    Raises:
        ValueError: a number that its rule refuses.
    """
    for name, (rule, words) in RATES.items():
        value = getattr(optim, name, None)
        if value is not None and not rule(value):
            raise ValueError(f"optim.{name}={value:g} must be {words}")


def check_loader(*, batch_size: int, workers: int) -> None:
    """Refuse what no loader can have, before anything is read.

    Raises:
        ValueError: no image in a batch, or less than no worker.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1; e.g. 8")
    if workers < 0:
        raise ValueError(f"workers={workers} must be at least 0, which reads in the process itself")


def check_counts(engine: EngineConfig, **counts: int) -> None:
    """Refuse counts below 1."""
    counts |= {"engine.evaluate_every": engine.evaluate_every, "engine.log_every": engine.log_every}
    once = {"engine.stop_after": engine.stop_after, "engine.save_every": engine.save_every}
    if isinstance(engine.devices, int) and engine.devices < 1:
        raise ValueError(f"engine.devices={engine.devices} must be at least 1, or auto")
    for name, count in {**counts, **{name: 1 if count is None else count for name, count in once.items()}}.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
