"""Evaluate a classifier: top-1, top-5, throughput, latency, confusion matrix, at any image size."""

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import RealLabelsImagenet
from torch import Tensor
from tqdm import tqdm

from botvision.classify.config import DataConfig
from botvision.classify.data import Batch, ImageDataset, build_split, steps_of_all, val_transform
from botvision.classify.model import Classifier
from botvision.classify.module import first_five, right
from botvision.classify.sources import Folders
from botvision.engine.journal import Record
from botvision.engine.loader import EpochPosition, Share
from botvision.engine.shared_results import EvaluatedPart, SharedResults
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
    sized = Sized(classifier, data, size, seed=seed)
    tally = Tally(len(classifier.classes), open_real_labels(real_labels, sized.split.batches.source))
    reservoir = Reservoir(keep)
    for batch, logits, seconds in sized.evaluated():
        tally.add(found_in(batch, logits), seconds)
        reservoir.offer(batch, logits)
    return tally.figures(sized, reservoir)


def evaluate_part(
    classifier: Classifier, data: DataConfig, *, sizes: Sequence[int], real_labels: Path | None, shared: SharedResults
) -> list[Evaluation] | EvaluatedPart:
    """The part of a process that shares the images with others; where these have all ended, the figures of all.

    A line of its journal is a batch, for which the order of the images is the same whenever it is begun again.
    """
    part = shared.part
    splits = [Sized(classifier, data, size, rank=part.number, world=part.count) for size in sizes]
    done = shared.written()
    with closing(shared.journal):
        for sized in splits:
            own = sized.names(part.number)
            begun = sum(name in done for name in own)
            for name, (batch, logits, seconds) in zip(own[begun:], sized.evaluated(begun), strict=True):
                shared.add(name, objects=found_in(batch, logits), seconds=seconds)
    done = shared.written()
    names = [[name for rank in range(part.count) for name in sized.names(rank)] for sized in splits]
    if any(name not in done for some in names for name in some):
        every = sum(sized.split.samples for sized in splits)
        return EvaluatedPart(shared.journal.objects, every - sum(one.objects for one in done.values()), shared.out)
    return [together(sized, shared.together(some), real_labels) for sized, some in zip(splits, names, strict=True)]


def together(sized: "Sized", records: Sequence[Record], real_labels: Path | None) -> Evaluation:
    """The figures of one size, of what all processes have found."""
    tally = Tally(len(sized.classifier.classes), open_real_labels(real_labels, sized.split.batches.source))
    by_rank = [
        iter([found for record in records if record["file_name"] in own for found in record["objects"]])
        for own in (set(sized.names(rank)) for rank in range(sized.share.world))
    ]
    # image 0 is the first process's, image 1 the second's, …; shards, of whose order nothing hangs, are by intervals
    founds = [found for row in zip_longest(*by_rank) for found in row if found is not None]
    tally.add(founds, sum(record["seconds"] for record in records))
    return tally.figures(sized, Reservoir(0))


Found = list[int] | str  # an image's label and its most likely classes, or why it could not be read


def found_in(batch: Batch, logits: Tensor) -> list[Found]:
    """What is kept of a batch."""
    rows: list[Found] = torch.cat([batch.labels[:, None], first_five(logits)], 1).tolist() if len(logits) else []
    return [*rows, *batch.bad]


class Sized:
    """A classifier on a process's part of a split, at one size."""

    def __init__(
        self, classifier: Classifier, data: DataConfig, size: int, *, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        """Open the split.

        Raises:
            FileNotFoundError, ValueError: no such images, other classes than the model's, fewer images than processes.
        """
        self.classifier, self.data, self.size = classifier, data, size
        transform = val_transform(size, classifier.crop, classifier.mean, classifier.std)
        self.share = Share(data.batch_size, train=False, position=EpochPosition(), seed=seed, rank=rank, world=world)
        split = build_split(data.evaluated, data, transform, self.share, classes=classifier.classes)
        known = classifier.classes
        if split.classes != known:
            raise ValueError(
                f"the model knows {len(classifier.classes)} classes ({', '.join(classifier.classes[:5])}), "
                f"{data.evaluated} has {len(split.classes)} ({', '.join(split.classes[:5])}); give images of the "
                + ("same classes in its order" if set(split.classes) == set(known) else "classes it was trained on")
            )
        self.split = split
        self.steps = steps_of_all(split, self.share)
        self.place = next(classifier.model.parameters()).device

    def names(self, rank: int) -> list[str]:
        """Names of a process's batches, in their order."""
        return [f"{self.size} px, process {rank}, batch {number}" for number in range(self.steps[rank])]

    @torch.inference_mode()
    def evaluated(self, begin: int = 0) -> Iterator[tuple[Batch, Tensor, float]]:
        """Batches from a given one on, their logits on the CPU, and the model's seconds."""
        self.forward(self.one())  # the first call loads what the others need
        self.share.position.begin(0, begin)
        steps = self.split.steps - begin
        with closing(self.split.batches) as batches:
            for batch in tqdm(batches, desc=f"evaluate at {self.size} px", total=steps, unit="batch", disable=None):
                if not len(batch.labels):
                    yield batch, torch.zeros(0, len(self.split.classes)), 0.0
                    continue
                logits, seconds = self.forward(batch.images.to(self.place, memory_format=torch.channels_last))
                yield batch, logits.float().cpu(), seconds

    def forward(self, images: Tensor) -> tuple[Tensor, float]:
        """Logits and seconds."""
        return timed(partial(self.classifier.model, images), self.place)

    def one(self) -> Tensor:
        """A black image."""
        return torch.zeros(1, 3, self.size, self.size, device=self.place).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def latency_ms(self) -> float:
        """Milliseconds for one image, median."""
        return 1e3 * sorted(self.forward(self.one())[1] for _ in range(LATENCY_ROUNDS))[LATENCY_ROUNDS // 2]


class Tally:
    """Hits, a confusion matrix and ImageNet's reassessed labels, batch after batch."""

    def __init__(self, classes: int, real: RealLabelsImagenet | None) -> None:
        self.real = real
        self.counts = torch.zeros(2, dtype=torch.int64)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.skipped: list[str] = []
        self.seconds = 0.0

    def add(self, founds: Sequence[Found], seconds: float) -> None:
        """Some images."""
        rows = [found for found in founds if not isinstance(found, str)]
        self.skipped += [found for found in founds if isinstance(found, str)]
        self.seconds += seconds
        if not rows:
            return
        table = torch.tensor(rows)  # N, the label and five classes
        labels, best = table[:, 0], table[:, 1:]
        classes = len(self.confusion)
        self.counts += torch.stack(right(best, labels))
        pairs = torch.bincount(labels * classes + best[:, 0], minlength=classes**2)
        self.confusion += pairs.view_as(self.confusion)
        if self.real is not None:
            order = torch.arange(best.shape[1], 0, -1.0).expand(best.shape)
            self.real.add_result(torch.zeros(len(best), classes).scatter_(1, best, order))  # any logits in this order

    def figures(self, sized: Sized, reservoir: "Reservoir") -> Evaluation:
        """What comes of it.

        Raises:
            ValueError: no image was read, or not all that the reassessed labels are of.
        """
        seen, skipped, real = int(self.confusion.sum()), self.skipped, self.real
        where = sized.data.evaluated
        if not seen:
            raise ValueError(f"none of {len(skipped)} images of {where} could be read; the first: {skipped[0]}")
        if real is not None and skipped:
            raise ValueError(
                f"real_labels need every image, but {len(skipped)} could not be read; the first: {skipped[0]}"
            )
        top1, top5 = (count / seen for count in self.counts.tolist())
        return Evaluation(
            sized.size, seen, skipped, top1, top5, None if real is None else real.get_accuracy(k=1) / 100,
            seen / self.seconds, sized.latency_ms(), self.confusion, reservoir.images, reservoir.predicted,
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
    classes = dataset.source.classes
    by_id = all(re.fullmatch(r"n\d{8}", name) for name in classes)
    if not by_id and classes != [str(number) for number in range(len(classes))]:
        raise ValueError(
            "real labels number ImageNet's classes in the order of their WordNet ids; class folders must be named by "
            f"these, such as n01440764; got {classes[0]}; leave --real_labels out"
        )
    return RealLabelsImagenet(names, real_json=str(path))


def to_image(image: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """An image (3, H, W), normalised by these, as uint8 (H, W, 3)."""
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    pixels: NDArray[np.uint8] = ((image * scale + shift) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels
