"""Mask R-CNN as a training task: data, model, evaluation, drawing."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from botvision.backbone import load_resnet
from botvision.draw.instances import contact_sheet, draw_instances, save_image
from botvision.engine.config import EngineConfig
from botvision.engine.run import Parts, RunSummary, Session, Task
from botvision.engine.trainer import FitOptions
from botvision.maskrcnn.checkpoint import build_model, carry_over
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.maskrcnn.data import CocoInstances, train_loader, val_loader
from botvision.maskrcnn.module import MaskRCNNModule
from botvision.maskrcnn.prediction import Predictor
from botvision.optim import check_optimizer

EXAMPLES = 12  # images that a finished run draws


@dataclass(frozen=True, kw_only=True)
class Summary(RunSummary):
    """How a run ended; also in `summary.json`.

    Attributes:
        box_ap, mask_ap: COCO's AP of the last weights on the validation images, as fractions.
    """

    task = "maskrcnn"
    box_ap: float
    mask_ap: float

    @property
    def headline(self) -> str:
        """Its AP."""
        return f"box AP {self.box_ap:.3f}, mask AP {self.mask_ap:.3f}"


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
        """best.ckpt is chosen by mask AP."""
        return FitOptions(self.optim.epochs, "val/mask_ap", clip=self.optim.clip, ema=self.optim.ema)

    @property
    def batch_size(self) -> int:
        """Of the data."""
        return self.data.batch_size

    def check(self, engine: EngineConfig) -> None:
        """Options that exclude each other, and a model that cannot be built, before much data is read."""
        check_precision(engine.precision)
        check_optimizer(self.optim.optimizer)
        if self.backbone_weights is not None and self.init_from is not None:
            raise ValueError("backbone_weights and init_from both bring the backbone's weights; give one of them")

    def build(self, session: Session) -> Parts:
        """COCO data of two splits with the same categories; the detector, with the weights that it begins from."""
        with torch.device("meta"):  # the model's options are checked before much data is read
            rule = build_model(self.model, 1).resize.rule
        train = train_loader(self.data, rule, session.share)
        val = val_loader(self.data, session.share.validation())
        train_set, val_set = cast("CocoInstances", train.dataset), cast("CocoInstances", val.dataset)
        if val_set.categories != train_set.categories:
            raise ValueError(
                f"{self.data.train_annotations} and {self.data.val_annotations} list different categories; use one list"
            )
        detector = build_model(self.model, len(train_set.categories))
        if self.init_from is not None and not session.resumes:
            print(f"detector: {carry_over(detector, self.init_from)}")
        if self.backbone_weights is not None and not session.resumes:
            print(f"backbone: {load_resnet(detector.pyramid.body, self.backbone_weights)}")
        detector = session.prepared(detector, detector.pyramid)
        module = MaskRCNNModule(detector, config=self.model, optim=self.optim, loader=train, val_set=val_set)
        return Parts(module, train, val)

    def draw(self, checkpoint: Path, parts: Parts, out: Path, *, device: torch.device) -> None:
        """What the model finds in some validation images, and a sheet of them."""
        predictor = Predictor.load(checkpoint, accelerator=str(device))
        draw_examples(predictor, cast("CocoInstances", parts.val.dataset), out / "predictions")

    def summarise(self, metrics: Mapping[str, float], parts: Parts, **common: Any) -> Summary:
        """AP of the last weights."""
        box_ap, mask_ap = metrics["val/box_ap"], metrics["val/mask_ap"]
        return Summary(box_ap=box_ap, mask_ap=mask_ap, model=self.model.backbone, **common)


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
    drawn = []
    for index in chosen:
        image, _ = data[index]
        detections = predictor(image)
        drawn.append(draw_instances(image.permute(1, 2, 0).numpy(), detections, predictor.names))
        save_image(drawn[-1], folder / f"{Path(data.record(index)[0]['file_name']).stem}.jpg")
    save_image(contact_sheet(drawn), folder / "sheet.jpg")
