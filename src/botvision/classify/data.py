"""Dataset and loaders of image classification: augmented images in batches; bad ones set aside."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from botvision.classify.config import DataConfig
from botvision.classify.shards import Raw, ShardBatches, find_shards
from botvision.classify.sources import SHARD_SUFFIXES, Part, Source, open_source, read_class_names
from botvision.engine.loader import EpochBatches, ResumableLoader, Share, check_enough, seed_draws
from botvision.inputs import open_image, without_ends


class Bad(NamedTuple):
    """An image that could not be read, and why."""

    reason: str


class Batch(NamedTuple):
    """What a loader gives.

    Attributes:
        images: (B, 3, H, W), normalised.
        labels: (B,) from 0.
        bad: reasons of the images that are missing from it.
    """

    images: Tensor
    labels: Tensor
    bad: list[str]


Transform = Callable[[Image.Image], Tensor]
Sample = tuple[Tensor, int] | Bad


class ImageDataset(Dataset[Sample]):
    """A source's images, transformed; one that cannot be read is `Bad`."""

    def __init__(self, source: Source, transform: Transform) -> None:
        self.source = source
        self.transform = transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            image, label = self.source.open(index)
        except (ValueError, OSError) as error:
            return Bad(str(error))
        check_label(label, classes=len(self.source.classes), name=f"sample {index}")
        return self.transform(image), label


def check_label(label: int, *, classes: int, name: str) -> None:
    """Refuse a label beyond the class names: the user's mistake, not the image's."""
    if not 0 <= label < classes:
        raise ValueError(f"{name} is of class {label}, but there are {classes} class names from 0")


class Decoder:
    """Raw samples of a shard into a batch; runs in the worker."""

    def __init__(self, transform: Transform, *, classes: int, share: Share) -> None:
        self.transform = transform
        self.classes = classes
        self.share = share

    def __call__(self, raws: list[Raw]) -> Batch:
        """Decoded, transformed, the unreadable ones aside."""
        return collate([self.decode(raw) for raw in raws])

    def decode(self, raw: Raw) -> Sample:
        """One sample."""
        check_label(raw.label, classes=self.classes, name=raw.name)
        if self.share.train:
            seed_draws("sample", self.share.seed, self.share.position.epoch, raw.name)
        try:
            return self.transform(open_image(Path(raw.name), raw.image)), raw.label
        except ValueError as error:
            return Bad(str(error))


def collate(samples: list[Sample]) -> Batch:
    """Samples into a batch, the unreadable ones aside."""
    good = [sample for sample in samples if not isinstance(sample, Bad)]
    bad = [sample.reason for sample in samples if isinstance(sample, Bad)]
    images = torch.stack([image for image, _ in good]) if good else torch.zeros(0, 3, 1, 1)
    return Batch(images, torch.tensor([label for _, label in good], dtype=torch.int64), bad)


class Split(NamedTuple):
    """A split's batches, and what their classes are called.

    Attributes:
        batches: the loader itself.
        steps: batches of a whole epoch, of this process.
        samples: images of a whole epoch, of all ranks.
    """

    batches: ResumableLoader
    classes: list[str]
    steps: int
    samples: int


def train_transform(data: DataConfig, size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """Timm's augmentation."""
    a = data.augment
    transform: Transform = create_transform(
        size, is_training=True, auto_augment=a.auto_augment, scale=a.scale, ratio=a.ratio, hflip=a.flip,
        color_jitter=a.color_jitter, re_prob=a.erase, interpolation="random" if a.auto_augment else "bicubic",
        mean=tuple(mean), std=tuple(std),
    )  # fmt: skip
    return transform


def val_transform(size: int, crop: float, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """The centre of the image, resized."""
    transform: Transform = create_transform(
        size, is_training=False, interpolation="bicubic", crop_pct=crop, mean=tuple(mean), std=tuple(std)
    )
    return partial(centred, transform)  # no lambda: a worker that is spawned gets it by pickle


def centred(transform: Transform, image: Image.Image) -> Tensor:
    """The centre of an image, whatever its shape."""
    return transform(without_ends(image))


def build_split(
    where: str, data: DataConfig, transform: Transform, share: Share, *, classes: Sequence[str] = ()
) -> Split:
    """Batches of one split for a process.

    Args:
        where: the images.
        data: how they are read; without a val the split is a part of them.
        transform: of each image.
        share: the process's part.
        classes: of shards and datasets that do not name their own.

    Raises:
        FileNotFoundError, ValueError: no such data, or fewer images than a step of all processes takes.
    """
    names = read_class_names(data.class_names) or list(classes)
    build = partial(ResumableLoader, share=share, num_workers=data.workers)
    if where.endswith(SHARD_SUFFIXES):
        if data.val is None:
            raise ValueError(f"{where} is streamed, and no part of it can be kept to evaluate on; give --data.val")
        if not names:
            raise ValueError(f"{where}: shards hold class numbers alone; give a file of names as --data.class_names")
        stream = ShardBatches(find_shards(where), share)
        batches = build(stream, batch_size=None, collate_fn=Decoder(transform, classes=len(names), share=share))
        found = Split(batches, names, len(stream), stream.samples)
    else:
        split = data.splits[0 if share.train else 1]
        source = open_source(where, split=split, root=data.root, classes=names)
        if data.val is None:
            source = Part(source, data.val_fraction, seed=share.seed, kept=not share.train)
        sampler = EpochBatches(len(source), share)
        batches = build(ImageDataset(source, transform), batch_sampler=sampler, collate_fn=collate)
        found = Split(batches, source.classes, len(sampler), len(source))
    check_enough(where, samples=found.samples, batches=found.steps, share=share)
    return found


def steps_of_all(split: Split, share: Share) -> list[int]:
    """Batches of each of the processes that share a split, this one's at its rank."""
    source = split.batches.source
    shares = [share._replace(rank=rank) for rank in range(share.world)]
    if isinstance(source, ShardBatches):
        return [len(ShardBatches(source.shards, one)) for one in shares]
    return [len(EpochBatches(split.samples, one)) for one in shares]


def check_classes(train: Split, val: Split, data: DataConfig) -> None:
    """Refuse splits of different classes, and of a single one."""
    if len(train.classes) < 2:
        raise ValueError(f"{data.train} has one class, {train.classes[0]}; a classifier needs at least two")
    own, others = (getattr(getattr(split.batches.source, "source", None), "own", None) for split in (train, val))
    if own and others and own != others:
        raise ValueError(
            f"{data.train} and {data.val} number their classes differently ({', '.join(own[:3])} … and "
            f"{', '.join(others[:3])} …): a label would be another class's; give splits of the same classes"
        )
    ours, theirs = set(train.classes), set(val.classes)
    if train.classes != val.classes:
        only = [f"{name} only in {where}" for names, where in ((ours - theirs, data.train), (theirs - ours, data.val))
                for name in sorted(names)[:3]]  # fmt: skip
        said = ", ".join(only) or "the same in another order"
        raise ValueError(f"{data.train} and {data.val} have different classes: {said}; use the same class folders")
