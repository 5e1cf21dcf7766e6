"""`report`: runs of ultralytics, or several beside a baseline, as one HTML file in the core's form."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import nms

from botvision.engine.config import DeviceConfig
from botvision.engine.record import Record, read_rows
from botvision.engine.report import Written, place_of, write_report
from botvision.engine.reporter import Headline, of_summary
from botvision.engine.settings import read_yaml
from botvision.files import write_json
from botvision.maskrcnn.converters import read_yolo
from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.diagnosis import Diagnosis, Size, diagnosed
from botvision.maskrcnn.masks import encode
from botvision.maskrcnn.report import DetectorReporter
from botvision.maskrcnn.results import Result
from botvision_yolo.explore import batch_of, opened, padded
from botvision_yolo.model import YOLO
from botvision_yolo.reader import BLOCKS
from botvision_yolo.variants import is_derived

LEFT_OUT = {"seed", "model", "project", "name", "save_dir", "exist_ok", "resume", "device", "workers", "cache", "plots",
            "verbose", "save", "save_period"}  # arguments that make no other kind of run  # fmt: skip
MAPS = {"box_ap": "metrics/mAP50-95(B)", "mask_ap": "metrics/mAP50-95(M)"}  # columns of results.csv
LOWEST = 0.001  # score of a detection that counts for AP: ultralytics' own in evaluation
TASKS = ("detect", "segment")


def report(*runs: str, against: str = "", out: str | None = None, device: str = "cpu") -> Written:
    """Write an HTML file on a run of ultralytics, or on several runs beside a baseline.

    Curves of results.csv, figures by class and size, errors, calibration, worst and best images, attention, options.
    The model of `weights/best.pt` looks at the validation images of the run's own data again, at most 256.

    Args:
        runs: folders of runs, e.g. runs/detect/train, or of a seed of `bot-yolo compare`.
        against: folders of the baseline's runs, with commas.
        out: the HTML file; one that is there is replaced. None is report.html in the folder of a single run, and
            report.html here of several.
        device: cpu, a GPU's number, auto, or torch's name of a device.

    Raises:
        FileNotFoundError, ValueError: no run there; runs of different classes; a run twice.
    """
    if not runs:
        raise ValueError("report needs at least one run; give its folder, e.g. runs/detect/train")
    chosen = DeviceConfig(f"cuda:{device}" if str(device).isdigit() else device).device
    ours, others = ([read_run(Path(path)) for path in paths] for paths in (runs, filter(None, against.split(","))))
    place = place_of(None if out is None else Path(out), [*ours, *others])
    return write_report(YoloReporter(panels_of([*ours, *others])), ours, place, against=others, device=chosen)


@dataclass(frozen=True)
class Run(Record):
    """A run of ultralytics: config is args.yaml, rows are those of results.csv."""

    @property
    def name(self) -> str:
        """Of the folder; of a run of `bot-yolo compare` the model's and the seed's."""
        folder = self.path.resolve()
        return f"{folder.parents[1].name}/{folder.parent.name}" if is_compared(folder.parent) else folder.name

    @property
    def seed(self) -> int:
        """That it was begun with."""
        return int(self.config.get("seed") or 0)

    @property
    def model(self) -> str:
        """Name of the yaml or of the weights that it began with."""
        return Path(str(self.config.get("model") or "")).stem

    @property
    def kind(self) -> str:
        """What runs that differ by their seed alone have in common."""
        kept = {name: value for name, value in self.config.items() if name not in LEFT_OUT}
        return json.dumps({**kept, "model": self.model, "attention": self.attention}, sort_keys=True, default=str)

    @cached_property
    def attention(self) -> list[Any]:
        """Rows of ours that `botify` has put into its model under the same name; none where its weights do not open."""
        if self.checkpoint is None or is_derived(f"{self.model}.yaml"):
            return []
        try:
            yaml = opened(self.checkpoint).model.yaml
        except (OSError, ValueError):  # the report says so where it looks at images
            return []
        return [row for row in [*yaml["backbone"], *yaml["head"]] if row[2] in BLOCKS]


def is_compared(folder: Path) -> bool:
    """Whether `bot-yolo compare` has trained a run in this folder's `train`."""
    return (folder / "result.json").is_file() and (folder / "train" / "args.yaml").is_file()


def read_run(path: Path) -> Run:
    """The folder of a run of ultralytics.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: files that are not what a run has written.
    """
    folder = path / "train" if is_compared(path) else path
    if not (folder / "args.yaml").is_file():
        found = "holds no args.yaml" if path.is_dir() else "is no folder"
        cure = "give the folder of a run of ultralytics, e.g. runs/detect/train"
        if (path / "config.yaml").is_file():
            cure = f"botvision report {path} reports runs of botvision"
        raise FileNotFoundError(f"{path} {found}; {cure}")
    config = read_yaml(folder / "args.yaml", what="arguments")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'args.yaml'} is no run's: it holds no arguments; give another run")
    lines = read_rows(folder / "results.csv")
    rows = tuple(by_epoch(lines).values())
    if config.get("val") is False:  # evaluated after the last epoch alone: ultralytics writes zeros before
        rows = (*(trained(row) for row in rows[:-1]), *rows[-1:])
    weights = (folder / "weights" / name for name in ("best.pt", "last.pt"))
    return Run(folder, config, rows, summary(rows, config), next((one for one in weights if one.is_file()), None))


def trained(row: Mapping[str, float]) -> dict[str, float]:
    """A row less what evaluation would have told."""
    return {name: value for name, value in row.items() if not name.startswith(("val/", "metrics/"))}


def summary(rows: Sequence[Mapping[str, float]], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run came to by its results.csv: mAP of the best epoch, epochs, time; empty without a row."""
    if not rows:
        return {}
    best = max(rows, key=score)
    every = config.get("epochs")
    return {
        **{name: best[column] for name, column in MAPS.items() if column in best},
        "epochs": len(rows) if len(rows) == every else f"{len(rows)} of {every}",
        "seed": config.get("seed"),
        "wall_seconds": seconds_of([row["time"] for row in rows if "time" in row]),
    }


def by_epoch(lines: Sequence[Mapping[str, float]]) -> dict[float, Mapping[str, float]]:
    """Rows by epoch: of one that was done again the later; none of an epoch that cannot follow, two lines in one."""
    rows: dict[float, Mapping[str, float]] = {}
    last = 0.0
    for number, row in enumerate(lines, 1):
        epoch = row.get("epoch", float(number))
        if epoch <= last + 1 or not rows:
            rows[epoch], last = row, epoch
    return rows


def score(row: Mapping[str, float]) -> float:
    """What ultralytics ranks epochs by, nearly: box and mask mAP; the least where one of them is no number."""
    total = sum(row.get(column, 0.0) for column in MAPS.values())
    return -math.inf if math.isnan(total) else total


def seconds_of(times: Sequence[float]) -> float:
    """Of a run, from the times since its begin at each epoch, which begin anew where it was resumed."""
    return sum(time for place, time in enumerate(times, 1) if place == len(times) or times[place] < time)


def panels_of(runs: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """Columns of results.csv by their panel: each term of the loss apart, of training and validation images."""
    seen = dict.fromkeys(column for run in runs for row in run.rows for column, value in row.items() if value)
    terms = [column.removeprefix("train/") for column in seen if column.startswith("train/")]
    panels: dict[str, tuple[str, ...]] = {term.replace("_", " "): (f"train/{term}", f"val/{term}") for term in terms}
    for kind, mark in (("box", "(B)"), ("mask", "(M)"), ("pose", "(P)")):
        panels[f"{kind} mAP"] = (f"metrics/mAP*{mark}",)
        panels[f"{kind} precision and recall"] = (f"metrics/precision{mark}", f"metrics/recall{mark}")
    panels |= {"accuracy": ("metrics/accuracy*",), "learning rate": ("lr/pg0",)}
    return {**panels, "attention entropy / log N, mean of the heads": ("attention/entropy",)}


class YoloReporter(DetectorReporter):
    """What the report of a YOLO shows: a detector's sections, over ultralytics' own curves."""

    kind = "YOLO"
    table, along = "results.csv", "epoch"
    heads = {  # noqa: RUF012
        "attention entropy / log N": ("attention/entropy/*",),
        "attention distance, cells": ("attention/distance/*",),
    }
    looked_at = "on a few images of each epoch's last batch of training"
    headlines = (
        Headline(
            "box mAP50-95",
            "Average precision of boxes, a mean over overlaps from 0.50 to 0.95, as ultralytics counted it in the best "
            "epoch; 1 is perfect.",
            of_summary("box_ap", MAPS["box_ap"]),
        ),
        Headline("mask mAP50-95", "The same by masks instead of boxes.", of_summary("mask_ap", MAPS["mask_ap"])),
        *DetectorReporter.headlines[2:],
    )

    def classes(self, checkpoint: Path) -> Sequence[str]:
        """Names of the classes."""
        return list(names_of(opened(checkpoint)).values())

    def analyse(self, record: Record, checkpoint: Path, *, device: torch.device, seconds: float | None) -> Diagnosis:
        """At most 256 validation images of the run's own data."""
        yolo = opened(checkpoint)
        if yolo.task not in TASKS:
            raise ValueError(
                f"{record.path} is a run of {yolo.task}: figures by class and examples are made of {', '.join(TASKS)}"
            )
        size = longest(record.config.get("imgsz"))
        options = {name: record.config[name] for name in ("iou", "max_det") if record.config.get(name)}
        options |= {"imgsz": size, "conf": LOWEST, "retina_masks": True, "device": str(device), "verbose": False}
        ids = {label: number for number, label in enumerate(names_of(yolo), 1)}

        def find(images: Sequence[Tensor], numbers: Sequence[int]) -> list[list[Result]]:
            given = (np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]) for image in images)
            with as_evaluated():
                found = [yolo.predict(pixels, **options)[0] for pixels in given]
            return [results_of(one, ids, image_id=number) for number, one in zip(numbers, found, strict=True)]

        def look(image: Tensor) -> tuple[Size, Size]:
            picture, resized, _ = padded(Image.fromarray(image.permute(1, 2, 0).numpy()), size)
            yolo.model.float()(batch_of(picture).to(device))
            return resized, (picture.shape[0], picture.shape[1])

        with TemporaryDirectory() as folder:
            data = validation_images(record, names_of(yolo), Path(folder), masks=yolo.task == "segment")
            return diagnosed(yolo.model.float().eval().to(device), look, data, find, seconds=seconds)


@contextmanager
def as_evaluated() -> Iterator[None]:
    """Predictions as ultralytics evaluates them: a box for each class that it may be, not for the likeliest alone."""
    stock = nms.non_max_suppression
    nms.non_max_suppression = partial(stock, multi_label=True)
    try:
        yield
    finally:
        nms.non_max_suppression = stock


def names_of(yolo: YOLO) -> dict[int, str]:
    """Classes by their numbers in labels."""
    return {number: str(yolo.names[number]) for number in sorted(yolo.names)}


def longest(imgsz: Any) -> int:
    """Px of the longer side."""
    return max(map(int, imgsz)) if isinstance(imgsz, list | tuple) else int(imgsz or 640)


def validation_images(record: Record, names: Mapping[int, str], folder: Path, *, masks: bool) -> CocoInstances:
    """The validation split of the data that a run was trained on.

    Args:
        record: the run.
        names: of its model's classes.
        folder: that keeps the labels as a COCO file, for as long as they are read.
        masks: whether objects need masks.

    Raises:
        FileNotFoundError, ValueError: data that are not there any more, or cannot be read.
    """
    given = str(record.config.get("data"))
    if "://" in given:
        raise ValueError(f"{record.path} was trained on {given}, which is not downloaded for a report")
    try:
        data = check_det_dataset(given, autodownload=False)
    except (SyntaxError, TypeError, FileNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the data of {record.path}, {given}, cannot be opened: {reason}") from error
    root = Path(data["path"])
    sources = data["val"] if isinstance(data["val"], list) else [data["val"]]
    write_json(folder / "val.json", read_yolo(map(Path, sources), names, root))
    return CocoInstances(folder / "val.json", root, on_bad="skip", masks=masks)


def results_of(found: Any, ids: Mapping[int, int], *, image_id: int) -> list[Result]:
    """What ultralytics has found in an image as COCO results, with masks where it has some."""
    masks: Iterable[Any] = [None] * len(found.boxes) if found.masks is None else found.masks.data.cpu().numpy()
    results = []
    for box, mask in zip(found.boxes, masks, strict=True):
        x1, y1, x2, y2 = box.xyxy[0].tolist()
        result: Result = {
            "image_id": image_id, "category_id": ids[int(box.cls)], "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(box.conf),
        }  # fmt: skip
        results.append(result if mask is None else {**result, "segmentation": encode(mask.astype(np.uint8))})
    return results
