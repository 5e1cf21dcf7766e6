"""A user's images for int8: what ranges are taken from, and accuracy before and after."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch

from botvision.classify.config import DataConfig
from botvision.classify.evaluation import evaluate_at
from botvision.classify.model import load_classifier
from botvision.deploy.classifier import cropped
from botvision.export.subject import Feeds, Subject, images_below, on_canvas, ready
from botvision.inputs import as_array
from botvision.maskrcnn.checkpoint import Detector, load_detector
from botvision.maskrcnn.evaluation import Metrics, evaluate_detector
from botvision.maskrcnn.resize import ImageSize
from botvision.maskrcnn.results import Result

IMAGES = 64  # that ranges are taken from


class Drop(NamedTuple):
    """Accuracy before and after.

    Attributes:
        before, after: AP of boxes, and of masks where there are some; or top-1.
    """

    before: dict[str, float]
    after: dict[str, float]

    @property
    def lost(self) -> float:
        """The largest loss."""
        return max(self.before[name] - self.after[name] for name in self.before)

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.before[name]:.4f} → {self.after[name]:.4f}" for name in self.before)


@dataclass(frozen=True)
class Calibration:
    """The user's images for int8.

    Attributes:
        checkpoint: of the float model.
        images: that accuracy is measured on.
        annotations: COCO JSON of these, for a detector.
        source: folder or glob of images that ranges are taken from.
        max_drop: largest loss of AP or accuracy.
    """

    checkpoint: Path
    images: Path
    annotations: Path | None
    source: Path
    max_drop: float

    def check(self, subject: Subject) -> None:
        """Refuse what cannot be calibrated, before anything is recorded.

        Raises:
            ValueError: a bare backbone, a detector without annotations, a limit that is no fraction, or an image that
                cannot be read.
        """
        if subject.task == "backbone":
            raise ValueError("int8 is for checkpoints, whose accuracy before and after can be measured")
        if subject.task == "maskrcnn" and self.annotations is None:
            raise ValueError("a detector's int8 is measured by AP; give --annotations FILE.json of --images")
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_ap_drop={self.max_drop} must lie in 0 … 1; e.g. 0.01")
        for path in self.paths():  # now, and not when accuracy is measured and the file written
            as_array(path)

    def paths(self) -> list[Path]:
        """Of the images that ranges are taken from, spread over the folder and those below it.

        Raises:
            FileNotFoundError: there are none.
        """
        paths = images_below(self.source)
        number = min(IMAGES, len(paths))
        return [paths[place * len(paths) // number] for place in range(number)]

    def feeds(self, subject: Subject) -> list[Feeds]:
        """Inputs of the graph, of these images."""
        arrays = [as_array(path) for path in self.paths()]
        about = subject.about
        if subject.task == "maskrcnn":
            if about["input"] == "image":
                return [{"images": array[None]} for array in arrays]
            detector = detector_of(subject, self.checkpoint)
            return [on_canvas(detector, array[None]) for array in arrays]
        crops = [cropped(array, size=about["img_size"], crop=about["crop"])[None] for array in arrays]
        return [{"images": crop if about["input"] == "image" else ready(crop, about)} for crop in crops]

    def before(self, subject: Subject) -> dict[str, float]:
        """Accuracy of the checkpoint; measured first, so that annotations or folders that do not fit cost no export."""
        return self.accuracy(subject, self.checkpoint)

    def drop(self, subject: Subject, path: Path, before: dict[str, float]) -> Drop:
        """Accuracy of the checkpoint and of the file."""
        return Drop(before, self.accuracy(subject, path))

    def accuracy(self, subject: Subject, path: Path) -> dict[str, float]:
        """AP on the COCO file, or top-1 on the class folders, at the image size of the export."""
        cpu = torch.device("cpu")
        if self.annotations is not None and subject.task == "maskrcnn":
            detector = detector_of(subject, path)
            evaluated = evaluate_detector(
                detector, self.annotations, self.images, device=cpu, batch_size=1, workers=0, backend="auto"
            )
            metrics = cast("tuple[Metrics, list[Result]]", evaluated)[0]
            return {"box AP": metrics.box["AP"]} | ({"mask AP": metrics.mask["AP"]} if metrics.mask else {})
        data = DataConfig(str(self.images), str(self.images), batch_size=16, workers=0)
        return {"top-1": evaluate_at(load_classifier(path, device=cpu), data, size=subject.about["img_size"]).top1}


def detector_of(subject: Subject, path: Path) -> Detector:
    """A detector of a checkpoint or a file, at the image size of the export."""
    detector = load_detector(path)
    detector.model.resize.rule = ImageSize(*subject.about["rule"])
    return detector
