"""Top-1, top-5, throughput, latency and confusion of a trained classifier, at any sizes."""

import random
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import RealLabelsImagenet
from torch import Tensor
from tqdm import tqdm

from botvision.classify.data import Batch, DataConfig, Pictures, build_split, val_transform
from botvision.classify.model import Classifier, load_classifier
from botvision.classify.module import right
from botvision.classify.sources import Folders
from botvision.draw.classes import draw_confusion
from botvision.engine.checkpoint import pick_device
from botvision.engine.loader import EpochPosition, Share
from botvision.files import read_json, write_json

LATENCY_ROUNDS = 10


class Judged(NamedTuple):
    """A classifier on one split at one size.

    Attributes:
        size: px.
        pictures: that were read; skipped: reasons of the others.
        top1, top5: fractions.
        real_top1: by ImageNet's reassessed labels, where they were given.
        per_second: pictures, the model's time alone.
        latency_ms: of one picture, median.
        confusion: (K, K) counts, truth down.
        examples: some normalised images; said: their truth, what was said, and its probability.
    """

    size: int
    pictures: int
    skipped: list[str]
    top1: float
    top5: float
    real_top1: float | None
    per_second: float
    latency_ms: float
    confusion: Tensor
    examples: list[Tensor]
    said: list[tuple[int, int, float]]

    @property
    def figures(self) -> dict[str, float | int | None]:
        """What a file keeps."""
        names = ("size", "pictures", "top1", "top5", "real_top1", "per_second", "latency_ms")
        return {name: getattr(self, name) for name in names} | {"skipped": len(self.skipped)}


class Scores(NamedTuple):
    """One row a size."""

    rows: list[Judged]
    out: Path | None

    def __str__(self) -> str:
        lines = [f"{'px':>5} {'top-1':>8} {'top-5':>8} {'real':>8} {'pictures/s':>11} {'ms for one':>11}"]
        for row in self.rows:
            real = "" if row.real_top1 is None else f"{row.real_top1:.4f}"
            times = f"{row.per_second:>11.1f} {row.latency_ms:>11.1f}"
            lines.append(f"{row.size:>5} {row.top1:>8.4f} {row.top5:>8.4f} {real:>8} {times}")
        skipped = self.rows[0].skipped
        lines += [f"{len(skipped)} of the pictures could not be read, the first: {skipped[0]}"] if skipped else []
        return "\n".join([*lines, *([f"scores.json and confusion matrices at {self.out}"] if self.out else [])])


def score(
    checkpoint: Path,
    pictures: str,
    *,
    img_size: int | tuple[int, ...] | None = None,
    crop: float | None = None,
    real_labels: Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "auto",
    out: Path | None = None,
) -> Scores:
    """Score a trained classifier: accuracy, throughput, latency, at any sizes.

    Args:
        checkpoint: a `.ckpt` of a run.
        pictures: class folders, tar shards, or digits: as for training.
        img_size: px, one or several; none is the training's.
        crop: share of the shorter side; none is the training's.
        real_labels: ImageNet's reassessed labels (real.json of timm), for class folders with ImageNet's file names.
        batch_size: pictures at a time.
        workers: processes that read pictures.
        device: "cpu", "cuda", or "auto".
        out: folder for `scores.json` and a confusion matrix for each size.

    Raises:
        FileNotFoundError, ValueError: files that are not there, not what they should be, or of other classes.
    """
    classifier = load_classifier(checkpoint, device=pick_device(device))
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1; e.g. 64")
    data = DataConfig(pictures, pictures, batch_size=batch_size, workers=workers)
    if crop is not None:
        classifier = replace(classifier, crop=crop)
    sizes = (img_size or classifier.config.img_size,) if not isinstance(img_size, tuple) else img_size
    for size in sizes:
        classifier.check_size(size)
    rows = [judge(classifier, data, size=size, real_labels=real_labels) for size in sizes]
    scores = Scores(rows, out)
    if out is not None:
        write_json(out / "scores.json", [row.figures for row in rows], indent=2)
        for row in rows:
            title = f"{classifier.config.name} at {row.size} px, top-1 {row.top1:.4f} of {row.pictures}"
            path = out / f"confusion-{row.size}.png"
            draw_confusion(row.confusion.numpy(), classifier.classes, path, title=title)
    return scores


@torch.inference_mode()
def judge(
    classifier: Classifier, data: DataConfig, *, size: int, keep: int = 0, real_labels: Path | None = None
) -> Judged:
    """Every picture of `data.val` at one size; `keep` of them are drawn by lot as examples."""
    transform = val_transform(size, classifier.crop, classifier.mean, classifier.std)
    share = Share(data.batch_size, train=False, position=EpochPosition())
    loader = build_split(data.val, data, transform, share, classes=classifier.classes)
    if loader.classes != classifier.classes:
        raise ValueError(
            f"the model knows {len(classifier.classes)} classes ({', '.join(classifier.classes[:5])}), {data.val} has "
            f"{len(loader.classes)} ({', '.join(loader.classes[:5])}); give pictures of the classes it was trained on"
        )
    real = open_real_labels(real_labels, loader.batches.dataset)
    place = next(classifier.model.parameters()).device
    counts, seconds, skipped = torch.zeros(2, dtype=torch.int64), 0.0, list[str]()
    confusion = torch.zeros(len(loader.classes), len(loader.classes), dtype=torch.int64)
    lot, one = Lot(keep), torch.zeros(1, 3, size, size, device=place).to(memory_format=torch.channels_last)
    timed(partial(classifier.model, one), place)  # the first call loads what the others need
    with closing(loader.batches) as batches:
        for batch in tqdm(batches, desc=f"score {size} px", total=loader.steps, unit="batch", disable=None):
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
            lot.offer(batch, logits)
            if real is not None:
                real.add_result(logits)
    seen = int(confusion.sum())
    if not seen:
        raise ValueError(f"none of {len(skipped)} pictures of {data.val} could be read; the first: {skipped[0]}")
    if real is not None and skipped:
        raise ValueError(
            f"real_labels need every picture, but {len(skipped)} could not be read; the first: {skipped[0]}"
        )
    top1, top5 = (counts / seen).tolist()
    single = sorted(timed(partial(classifier.model, one), place)[1] for _ in range(LATENCY_ROUNDS))
    real_top1 = None if real is None else real.get_accuracy(k=1) / 100
    return Judged(
        size, seen, skipped, top1, top5, real_top1, seen / seconds, 1e3 * single[LATENCY_ROUNDS // 2], confusion,
        lot.images, lot.said,
    )  # fmt: skip


class Lot:
    """Some of all pictures, each with the same chance, whatever their number."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.offered = 0
        self.rng = random.Random(0)
        self.images: list[Tensor] = []
        self.said: list[tuple[int, int, float]] = []

    def offer(self, batch: Batch, logits: Tensor) -> None:
        """A batch's pictures, in the place of earlier ones as the lot falls."""
        for image, label, shares in zip(batch.images, batch.labels.tolist(), logits.softmax(1), strict=True):
            self.offered += 1
            at = len(self.images) if len(self.images) < self.keep else self.rng.randrange(self.offered)
            if at < self.keep:
                said = int(shares.argmax())
                self.images[at : at + 1] = [image.clone()]
                self.said[at : at + 1] = [(label, said, float(shares[said]))]


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
    if not isinstance(dataset, Pictures) or not isinstance(dataset.source, Folders):
        raise ValueError("real_labels go by ImageNet's file names; give class folders")
    if not path.is_file():
        raise FileNotFoundError(f"no real labels at {path}; give ImageNet's real.json")
    names = [name for name, _ in dataset.source.samples]
    known = len(read_json(path, what="real labels"))
    wrong = [name for name in names if not re.fullmatch(r"ILSVRC2012_val_\d{8}\.JPEG", Path(name).name)]
    if known != len(names) or wrong:
        said = f"{wrong[0]} is none of its names" if wrong else f"{len(names)} pictures for {known} labels"
        raise ValueError(f"real labels fit ImageNet's whole val, by its file names; {said}; leave --real_labels out")
    return RealLabelsImagenet(names, real_json=str(path))


def to_picture(image: Tensor, classifier: Classifier) -> NDArray[np.uint8]:
    """A normalised image (3, H, W) as uint8 (H, W, 3)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (classifier.mean, classifier.std))
    pixels: NDArray[np.uint8] = ((image * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return pixels
