"""The folder of a run: what is in it, whether it may be written into, how to resume it."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from botvision.engine.config import EngineConfig, OnExisting
from botvision.engine.settings import completed, plain, read_yaml
from botvision.files import check_no_file, check_writable, clear_leftovers

NO_RUN = (OSError, ValueError, KeyError, TypeError)  # of a checkpoint without its run
LOCK = ".lock"  # of a run's folder, held while it is written into


def run_files(out: Path) -> list[Path]:
    """What an earlier run has left."""
    names = ("config.yaml", "metrics.csv", "curves.png", "confusion.png", "samples.jpg", "summary.json",
             "report.html")  # fmt: skip
    files = [out / name for name in names]
    for folder, pattern in (
        ("checkpoints", "*.ckpt"),
        ("checkpoints", "*.ckpt.torn"),
        ("predictions", "*.jpg"),
        ("tensorboard", "events*"),
    ):
        files += (out / folder).glob(pattern)
    return [path for path in files if path.is_file()]


def warn_of_training_images(checkpoint: Path, given: str | Path, *, field: str, unless: str) -> None:
    """Say on stderr that a checkpoint is to be evaluated on what its run was trained on, where that is known.

    Args:
        checkpoint: in the folder of its run.
        given: what it is evaluated on.
        field: of the run's data, which names what it was trained on.
        unless: field of the run's data whose absence means that a part of the same images was kept to evaluate on.
    """
    try:
        data = data_of_run(checkpoint)
        trained, kept = data[field], data[unless] is None
    except NO_RUN:
        return
    if trained is not None and Path(trained).resolve() == Path(given).resolve():
        most = "most of these images" if kept else "these images"
        print(f"warning: {checkpoint} was trained on {most}: the figures say nothing of others", file=sys.stderr)


def data_of_run(checkpoint: Path) -> Any:
    """The data options of the run in whose folder a checkpoint lies; errors of `NO_RUN` where there is none."""
    return read_yaml(checkpoint.parent.parent / "config.yaml", what="settings")["data"]


def resume_command(task: str, out: Path) -> str:
    """What to type to go on with a run."""
    return f"botvision {task} train {resume_flags(out)}"


def resume_flags(out: Path) -> str:
    """The flags of a command that goes on with a run."""
    config, folder = (shlex.quote(str(path)) for path in (out / "config.yaml", out))
    return f"--config {config} --out {folder} --on_existing resume"


def clear(out: Path) -> None:
    """Remove an earlier run, and nothing else; annotations stay, which a run may be reading."""
    for path in run_files(out):
        path.unlink()


def clear_unfinished(out: Path) -> None:
    """Remove what a killed run was writing."""
    for folder in (out, out / "annotations", out / "checkpoints", out / "predictions"):
        clear_leftovers(folder, stale=0)


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep a run's folder to this process while it writes there; a process that dies lets it go.

    Raises:
        ValueError: another process has it.
    """
    # younger versions make a marker file where there are no locks, which a killed process would leave for ever
    hard: dict[str, Any] = (
        {"fallback_to_soft": False} if "fallback_to_soft" in signature(FileLock.__init__).parameters else {}
    )
    lock = FileLock(out / LOCK, **hard)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is writing into {out}; let it end, or stop it, or give another --out (it holds "
            f"{out / LOCK})"
        ) from None
    except (OSError, NotImplementedError):  # a file system that has no locks
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # where an open file cannot be removed it stays
            (out / LOCK).unlink()
        lock.release()


def check_folder(
    out: Path,
    on_existing: OnExisting,
    config: Mapping[str, Any],
    *,
    fixed: Mapping[str, Any],
    seed_splits: bool = False,
) -> None:
    """Refuse an `out` that holds a run, or one to resume that was begun with other settings of the `fixed` groups.

    Args:
        out: folder of the run.
        on_existing: what is to be done with a run that is there.
        config: of this run, as YAML holds it.
        fixed: the groups that must not change, as dataclasses; what an older run lacks reads as their defaults.
        seed_splits: whether the seed must not change either: it says which images are kept to evaluate on.
    """
    check_no_file(out)
    check_writable(out)
    if not run_files(out):
        return
    if on_existing == "refuse":
        raise ValueError(
            f"{out} holds a run already; add --on_existing resume to go on with it, --on_existing replace to start "
            "anew, or give another --out"
        )
    if on_existing == "resume" and (out / "config.yaml").is_file():
        old = read_yaml(out / "config.yaml", what="settings")
        if not isinstance(old, dict):
            raise ValueError(
                f"{out / 'config.yaml'} holds no settings of a run; begin anew with --on_existing replace, or put a "
                "copy back"
            )
        data = old["data"] = moved(old.get("data"), out)
        if isinstance(data, dict) and "workers" in data:
            data["workers"] = config["data"]["workers"]  # as many as the machine has
        engine = old.get("engine")
        seed = engine.get("seed") if isinstance(engine, dict) else None
        if seed_splits and seed not in (None, config["engine"]["seed"]):
            raise ValueError(
                f"engine.seed={config['engine']['seed']}: {out} was begun with {seed}, which has chosen the images "
                f"that it is evaluated on; give --engine.seed {seed}"
            )
        changed = [key for key, group in fixed.items() if completed(old.get(key), group) != config[key]]
        if changed:
            raise ValueError(
                f"{out} was begun with other settings of {', '.join(changed)}; resume it with {resume_flags(out)}, or "
                "give another --out"
            )


def moved(data: Any, out: Path) -> Any:
    """Data options whose labels lie in the run's folder, as it is now: it may have been moved."""
    if not isinstance(data, dict):
        return data
    return {name: moved_file(value, out) for name, value in data.items()}


def moved_file(value: Any, out: Path) -> Any:
    """Of a file that is gone, the one of its name among the run's labels; anything else as it is."""
    if not isinstance(value, str | Path) or not str(value).endswith(".json") or Path(value).is_file():
        return value
    here = out / "annotations" / Path(value).name
    if not here.is_file():
        return value
    return str(here) if isinstance(value, str) else here


def plain_config(engine: EngineConfig, **parts: Any) -> dict[str, Any]:
    """Everything that a run was given, as YAML holds it; `--config` reads it back."""
    return {name: plain(part) for name, part in {**parts, "engine": replace(engine, stop_after=None)}.items()}


def peak_memory_mb() -> float:
    """Largest memory that this process has held, in MiB; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
