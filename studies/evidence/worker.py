"""One run of a grid: scenes, training in a process of its own, score; its result as JSON."""

import csv
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from botvision.backbone import VARIANTS, create_model
from botvision.backbone.counts import Counts, count
from botvision.bench.evidence.grid import Run, Variant
from botvision.bench.evidence.split import distance, in_parts, part, side, steps, thirds
from botvision.files import read_json, write_json, write_text
from botvision.maskrcnn.canvas import canvas_rule, padded
from botvision.scenes import make_scenes
from botvision.scenes.world import CATEGORIES, RELATION

LOOK = 1.0  # seconds between looks at how far a training is
DRAWING = threading.Lock()  # runs of a seed share their scenes
Say = Callable[[str], None]


def result_of(run: Run, results: Path) -> dict[str, Any] | None:
    """A run's result where it is there.

    Raises:
        ValueError: a file of that name which other settings gave.
    """
    path = results / f"{run.name}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path, what="result of a run")
    if found.get("settings") != run.settings:
        raise ValueError(f"{path} comes from other settings than grid {run.grid.name}; give another --results")
    return found


def carry_out(run: Run, out: Path, results: Path, *, threads: int, shared: int, say: Say) -> None:
    """Train, score and file one run; what was begun is gone on with.

    Args:
        run: which.
        out: folder for scenes and trainings.
        results: folder for its JSON.
        threads: of torch on the CPU.
        shared: runs that the machine carries out at a time, for the record.
        say: told what is being done.

    Raises:
        ValueError: a training that failed, with its last word and the place of the others.
    """
    scenes = out / "scenes" / f"{run.world}_seed{run.seed}"
    say("scenes")
    with DRAWING:
        make_scenes(scenes, **as_pairs(run.scenes))
    folder, carried, seconds = out / "runs" / run.name, "", 0.0
    before: Path | None = None
    for number, (variant, epochs) in enumerate(run.stages, 1):
        stage = folder if number == len(run.stages) else folder.with_name(f"{folder.name}_first")
        config = write_config(run, variant, epochs, scenes=scenes, out=stage, init_from=before)
        log = verb(
            ["train", "--config", str(config)],
            stage.with_suffix(".log"),
            threads=threads,
            look=lambda stage=stage, epochs=epochs: say(f"{progress(stage)} of {epochs} epochs"),  # type: ignore[misc]
        )
        carried = next(iter(re.findall(r"^detector: (.*)$", log, re.MULTILINE)), carried)
        seconds += read_json(stage / "summary.json", what="summary of a run")["wall_seconds"]
        before = stage / "checkpoints" / "last.ckpt"
    truth = scenes / "annotations" / "val.json"
    given = [str(before), str(truth), str(scenes / "val"), "--out", str(folder / "score"), "--workers", "0"]
    verb(["score", *given], folder.with_suffix(".log"), threads=threads, look=lambda: say("score"))
    found = read_json(folder / "score" / "results.json", what="results")
    size = counts(run)
    content = {
        "grid": run.grid.name,
        "world": run.world,
        "variant": run.variant,
        "seed": run.seed,
        "settings": run.settings,
        "hardware": hardware(shared),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "parameters": size.parameters,
        "madds": size.madds,
        "seconds": round(seconds, 1),
        **({"carried": carried} if carried else {}),
        "drawn": drawn(read_json(scenes / "annotations" / "train.json", what="annotations"), run.scenes),
        **parts(read_json(truth, what="annotations"), found, run.scenes),
        **history(folder),
    }
    write_json(results / f"{run.name}.json", content)


def as_pairs(options: dict[str, Any]) -> dict[str, Any]:
    """YAML's lists as the pairs that `make_scenes` takes."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def write_config(run: Run, variant: Variant, epochs: int, *, scenes: Path, out: Path, init_from: Path | None) -> Path:
    """What `botvision maskrcnn train` is told, as a YAML file beside the folder of the training."""
    settings = {part: dict(options) for part, options in run.train.items()}
    data = settings.setdefault("data", {})
    for split in ("train", "val"):
        data |= {f"{split}_annotations": str(scenes / "annotations" / f"{split}.json")}
        data |= {f"{split}_images": str(scenes / split)}
    settings.setdefault("model", {}).update(backbone=variant.backbone, backbone_options=variant.options or None)
    settings["optim"]["epochs"] = epochs
    settings.setdefault("engine", {}).update(seed=run.seed, progress=False)
    given = {"out": str(out), "on_existing": "resume", **settings}
    if init_from is not None:
        given["init_from"] = str(init_from)
    path = out.with_suffix(".yaml")
    write_text(path, yaml.safe_dump(given, sort_keys=False))
    return path


def verb(arguments: Sequence[str], log: Path, *, threads: int, look: Callable[[], None]) -> str:
    """A verb of `botvision maskrcnn` in a process of its own; all that it has said so far.

    Raises:
        ValueError: it failed; its last line.
    """
    command = [sys.executable, "-W", "ignore", "-m", "botvision.cli", "maskrcnn", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (
        log.open("a", encoding="utf-8") as written,
        subprocess.Popen(command, stdout=written, stderr=written, env=environment) as doing,
    ):
        try:
            while doing.poll() is None:
                look()
                time.sleep(LOOK)
        finally:
            doing.terminate()  # nothing to end unless we are interrupted
    said = log.read_text(encoding="utf-8")
    if doing.returncode:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"{log.stem}: {last.removeprefix('botvision: ')} (all that it said: {log})")
    return said


def progress(out: Path) -> str:
    """Epochs that a training has behind it."""
    rows = metrics(out)
    return rows[-1]["epoch"] if rows else "0"


def metrics(out: Path) -> list[dict[str, str]]:
    """Rows of a training's metrics.csv, empty while there is none."""
    path = out / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def history(folder: Path) -> dict[str, Any]:
    """Milliseconds of a step, and the curves, from a training's own rows."""
    rows = metrics(folder)
    learnt = [row for row in rows if row.get("train/loss")]
    scored = [row for row in rows if row.get("val/box_ap")]
    spent = [
        (float(b["seconds"]) - float(a["seconds"])) / (int(b["step"]) - int(a["step"])) for a, b in pairwise(learnt)
    ]
    return {
        "step_ms": typical(spent),
        "loss": [[int(row["step"]), round(float(row["train/loss"]), 4)] for row in learnt],
        "ap": [
            [int(row["step"]), round(float(row["val/box_ap"]), 4), round(float(row["val/mask_ap"]), 4)]
            for row in scored
        ],
    }


def typical(spent: list[float]) -> float | None:
    """Mean in ms without what took twice the median: scoring and saving lie between some rows."""
    if not spent:
        return None
    middle = statistics.median(spent)
    return round(1e3 * statistics.fmean(seconds for seconds in spent if seconds <= 2 * middle), 1) or None


def parts(document: dict[str, Any], found: list[dict[str, Any]], scenes: dict[str, Any]) -> dict[str, Any]:
    """Scores over all objects whose class is in question, of the key alone, by distance and by size."""
    task = scenes.get("task", "plain")
    classes = RELATION.get(task, tuple(CATEGORIES[task]))
    ids = {c["id"] for c in document["categories"] if c["name"] in classes}
    own = [a for a in document["annotations"] if a["category_id"] in ids]
    scored: dict[str, Any] = {"whole": part(document, found, classes)._asdict()}
    control = [name for name in CATEGORIES[task] if name not in classes]
    if control:
        scored["control"] = part(document, found, control)._asdict()
    if task in RELATION:
        low, high = document["info"]["world"]["distance"]
        edges = steps(scenes["size"] * low, scenes["size"] * high)
        scored["by_distance"] = [p._asdict() for p in in_parts(document, found, classes, edges, distance)]
    edges = thirds([side(annotation) for annotation in own])
    scored["by_size"] = [p._asdict() for p in in_parts(document, found, classes, edges, side)]
    return scored


def counts(run: Run) -> Counts:
    """Parameters and multiply-adds of the backbone on the canvas, without classifier, pyramid and heads."""
    variant, _ = run.stages[-1]
    px = padded(canvas_rule(run.train["model"]["canvas"]).longest)
    options = dict(variant.options) | ({"img_size": px} if variant.backbone in VARIANTS else {})
    with torch.device("meta"):
        model = create_model(variant.backbone, num_classes=0, **options)
    return count(model, (px, px))


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


def hardware(shared: int = 1) -> str:
    """What it runs on."""
    where = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    together = f", {shared} runs at a time" if shared > 1 else ""
    return f"{where}{together}, torch {torch.__version__.partition('+')[0]}"
