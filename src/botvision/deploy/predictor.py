"""Detect objects by an exported detector, in a process without torch."""

# N objects, H×W image

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from botvision.deploy.graph import Graph, open_graph
from botvision.deploy.masks import paste
from botvision.inputs import as_array, lots

Key = TypeVar("Key", bound=Hashable)
MOST_PIXELS = 2**25  # of images that go through a model together: 400 MB as floats


class Objects(NamedTuple):
    """What was found in an image, the best first.

    Attributes:
        xyxy: (N, 4) boxes in the image's own pixels.
        class_id: (N,) from 0.
        confidence: (N,) scores.
        class_name: N names.
        mask: (N, H, W) bool; none of a detector of boxes alone.
    """

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    confidence: NDArray[np.float32]
    class_name: list[str]
    mask: NDArray[np.bool_] | None

    def __len__(self) -> int:  # of objects, as supervision counts its detections
        return len(self.xyxy)


@dataclass(frozen=True)
class Predictor:
    """An exported detector: `Predictor.load("model.onnx")("photo.jpg")` gives `Objects`.

    Attributes:
        graph: the file that was opened.
        threshold: lowest score that is kept.
        batch_size: images of one size that go through the model at a time.
    """

    graph: Graph
    threshold: float = 0.5
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_numbers(self.threshold, self.batch_size)

    @classmethod
    def load(
        cls, path: str | Path, *, threshold: float = 0.5, batch_size: int = 8, threads: int | None = None
    ) -> "Predictor":
        """From a file of `botvision export`.

        Args:
            path: an .onnx, or an .xml with its .bin beside it.
            threshold: lowest score that is kept.
            batch_size: images of one size that go through the model at a time.
            threads: that it computes with; none leaves the choice to the engine.

        Raises:
            FileNotFoundError, ValueError: as `open_graph`; a file of another task, or one that takes tensors.
        """
        return cls.of(open_graph(path, threads=threads), threshold=threshold, batch_size=batch_size)

    @classmethod
    def of(cls, graph: Graph, *, threshold: float = 0.5, batch_size: int = 8) -> "Predictor":
        """From a file that is open already.

        Raises:
            ValueError: a file of another task, or one that takes tensors.
        """
        graph.check_task("maskrcnn")
        if graph.about["input"] != "image":
            raise ValueError(f"{graph.path} takes tensors, which need torch to be made; export it with --input image")
        return cls(graph, threshold, batch_size)

    @property
    def names(self) -> list[str]:
        """Class names by `class_id`."""
        return [name for _, name in self.graph.about["categories"]]

    def __call__(self, images: Any) -> Any:
        """Objects in an image, or in each of several.

        Args:
            images: a path, an http(s) URL, a PIL image, an RGB array (H, W, 3) or a grey one (H, W) of uint8; or a list
                of these.

        Returns:
            `Objects`; of several images a list of them.

        Raises:
            FileNotFoundError, TypeError, ValueError: no such file; what is no image, or an image of another form.
        """
        if isinstance(images, list | tuple):
            some = lots(images, self.batch_size)
            return [found for lot in some for found in self.find([as_array(image) for image in lot])]
        return self.find([as_array(images)])[0]

    def find(self, images: Sequence[NDArray[np.uint8]]) -> list[Objects]:
        """Objects in each of these arrays (H, W, 3)."""
        return [self.objects(own, image.shape[:2]) for own, image in zip(self.rows(images), images, strict=True)]

    def rows(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, NDArray[Any]]]:
        """Of each of these arrays (H, W, 3) what the graph gives above the threshold: boxes, labels, scores, masks.

        Those of one size go through the model together, as many as memory holds.
        """
        found: dict[int, dict[str, NDArray[Any]]] = {}
        for (height, width), numbers in alike([image.shape[:2] for image in images]):
            for some in batches(numbers, pixels=height * width, most=self.batch_size):
                rows = self.graph.run({"images": np.stack([images[number] for number in some])})
                image = rows.pop("image")
                for at, number in enumerate(some):
                    mine = (image == at) & (rows["scores"] >= self.threshold)
                    found[number] = {name: array[mine] for name, array in rows.items()}
        return [found[number] for number in range(len(images))]

    def objects(self, rows: dict[str, NDArray[Any]], size: tuple[int, ...]) -> Objects:
        """An image's rows with dense masks of its size."""
        height, width = size
        class_id = rows["labels"].astype(np.int64) - 1
        mask = None
        if "masks" in rows:
            mask = np.zeros((len(class_id), height, width), bool)
            for own, probabilities, box in zip(mask, rows["masks"], rows["boxes"], strict=True):
                own[:] = paste(probabilities, box, height=height, width=width)
        names = [self.names[number] for number in class_id]
        return Objects(rows["boxes"], class_id, rows["scores"], names, mask)


def alike(keys: Iterable[Key]) -> list[tuple[Key, list[int]]]:
    """Each key with the numbers of those that have it, in order."""
    numbers: dict[Key, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        numbers[key].append(number)
    return list(numbers.items())


def batches(numbers: Sequence[int], *, pixels: int, most: int) -> Iterator[list[int]]:
    """Images of so many pixels each, as many at a time as memory holds, `most` at most."""
    return lots(numbers, max(1, min(most, MOST_PIXELS // pixels)))


def check_numbers(threshold: float, batch_size: int) -> None:
    """Refuse a score outside 0 … 1 and batches of nothing.

    Raises:
        ValueError: either.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie in 0 … 1; e.g. 0.5")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1; e.g. 8")
