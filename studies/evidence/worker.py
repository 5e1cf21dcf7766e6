"""One run in a process of its own: `python -m studies.evidence.worker TASK.json`; its result as JSON."""

import csv
import statistics
import sys
import traceback
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from botvision.backbone import VARIANTS, create_model
from botvision.backbone.counts import Counts, count
from botvision.cli import first_cause, quiet_libraries
from botvision.files import read_json, write_json
from botvision.maskrcnn import evaluate, train
from botvision.maskrcnn.checkpoint import build_model, carry_over
from botvision.maskrcnn.config import ModelConfig
from botvision.maskrcnn.resize import image_size, padded
from botvision.scenes.world import CATEGORIES, RELATION
from studies.evidence.split import distance, in_parts, part, side, steps, thirds
from studies.grid import build_configs


def main(task: Path) -> None:
    """Carry out a run as its task file says; `result` or `error` goes to the file that it names."""
    told = read_json(task, what="task of a run")
    try:
        said: dict[str, Any] = {"result": carry_out(told["settings"], Path(told["scenes"]), Path(told["folder"]))}
    except Exception as error:
        traceback.print_exc()
        said = {"error": first_cause(error)}
    write_json(Path(told["outcome"]), said)


def carry_out(settings: dict[str, Any], scenes: Path, folder: Path) -> dict[str, Any]:
    """Train and evaluate; what was begun is gone on with.

    Args:
        settings: of the run (`Run.settings`).
        scenes: folder of the scenes, which are there.
        folder: of the training; that of a first stage stands beside it.

    Returns:
        What was measured, as the run's JSON holds it.

    Raises:
        FileNotFoundError, ValueError: what `train` and `evaluate` refuse.
    """
    seconds, carried, before = 0.0, {}, None
    for stage, out in zip(settings["stages"], stage_folders(folder, len(settings["stages"])), strict=True):
        configs = build_configs(settings, stage, scenes, what=f"settings of {folder.name}, train")
        if before is not None:
            fresh = build_model(configs.model, len(CATEGORIES[settings["scenes"].get("task", "plain")]))
            carried = {"carried": str(carry_over(fresh, before))}
        summary = train(**configs._asdict(), out=out, init_from=before, on_existing="resume")
        seconds += summary.wall_seconds
        before = out / "checkpoints" / "last.ckpt"
    last = folder / "checkpoints" / "last.ckpt"
    evaluate(last, *configs.data.validation_files, out=folder / "evaluation", workers=0)
    found = read_json(folder / "evaluation" / "results.json", what="results")
    truth, learnt = (
        read_json(path, what="annotations") for path, _ in (configs.data.validation_files, configs.data.training_files)
    )
    size = counts(configs.model)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "parameters": size.parameters,
        "madds": size.madds,
        "seconds": round(seconds, 1),
        **carried,
        "drawn": drawn(learnt, settings["scenes"]),
        **parts(truth, found, settings["scenes"]),
        **history(metrics(folder)),
    }


def stage_folders(folder: Path, stages: int) -> list[Path]:
    """Of the trainings of a run, the last one's last."""
    return [*[folder.with_name(f"{folder.name}_first")] * (stages - 1), folder]


def metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of a training's metrics.csv, empty while there is none."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def history(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Milliseconds of a step, and the curves, from the rows of a training's metrics.csv."""
    learnt = [row for row in rows if row.get("train/loss")]
    evaluated = [row for row in rows if row.get("val/box_ap")]
    spent = [
        (float(b["seconds"]) - float(a["seconds"])) / (int(b["step"]) - int(a["step"])) for a, b in pairwise(learnt)
    ]
    return {
        "step_ms": typical(spent),
        "loss": [[int(row["step"]), round(float(row["train/loss"]), 4)] for row in learnt],
        "ap": [
            [int(row["step"]), round(float(row["val/box_ap"]), 4), round(float(row["val/mask_ap"]), 4)]
            for row in evaluated
        ],
    }


def typical(spent: list[float]) -> float | None:
    """Mean in ms without what took twice the median: evaluating and saving lie between some rows."""
    if not spent:
        return None
    middle = statistics.median(spent)
    return round(1e3 * statistics.fmean(seconds for seconds in spent if seconds <= 2 * middle), 1) or None


def parts(document: dict[str, Any], found: list[dict[str, Any]], scenes: dict[str, Any]) -> dict[str, Any]:
    """AP over all objects whose class is in question, of the key alone, by distance and by size."""
    task = scenes.get("task", "plain")
    classes = RELATION.get(task, tuple(CATEGORIES[task]))
    ids = {c["id"] for c in document["categories"] if c["name"] in classes}
    own = [a for a in document["annotations"] if a["category_id"] in ids]
    evaluated: dict[str, Any] = {"whole": part(document, found, classes)._asdict()}
    control = [name for name in CATEGORIES[task] if name not in classes]
    if control:
        evaluated["control"] = part(document, found, control)._asdict()
    if task in RELATION:
        low, high = document["info"]["world"]["distance"]
        edges = steps(scenes["size"] * low, scenes["size"] * high)
        evaluated["by_distance"] = [p._asdict() for p in in_parts(document, found, classes, edges, distance)]
    edges = thirds([side(annotation) for annotation in own])
    evaluated["by_size"] = [p._asdict() for p in in_parts(document, found, classes, edges, side)]
    return evaluated


def counts(model: ModelConfig) -> Counts:
    """Parameters and multiply-adds of the backbone at the image size, without classifier, pyramid and heads."""
    px = padded(image_size(model.img_size).longest)
    options = dict(model.backbone_options or {}) | ({"img_size": px} if model.backbone in VARIANTS else {})
    with torch.device("meta"):
        backbone = create_model(model.backbone, num_classes=0, **options)
    return count(backbone, (px, px))


def drawn(document: dict[str, Any], scenes: dict[str, Any]) -> dict[str, Any]:
    """What the training scenes are: objects of each class, and the first class's share by fifths of the x range.

    A world whose classes need a partner should have a half in every fifth.
    """
    task = scenes.get("task", "plain")
    names = {c["id"]: c["name"] for c in document["categories"]}
    counts = dict.fromkeys(names.values(), 0)
    for annotation in document["annotations"]:
        counts[names[annotation["category_id"]]] += 1
    if task not in RELATION:
        return {"objects": counts}
    own = [a for a in document["annotations"] if names[a["category_id"]] in RELATION[task]]
    middles = np.array([a["bbox"][0] + a["bbox"][2] / 2 for a in own])
    is_first = np.array([names[a["category_id"]] == RELATION[task][0] for a in own])
    fifths = np.array_split(np.argsort(middles, kind="stable"), 5)
    shares = [round(float(is_first[fifth].mean()), 3) for fifth in fifths if len(fifth)]
    distances = [float(d) for d in np.quantile([distance(a) for a in own], [0, 0.5, 1])]
    return {"objects": counts, "first_by_x": shares, "distances": distances}


if __name__ == "__main__":
    quiet_libraries()
    main(Path(sys.argv[1]))
