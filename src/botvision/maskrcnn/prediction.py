"""Detect objects in images that a program holds or names: one, or many in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import supervision as sv
import torch
from torch import Tensor

from botvision.deploy.predictor import check_numbers
from botvision.engine.config import DeviceConfig
from botvision.inputs import as_tensor, lots
from botvision.maskrcnn.checkpoint import Detector, load_detector
from botvision.maskrcnn.resize import padded_alike
from botvision.maskrcnn.results import image_results, to_supervision


@dataclass(frozen=True)
class Predictor:
    """A trained detector for use from Python: `Predictor.load(path)(image)` gives `supervision.Detections`.

    Attributes:
        detector: the model and its categories.
        device: where it runs.
        threshold: lowest score that is kept.
        batch_size: images that go through the model at a time.
    """

    detector: Detector
    device: torch.device
    threshold: float = 0.5
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_numbers(self.threshold, self.batch_size)

    @classmethod
    def load(
        cls, checkpoint: str | Path, *, threshold: float = 0.5, batch_size: int = 8, accelerator: str = "auto"
    ) -> "Predictor":
        """From a run's checkpoint, or from an exported file.

        Args:
            checkpoint: a `.ckpt` of a run, or an .onnx or .xml of `botvision export`.
            threshold: lowest score that is kept.
            batch_size: images that go through the model at a time.
            accelerator: auto, cpu, gpu, or torch's name of a device.

        Raises:
            FileNotFoundError, ValueError: as `load_detector`; a threshold outside 0 … 1, a batch of none.
        """
        detector = load_detector(Path(checkpoint))
        predictor = cls(detector, DeviceConfig(accelerator).device, threshold, batch_size)
        detector.model.to(predictor.device)
        return predictor

    @property
    def names(self) -> list[str]:
        """Class names by `class_id`."""
        return [category.name for category in self.detector.categories]

    @torch.inference_mode()
    def find(self, images: Sequence[Tensor], *, threshold: float | None = None) -> list[dict[str, Tensor]]:
        """Of each image boxes, labels, scores and, where the detector has masks, mask_probs.

        Images that are padded to one size go through the model together, so that what is found in one does not depend
        on the others.

        Args:
            images: (3, H, W), uint8 or floats in 0 … 1.
            threshold: lowest score that is kept; none is the predictor's.
        """
        lowest = self.threshold if threshold is None else threshold
        results: list[dict[str, Tensor]] = [{}] * len(images)
        for numbers in padded_alike(self.detector.model.resize.rule, images):
            given = [images[number].to(self.device) for number in numbers]
            for number, found in zip(numbers, self.detector.model(given).detections, strict=True):
                keep = found["scores"] >= lowest
                results[number] = {key: value[keep].cpu() for key, value in found.items()}
        return results

    def __call__(self, images: Any) -> Any:
        """Objects in an image, or in each of several.

        Args:
            images: a path, an http(s) URL, a PIL image, an RGB array (H, W, 3) or a grey one (H, W) of uint8, a tensor
                (3, H, W) of uint8 or of floats in 0 … 1; a list of these; or a batch (B, 3, H, W) of tensors.

        Returns:
            `supervision.Detections` with masks and scores, class_id from 0; of several images a list of them.

        Raises:
            FileNotFoundError, TypeError, ValueError: no such file; what is no image, or an image of another form.
        """
        if isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.ndim == 4):
            return [found for some in lots(images, self.batch_size) for found in self.detections(some)]
        return self.detections([images])[0]

    def detections(self, images: Sequence[object]) -> list[sv.Detections]:
        """Of a batch of what `as_tensor` takes."""
        tensors, categories = [as_tensor(image) for image in images], self.detector.categories
        found = []
        for image, own in zip(tensors, self.find(tensors), strict=True):
            size = tuple(image.shape[-2:])
            found.append(to_supervision(image_results(own, categories, image_id=0, size=size), categories, size=size))
        return found
