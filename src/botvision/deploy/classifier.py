"""Classify images by an exported classifier, in a process without torch."""

# B batch, K classes, H×W image

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from botvision.deploy.graph import Graph, open_graph
from botvision.inputs import as_array, lots, without_ends

TOGETHER = 32  # images that are decoded and go through a model at a time


@dataclass(frozen=True)
class Classifier:
    """An exported classifier: `Classifier.load("model.onnx")("photo.jpg")` gives names with probabilities.

    Attributes:
        graph: the file that was opened.
        top: classes that are named for each image.
    """

    graph: Graph
    top: int = 5

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top={self.top} must be at least 1; e.g. 5")

    @classmethod
    def load(cls, path: str | Path, *, top: int = 5, threads: int | None = None) -> "Classifier":
        """From a file of `botvision export`.

        Args:
            path: an .onnx, or an .xml with its .bin beside it.
            top: classes that are named for each image.
            threads: that it computes with; none leaves the choice to the engine.

        Raises:
            FileNotFoundError, ValueError: as `open_graph`; a file of another task.
        """
        return cls.of(open_graph(path, threads=threads), top=top)

    @classmethod
    def of(cls, graph: Graph, *, top: int = 5) -> "Classifier":
        """From a file that is open already.

        Raises:
            ValueError: a file of another task.
        """
        graph.check_task("classify")
        return cls(graph, top)

    @property
    def names(self) -> list[str]:
        """Class names by number."""
        return list(self.graph.about["classes"])

    def __call__(self, images: Any) -> Any:
        """The most likely classes of an image, or of each of several: pairs of a name and a probability.

        Args:
            images: a path, an http(s) URL, a PIL image, an RGB array (H, W, 3) or a grey one (H, W) of uint8; or a list
                of these.
        """
        many = isinstance(images, list | tuple)
        some = lots(images if many else [images], TOGETHER)
        named = []
        for row in (row for lot in some for row in self.probabilities([as_array(image) for image in lot])):
            best = np.argsort(-row, kind="stable")[: self.top]
            named.append([(self.names[number], float(row[number])) for number in best])
        return named if many else named[0]

    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """(B, K) of these arrays (H, W, 3)."""
        about = self.graph.about
        crops: NDArray[Any] = np.stack([cropped(image, size=about["img_size"], crop=about["crop"]) for image in images])
        if about["input"] == "tensor":
            crops = normalised(crops, about["mean"], about["std"])
        logits = self.graph.run({"images": crops})["logits"]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
        return shares


def cropped(image: NDArray[np.uint8], *, size: int, crop: float) -> NDArray[np.uint8]:
    """The centre of an image at size × size, its shorter side resized to size / crop, as training evaluates."""
    resized = without_ends(Image.fromarray(image))
    width, height = resized.size
    shorter = int(size / crop)
    long = int(shorter * max(height, width) / min(height, width))
    to = (shorter, long) if width <= height else (long, shorter)
    if to != (width, height):
        resized = resized.resize(to, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in to)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def normalised(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 → (B, 3, H, W), by ImageNet's or the model's own mean and standard deviation."""
    values = (images.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
