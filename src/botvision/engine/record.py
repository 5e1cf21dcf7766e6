"""What a run's folder says: options, metrics, summary, checkpoint; of a killed one too."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botvision.engine.settings import read_yaml
from botvision.files import read_json, read_text

LEFT_OUT = {"workers", "seed"}  # options that make no other kind of run
COMPUTES = ("precision", "devices", "num_nodes")  # those of the engine's that change what is computed


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        config: of config.yaml.
        rows: of metrics.csv, what each has; empty where nothing was evaluated or logged yet.
        summary: of summary.json; empty where the run has not ended.
        checkpoint: whose weights it reports; none where it saved none.
    """

    path: Path
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, float], ...]
    summary: Mapping[str, Any]
    checkpoint: Path | None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.resolve().name

    @property
    def seed(self) -> int:
        """That it was begun with."""
        return int(self.config.get("engine", {}).get("seed", 0))

    @property
    def model(self) -> str:
        """Name of the backbone or model; empty for a task that has none."""
        options = self.config.get("model")
        options = options if isinstance(options, dict) else {}
        return str(options.get("backbone", options.get("name", "")))

    @property
    def kind(self) -> str:
        """What runs that differ by their seed alone have in common."""
        options = {name: group for name, group in self.config.items() if name not in ("engine", "out")}
        groups = (self.config.get(name) for name in ("engine", "optim"))
        engine, optim = (group if isinstance(group, dict) else {} for group in groups)
        options["engine"] = {name: engine.get(name) for name in COMPUTES}
        if optim.get("patience") is not None or optim.get("final") == "best":  # what is chosen among the evaluations
            options["engine"]["evaluate_every"] = engine.get("evaluate_every")
        return json.dumps(kept(options, own=f"/{self.name}/annotations/"), sort_keys=True)

    def points(self, column: str, *, along: str) -> list[tuple[float, float]]:
        """A column of metrics.csv over another, where both are."""
        return [(row[along], row[column]) for row in self.rows if column in row and along in row]

    def last(self, column: str) -> float | None:
        """The last value of a column of metrics.csv; none where it has none."""
        return next((row[column] for row in reversed(self.rows) if column in row), None)


def kept(options: Any, *, own: str) -> Any:
    """Options less those that make no other kind of run; labels that lie in the run's own folder have no name."""
    if isinstance(options, dict):
        return {name: kept(value, own=own) for name, value in options.items() if name not in LEFT_OUT}
    return own[-1] if isinstance(options, str) and own in f"/{options}" else options


def read_record(path: Path) -> Record:
    """A run's folder.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: files that are not what a run has written.
    """
    config_path = path / "config.yaml"
    if not config_path.is_file():
        found = "holds no config.yaml" if path.is_dir() else "is no folder"
        if (path / "args.yaml").is_file():
            found, other = "is a run of ultralytics", f"bot-yolo report {path} (of botvision-yolo) reports it"
            raise FileNotFoundError(f"{path} {found}; {other}")
        raise FileNotFoundError(f"{path} {found}; give the folder of a run, e.g. runs/maskrcnn/demo")
    config = read_yaml(config_path, what="settings")
    if not isinstance(config, dict) or not isinstance(config.get("engine", {}), dict):
        raise ValueError(f"{config_path} is no run's: it holds no options; give the folder that a training has written")
    summary_path = path / "summary.json"
    summary = read_json(summary_path, what="summary") if summary_path.is_file() else {}
    if not isinstance(summary, dict):
        raise ValueError(f"{summary_path} is no run's summary: it holds no dictionary; remove it")
    return Record(path, config, read_rows(path / "metrics.csv"), summary, checkpoint_of(path, summary, config))


def read_rows(path: Path) -> tuple[dict[str, float], ...]:
    """Rows of metrics.csv; none where there is no such file. A line that a killed run has not ended is no row.

    Raises:
        ValueError: text where numbers should be.
    """
    if not path.is_file():
        return ()
    try:
        text = read_text(path)
        whole = text[: text.rfind("\n") + 1].splitlines()
        table = [row for row in csv.DictReader(whole) if None not in row]  # two lines in one, of a run that was resumed
        return tuple({name: float(value) for name, value in row.items() if name and value} for row in table)
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of numbers: {error}; remove it, or give another run") from error


def checkpoint_of(path: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Path | None:
    """The file that the summary names, in the run's folder as it is now; otherwise what there is."""
    optim = config.get("optim")
    final = optim.get("final", "last") if isinstance(optim, dict) else "last"
    names = [Path(str(summary.get("checkpoint", ""))).name, f"{final}.ckpt", "best.ckpt", "last.ckpt", "previous.ckpt"]
    files = (path / "checkpoints" / name for name in names if name)
    return next((file for file in files if file.is_file()), None)
