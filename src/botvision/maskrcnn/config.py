"""Options of Mask R-CNN: data, model, optimiser; loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from botvision.engine.config import Schedule

Backend = Literal["auto", "hotcoco", "pycocotools"]
OnBad = Literal["refuse", "skip"]
PresetName = Literal["paper", "torchvision_v2", "tiny", "nano"]  # the keys of model.PRESETS


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are read.

    Args:
        train_annotations: COCO JSON to train on.
        train_images: folder of its images.
        val_annotations: COCO JSON to evaluate on.
        val_images: folder of its images.
        jitter: smallest and largest random zoom; the paper uses [0.8, 1.25], [0.5, 2] and [0.1, 2].
        flip: mirror half of the images.
        batch_size: images a step and a device.
        workers: processes that read images, a device.
        on_bad: annotations without a mask, without area or outside their image: "refuse" the file, or "skip" them
            (COCO has some).
    """

    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path
    jitter: tuple[float, float] = (0.8, 1.25)
    flip: bool = True
    batch_size: int = 8
    workers: int = 2
    on_bad: OnBad = "refuse"

    def __post_init__(self) -> None:
        """Paths may come as text."""
        for name in ("train_annotations", "train_images", "val_annotations", "val_images"):
            object.__setattr__(self, name, Path(getattr(self, name)))


@dataclass(frozen=True)
class ModelConfig:
    """The detector to build.

    Args:
        backbone: a BoTNet or any timm name with a feature pyramid.
        preset: sizes behind the backbone: paper, torchvision_v2, tiny or nano.
        img_size: px of a square that images are padded to, or [shortest, longest] for free sizes.
        backbone_options: more for the backbone, e.g. {position: absolute}.
        auxiliary: a linear classifier on the backbone's last map as well, whose loss is added in training.
    """

    backbone: str = "botnet50"
    preset: PresetName = "paper"
    img_size: int | tuple[int, int] = 1024
    backbone_options: dict[str, Any] | None = None
    auxiliary: bool = False


@dataclass(frozen=True)
class OptimConfig:
    """How it learns; the defaults are those of the detection code that the paper cites, for batch 64.

    Args:
        optimizer: timm's name: momentum (SGD, the paper's), sgd (with Nesterov), adamw, lamb, …
        lr: base rate at the batch that the run really has, all devices together.
        weight_decay: on weights only, never on norms, biases and position tables.
        momentum: of those that take one.
        schedule: steps (×0.1 at each milestone) or cosine (to 0).
        milestones: as fractions of the run.
        warmup_steps: linear warm-up.
        warmup_from: first rate, as a fraction of lr.
        epochs: passes over the training images.
        clip: largest norm of the gradient; none leaves it.
        ema: decay of averaged weights, which are then evaluated and saved; none keeps the plain ones.
    """

    optimizer: str = "momentum"
    lr: float = 0.08
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = "steps"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    warmup_steps: int = 500
    warmup_from: float = 0.084
    epochs: int = 36
    clip: float | None = None
    ema: float | None = None
