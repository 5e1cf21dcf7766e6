"""Bytes of images → an exported model's answers, several together; none spoils another."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from botvision.deploy.classifier import Classifier
from botvision.deploy.graph import open_graph
from botvision.deploy.predictor import MOST_PIXELS, Predictor
from botvision.inputs import header_size, open_image
from botvision.maskrcnn.masks import as_results

Answer = dict[str, Any]
UPLOAD = "(upload)"  # what a refused image is called


@dataclass(frozen=True)
class Served:
    """A model that answers for uploaded images.

    Attributes:
        model: a detector or a classifier, opened.
        most_pixels: of an image; one with more is refused by its header, before it is decoded.
    """

    model: Predictor | Classifier
    most_pixels: float

    @classmethod
    def load(
        cls, path: str | Path, *, threshold: float, top: int, batch_size: int, threads: int | None, most_pixels: float
    ) -> "Served":
        """From a file of `botvision export`.

        Args:
            path: an .onnx, or an .xml with its .bin beside it.
            threshold: lowest score of a detector's objects.
            top: classes that a classifier names for an image.
            batch_size: images that a detector takes together.
            threads: that it computes with; none leaves the choice to the engine.
            most_pixels: of an image.

        Raises:
            FileNotFoundError, ValueError: as `open_graph`; a checkpoint, a bare backbone, a detector of tensors.
        """
        path = Path(path)
        if path.suffix == ".ckpt":
            out = path.with_suffix(".onnx").name
            raise ValueError(f"{path} is a checkpoint; botvision export {path} --out {out}, then botvision serve {out}")
        graph = open_graph(path, threads=threads)
        if graph.about.get("task") == "maskrcnn":
            return cls(Predictor.of(graph, threshold=threshold, batch_size=batch_size), most_pixels)
        return cls(Classifier.of(graph, top=top), most_pixels)

    @property
    def name(self) -> str:
        """Of the file."""
        return self.model.graph.path.name

    @property
    def task(self) -> str:
        """Maskrcnn or classify."""
        return str(self.model.graph.about["task"])

    def warm(self) -> None:
        """Compute one blank image, so that the first request is as quick as others."""
        self.found([np.zeros((64, 64, 3), np.uint8)])

    def answers(self, uploads: Sequence[bytes]) -> list[Answer | ValueError]:
        """Of each upload the answer, or why there is none.

        A detector's are `predict`'s COCO results (category_id, bbox as x, y, width, height, score, and segmentation as
        RLE) with each category's name; a classifier's are names and probabilities, the likeliest first.
        """
        answers: list[Answer | ValueError] = []
        for some in together(uploads):
            read = [self.read(upload) for upload in some]
            images = [image for image in read if not isinstance(image, ValueError)]
            found = iter(self.found(images) if images else [])
            answers += [image if isinstance(image, ValueError) else next(found) for image in read]
        return answers

    def read(self, upload: bytes) -> NDArray[np.uint8] | ValueError:
        """An image's bytes as (H, W, 3), or why not.

        Raises:
            MemoryError: there is not enough of it, which is no fault of the image.
        """
        try:
            if not upload:
                raise ValueError("there is no image in the request; send its bytes: curl --data-binary @photo.jpg URL")
            return np.asarray(open_image(UPLOAD, upload, most=self.most_pixels))
        except ValueError as error:
            if isinstance(error.__cause__, MemoryError):
                raise MemoryError(f"no memory to decode an image of {len(upload):,} bytes") from error
            return error

    def found(self, images: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """Answers for images (H, W, 3)."""
        if isinstance(self.model, Classifier):
            return [sized(image) | named(pairs) for image, pairs in zip(images, self.model(list(images)), strict=True)]
        categories = self.model.graph.about["categories"]
        ids, names = [number for number, _ in categories], dict(categories)
        answers = []
        for image, rows in zip(images, self.model.rows(images), strict=True):
            results = as_results(rows, ids=ids, size=image.shape[:2])
            objects = [{"category": names[result["category_id"]], **result} for result in results]
            answers.append(sized(image) | {"objects": objects})
        return answers


def together(uploads: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Uploads in their order, as many at a time as have `MOST_PIXELS` together, by their headers; one at least."""
    some: list[bytes] = []
    held = 0
    for upload in uploads:
        height, width = header_size(io.BytesIO(upload)) or (0, 0)
        if some and held + height * width > MOST_PIXELS:
            yield some
            some, held = [], 0
        some.append(upload)
        held += height * width
    if some:
        yield some


def sized(image: NDArray[np.uint8]) -> Answer:
    """An image's size, which boxes and masks refer to."""
    return {"height": image.shape[0], "width": image.shape[1]}


def named(pairs: Sequence[tuple[str, float]]) -> Answer:
    """Classes as `classify predict` writes them."""
    return {"names": [name for name, _ in pairs], "probabilities": [round(share, 6) for _, share in pairs]}
