"""Mask R-CNN as a training task: data, model, evaluation, drawing."""

import random
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from botvision.backbone import load_resnet
from botvision.backbone.weights import other_normalisation
from botvision.draw.instances import contact_sheet, draw_instances, save_image
from botvision.engine.config import EngineConfig, check_milestones, check_rates, epochs_for
from botvision.engine.folder import moved_file
from botvision.engine.run import Parts, RunSummary, Session, Settled, Task
from botvision.engine.trainer import FitOptions
from botvision.maskrcnn.checkpoint import build_model, carry_over
from botvision.maskrcnn.coco import has_masks, read_document
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.maskrcnn.data import CocoInstances, build_loader, train_set, val_set
from botvision.maskrcnn.intake import samples_sheet, settle_data, told, unlearnable
from botvision.maskrcnn.module import MaskRCNNModule
from botvision.maskrcnn.prediction import Predictor
from botvision.maskrcnn.report import DetectorReporter
from botvision.maskrcnn.resize import MEAN, STD
from botvision.optim import check_optimizer

ANNOTATIONS = ("train_annotations", "val_annotations")
EXAMPLES = 12  # images that a finished run draws
SHEET = "sheet"  # name of the drawing of all of them


@dataclass(frozen=True, kw_only=True)
class Summary(RunSummary):
    """How a run ended; also in `summary.json`.

    Attributes:
        box_ap, mask_ap: COCO's AP on the validation images, as fractions; none for masks where it finds boxes alone.
    """

    task = "maskrcnn"
    box_ap: float
    mask_ap: float | None

    @property
    def headline(self) -> str:
        """Its AP."""
        return f"box AP {self.box_ap:.3f}" + ("" if self.mask_ap is None else f", mask AP {self.mask_ap:.3f}")


@dataclass(frozen=True)
class InstanceSegmentation(Task[Summary]):
    """Mask R-CNN on COCO data: the options of `train`."""

    name = "maskrcnn"
    metric = "val/box_ap"
    panels: ClassVar = {
        "loss": ("train/loss", "val/loss"),
        "AP": ("val/box_ap", "val/mask_ap"),
        "parts of the loss": (
            "train/loss_objectness",
            "train/loss_rpn_box_reg",
            "train/loss_classifier",
            "train/loss_box_reg",
            "train/loss_mask",
            "train/loss_auxiliary",
        ),
        "learning rate": ("lr",),
    }

    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    backbone_weights: str | None
    init_from: Path | None

    @property
    def fitting(self) -> FitOptions:
        """best.ckpt is chosen by mask AP, or by box AP where there are no masks."""
        o = self.optim
        return FitOptions(
            cast("int", o.epochs),
            "val/mask_ap" if self.model.masks else "val/box_ap",
            clip=o.clip,
            ema=o.ema,
            patience=o.patience,
            final=o.final,
            shown={"val/box_ap": "box AP", "val/mask_ap": "mask AP"},
        )

    def settled(self, out: Path, engine: EngineConfig) -> Settled:
        """Files for `data.root`, epochs by the number of images, a mask head where there are masks."""
        given = replace(self.data, **{name: moved_file(getattr(self.data, name), out) for name in ANNOTATIONS})
        data, files = settle_data(given, out, seed=engine.seed)
        masks, epochs = self.model.masks, self.optim.epochs
        if "auto" in (masks, epochs):
            path = data.training_files[0]
            document = files[path] if path in files else read_document(path)
            epochs = epochs_for(len(document["images"])) if epochs == "auto" else epochs
            masks = has_masks(document, path, on_bad=data.on_bad) if masks == "auto" else masks
        model, optim = replace(self.model, masks=masks), replace(self.optim, epochs=epochs)
        return Settled(replace(self, data=data, model=model, optim=optim), files)

    @property
    def batch_size(self) -> int:
        """Of the data."""
        return self.data.batch_size

    def check(self, engine: EngineConfig) -> None:
        """Options that exclude each other, and a model that cannot be built, before much data is read."""
        check_precision(engine.precision)
        check_optimizer(self.optim.optimizer)
        check_milestones(self.optim.milestones)
        check_rates(self.optim)
        if self.backbone_weights is not None and self.init_from is not None:
            raise ValueError("backbone_weights and init_from both bring the backbone's weights; give one of them")
        if self.optim.freeze and self.backbone_weights is None and self.init_from is None:
            raise ValueError(
                "optim.freeze keeps the backbone's weights as they were loaded, and none are; give --backbone_weights "
                "or --init_from, or leave --optim.freeze out"
            )

    def build(self, session: Session) -> Parts:
        """COCO data of two splits with the same categories; the detector, with the weights that it begins from."""
        with torch.device("meta"):  # the model's options are checked before much data is read
            rule = build_model(self.model, 1).resize.rule
        masks = bool(self.model.masks)
        train_images, val_images = train_set(self.data, rule, masks=masks), val_set(self.data, masks=masks)
        if val_images.categories != train_images.categories:
            own, others = (
                [f"{c.name!r} (id {c.id})" for c in images.categories] for images in (train_images, val_images)
            )
            first = next(pair for pair in zip_longest(own, others, fillvalue="none") if pair[0] != pair[1])
            raise ValueError(
                f"{self.data.train_annotations} and {self.data.val_annotations} list different categories, first "
                f"{first[0]} and {first[1]}; use one list"
            )
        counts = train_images.counts + val_images.counts
        for images in (train_images, val_images):  # a class without an object would only take room
            images.restrict([category for category in images.categories if counts[category.id]])
        train = build_loader(train_images, self.data, session.share)
        val = build_loader(val_images, self.data, session.share.validation())
        detector = build_model(self.model, len(train_images.categories))
        if self.init_from is not None and not session.resumes:
            classes = [category.name for category in train_images.categories]
            print(f"detector: {carry_over(detector, self.init_from, classes=classes)}")
        if self.backbone_weights is not None and not session.resumes:
            print(f"backbone: {load_resnet(detector.pyramid.body, self.backbone_weights)}")
            if said := other_normalisation(self.backbone_weights, MEAN, STD):
                print(said, file=sys.stderr)
        detector = session.prepared(detector, detector.pyramid)
        module = MaskRCNNModule(
            detector,
            config=self.model,
            optim=self.optim,
            loader=train,
            val_set=val_images,
            bad_limit=self.data.bad_limit,
        )
        return Parts(module, train, val)

    def introduce(self, parts: Parts, out: Path) -> None:
        """Images, objects and classes of both splits, and a sheet of training images as they are trained on."""
        train, val = cast("CocoInstances", parts.train.source), cast("CocoInstances", parts.val.source)
        detector = cast("MaskRCNNModule", parts.module).detector
        print("\n".join(told(train, val, most=detector.max_objects)), file=sys.stderr)
        for warning in unlearnable(train, val):
            print(warning, file=sys.stderr)
        sheet = samples_sheet(train)
        if sheet is not None:
            save_image(sheet, out / "samples.jpg")

    def draw(self, checkpoint: Path, parts: Parts, out: Path, *, device: torch.device) -> None:
        """What the model finds in some validation images, and a sheet of them."""
        predictor = Predictor.load(checkpoint, accelerator=str(device))
        draw_examples(predictor, cast("CocoInstances", parts.val.source), out / "predictions")

    @property
    def reporter(self) -> DetectorReporter:
        """What a report shows of it."""
        return DetectorReporter(self.panels)

    def summarise(self, metrics: Mapping[str, float], parts: Parts, **common: Any) -> Summary:
        """AP."""
        return Summary(
            box_ap=metrics["val/box_ap"],
            mask_ap=metrics.get("val/mask_ap"),
            model=self.model.backbone,
            **common,
        )


def check_precision(precision: object) -> None:
    """Refuse true 16 bits: lightning would round the true boxes too, by pixels.

    Raises:
        ValueError: bf16-true, 16-true and the like.
    """
    if str(precision).endswith("-true") and not str(precision).startswith(("32", "64")):
        raise ValueError(
            f"engine.precision={precision} rounds boxes to 16 bits, by pixels at large sizes; use bf16-mixed, which "
            "computes boxes in float32"
        )


def draw_examples(predictor: Predictor, data: CocoInstances, folder: Path) -> None:
    """Draw what the model finds in some validation images, and a sheet of them."""
    chosen = sorted(random.Random(0).sample(range(len(data)), min(EXAMPLES, len(data))))
    names = [Path(data.record(index)[0]["file_name"]).stem for index in chosen]
    often = Counter(map(str.casefold, [*names, SHEET]))
    drawn = []
    for index, name in zip(chosen, names, strict=True):
        image, _ = data[index]
        detections = predictor(image)
        drawn.append(draw_instances(image.permute(1, 2, 0).numpy(), detections, predictor.names))
        own = name if often[name.casefold()] == 1 else f"{name}_{data.record(index)[0]['id']}"
        save_image(drawn[-1], folder / f"{own}.jpg")
    save_image(contact_sheet(drawn), folder / f"{SHEET}.jpg")
