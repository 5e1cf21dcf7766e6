"""What a trained classifier says of validation images: answers, confusion, calibration."""

# K classes, n images

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset

from botvision.classify.config import DataConfig
from botvision.classify.data import Batch, ImageDataset, Split, build_split, collate, val_transform
from botvision.classify.evaluation import to_image
from botvision.classify.model import Classifier, load_classifier
from botvision.draw.page import small
from botvision.engine.loader import EpochPosition, Share
from botvision.engine.record import Record
from botvision.engine.settings import built

IMAGES = 1024  # validation images that are looked at, at most
BINS = 10  # of calibration
SIDE = 160  # px of a picture


@dataclass(frozen=True)
class Diagnosis:
    """A classifier on some validation images.

    Attributes:
        classes: names.
        labels: (n,) true classes.
        answers: (n, 5) the likeliest classes, the first one first; fewer of fewer classes.
        sure: (n,) probability of the first one.
        pictures: of each image.
        every: images that there are.
        skipped: of those that were looked at, could not be read.
        parameters: of the model.
        names: of the images that were drawn, with their folder's; empty where the source has none.
    """

    classes: Sequence[str]
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]
    sure: NDArray[np.float64]
    pictures: Sequence[NDArray[np.uint8]]
    every: int
    skipped: int
    parameters: int
    names: frozenset[str] = frozenset()

    @property
    def counted(self) -> str:
        """What the figures are of."""
        read = len(self.labels)
        some = f"{read:,} of {self.every:,}" if read < self.every else f"all {self.every:,}"
        return f"figures by class and examples are of {some} validation images"

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether the first answer is true."""
        found: NDArray[np.bool_] = self.answers[:, 0] == self.labels
        return found

    @property
    def among_five(self) -> NDArray[np.bool_]:
        """(n,) whether the truth is among the first five."""
        found: NDArray[np.bool_] = (self.answers == self.labels[:, None]).any(1)
        return found

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) counts, truth down."""
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.answers[:, 0]), 1)
        return counts

    def bins(self) -> list[tuple[float, float, int]]:
        """Mean probability, share of right ones and count of each tenth of the probabilities that has images."""
        place = np.minimum((self.sure * BINS).astype(int), BINS - 1)
        members = [place == number for number in range(BINS)]
        return [
            (float(self.sure[own].mean()), float(self.right[own].mean()), int(own.sum()))
            for own in members
            if own.any()
        ]

    @property
    def gap(self) -> float | None:
        """Expected calibration error: how far probability and share of right ones are apart, a mean over the images.

        None where a probability is no number, of weights that are none.
        """
        if not np.isfinite(self.sure).all():
            return None
        return sum(abs(sure - right) * count for sure, right, count in self.bins()) / len(self.labels)


@torch.inference_mode()
def diagnose(
    record: Record, checkpoint: Path, *, device: torch.device, most: int = IMAGES, seconds: float | None = None
) -> Diagnosis:
    """Run a classifier over some of its run's validation images, drawn by a fixed seed; of shards the first ones.

    Args:
        record: the run.
        checkpoint: of the classifier.
        device: where it runs.
        most: images.
        seconds: after which no more batches are begun; none for no limit.

    Raises:
        FileNotFoundError, ValueError: images or a checkpoint that are not there, or do not fit each other.
    """
    classifier = load_classifier(checkpoint, device=device)
    config = built(DataConfig, record.config.get("data"), record.path / "config.yaml")
    config = replace(config, workers=0, class_names=None if config.class_names is None else Path(config.class_names))
    split = open_split(classifier, config, seed=record.seed)
    labels, answers, sure, pictures, skipped = [], [], [], list[NDArray[np.uint8]](), 0
    started = time.monotonic()
    for batch in batches_of(split, most, size=config.batch_size):
        skipped += len(batch.bad)
        if not len(batch.labels):
            continue
        shares = classifier.model(batch.images.to(device)).float().softmax(1).cpu()
        best = shares.topk(min(5, shares.shape[1]))
        labels.append(batch.labels.numpy())
        answers.append(best.indices.numpy())
        sure.append(best.values[:, 0].double().numpy())
        pictures += [small(to_image(one, mean=classifier.mean, std=classifier.std), SIDE) for one in batch.images]
        if len(pictures) >= most or (seconds is not None and time.monotonic() - started > seconds):
            break
    if not pictures:
        raise ValueError(f"none of {skipped} images of {config.evaluated} could be read; put them back")
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    return Diagnosis(
        classifier.classes, np.concatenate(labels), np.concatenate(answers), np.concatenate(sure), pictures,
        split.samples, skipped, parameters, frozenset(names_drawn(split, most)),
    )  # fmt: skip


def open_split(classifier: Classifier, config: DataConfig, *, seed: int) -> Split:
    """The images that the run was evaluated on.

    Raises:
        FileNotFoundError, ValueError: they are not there, or of other classes.
    """
    transform = val_transform(classifier.config.img_size, classifier.crop, classifier.mean, classifier.std)
    share = Share(config.batch_size, train=False, position=EpochPosition(), seed=seed)
    split = build_split(config.evaluated, config, transform, share, classes=classifier.classes)
    if split.classes != classifier.classes:
        apart = sorted(set(split.classes) ^ set(classifier.classes))[:4]
        raise ValueError(
            f"{config.evaluated} has other classes than the model ({', '.join(apart) or 'in another order'}); put the "
            "images that the run was evaluated on back"
        )
    return split


def drawn(images: int, most: int) -> list[int]:
    """Numbers of the images that are looked at."""
    return random.Random(0).sample(range(images), min(most, images))


def names_drawn(split: Split, most: int) -> list[str]:
    """Names of the drawn images of class folders, each with its folder's; none of other sources."""
    source = split.batches.dataset
    samples = getattr(source.source, "samples", None) if isinstance(source, ImageDataset) else None
    return [] if samples is None else ["/".join(Path(samples[at][0]).parts[-2:]) for at in drawn(len(samples), most)]


def batches_of(split: Split, most: int, *, size: int) -> Iterable[Batch]:
    """Batches of images drawn by a fixed seed; of a stream all, in its order."""
    source = split.batches.dataset
    if not isinstance(source, ImageDataset):
        return split.batches
    some: Dataset[object] = Subset(source, drawn(len(source), most))
    return DataLoader(some, batch_size=size, collate_fn=collate)
