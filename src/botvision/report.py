"""`report`: a run, or several beside a baseline, as one HTML file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botvision.engine.config import DeviceConfig

if TYPE_CHECKING:
    from botvision.engine.record import Record
    from botvision.engine.report import Written
    from botvision.engine.reporter import Reporter


def report(
    runs: tuple[Path, ...],
    *,
    against: tuple[Path, ...] = (),
    out: Path | None = None,
    engine: DeviceConfig = DeviceConfig(),
) -> "Written":
    """Write an HTML file on a run, or on several runs beside a baseline.

    It opens from disk and asks nothing of any server: numbers, curves, figures by class, errors, calibration, the worst
    and best images, attention, configuration. Runs that differ by their seed alone are one kind: means with their 95 %
    t-intervals, and differences to the baseline seed by seed. The models look at their validation images again, at most
    256 for a detector and 1,024 for a classifier.

    Args:
        runs: folders of runs of one task, e.g. runs/maskrcnn/demo.
        against: folders of the baseline's runs, e.g. the ResNet's.
        out: the HTML file; one that is there is replaced. None is report.html in the folder of a single run, and
            report.html here of several.
        engine: the device.

    Raises:
        FileNotFoundError, ValueError: no run there; runs of different tasks or classes; a run twice.
    """
    from botvision.engine.record import read_record
    from botvision.engine.report import place_of, write_report

    runs, against = ((paths,) if isinstance(paths, str | Path) else paths for paths in (runs, against))
    ours, others = ([read_record(Path(path)) for path in paths] for paths in (runs, against))
    if not ours:
        raise ValueError("report needs at least one run; give its folder, e.g. runs/maskrcnn/demo")
    reporter = reporter_of([*ours, *others])
    out = place_of(None if out is None else Path(out), [*ours, *others])
    return write_report(reporter, ours, out, against=others, device=engine.device)


def reporter_of(records: list["Record"]) -> "Reporter[Any]":
    """What reports runs of their task.

    Raises:
        ValueError: they are of different tasks, or of none of ours.
    """
    from botvision.classify.task import Classification
    from botvision.engine.reporter import CurvesAlone
    from botvision.maskrcnn.task import InstanceSegmentation

    tasks = {record.path: task_of(record) for record in records}
    (first, task), *rest = tasks.items()
    for path, other in rest:
        if other != task:
            raise ValueError(f"{first} is a run of {task} and {path} of {other}; report runs of one task")
    if task == "maskrcnn":
        from botvision.maskrcnn.report import DetectorReporter

        return DetectorReporter(InstanceSegmentation.panels)
    if task == "classify":
        from botvision.classify.report import ClassifierReporter

        return ClassifierReporter(Classification.panels)
    print(f"{first} is no run of maskrcnn or classify: its curves and options are shown", file=sys.stderr)
    return CurvesAlone({"loss": ("*loss",), "metrics": ("val/*",)})


def task_of(record: "Record") -> str:
    """The task of a run by its options."""
    model = record.config.get("model")
    options = model if isinstance(model, dict) else {}
    return "maskrcnn" if "backbone" in options else "classify" if "name" in options else "another task"
