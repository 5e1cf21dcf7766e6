"""Detect objects in images: drawings with boxes and masks, and COCO results as JSON."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import supervision as sv
import torch
from torch import Tensor
from tqdm import tqdm

from botvision.draw.instances import draw_instances, save_image
from botvision.engine.config import DeviceConfig
from botvision.files import check_free, write_json
from botvision.inputs import find_images, stream
from botvision.maskrcnn.checkpoint import Detector, load_detector
from botvision.maskrcnn.results import Result, image_results, to_supervision

RESULTS = "predictions.json"


class Prediction(NamedTuple):
    """What `predict` did.

    Attributes:
        drawn: images written.
        skipped: images that could not be read, with the reason.
        objects: objects found.
        out: folder of the images and of `predictions.json`.
    """

    drawn: int
    skipped: list[str]
    objects: int
    out: Path

    def __str__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.objects} objects in {self.drawn} images{skipped}; images and predictions.json at {self.out}"


@dataclass(frozen=True)
class Predictor:
    """A trained detector for use from Python: `Predictor.load(path)(image)` gives `supervision.Detections`."""

    detector: Detector
    device: torch.device
    threshold: float = 0.5

    @classmethod
    def load(cls, checkpoint: str | Path, *, threshold: float = 0.5, accelerator: str = "auto") -> "Predictor":
        """From a run's checkpoint; `threshold` is the lowest score that is kept.

        Raises:
            FileNotFoundError, ValueError: as `load_detector`; a threshold outside 0 … 1.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} must lie in 0 … 1; e.g. 0.5")
        detector = load_detector(Path(checkpoint))
        device = DeviceConfig(accelerator).device
        detector.model.to(device)
        return cls(detector, device, threshold)

    @property
    def names(self) -> list[str]:
        """Class names by `class_id`."""
        return [category.name for category in self.detector.categories]

    @torch.inference_mode()
    def find(self, image: Tensor) -> dict[str, Tensor]:
        """An image (3, H, W) uint8 → boxes, labels, scores, mask_probs at or above the threshold."""
        found = self.detector.model([image.to(self.device)]).detections[0]
        keep = found["scores"] >= self.threshold
        return {key: value[keep].cpu() for key, value in found.items()}

    def __call__(self, image: Tensor | np.ndarray) -> sv.Detections:
        """An RGB image, (3, H, W) tensor or (H, W, 3) array of uint8 → detections with masks, class_id from 0."""
        pixels = torch.from_numpy(np.array(image)).movedim(-1, 0) if isinstance(image, np.ndarray) else image
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"an image must be (3, H, W) or an (H, W, 3) array, RGB; got {tuple(image.shape)}")
        size, categories = tuple(pixels.shape[-2:]), self.detector.categories
        results = image_results(self.find(pixels), categories, image_id=0, size=size)
        return to_supervision(results, categories, size=size)


def predict_files(
    predictor: Predictor, source: str, *, out: Path, on_existing: Literal["refuse", "replace"]
) -> Prediction:
    """Find objects in an image, a folder's or a glob's; write images and `predictions.json`.

    Raises:
        FileNotFoundError, ValueError: as `botvision.maskrcnn.predict`.
    """
    categories = predictor.detector.categories
    paths = find_images(source)
    targets = drawn_names(paths, out)
    check_free([out / RESULTS, *targets], on_existing=on_existing)
    results: list[Result] = []
    skipped: list[str] = []
    for number, (path, image, reason) in enumerate(
        tqdm(stream(paths), total=len(paths), desc="predict", disable=None), 1
    ):
        if image is None:
            print(f"skipped: {reason}", file=sys.stderr)
            skipped.append(reason)
            continue
        size = tuple(image.shape[-2:])
        own = image_results(predictor.find(image), categories, image_id=number, size=size)
        results += [{**result, "file_name": path.name} for result in own]
        detections = to_supervision(own, categories, size=size)
        drawn = draw_instances(image.permute(1, 2, 0).numpy(), detections, predictor.names)
        save_image(drawn, targets[number - 1])
    if len(skipped) == len(paths):
        raise ValueError(f"none of {len(paths)} images could be read; the first: {skipped[0]}")
    write_json(out / RESULTS, results)
    return Prediction(len(paths) - len(skipped), skipped, len(results), out)


def drawn_names(paths: list[Path], out: Path) -> list[Path]:
    """Where each image's drawing goes; a.jpg and a.png get names of their own.

    Raises:
        ValueError: a drawing would take the place of an image that was given.
    """
    alone = len({path.stem.casefold() for path in paths}) == len(paths)
    names = [out / (f"{p.stem}.jpg" if alone else f"{p.stem}-{n}.jpg") for n, p in enumerate(paths, 1)]
    own = {path.resolve() for path in paths}
    lost = [name for name in names if name.resolve() in own]
    if lost:
        raise ValueError(f"the drawing of {lost[0]} would replace the image itself; give another --out")
    return names
