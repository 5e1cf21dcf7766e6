"""Variants trained on scenes by one recipe and several seeds, beside the plain model: mAP with its spread."""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ultralytics

from botvision.files import read_json, whole_file, write_json, write_text
from botvision_yolo.model import YOLO
from botvision_yolo.trainer import entropies

TASKS = {"detect": ("", ("box",)), "segment": ("-seg", ("box", "mask"))}
LOOKS = (1, 90)  # steps after which the entropy of attention is measured, besides the last
RECIPE: dict[str, Any] = {  # the same for every model; what is not named is ultralytics' default
    "imgsz": 128,
    "batch": 16,
    "nbs": 16,  # a step a batch
    "optimizer": "AdamW",
    "lr0": 0.002,
    "momentum": 0.9,
    "warmup_epochs": 2.0,
    "close_mosaic": 4,
    "fliplr": 0.0,  # a mirrored digit is another sign
    "device": "cpu",
    "workers": 1,
    "plots": False,
    "verbose": False,
    "amp": False,
    "deterministic": True,
}


class Run(NamedTuple):
    """One training: what, how, and what it came to.

    Attributes:
        metrics: mAP50-95 by "box" and "mask", of the last weights, averaged over training as ultralytics does.
        seconds: of training, evaluation included.
        entropy: entropy / log N of each head of attention, by the steps trained.
    """

    task: str
    model: str
    seed: int
    metrics: dict[str, float]
    parameters: int
    seconds: float
    entropy: dict[str, list[float]] = {}  # noqa: RUF012


def compare(
    data: str | Path,
    *,
    models: str = "yolo11n,yolo11n-botnet,yolo11n-mhsa",
    tasks: str = "detect,segment",
    seeds: int = 3,
    epochs: int = 30,
    out: str | Path = "runs/yolo-compare",
) -> str:
    """Train each model on each task with each seed, from scratch, and tabulate.

    A run that is done is not repeated: call it again to go on after an interruption.

    Args:
        data: a data.yaml, e.g. of `bot-yolo scenes`.
        models: names of yamls without suffix, with commas; the first is what the others are compared with.
        tasks: detect, segment or both.
        seeds: how many, from 0.
        epochs: of every run.
        out: folder of the runs, of `summary.md`, `summary.json` and `summary.png`, and by task of `report.html` with
            the list of its runs.

    Raises:
        ValueError: an unknown task, or no seed.
        FileNotFoundError: no data.yaml.
    """
    out, names, kinds = Path(out), models.split(","), tasks.split(",")
    if unknown := [kind for kind in kinds if kind not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}; use {', '.join(TASKS)}")
    if seeds < 1 or epochs < 1:
        raise ValueError(f"seeds={seeds} and epochs={epochs} must be at least 1; e.g. 3 and 30")
    if not Path(data).is_file():
        raise FileNotFoundError(f"no data at {data}; make some: bot-yolo scenes data/yolo-scenes")
    runs = []
    grid = [(kind, seed, name) for kind in kinds for seed in range(seeds) for name in names]
    for number, (kind, seed, name) in enumerate(grid, 1):  # all models of a seed before the next, so a part is fair
        print(f"run {number} of {len(grid)}: {kind}, {name}, seed {seed}", flush=True)
        runs.append(one_run(kind, name, seed, data=Path(data).resolve(), epochs=epochs, out=out))
        write_summary(runs, out, epochs=epochs)
    for kind in kinds:
        write_report(out / kind, [[out / kind / name / f"seed{seed}" for seed in range(seeds)] for name in names])
    return f"{(out / 'summary.md').read_text(encoding='utf-8')}\n{out / 'summary.png'}"


def one_run(kind: str, name: str, seed: int, *, data: Path, epochs: int, out: Path) -> Run:
    """Train and evaluate one model; if that is done already, read how it went."""
    import time

    folder = out / kind / name / f"seed{seed}"
    result, recipe = folder / "result.json", {**RECIPE, "epochs": epochs, "data": str(data), "seed": seed}
    model = YOLO(yaml_of(name, kind))
    yaml = {key: value for key, value in model.model.yaml.items() if key != "yaml_file"}
    trained_by = {"recipe": recipe, "ultralytics": ultralytics.__version__, "yaml": json.loads(json.dumps(yaml))}
    if result.is_file():
        content = read_json(result, what="result")
        if other := [what for what, value in trained_by.items() if content.get(what, "(of an older version)") != value]:
            raise ValueError(f"{folder} was trained by another {', '.join(other)}; give another out, or remove it")
        return Run(**content["run"])
    looks: dict[str, list[float]] = {}
    for event in ("on_train_batch_end", "on_train_end"):
        model.add_callback(event, look_into(looks, last=event == "on_train_end"))
    start = time.monotonic()
    model.train(**recipe, project=str(folder.resolve()), name="train", exist_ok=True, val=False)
    last = YOLO(folder / "train" / "weights" / "last.pt")
    parameters = sum(p.numel() for p in last.model.parameters())  # older versions fuse the model that they score
    keys = ("imgsz", "batch", "device", "workers", "plots", "verbose", "data")
    # square, as trained: in rectangular batches ultralytics adds a cell to each side of a map
    options = {"rect": False, "project": str(folder.resolve()), "name": "val", "exist_ok": True}
    scored = last.val(**{key: recipe[key] for key in keys}, **options)
    found = {"box": scored.box.map, **({"mask": scored.seg.map} if kind == "segment" else {})}
    metrics = {metric: round(float(value), 5) for metric, value in found.items()}
    run = Run(kind, name, seed, metrics, parameters, round(time.monotonic() - start, 1), looks)
    write_json(result, {"run": run._asdict(), **trained_by}, indent=1)
    return run


def look_into(looks: dict[str, list[float]], *, last: bool) -> Callable[[Any], None]:
    """A callback of a trainer that notes the entropy of each head, after some steps or after the last."""
    step = 0

    def look(trainer: Any) -> None:
        nonlocal step
        step += 1
        if last:
            step = len(trainer.train_loader) * trainer.epochs
        if (last or step in LOOKS) and (heads := entropies(trainer)):
            looks[str(step)] = [round(head.entropy, 5) for head in heads]

    return look


def yaml_of(name: str, kind: str) -> str:
    """A model's yaml for a task: `yolo11n-botnet`, `segment` → `yolo11n-botnet-seg.yaml`."""
    return f"{name}{TASKS[kind][0]}.yaml"


def write_summary(runs: list[Run], out: Path, *, epochs: int) -> None:
    """The table, the numbers and the image of all runs so far."""
    write_text(out / "summary.md", summary(runs, epochs=epochs))
    content = {"recipe": {**RECIPE, "epochs": epochs}, "runs": [run._asdict() for run in runs]}
    write_json(out / "summary.json", content, indent=1)
    draw(runs, out / "summary.png")


def write_report(out: Path, models: list[list[Path]]) -> None:
    """`report.html` of a task's runs, the first model as the baseline; one of the same runs and newer than all stays.

    Whatever fails is a warning, since the runs are whole.
    """
    page, runs, shown = out / "report.html", [run for model in models for run in model], out / "report.json"
    asked = [str(run.relative_to(out)) for run in runs]
    latest = max((run / "result.json").stat().st_mtime for run in runs)
    is_new = page.is_file() and page.stat().st_mtime >= latest
    if is_new and shown.is_file() and read_json(shown, what="list of runs") == asked:
        return
    first, others = models[0], [run for model in models[1:] for run in model]
    against = ",".join(map(str, first)) if others else ""
    try:
        from botvision_yolo.report import report

        print(f"report: {report(*map(str, others or first), against=against, out=str(page))}", flush=True)
        write_json(shown, asked)
    except Exception as error:  # no report is worth a run
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"warning: {page} could not be made ({reason}); the runs are whole", file=sys.stderr)


def summary(runs: list[Run], *, epochs: int) -> str:
    """mAP50-95 by task and model: mean, spread and each seed, and the difference to the first model, seed by seed."""
    lines = ["| task | model | M parameters | metric | mean | each seed | Δ to the first, seed by seed | s a run |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (kind, metric, name), found in grouped(runs).items():
        first = grouped(runs)[kind, metric, runs[0].model]
        values = {run.seed: run.metrics[metric] for run in found}
        base = {run.seed: run.metrics[metric] for run in first}
        deltas = [values[seed] - base[seed] for seed in values if seed in base]
        change = "" if name == runs[0].model else f"{statistics.mean(deltas):+.3f} ({spread(deltas, sign='+')})"
        lines.append(
            f"| {kind} | {name} | {found[0].parameters / 1e6:.3f} | {metric} mAP50-95 | "
            f"{statistics.mean(values.values()):.3f} | {spread(list(values.values()))} | {change} | "
            f"{statistics.mean(run.seconds for run in found):.0f} |"
        )
    settings = ", ".join(f"{key}={value}" for key, value in RECIPE.items())
    told = f"From scratch, {epochs} epochs, {settings}. Scored on square images, rect=False."
    return "\n".join([*lines, *entropy_lines(runs), "", told, ""])


def entropy_lines(runs: list[Run]) -> list[str]:
    """Entropy / log N of attention by steps: each seed's mean over the heads, and the lowest and highest of all."""
    steps = sorted({int(step) for run in runs for step in run.entropy})
    if not steps:
        return []
    lines = ["", f"| task | model | {' | '.join(f'entropy / log N, step {step}' for step in steps)} |"]
    lines.append("|---|---|" + "---|" * len(steps))
    groups = {(run.task, run.model): [r for r in runs if (r.task, r.model) == (run.task, run.model)] for run in runs}
    for (kind, name), found in groups.items():
        cells = []
        for step in map(str, steps):
            heads = [run.entropy[step] for run in found if step in run.entropy]
            every = [value for values in heads for value in values]
            means = ", ".join(f"{statistics.mean(values):.4f}" for values in heads)
            cells.append(f"{means} (heads {min(every):.4f} to {max(every):.4f})" if every else "")
        if any(cells):
            lines.append(f"| {kind} | {name} | {' | '.join(cells)} |")
    return lines


def grouped(runs: list[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Runs by task, metric and model."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.task):
        for metric in run.metrics:
            groups.setdefault((run.task, metric, run.model), []).append(run)
    return groups


def spread(values: list[float], *, sign: str = "") -> str:
    """Each value, in the order of the seeds."""
    return ", ".join(f"{value:{sign}.3f}" for value in values)


def draw(runs: list[Run], path: Path) -> None:
    """Every run as a dot, a panel for each task and metric, the mean as a line."""
    from matplotlib.figure import Figure

    groups = grouped(runs)
    panels = list(dict.fromkeys((kind, metric) for kind, metric, _ in groups))
    models = list(dict.fromkeys(run.model for run in runs))
    figure = Figure(figsize=(1 + 2.6 * len(panels), 3.4), layout="constrained")
    for axes, (kind, metric) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, name in enumerate(models):
            values = [run.metrics[metric] for run in groups.get((kind, metric, name), [])]
            if values:
                axes.plot([place] * len(values), values, "o", alpha=0.6)
                axes.hlines(statistics.mean(values), place - 0.25, place + 0.25, color="black")
        axes.set_xticks(range(len(models)), models, rotation=20, ha="right", fontsize=8)
        axes.set_xlim(-0.5, len(models) - 0.5)
        axes.set_title(f"{kind}, {metric} mAP50-95", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
