"""ultralytics' trainers, but that pretrained weights come by aligned rows; a worker finds them by name."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from ultralytics.models import yolo
from ultralytics.utils import LOGGER

from botvision.attention import HeadStatistics, MHSA2d, attention_statistics
from botvision.files import write_text
from botvision_yolo.blocks import BoTBottleneck, ResidualMHSA2d
from botvision_yolo.transfer import load_pretrained

IMAGES = 8  # of the last batch, on which the entropy of attention is measured
ENTROPY = "attention/entropy"  # column of results.csv: the mean of all heads; each head's own begin with it
DISTANCE = "attention/distance"
WRAPPED = ("module", "_orig_mod", "student_model")  # by several GPUs, by torch.compile, with a teacher to distil from


class AlignedWeights:
    """A trainer's `get_model` that aligns rows, and more figures in its log: how flat attention is, head by head."""

    seen: Tensor | None = None

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        """The model that a yaml describes, with the weights of another, or of the file `pretrained`, by aligned rows.

        `freeze` may name rows.
        """
        model = super().get_model(cfg, None, verbose)  # type: ignore[misc]
        self.restart(model)
        args: Any = self.args  # type: ignore[attr-defined]
        if isinstance(args.pretrained, str | Path) and not self.resume:  # type: ignore[attr-defined]
            weights = args.pretrained
        if weights:
            load_pretrained(model, weights, verbose=verbose)
        if isinstance(args.freeze, str):
            args.freeze = rows_named(model, args.freeze)
        return model

    def restart(self, model: Any) -> None:
        """Bring attention back to its start, where ultralytics has reset a new model's parts."""

    def preprocess_batch(self, batch: Any) -> Any:
        """As ultralytics does; a few of the images are kept to look at attention on."""
        batch = super().preprocess_batch(batch)  # type: ignore[misc]
        self.seen = batch["img"][:IMAGES].clone()
        return batch

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """A line of results.csv, with entropy / log N and distance of each head where there is attention of ours.

        What a killed run has left of a line is cut off first.
        """
        csv: Any = self.csv  # type: ignore[attr-defined]
        if csv.exists() and not (text := csv.read_text(encoding="utf-8")).endswith("\n"):
            write_text(csv, text[: text.rfind("\n") + 1])
        if heads := entropies(self):
            told = columns_of(heads)
            LOGGER.info(
                f"attention: entropy / log N {told[ENTROPY]:.3f}, a mean of {len(heads)} heads; 1 is a plain average"
            )
            if csv.exists():  # of a run that is resumed: its lines have as many columns as they began with
                known = csv.read_text(encoding="utf-8").partition("\n")[0].split(",")
                told = {name: value for name, value in told.items() if name in known}
            metrics = {**metrics, **told}
        super().save_metrics(metrics)  # type: ignore[misc]


def has_ours(model: Any) -> bool:
    """Whether a model, or a row of one, has attention of ours."""
    return isinstance(model, nn.Module) and any(isinstance(part, MHSA2d) for part in model.modules())


def rows_named(model: Any, names: str) -> list[int]:
    """The rows of a model that are meant by "backbone", or by the names of their classes, with commas.

    Raises:
        ValueError: a name that no row has.
    """
    attending = {row.i for row in model.model if has_ours(row)}
    known = {"backbone": [i for i in range(len(model.yaml["backbone"])) if i not in attending]}
    for row in model.model:
        known.setdefault(type(row).__name__, []).append(row.i)
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"freeze={names!r}: no row is named {unknown[0]!r}; use a number, or {', '.join(known)}")
    return sorted({row for name in wanted for row in known[name]})


def columns_of(heads: list[HeadStatistics]) -> dict[str, float]:
    """The heads' figures by their columns in results.csv: each head's own, then the mean entropy."""
    columns: dict[str, float] = {}
    for head in heads:
        place = f"{head.layer.removesuffix('.mhsa').removeprefix('model.')}.head{head.head}"
        columns |= {f"{ENTROPY}/{place}": head.entropy, f"{DISTANCE}/{place}": head.distance}
    return {**columns, ENTROPY: statistics.mean(head.entropy for head in heads)}


def entropies(trainer: Any) -> list[HeadStatistics]:
    """Where each head of a trainer's model looks, on a few images of its last batch; empty without attention of ours.

    In training mode, where BatchNorm goes by the batch: in evaluation a young model looks flatter than it is.
    """
    model: Any = trainer.model
    while inner := next((part for name in WRAPPED if isinstance(part := getattr(model, name, None), nn.Module)), None):
        model = inner
    seen = getattr(trainer, "seen", None)
    if seen is None or not has_ours(model):
        return []
    with as_in_training(model):
        return attention_statistics(model, seen.to(next(model.parameters()).dtype))


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """Training mode for a while, whatever modes a model's parts are in."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class DetectionTrainer(AlignedWeights, yolo.detect.DetectionTrainer):
    """Object detection."""


class SegmentationTrainer(AlignedWeights, yolo.segment.SegmentationTrainer):
    """Instance segmentation."""


class PoseTrainer(AlignedWeights, yolo.pose.PoseTrainer):
    """Keypoints."""


class OBBTrainer(AlignedWeights, yolo.obb.OBBTrainer):
    """Rotated boxes."""


class ClassificationTrainer(AlignedWeights, yolo.classify.ClassificationTrainer):
    """Image classification."""

    def restart(self, model: Any) -> None:
        """It resets every part without pretrained weights: a block's own start is made before that of its parts."""
        for module in model.modules():
            if isinstance(module, ResidualMHSA2d | BoTBottleneck):
                module.reset_parameters()


TRAINERS: dict[str, type[AlignedWeights]] = {
    "detect": DetectionTrainer,
    "segment": SegmentationTrainer,
    "pose": PoseTrainer,
    "obb": OBBTrainer,
    "classify": ClassificationTrainer,
}


def add_newer() -> None:
    """Trainers of tasks that newer versions alone have; a worker finds them in this module by name."""
    for task, name in {"semantic": "SemanticSegmentationTrainer", "depth": "DepthTrainer"}.items():
        if (stock := getattr(getattr(yolo, task, None), name, None)) is not None:
            TRAINERS[task] = globals()[name] = type(name, (AlignedWeights, stock), {"__module__": __name__})


add_newer()
