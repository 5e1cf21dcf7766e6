"""Options of Mask R-CNN: data, model, optimiser; loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from botvision.engine.config import Final, Schedule

Backend = Literal["auto", "hotcoco", "pycocotools"]
OnBad = Literal["refuse", "skip"]
BoxFormat = Literal["auto", "xywh", "xyxy"]
PresetName = Literal["paper", "torchvision_v2", "tiny", "nano"]  # the keys of model.PRESETS

FILES = ("train_annotations", "train_images", "val_annotations", "val_images")


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are read.

    Args:
        train_annotations: COCO JSON to train on.
        train_images: folder of its images.
        val_annotations: COCO JSON to evaluate on; none takes val_fraction of the training images.
        val_images: folder of its images.
        root: in place of these four, a folder in COCO's, Roboflow's, YOLO's or Pascal VOC's layout.
        val_fraction: share of the images to evaluate on, drawn by the seed, where nothing names a validation split.
        jitter: smallest and largest random zoom; the paper uses [0.8, 1.25], [0.5, 2] and [0.1, 2].
        flip: mirror half of the images.
        batch_size: images a step and a device.
        workers: processes that read images, a device.
        on_bad: annotations without a mask, without area or outside their image: "refuse" the file, or "skip" them
            (COCO has some).
        box_format: xywh (x, y, width, height: COCO's), or xyxy (two corners); auto is xywh, and refuses a file whose
            boxes seem to be two corners.
        bad_limit: different images that may turn out unreadable in training, for a process; one more stops the run.
    """

    train_annotations: Path | None = None
    train_images: Path | None = None
    val_annotations: Path | None = None
    val_images: Path | None = None
    root: Path | None = None
    val_fraction: float = 0.2
    jitter: tuple[float, float] = (0.8, 1.25)
    flip: bool = True
    batch_size: int = 8
    workers: int = 2
    on_bad: OnBad = "refuse"
    box_format: BoxFormat = "auto"
    bad_limit: int = 10

    def __post_init__(self) -> None:
        """Paths may come as text."""
        for name in (*FILES, "root"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))

    @property
    def training_files(self) -> tuple[Path, Path]:
        """Annotations and images to train on."""
        return self.files("train")

    @property
    def validation_files(self) -> tuple[Path, Path]:
        """Annotations and images to evaluate on."""
        return self.files("val")

    def files(self, split: str) -> tuple[Path, Path]:
        """A split's annotations and images.

        Raises:
            ValueError: they are not given.
        """
        annotations, images = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
        if annotations is None or images is None:
            raise ValueError(
                f"no images to {'train' if split == 'train' else 'evaluate'} on; give --data.root FOLDER, or "
                f"--data.{split}_annotations FILE.json and --data.{split}_images FOLDER"
            )
        return annotations, images


@dataclass(frozen=True)
class ModelConfig:
    """The detector to build.

    Args:
        backbone: a BoTNet or any timm name with a feature pyramid.
        preset: sizes behind the backbone: paper, torchvision_v2, tiny or nano.
        img_size: px of a square that images are padded to, or [shortest, longest] for free sizes.
        backbone_options: more for the backbone, e.g. {position: absolute}.
        auxiliary: a linear classifier on the backbone's last map as well, whose loss is added in training.
        masks: with a mask head, which needs annotations with masks; false is a Faster R-CNN, which finds boxes; auto is
            true where the training annotations have masks.
        max_objects: how many are found in an image at most; none for 100, and 50 of nano.
    """

    backbone: str = "botnet50"
    preset: PresetName = "paper"
    img_size: int | tuple[int, int] = 1024
    backbone_options: dict[str, Any] | None = None
    auxiliary: bool = False
    masks: bool | Literal["auto"] = True
    max_objects: int | None = None


@dataclass(frozen=True)
class OptimConfig:
    """How it learns; the defaults are those of the detection code that the paper cites, for batch 64.

    Args:
        optimizer: timm's name: momentum (SGD, the paper's), sgd (with Nesterov), adamw, lamb, …
        lr: base rate, at the batch of all devices together.
        lr_batch_size: batch that lr is given for: it is scaled to the run's own, in proportion for SGD and by the root
            for adaptive optimisers; none takes lr as it is.
        backbone_lr: base rate of what `freeze` would keep, e.g. a tenth of lr where its weights are
            trained; none for lr.
        freeze: keep the backbone's weights as they were loaded, except those of its blocks with attention.
        weight_decay: on weights only, never on norms, biases and position tables.
        momentum: of those that take one.
        schedule: steps (×0.1 at each milestone) or cosine (to 0).
        milestones: as fractions of the run.
        warmup_steps: linear warm-up.
        warmup_from: first rate, as a fraction of lr.
        warmup: length of the warm-up as a share of the run, in place of warmup_steps.
        epochs: passes over the training images; auto: by their number (100 for 32 and fewer, 12 for 256 and more).
        patience: evaluations in a row without a better AP that end the run; none runs to the end.
        final: whose weights the run reports, draws and offers: last or best.
        clip: largest norm of the gradient; none leaves it.
        ema: decay of averaged weights, which are then evaluated and saved; none keeps the plain ones.
    """

    optimizer: str = "momentum"
    lr: float = 0.08
    lr_batch_size: int | None = None
    backbone_lr: float | None = None
    freeze: bool = False
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = "steps"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    warmup_steps: int = 500
    warmup_from: float = 0.084
    warmup: float | None = None
    epochs: int | Literal["auto"] = 36
    patience: int | None = None
    final: Final = "last"
    clip: float | None = None
    ema: float | None = None
