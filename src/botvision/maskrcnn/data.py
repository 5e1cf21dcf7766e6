"""COCO dataset and loaders: images with scale jitter, boxes and masks that follow."""

# G objects of an image, H×W image

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from botvision.engine.loader import EpochBatches, ResumableLoader, Share, check_enough
from botvision.inputs import read_image
from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import Category, Document, forget, in_format, other_size, read_coco, read_document
from botvision.maskrcnn.config import BoxFormat, DataConfig, OnBad
from botvision.maskrcnn.labels import clip, corners
from botvision.maskrcnn.resize import MEAN, ImageSize
from botvision.maskrcnn.targets import CROP_SIDE, crop

Sample = tuple[Tensor, dict[str, Tensor]]
FILL = [round(255 * value) for value in MEAN]  # padding that normalises to about 0, as the model's own


class Bad(NamedTuple):
    """An image that could not be read, and why."""

    reason: str


class Batch(NamedTuple):
    """What a loader gives.

    Attributes:
        images: (3, H, W) each; sizes may differ.
        targets: a dictionary an image.
        bad: reasons of the images that are missing from it.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    bad: list[str]


class Frame(NamedTuple):
    """Where an image's pixels went: x' = zoom_x·x + shift_x, likewise y; a mirrored image has zoom_x < 0."""

    zoom_x: float = 1.0
    zoom_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def forward(self, box: masks.Box) -> masks.Box:
        """A box of the original image, where it is now."""
        x1, x2 = sorted(self.zoom_x * x + self.shift_x for x in (box[0], box[2]))
        y1, y2 = (self.zoom_y * y + self.shift_y for y in (box[1], box[3]))
        return x1, y1, x2, y2

    def back(self, box: masks.Box) -> masks.Box:
        """A box of the image as it is now, where it was."""
        x1, x2 = sorted((x - self.shift_x) / self.zoom_x for x in (box[0], box[2]))
        y1, y2 = ((y - self.shift_y) / self.zoom_y for y in (box[1], box[3]))
        return x1, y1, x2, y2


class Jitter:
    """Random mirror, zoom and crop to the image size (paper section 4.1; the TPU code's order)."""

    def __init__(self, rule: ImageSize, *, zoom: tuple[float, float], flip: bool) -> None:
        if not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"jitter={zoom} must be 0 < smallest ≤ largest zoom; e.g. [0.8, 1.25]")
        self.rule = rule
        self.zoom = zoom
        self.flip = flip

    def __call__(self, image: Tensor) -> tuple[Tensor, Frame]:
        """An image (3, H, W) → resized and padded, and where its pixels went."""
        height, width = image.shape[-2:]
        padded = (self.rule.longest,) * 2 if self.rule.square else self.rule.fit(height, width)
        mirrored = self.flip and bool(torch.rand(()) < 0.5)
        if mirrored:
            image = F.hflip(image)
        zoom = float(torch.empty(()).uniform_(*self.zoom))
        size = self.rule.fit(height, width, zoom=zoom)
        if size != (height, width):
            image = F.resize(image, list(size), antialias=True)
        top, left = (int(torch.randint(max(0, s - c) + 1, ())) for s, c in zip(size, padded, strict=True))
        image = image[:, top : top + padded[0], left : left + padded[1]]
        missing = [0, 0, padded[1] - image.shape[2], padded[0] - image.shape[1]]
        image = F.pad(image, missing, fill=FILL)
        zoom_x, zoom_y = size[1] / width, size[0] / height
        if mirrored:
            return image, Frame(-zoom_x, zoom_y, size[1] - left, -top)
        return image, Frame(zoom_x, zoom_y, -left, -top)


class CocoInstances(Dataset[Sample]):
    """Images of a COCO file with boxes (G, 4), labels (G,) from 1, masks (G, 112, 112) where it has them, image_id.

    Crowds are left out. The file is checked whole on opening, and held as bytes: Python objects would be copied into
    every worker as they are read.

    Attributes:
        annotations: COCO's JSON.
        images: folder of its images.
        box_format: of its boxes.
        skip_unreadable: whether batches leave out images that cannot be read, and say so; otherwise they are an error.
        categories: by label; all of the file's, until `restrict` says otherwise.
        left_out: names of the file's categories that `restrict` has left out.
        counts: objects of each category by its id.

    Raises:
        FileNotFoundError: the file or an image is not there.
        ValueError: what `read_coco` refuses.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        jitter: Jitter | None = None,
        on_bad: OnBad = "refuse",
        masks: bool = True,
        box_format: BoxFormat = "auto",
        skip_unreadable: bool = False,
    ) -> None:
        document = read_coco(annotations, images, on_bad=on_bad, masks=masks, box_format=box_format)
        self.annotations = annotations
        self.images = images
        self.box_format = box_format
        self.skip_unreadable = skip_unreadable
        self.jitter = jitter
        self.masks = masks
        self.categories = sorted(Category(c["id"], c["name"]) for c in document["categories"])
        self.restrict(self.categories)
        self.counts = Counter(a["category_id"] for a in document["annotations"] if not a.get("iscrowd", 0))
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd", 0):
                by_image[annotation["image_id"]].append(annotation)
        records = [pickle.dumps((image, by_image[image["id"]])) for image in document["images"]]
        self.ends = np.cumsum([len(record) for record in records])
        self.records = np.frombuffer(b"".join(records), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def restrict(self, categories: Sequence[Category]) -> None:
        """Number the classes by these categories, which must hold all that have objects."""
        self.left_out = [category.name for category in self.categories if category not in categories]
        self.categories = list(categories)
        self.label_of = {category.id: label for label, category in enumerate(self.categories, 1)}

    def record(self, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """An image's own entry and its annotations, without crowds."""
        start = self.ends[index - 1] if index else 0
        entry, annotations = pickle.loads(self.records[start : self.ends[index]].tobytes())
        return entry, annotations

    def truth(self) -> Document:
        """The file for counting AP: objects of the classes, boxes as x, y, width, height, images with their sizes."""
        document = in_format(read_document(self.annotations), self.box_format)
        forget(self.annotations)
        annotations = [one for one in document["annotations"] if one.get("category_id") in self.label_of]
        images = [self.record(index)[0] for index in range(len(self))]
        return {**document, "images": images, "annotations": annotations}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample | Bad]:
        """What a loader takes for a batch."""
        return [self.attempt(index) if self.skip_unreadable else self[index] for index in indices]

    def attempt(self, index: int) -> Sample | Bad:
        """A sample, or why its image cannot be read."""
        try:
            image = self.read(index)
        except (ValueError, OSError) as error:
            return Bad(str(error))
        return self.sample(index, image)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, self.read(index))

    def read(self, index: int) -> Tensor:
        """An image as it is.

        Raises:
            FileNotFoundError, ValueError: it cannot be read, or is not as large as its entry says.
        """
        entry, _ = self.record(index)
        image = read_image(self.images / entry["file_name"])
        if tuple(image.shape[-2:]) != (entry["height"], entry["width"]):
            raise ValueError(other_size(self.annotations, entry, image.shape[-2:]))
        return image

    def sample(self, index: int, image: Tensor) -> Sample:
        """An image as it was read, jittered, with its objects."""
        entry, annotations = self.record(index)
        height, width = image.shape[-2:]
        frame = Frame()
        if self.jitter is not None:
            image, frame = self.jitter(image)
        boxes, labels, crops = [], [], []
        for annotation in annotations:
            box = clip(frame.forward(corners(annotation["bbox"])), *image.shape[-2:])
            if min(box[2] - box[0], box[3] - box[1]) < 1:
                continue
            if self.masks:
                mask = self.mask(annotation, frame, box, height=height, width=width)
                if not mask.any():
                    continue
                crops.append(mask)
            boxes.append(box)
            labels.append(self.label_of[annotation["category_id"]])
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "image_id": torch.tensor(entry["id"]),
        }
        if self.masks:
            empty = torch.zeros(0, CROP_SIDE, CROP_SIDE, dtype=torch.uint8)
            target["masks"] = torch.from_numpy(np.stack(crops)) if crops else empty
        return image, target

    def mask(self, annotation: dict[str, Any], frame: Frame, box: masks.Box, *, height: int, width: int) -> masks.Mask:
        """An object's mask in its box of the image as it is now, from the original's of height × width.

        Raises:
            ValueError: a mask that cannot be read.
        """
        try:
            mask = crop(annotation["segmentation"], frame.back(box), height=height, width=width)
        except ValueError as error:
            raise ValueError(
                f"{self.annotations}: the mask of annotation {annotation.get('id')} cannot be read: {error}; correct it"
            ) from error
        return mask[:, ::-1].copy() if frame.zoom_x < 0 else mask


def collate(samples: Sequence[Sample | Bad]) -> Batch:
    """Samples into a batch, the unreadable ones aside."""
    good = [sample for sample in samples if not isinstance(sample, Bad)]
    bad = [sample.reason for sample in samples if isinstance(sample, Bad)]
    return Batch([image for image, _ in good], [target for _, target in good], bad)


def train_set(data: DataConfig, rule: ImageSize, *, masks: bool) -> CocoInstances:
    """Jittered images to train on."""
    annotations, images = data.training_files
    jitter = Jitter(rule, zoom=data.jitter, flip=data.flip)
    return CocoInstances(
        annotations, images, jitter=jitter, on_bad=data.on_bad, masks=masks, box_format=data.box_format,
        skip_unreadable=True,
    )  # fmt: skip


def val_set(data: DataConfig, *, masks: bool) -> CocoInstances:
    """Images to evaluate on, as they are, in the file's order."""
    annotations, images = data.validation_files
    return CocoInstances(annotations, images, on_bad="skip", masks=masks, box_format=data.box_format)


def build_loader(dataset: CocoInstances, data: DataConfig, share: Share) -> ResumableLoader:
    """Batches by `data`'s size and workers.

    Raises:
        ValueError: fewer images than a step of all processes takes.
    """
    batches = EpochBatches(len(dataset), share)
    check_enough(str(dataset.annotations), samples=len(dataset), batches=len(batches), share=share)
    return ResumableLoader(dataset, batch_sampler=batches, share=share, num_workers=data.workers, collate_fn=collate)
