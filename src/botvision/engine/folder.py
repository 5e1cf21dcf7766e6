"""A run's folder: what is in it, whether it may be written into, and the settings that re-run it."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from botvision.engine.trainer import EngineConfig

OnExisting = Literal["refuse", "resume", "replace"]


def run_files(out: Path) -> list[Path]:
    """What an earlier run has left."""
    names = ("config.yaml", "metrics.csv", "curves.png", "confusion.png", "summary.json")
    files = [out / name for name in names]
    for folder, pattern in (("checkpoints", "*.ckpt"), ("predictions", "*.jpg"), ("tensorboard", "events*")):
        files += (out / folder).glob(pattern)
    return [path for path in files if path.is_file()]


def clear(out: Path) -> None:
    """Remove an earlier run, and nothing else."""
    for path in run_files(out):
        path.unlink()


def check_place(out: Path, on_existing: OnExisting, config: Mapping[str, Any], *, fixed: Iterable[str]) -> None:
    """Refuse an `out` that holds a run, or one to resume that was begun with other settings of the `fixed` groups."""
    if not run_files(out):
        return
    if on_existing == "refuse":
        raise ValueError(
            f"{out} holds a run already; add --on_existing resume to go on with it, --on_existing replace to start "
            "anew, or give another --out"
        )
    if on_existing == "resume" and (out / "config.yaml").is_file():
        old = yaml.safe_load((out / "config.yaml").read_text())
        old["data"]["workers"] = config["data"]["workers"]  # as many as the machine has
        changed = [key for key in fixed if old.get(key) != config[key]]
        if changed:
            raise ValueError(
                f"{out} was begun with other settings of {', '.join(changed)}; resume it with "
                f"--config {out / 'config.yaml'} --out {out} --on_existing resume, or give another --out"
            )


def plain_config(engine: EngineConfig, **parts: Any) -> dict[str, Any]:
    """Everything that a run was given, as YAML holds it; `--config` reads it back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    given = {**parts, "engine": replace(engine, stop_after=None)}
    return {
        name: plain(asdict(cast("Any", part)) if hasattr(part, "__dataclass_fields__") else part)
        for name, part in given.items()
    }


def peak_memory_mb() -> float:
    """Largest memory that this process has held, in MiB; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
