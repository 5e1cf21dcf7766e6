"""Evaluate a classifier: top-1, top-5, throughput, latency, confusion matrix, at any image size."""

import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import RealLabelsImagenet
from torch import Tensor
from tqdm import tqdm

from botvision.classify.config import DataConfig
from botvision.classify.data import Batch, ImageDataset, build_split, val_transform
from botvision.classify.model import Classifier
from botvision.classify.module import right
from botvision.classify.sources import Folders
from botvision.engine.loader import EpochPosition, Share
from botvision.files import read_json

LATENCY_ROUNDS = 10


class Evaluation(NamedTuple):
    """A classifier on one split at one size.

    Attributes:
        size: px.
        images: that were read; skipped: reasons of the others.
        top1, top5: fractions.
        real_top1: by ImageNet's reassessed labels, where they were given.
        per_second: images, the model's time alone.
        latency_ms: of one image, median.
        confusion: (K, K) counts, truth down.
        examples: some normalised images.
        predicted: of each example the true class, the predicted one, and its probability.
    """

    size: int
    images: int
    skipped: list[str]
    top1: float
    top5: float
    real_top1: float | None
    per_second: float
    latency_ms: float
    confusion: Tensor
    examples: list[Tensor]
    predicted: list[tuple[int, int, float]]

    @property
    def figures(self) -> dict[str, float | int | None]:
        """What a file keeps."""
        names = ("size", "images", "top1", "top5", "real_top1", "per_second", "latency_ms")
        return {name: getattr(self, name) for name in names} | {"skipped": len(self.skipped)}


class Evaluations(NamedTuple):
    """One row a size."""

    rows: list[Evaluation]
    out: Path | None

    def __str__(self) -> str:
        lines = [f"{'px':>5} {'top-1':>8} {'top-5':>8} {'real':>8} {'images/s':>11} {'ms for one':>11}"]
        for row in self.rows:
            real = "" if row.real_top1 is None else f"{row.real_top1:.4f}"
            times = f"{row.per_second:>11.1f} {row.latency_ms:>11.1f}"
            lines.append(f"{row.size:>5} {row.top1:>8.4f} {row.top5:>8.4f} {real:>8} {times}")
        skipped = self.rows[0].skipped
        lines += [f"{len(skipped)} of the images could not be read, the first: {skipped[0]}"] if skipped else []
        return "\n".join([*lines, *([f"metrics.json and confusion matrices at {self.out}"] if self.out else [])])


@torch.inference_mode()
def evaluate_at(
    classifier: Classifier,
    data: DataConfig,
    *,
    size: int,
    keep: int = 0,
    real_labels: Path | None = None,
    seed: int = 0,
) -> Evaluation:
    """Every image to evaluate on at one size; `keep` of them are drawn at random as examples.

    `seed` is that of a run whose `data` has no val and keeps a part of its images.
    """
    transform = val_transform(size, classifier.crop, classifier.mean, classifier.std)
    share = Share(data.batch_size, train=False, position=EpochPosition(), seed=seed)
    loader = build_split(data.evaluated, data, transform, share, classes=classifier.classes)
    if loader.classes != classifier.classes:
        raise ValueError(
            f"the model knows {len(classifier.classes)} classes ({', '.join(classifier.classes[:5])}), "
            f"{data.evaluated} has {len(loader.classes)} ({', '.join(loader.classes[:5])}); give images of the classes "
            "it was trained on"
        )
    real = open_real_labels(real_labels, loader.batches.source)
    place = next(classifier.model.parameters()).device
    counts, seconds, skipped = torch.zeros(2, dtype=torch.int64), 0.0, list[str]()
    confusion = torch.zeros(len(loader.classes), len(loader.classes), dtype=torch.int64)
    reservoir, one = Reservoir(keep), torch.zeros(1, 3, size, size, device=place).to(memory_format=torch.channels_last)
    timed(partial(classifier.model, one), place)  # the first call loads what the others need
    with closing(loader.batches) as batches:
        for batch in tqdm(batches, desc=f"evaluate at {size} px", total=loader.steps, unit="batch", disable=None):
            skipped += batch.bad
            if not len(batch.labels):
                continue
            images = batch.images.to(place, memory_format=torch.channels_last)
            logits, taken = timed(partial(classifier.model, images), place)
            logits, seconds = logits.float().cpu(), seconds + taken
            counts += torch.stack(right(logits, batch.labels))
            confusion += torch.bincount(
                batch.labels * len(confusion) + logits.argmax(1), minlength=confusion.numel()
            ).view_as(confusion)
            reservoir.offer(batch, logits)
            if real is not None:
                real.add_result(logits)
    seen = int(confusion.sum())
    if not seen:
        raise ValueError(f"none of {len(skipped)} images of {data.evaluated} could be read; the first: {skipped[0]}")
    if real is not None and skipped:
        raise ValueError(f"real_labels need every image, but {len(skipped)} could not be read; the first: {skipped[0]}")
    top1, top5 = (counts / seen).tolist()
    single = sorted(timed(partial(classifier.model, one), place)[1] for _ in range(LATENCY_ROUNDS))
    real_top1 = None if real is None else real.get_accuracy(k=1) / 100
    return Evaluation(
        size, seen, skipped, top1, top5, real_top1, seen / seconds, 1e3 * single[LATENCY_ROUNDS // 2], confusion,
        reservoir.images, reservoir.predicted,
    )  # fmt: skip


class Reservoir:
    """Some of all images, each with the same chance, whatever their number."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.offered = 0
        self.rng = random.Random(0)
        self.images: list[Tensor] = []
        self.predicted: list[tuple[int, int, float]] = []

    def offer(self, batch: Batch, logits: Tensor) -> None:
        """A batch's images, in the place of earlier ones by chance."""
        for image, label, shares in zip(batch.images, batch.labels.tolist(), logits.softmax(1), strict=True):
            self.offered += 1
            at = len(self.images) if len(self.images) < self.keep else self.rng.randrange(self.offered)
            if at < self.keep:
                best = int(shares.argmax())
                self.images[at : at + 1] = [image.clone()]
                self.predicted[at : at + 1] = [(label, best, float(shares[best]))]


def timed(run: Callable[[], Tensor], place: torch.device) -> tuple[Tensor, float]:
    """Output and seconds, the last kernel included."""
    start = time.perf_counter()
    out = run()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return out, time.perf_counter() - start


def open_real_labels(path: Path | None, dataset: object) -> RealLabelsImagenet | None:
    """ImageNet's reassessed labels, for these files in their order."""
    if path is None:
        return None
    if not isinstance(dataset, ImageDataset) or not isinstance(dataset.source, Folders):
        raise ValueError("real_labels go by ImageNet's file names; give class folders")
    if not path.is_file():
        raise FileNotFoundError(f"no real labels at {path}; give ImageNet's real.json")
    names = [name for name, _ in dataset.source.samples]
    known = len(read_json(path, what="real labels"))
    wrong = [name for name in names if not re.fullmatch(r"ILSVRC2012_val_\d{8}\.JPEG", Path(name).name)]
    if known != len(names) or wrong:
        said = f"{wrong[0]} is none of its names" if wrong else f"{len(names)} images for {known} labels"
        raise ValueError(f"real labels fit ImageNet's whole val, by its file names; {said}; leave --real_labels out")
    return RealLabelsImagenet(names, real_json=str(path))


def to_image(image: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """An image (3, H, W), normalised by these, as uint8 (H, W, 3)."""
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    pixels: NDArray[np.uint8] = ((image * scale + shift) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels
