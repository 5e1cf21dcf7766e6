"""`train`, `evaluate` and `predict` of Mask R-CNN: commands, and Python functions."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from botvision.engine.config import DeviceConfig, EngineConfig, OnExisting, check_loader
from botvision.files import check_no_file, check_writable, sha256, write_json
from botvision.maskrcnn.config import Backend, BoxFormat, DataConfig, ModelConfig, OptimConfig

if TYPE_CHECKING:
    from botvision.engine.shared_results import EvaluatedPart
    from botvision.maskrcnn.evaluation import Metrics
    from botvision.maskrcnn.streaming import Prediction
    from botvision.maskrcnn.task import Summary


def train(
    data: DataConfig,
    out: Path,
    *,
    model: ModelConfig = ModelConfig(),
    optim: OptimConfig = OptimConfig(),
    engine: EngineConfig = EngineConfig(),
    backbone_weights: str | None = None,
    init_from: Path | None = None,
    on_existing: OnExisting = "refuse",
) -> "Summary":
    """Train a Mask R-CNN, evaluate it, draw its detections.

    Writes to `out`: config.yaml (re-runs it), samples.jpg, metrics.csv, curves.png, checkpoints/last.ckpt and
    best.ckpt, predictions/*.jpg, summary.json, report.html.

    Args:
        data: images and annotations.
        out: folder of the run, e.g. runs/maskrcnn/mine.
        model: the detector.
        optim: how it learns.
        engine: hardware, precision, logging.
        backbone_weights: a ResNet's weights for the backbone: a file, or a timm name, which downloads.
        init_from: a trained detector's checkpoint to begin from, e.g. the ResNet baseline's: all that has a place is
            carried over, and what stays fresh is named.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite.
        Stopped: by a signal; in training after a step, saved.
    """
    from botvision.engine.run import run
    from botvision.maskrcnn.task import InstanceSegmentation

    task = InstanceSegmentation(data, model, optim, backbone_weights, None if init_from is None else Path(init_from))
    return run(task, Path(out), engine=engine, on_existing=on_existing)


def evaluate(
    checkpoint: Path,
    annotations: Path,
    images: Path | None = None,
    *,
    out: Path | None = None,
    batch_size: int = 8,
    workers: int = 2,
    backend: Backend = "auto",
    box_format: BoxFormat = "auto",
    part: str | None = None,
    engine: DeviceConfig = DeviceConfig(),
) -> "Metrics | EvaluatedPart":
    """Evaluate a trained detector on a COCO file, or on a folder in any layout that training reads: box and mask AP.

    Args:
        checkpoint: a `.ckpt` of a run, or an exported .onnx or .xml.
        annotations: COCO JSON with the truth, or a folder as --data.root takes it, of which the validation split is
            taken, or all images where it has none.
        images: folder of the JSON's images.
        out: folder for `metrics.json` and `results.json` (COCO results form).
        batch_size: images at a time.
        workers: processes that read images.
        backend: "hotcoco", "pycocotools", or "auto" for the first that is installed.
        box_format: xywh (x, y, width, height: COCO's), or xyxy (two corners); auto is xywh, and refuses a file whose
            boxes seem to be two corners.
        part: this process's share of the images, by its number and the count of processes, e.g. 0/8 … 7/8; all write to
            one `out`, and the last to end counts the AP. Under torchrun it is the rank.
        engine: the device.

    Returns:
        COCO's twelve figures for boxes and for masks; where other processes have images left, how many.

    Raises:
        FileNotFoundError, ValueError: files that are not there, not what they should be, or do not fit each other.
    """
    from botvision.engine.shared_results import EvaluatedPart, SharedResults, folder_for
    from botvision.engine.sharing import own_part
    from botvision.maskrcnn.checkpoint import load_detector
    from botvision.maskrcnn.evaluation import evaluate_detector
    from botvision.maskrcnn.truth import truth_of, warn_of_trained_images

    checkpoint, out = Path(checkpoint), None if out is None else Path(out)
    if out is not None:
        check_no_file(out)
        check_writable(out)
    check_loader(batch_size=batch_size, workers=workers)
    share = own_part(part)
    shared_folder = folder_for(share, out) if share.is_shared else None
    with truth_of(Path(annotations), None if images is None else Path(images), out=out) as (truth, folder):
        warn_of_trained_images(checkpoint, truth, folder)
        shared = None
        if shared_folder is not None:
            settings = {"checkpoint": sha256(checkpoint), "annotations": sha256(truth), "images": str(folder)}
            shared = SharedResults(shared_folder, share, settings)
        evaluated = evaluate_detector(
            load_detector(checkpoint),
            truth,
            folder,
            device=engine.device,
            batch_size=batch_size,
            workers=workers,
            backend=backend,
            box_format=box_format,
            shared=shared,
        )
    if isinstance(evaluated, EvaluatedPart):
        return evaluated
    metrics, results = evaluated
    if out is not None:
        write_json(out / "results.json", results)
        write_json(out / "metrics.json", metrics._asdict(), indent=2)
    return metrics


def predict(
    checkpoint: Path,
    source: str,
    *,
    out: Path = Path("predictions"),
    threshold: float = 0.5,
    batch_size: int = 8,
    format: Literal["coco", "csv", "parquet"] = "coco",
    draw: bool = True,
    track: bool = False,
    part: str | None = None,
    engine: DeviceConfig = DeviceConfig(),
    on_existing: OnExisting = "refuse",
) -> "Prediction":
    """Find objects in images, videos or a camera; write drawings and `predictions.json`.

    Each image's results are a line of `predictions.jsonl` as soon as they are found; the file in `format` is written
    from these at the end, whole.

    Args:
        checkpoint: a `.ckpt` of a run, or an exported .onnx or .xml.
        source: an image, its http(s) URL, a video, a folder, a glob in quotes, or a camera (camera:0, or 0), which
            Ctrl-C ends.
        out: folder for the drawings and the results.
        threshold: lowest score that is kept; below 0.05 nothing is found.
        batch_size: images, or frames of a video, at a time.
        format: of the results: coco (predictions.json, COCO results form, with each image's file_name), csv or parquet.
        draw: write each image with its objects, and each video as MP4.
        track: follow objects through videos with ByteTrack; their numbers are drawn and in the results (track_id).
        part: this process's share of the images, by its number and the count of processes, e.g. 0/8 … 7/8; all write to
            one `out`, and the last to end writes the results of all. Under torchrun it is the rank.
        engine: the device.
        on_existing: where `out` holds files of these names already: refuse before anything is written, resume (skip the
            images whose results are written), or replace them.

    Raises:
        FileNotFoundError, ValueError: no such files, no image that can be read, or a file that would be overwritten.
        Stopped: by a signal, after a batch; what is written stays.
    """
    from botvision.engine.sharing import own_part
    from botvision.maskrcnn.prediction import Predictor
    from botvision.maskrcnn.streaming import Output, predict_files

    predictor = Predictor.load(checkpoint, threshold=threshold, batch_size=batch_size, accelerator=engine.accelerator)
    output = Output(Path(out), format, draw=draw, track=track, part=own_part(part))
    return predict_files(predictor, Path(checkpoint), str(source), output=output, on_existing=on_existing)
