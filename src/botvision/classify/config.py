"""Options of image classification: data, augmentation, model, optimiser; loads no torch."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from botvision.engine.config import Final, Schedule


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are changed: timm's augmentation, and mixing of whole batches.

    Args:
        auto_augment: timm's policy, e.g. rand-m10-n2-p1.0 (RandAugment, 2 operations of magnitude 10, each applied;
            without p every other time), above magnitude 10 with mmax, e.g. rand-m15-n2-mmax30; none for none.
        scale: smallest and largest share of an image's area that a random crop takes.
        ratio: narrowest and widest crop.
        flip: chance of a mirrored image.
        color_jitter: strength, where there is no auto_augment.
        erase: chance that a rectangle is erased.
        mixup, cutmix: alpha of each; 0 leaves it out. Where both are given, a coin is thrown for each batch.
        smoothing: label smoothing.
    """

    auto_augment: str | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_jitter: float = 0.4
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are read.

    Args:
        train: to train on: a folder of class folders (ImageNet's layout); tar shards as a pattern or an index
            (….json), by path or URL; a timm dataset that is read by number (torch/…, hfds/…); or digits.
        val: to evaluate on, in any of these forms; none takes val_fraction of the images of train.
        val_fraction: share of the images to evaluate on, drawn by the seed from each class, where val is none.
        root: folder of a timm dataset.
        splits: a dataset's names of the splits for train and val.
        class_names: file with a class name a line, for shards and timm's datasets.
        batch_size: images a step and a device.
        workers: processes that read images, a device.
        bad_limit: different images that may turn out unreadable for a process; one more stops the run.
        crop: share of the image's shorter side that is evaluated.
        augment: of training images.
    """

    train: str
    val: str | None = None
    val_fraction: float = 0.2
    root: str | None = None
    splits: tuple[str, str] = ("train", "val")
    class_names: Path | None = None
    batch_size: int = 128
    workers: int = 4
    bad_limit: int = 10
    crop: float = 0.95
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def evaluated(self) -> str:
        """Where the images to evaluate on are: those of train where there is no val."""
        return self.train if self.val is None else self.val


def check_shares(**shares: float) -> None:
    """Refuse what is no share above 0 and at most 1.

    Raises:
        ValueError: a percentage, or another number.
    """
    for name, value in shares.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value:g} must be above 0 and at most 1; e.g. 0.95 for 95 %")


def check_augment(augment: AugmentConfig) -> None:
    """Refuse chances, shares and strengths that there are not.

    Raises:
        ValueError: one of them.
    """
    for name in ("flip", "erase", "smoothing"):
        if not 0 <= (value := getattr(augment, name)) <= 1:
            raise ValueError(f"data.augment.{name}={value:g} must lie in 0 … 1; e.g. 0.1 for 10 %")
    if augment.auto_augment is not None:
        from timm.data import create_transform

        try:
            create_transform(32, is_training=True, auto_augment=augment.auto_augment)
        except Exception as error:  # assertions and others, timm's own
            raise ValueError(
                f"data.augment.auto_augment={augment.auto_augment!r} is no policy of timm's: {error}; e.g. rand-m10-n2"
            ) from error
        given = augment.auto_augment
        asked = [int(found[1]) for part in given.split("-") if (found := re.fullmatch(r"m(\d+)", part))]
        if given.startswith("rand") and max(asked, default=0) > 10 and "mmax" not in given:
            raise ValueError(
                f"data.augment.auto_augment={given!r}: timm stops at magnitude 10, unless mmax raises it; e.g. "
                f"{given}-mmax30"
            )
    for name in ("mixup", "cutmix", "color_jitter"):
        if not (value := getattr(augment, name)) >= 0:
            raise ValueError(f"data.augment.{name}={value:g} must be at least 0, which leaves it out; e.g. 0.2")
    for name, most in (("scale", 1.0), ("ratio", float("inf"))):
        low, high = getattr(augment, name)
        if not 0 < low <= high <= most:
            end = f" and at most {most:g}" if most == 1 else ""
            raise ValueError(f"data.augment.{name}=({low:g}, {high:g}) must rise from above 0{end}; e.g. (0.75, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """The classifier to build.

    Args:
        name: a BoTNet or any timm name.
        img_size: px of the square training images.
        drop: dropout before the classifier.
        drop_path: largest stochastic depth; it grows from 0 with depth.
        options: more for the model, e.g. {position: absolute}.
        pretrained: timm's weights, downloaded; the classifier is new where the classes differ.
    """

    name: str = "botnet50"
    img_size: int = 224
    drop: float = 0.0
    drop_path: float = 0.0
    options: dict[str, Any] | None = None
    pretrained: bool = False


@dataclass(frozen=True)
class OptimConfig:
    """How it learns; the defaults are the paper's regular ImageNet setting where it states one.

    Args:
        optimizer: timm's name: momentum (SGD, the paper's), sgd (with Nesterov), adamw, lamb, …
        lr_per_256: base rate for 256 images a step; the batch of all devices together scales it.
        backbone_lr: the same for what `freeze` would keep, e.g. a tenth of lr_per_256 where trained weights are loaded;
            none for lr_per_256.
        freeze: keep the weights as they were loaded, except those of blocks with attention and of the last layer.
        weight_decay: on weights only, never on norms, biases and position tables.
        momentum: of those that take one.
        layer_decay: rate of each layer as a share of the next one's (timm's groups); none for one rate.
        schedule: cosine (to 0) or steps (×0.1 at each milestone).
        milestones: as fractions of the run.
        warmup_epochs: linear warm-up, from a hundredth.
        warmup: length of the warm-up as a share of the run, in place of warmup_epochs.
        epochs: passes over the training images; auto: by their number (100 for 32 and fewer, 12 for 256 and more).
        patience: evaluations in a row without a better accuracy that end the run; none runs to the end.
        final: whose weights the run reports, draws and offers: last or best.
        loss: ce (cross-entropy) or bce (a sigmoid a class).
        accumulate: batches a step.
        clip: largest norm of the gradient; none leaves it.
        ema: decay of averaged weights, which are then evaluated and saved; none keeps the plain ones.
    """

    optimizer: str = "momentum"
    lr_per_256: float = 0.1
    backbone_lr: float | None = None
    freeze: bool = False
    weight_decay: float = 1e-4
    momentum: float = 0.9
    layer_decay: float | None = None
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (1 / 3, 2 / 3, 8 / 9)
    warmup_epochs: float = 5.0
    warmup: float | None = None
    epochs: int | Literal["auto"] = 100
    patience: int | None = None
    final: Final = "last"
    loss: Literal["ce", "bce"] = "ce"
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
