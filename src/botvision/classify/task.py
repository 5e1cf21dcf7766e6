"""Image classification as a training task: data, model, evaluation, drawing."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from botvision.backbone import load_resnet
from botvision.backbone.weights import other_normalisation
from botvision.classify.config import DataConfig, ModelConfig, OptimConfig, check_augment, check_shares
from botvision.classify.data import Split, build_split, check_classes, train_transform, val_transform
from botvision.classify.evaluation import evaluate_at, to_image
from botvision.classify.intake import save_samples, told, trained_on
from botvision.classify.model import build_model, load_classifier, normalisation
from botvision.classify.module import ClassifierModule
from botvision.classify.report import ClassifierReporter
from botvision.draw.classes import draw_confusion, draw_predictions
from botvision.engine.config import EngineConfig, check_counts, check_milestones, check_rates, epochs_for
from botvision.engine.loader import EpochPosition, Share
from botvision.engine.run import Parts, RunSummary, Session, Settled, Task
from botvision.engine.trainer import FitOptions
from botvision.optim import check_optimizer

EXAMPLES = 12  # images that a finished run draws


@dataclass(frozen=True, kw_only=True)
class Summary(RunSummary):
    """How a run ended; also in `summary.json`.

    Attributes:
        top1, top5: on the validation images, as fractions.
    """

    task = "classify"
    top1: float
    top5: float

    @property
    def headline(self) -> str:
        """Its accuracies."""
        return f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f}"


@dataclass(frozen=True)
class Classification(Task[Summary]):
    """A classifier on labelled images: the options of `train`."""

    name = "classify"
    metric = "val/top1"
    panels: ClassVar = {
        "loss": ("train/loss", "val/loss"),
        "accuracy": ("val/top1", "val/top5"),
        "learning rate": ("lr",),
    }

    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    backbone_weights: str | None

    @property
    def fitting(self) -> FitOptions:
        """best.ckpt is chosen by top-1."""
        o = self.optim
        return FitOptions(
            cast("int", o.epochs),
            "val/top1",
            clip=o.clip,
            ema=o.ema,
            accumulate=o.accumulate,
            patience=o.patience,
            final=o.final,
            shown={"val/top1": "top-1"},
        )

    def settled(self, out: Path, engine: EngineConfig) -> Settled:
        """Epochs by the number of images."""
        if self.optim.epochs != "auto":
            return Settled(self)
        share = Share(1, True, EpochPosition(), engine.seed)
        images = build_split(self.data.train, replace(self.data, workers=0), torch.nn.Identity(), share).samples
        return Settled(replace(self, optim=replace(self.optim, epochs=epochs_for(images))))

    @property
    def batch_size(self) -> int:
        """Of the data."""
        return self.data.batch_size

    @property
    def seed_splits(self) -> bool:
        """Where no validation images are given."""
        return self.data.val is None

    def check(self, engine: EngineConfig) -> None:
        """An optimiser that timm knows, and batches to sum."""
        check_optimizer(self.optim.optimizer)
        check_milestones(self.optim.milestones)
        check_rates(self.optim)
        check_shares(**{"data.crop": self.data.crop})
        check_augment(self.data.augment)
        for name, why in (("num_classes", "that of the data"), ("in_chans", "3: images are read as RGB")):
            if name in (self.model.options or {}):
                raise ValueError(f"model.options has {name}, which is {why}; leave it out")
        for name in ("drop", "drop_path"):
            if not 0 <= (share := getattr(self.model, name)) < 1:
                raise ValueError(f"model.{name}={share:g} must be at least 0 and below 1; e.g. 0.1")
        if self.data.bad_limit < 0:
            raise ValueError(f"data.bad_limit={self.data.bad_limit} must be at least 0, which allows none")
        check_counts(engine, **{"optim.accumulate": self.optim.accumulate})
        if self.optim.freeze and not (self.backbone_weights or self.model.pretrained):
            raise ValueError(
                "optim.freeze keeps the weights as they were loaded, and none are; give --backbone_weights or "
                "--model.pretrained true, or leave --optim.freeze out"
            )

    def build(self, session: Session) -> Parts:
        """Two splits of the same classes; the classifier, with the weights that it begins from."""
        train, val = open_splits(self.data, self.model, session.share)
        network = build_model(self.model, len(train.classes), pretrained=self.model.pretrained and not session.resumes)
        if self.backbone_weights is not None and not session.resumes:
            print(f"backbone: {load_resnet(network, self.backbone_weights)}")
            if told := other_normalisation(self.backbone_weights, *normalisation(network)):
                print(told, file=sys.stderr)
        network = session.prepared(network)
        module = ClassifierModule(network, config=self.model, optim=self.optim, data=self.data, train=train)
        return Parts(module, train.batches, val.batches)

    def draw(self, checkpoint: Path, parts: Parts, out: Path, *, device: torch.device) -> None:
        """The confusion matrix, and some validation images with their predictions."""
        seed = parts.val.share.seed
        draw_end(checkpoint, self.data, out, device=device, seed=seed)  # lightning has moved the module to the CPU

    def introduce(self, parts: Parts, out: Path) -> None:
        """Images and classes of both splits, and a sheet of training images as they are trained on."""
        classes = parts.module.about["classes"]
        for name, loader in (("train", parts.train), ("val", parts.val)):
            print(told(name, loader, classes), file=sys.stderr)
        if warning := trained_on(parts.train, parts.val):
            print(warning, file=sys.stderr)
        mean, std = parts.module.about["mean"], parts.module.about["std"]
        save_samples(parts.train, classes, out / "samples.jpg", mean=mean, std=std)

    @property
    def reporter(self) -> ClassifierReporter:
        """What a report shows of it."""
        return ClassifierReporter(self.panels)

    def summarise(self, metrics: Mapping[str, float], parts: Parts, **common: Any) -> Summary:
        """Accuracies."""
        return Summary(top1=metrics["val/top1"], top5=metrics["val/top5"], model=self.model.name, **common)


def open_splits(data: DataConfig, model: ModelConfig, share: Share) -> tuple[Split, Split]:
    """Training images, augmented, and validation images as they are, of the same classes."""
    with torch.device("meta"):  # a wrong name is said before much data is read
        mean, std = normalisation(build_model(model, 2))
    augmented = train_transform(data, model.img_size, mean, std)
    as_is = val_transform(model.img_size, data.crop, mean, std)
    train = build_split(data.train, data, augmented, share)
    val = build_split(data.evaluated, data, as_is, share.validation())
    check_classes(train, val, data)
    return train, val


def draw_end(checkpoint: Path, data: DataConfig, out: Path, *, device: torch.device, seed: int) -> None:
    """The confusion matrix, and some validation images with their predicted classes."""
    classifier = load_classifier(checkpoint, device=device)
    evaluated = evaluate_at(classifier, data, size=classifier.config.img_size, keep=EXAMPLES, seed=seed)
    title = f"{classifier.config.name}, top-1 {evaluated.top1:.4f} of {evaluated.images}"
    draw_confusion(evaluated.confusion.numpy(), classifier.classes, out / "confusion.png", title=title)
    images = [to_image(image, mean=classifier.mean, std=classifier.std) for image in evaluated.examples]
    labels = []
    for is_, named, sure in evaluated.predicted:
        name, truth = classifier.classes[named], classifier.classes[is_]
        labels.append((f"{name} {sure:.2f}" + ("" if is_ == named else f" (is {truth})"), is_ == named))
    draw_predictions(images, labels, out / "predictions" / "sheet.jpg")
