"""`train`, `evaluate` and `predict` of image classification: commands, and Python functions."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from botvision.classify.config import DataConfig, ModelConfig, OptimConfig, check_shares
from botvision.engine.config import DeviceConfig, EngineConfig, OnExisting, check_loader
from botvision.files import check_no_file, check_writable, sha256, write_json

if TYPE_CHECKING:
    from botvision.classify.evaluation import Evaluations
    from botvision.classify.prediction import Prediction
    from botvision.classify.task import Summary
    from botvision.engine.shared_results import EvaluatedPart


def train(
    data: DataConfig,
    out: Path,
    *,
    model: ModelConfig = ModelConfig(),
    optim: OptimConfig = OptimConfig(),
    engine: EngineConfig = EngineConfig(),
    backbone_weights: str | None = None,
    on_existing: OnExisting = "refuse",
) -> "Summary":
    """Train a classifier, evaluate it, draw its predictions.

    Writes to `out`: config.yaml (re-runs it), samples.jpg, metrics.csv, curves.png, confusion.png,
    checkpoints/last.ckpt and best.ckpt, predictions/sheet.jpg, summary.json, report.html.

    Args:
        data: images and how they are augmented.
        out: folder of the run, e.g. runs/classify/mine.
        model: the classifier.
        optim: how it learns.
        engine: hardware, precision, logging.
        backbone_weights: a ResNet's weights for a BoTNet: a file, or a timm name, which downloads.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite; more
            unreadable images than the limit.
        Stopped: by a signal; in training after a step, saved.
    """
    from botvision.classify.task import Classification
    from botvision.engine.run import run

    data = replace(data, train=str(data.train), val=None if data.val is None else str(data.val))
    return run(Classification(data, model, optim, backbone_weights), Path(out), engine=engine, on_existing=on_existing)


def evaluate(
    checkpoint: Path,
    images: str,
    *,
    img_size: int | tuple[int, ...] | None = None,
    crop: float | None = None,
    real_labels: Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    part: str | None = None,
    engine: DeviceConfig = DeviceConfig(),
    out: Path | None = None,
) -> "Evaluations | EvaluatedPart":
    """Evaluate a trained classifier: accuracy, throughput, latency, at any sizes.

    Args:
        checkpoint: a `.ckpt` of a run, or an exported .onnx or .xml.
        images: class folders, tar shards, or digits: as for training.
        img_size: px, one or several; none is the training's.
        crop: share of the shorter side; none is the training's.
        real_labels: ImageNet's reassessed labels (real.json of timm), for class folders with ImageNet's file names.
        batch_size: images at a time.
        workers: processes that read images.
        part: this process's share of the images, by its number and the count of processes, e.g. 0/8 … 7/8; all write to
            one `out`, and the last to end counts the accuracies. Under torchrun it is the rank.
        engine: the device.
        out: folder for `metrics.json` and a confusion matrix for each size.

    Returns:
        Accuracies and speed at each size; where other processes have images left, how many.

    Raises:
        FileNotFoundError, ValueError: files that are not there, not what they should be, or of other classes.
    """
    from botvision.classify.evaluation import Evaluations, evaluate_at, evaluate_part
    from botvision.classify.model import load_classifier
    from botvision.classify.sources import DIGITS, TIMM_PREFIXES
    from botvision.draw.classes import draw_confusion
    from botvision.engine.folder import warn_of_training_images
    from botvision.engine.shared_results import EvaluatedPart, SharedResults, folder_for
    from botvision.engine.sharing import own_part

    if out is not None:
        out = Path(out)
        check_no_file(out)
        check_writable(out)
    check_loader(batch_size=batch_size, workers=workers)
    images = str(images)
    share = own_part(part)
    classifier = load_classifier(Path(checkpoint), device=engine.device)
    if images != DIGITS and not images.startswith(TIMM_PREFIXES):  # whose name stands for several splits
        warn_of_training_images(Path(checkpoint), images, field="train", unless="val")
    data = DataConfig(images, images, batch_size=batch_size, workers=workers)
    if crop is not None:
        check_shares(crop=crop)
        classifier = replace(classifier, crop=crop)
    img_size = classifier.config.img_size if img_size is None else img_size
    sizes = tuple(img_size) if isinstance(img_size, tuple | list) else (img_size,)
    for size in sizes:
        classifier.check_size(size)
    if share.is_shared:
        settings = {"checkpoint": sha256(checkpoint), "images": images, "crop": classifier.crop, "sizes": list(sizes)}
        settings |= {"batch_size": batch_size, "workers": workers, "processes": share.count}
        shared = SharedResults(folder_for(share, out), share, settings)
        rows = evaluate_part(classifier, data, sizes=sizes, real_labels=real_labels, shared=shared)
        if isinstance(rows, EvaluatedPart):
            return rows
    else:
        rows = [evaluate_at(classifier, data, size=size, real_labels=real_labels) for size in sizes]
    evaluations = Evaluations(rows, out)
    if out is not None:
        write_json(out / "metrics.json", [row.figures for row in rows], indent=2)
        for row in rows:
            title = f"{classifier.config.name} at {row.size} px, top-1 {row.top1:.4f} of {row.images}"
            path = out / f"confusion-{row.size}.png"
            draw_confusion(row.confusion.numpy(), classifier.classes, path, title=title)
    return evaluations


def predict(
    checkpoint: Path,
    source: str,
    *,
    out: Path = Path("predictions"),
    img_size: int | None = None,
    top: int = 5,
    part: str | None = None,
    engine: DeviceConfig = DeviceConfig(),
    on_existing: OnExisting = "refuse",
) -> "Prediction":
    """Classify images; write a contact sheet and `predictions.json`.

    Each image's classes are a line of `predictions.jsonl` as soon as they are found; the other files are written from
    these at the end.

    Args:
        checkpoint: a `.ckpt` of a run, or an exported .onnx or .xml.
        source: an image, a folder, or a quoted glob.
        out: folder for `sheet.jpg` and `predictions.json`.
        img_size: px; none is the training's.
        top: classes named for each image.
        part: this process's share of the images, by its number and the count of processes, e.g. 0/8 … 7/8; all write to
            one `out`, and the last to end writes the results of all. Under torchrun it is the rank.
        engine: the device.
        on_existing: where `out` holds files of these names already: refuse before anything is written, resume (skip the
            images whose classes are written), or replace them.

    Raises:
        FileNotFoundError, ValueError: no such files, no image that can be read, or a file that would be overwritten.
        Stopped: by a signal, after an image; what is written stays.
    """
    from botvision.classify.model import load_classifier
    from botvision.classify.prediction import Output, predict_files
    from botvision.engine.sharing import own_part

    output = Output(Path(out), own_part(part))
    classifier = load_classifier(Path(checkpoint), device=engine.device)
    return predict_files(
        classifier, Path(checkpoint), source, output=output, img_size=img_size, top=top, on_existing=on_existing
    )
