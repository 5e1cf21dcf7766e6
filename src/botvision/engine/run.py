"""`run`: a training run of any task: folder, seed, checkpoint, fit, examples, summary, report."""

import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm
from torch import nn

from botvision.engine.attention import PANELS
from botvision.engine.checkpoint import newest_whole, put_back, read_checkpoint
from botvision.engine.config import EngineConfig, OnExisting, check_counts, hardware
from botvision.engine.doubts import flat_loss, nothing_found
from botvision.engine.fit import fit
from botvision.engine.folder import (
    check_folder,
    claimed,
    clear,
    clear_unfinished,
    peak_memory_mb,
    plain_config,
    resume_command,
)
from botvision.engine.history import History
from botvision.engine.loader import RULE, SEEDING, EpochPosition, ResumableLoader, Share, resume_position
from botvision.engine.module import TaskModule
from botvision.engine.record import read_record
from botvision.engine.report import report_after
from botvision.engine.reporter import CurvesAlone, Reporter
from botvision.engine.settings import plain
from botvision.engine.stopping import stoppable
from botvision.engine.trainer import (
    FitOptions,
    build_trainer,
    check_launch,
    is_multi_gpu,
)
from botvision.files import key_of, write_json, write_text

INEXACT = "; it is an older version's, which drew its random numbers otherwise: not the uninterrupted run to the bit"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run ended, whatever its task; also in `summary.json`.

    Attributes:
        wall_seconds: of all sessions of the run, evaluation and drawing included.
        peak_memory_mb: of the main process; of the GPU too in gpu_memory_mb, where there is one.
        hardware: that it ran on.
        checkpoint: whose weights the metrics are of.
        unreadable: different images that the processes of the last session skipped.
    """

    task: ClassVar[str] = ""  # whose `predict` command comes next
    wall_seconds: float
    peak_memory_mb: float
    gpu_memory_mb: float
    hardware: str
    seed: int
    model: str
    epochs: int
    out: Path
    checkpoint: Path
    unreadable: int = 0

    @property
    def headline(self) -> str:
        """Its metrics in a few words."""
        raise NotImplementedError

    def __str__(self) -> str:
        ending = f"after {self.epochs} epochs ({self.wall_seconds / 60:.1f} min); images at {self.out / 'predictions'}"
        if self.unreadable:
            ending += f"; {self.unreadable} unreadable image{'s' * (self.unreadable > 1)} left out"
        checkpoint = shlex.quote(str(self.checkpoint))
        following = f"\nnext: botvision {self.task} predict {checkpoint} YOUR_IMAGE" if self.task else ""
        return f"{self.headline} {ending}{following}"


Summary = TypeVar("Summary", bound=RunSummary)
Model = TypeVar("Model", bound=nn.Module)


class Session(NamedTuple):
    """What a task builds its data and its module for.

    Attributes:
        engine: as the run was given it.
        share: this process's part of the training data; `share.validation()` is that of the validation data.
        synchronise: whether BatchNorm has other GPUs to be synchronised with.
        resumes: whether the weights come from the run's own checkpoint.
    """

    engine: EngineConfig
    share: Share
    synchronise: bool
    resumes: bool

    def prepared(self, model: Model, compiled: nn.Module | None = None) -> Model:
        """The model as the engine wants it: norms synchronised, memory order, `compiled` or all of it compiled."""
        if self.synchronise:  # timm's own: torch's would take the activation out of timm's joint norms
            model = convert_sync_batchnorm(model)
        if self.engine.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.engine.compile:
            (model if compiled is None else compiled).compile()
        return model


class Parts(NamedTuple):
    """What a task trains with: its module, and the loaders for training and validation."""

    module: TaskModule
    train: ResumableLoader
    val: ResumableLoader


class Task(ABC, Generic[Summary]):
    """What a run is of: a frozen dataclass of its options, which brings data, module, evaluation and drawing.

    Its fields are the options that config.yaml keeps. A checkpoint of its module says under `KEY` which task it is of.

    Attributes:
        name: of the command and of its checkpoints, e.g. "maskrcnn".
        panels: of curves.png: metrics by the title of their panel.
        metric: validation metric that every evaluation gives, e.g. "val/top1".
        fixed: those of its fields that must not change when a run is resumed.
    """

    name: ClassVar[str]
    panels: ClassVar[Mapping[str, Sequence[str]]]
    metric: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]] = ("data", "model", "optim")

    @property
    def seed_splits(self) -> bool:
        """Whether the seed says which images are kept to evaluate on, anew in each session."""
        return False

    @property
    @abstractmethod
    def fitting(self) -> FitOptions:
        """What the Trainer needs to know of how the task is optimised."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Training images a step and a device."""

    def settled(self, out: Path, engine: EngineConfig) -> "Settled":
        """The task with all that is automatic decided, and files for `out` that it then reads."""
        return Settled(self)

    def introduce(self, parts: Parts, out: Path) -> None:
        """Say what was read, and draw what is trained on; nothing, unless a task does."""

    @abstractmethod
    def check(self, engine: EngineConfig) -> None:
        """Refuse options that do not fit, before anything is read."""

    @abstractmethod
    def build(self, session: Session) -> Parts:
        """Data, model and module."""

    @abstractmethod
    def draw(self, checkpoint: Path, parts: Parts, out: Path, *, device: torch.device) -> None:
        """Images of what the trained model says, from its own checkpoint."""

    @abstractmethod
    def summarise(self, metrics: Mapping[str, float], parts: Parts, **common: Any) -> Summary:
        """Its summary: metrics of the weights that it ends with, and the fields of `RunSummary`."""

    @property
    def reporter(self) -> Reporter[Any]:
        """What its report shows besides curves and configuration; nothing, unless a task does."""
        return CurvesAlone(self.panels)

    def options(self) -> dict[str, Any]:
        """Its fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


class Settled(NamedTuple):
    """A task that names every number.

    Attributes:
        task: the task.
        files: JSON files of `out` that it reads, and their content.
    """

    task: Task[Any]
    files: Mapping[Path, Any] = {}


def run(task: Task[Summary], out: Path, *, engine: EngineConfig, on_existing: OnExisting) -> Summary:
    """Train, evaluate, draw; a folder says how it went.

    Writes to `out`: config.yaml (re-runs it), metrics.csv, curves.png, checkpoints/last.ckpt and best.ckpt, what the
    task draws, summary.json, report.html.

    Args:
        task: what is trained.
        out: folder of the run.
        engine: hardware, precision, logging.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite.
        Stopped: by a signal; in training after a step, saved.
    """
    begun = on_existing == "resume"

    def go_on() -> str:
        if begun:
            return f"go on with: {resume_command(task.name, out)}"
        return "nothing was begun; run the same command again"

    with stoppable(go_on), ExitStack() as held:
        started = time.monotonic()
        task, files = task.settled(out, engine)
        task.check(engine)
        check_counts(engine, **{"optim.epochs": task.fitting.epochs, "data.batch_size": task.batch_size})
        config = plain_config(engine, **task.options())
        is_first = getattr(rank_zero_only, "rank", 0) == 0
        if is_first:
            check_folder(
                out,
                on_existing,
                config,
                fixed={name: value for name, value in task.options().items() if name in task.fixed},
                seed_splits=task.seed_splits,
            )
        for path, content in files.items():  # every process, for each reads them
            if not path.is_file():
                write_json(path, content)
        last = out / "checkpoints" / "last.ckpt"
        before = {path: key_of(path) for path in last.parent.glob("*.ckpt")}
        resumed = newest_whole(last.parent, task=task.name) if on_existing == "resume" else None
        L.seed_everything(engine.seed, workers=True, verbose=False)
        history = History(
            out, panels={**task.panels, **PANELS}, metric=task.metric, log_every=engine.log_every, started=started
        )
        trainer = build_trainer(out, task.fitting, engine, history)
        check_launch(trainer)
        share = Share(task.batch_size, True, EpochPosition(), engine.seed, trainer.global_rank, trainer.world_size)
        parts = task.build(Session(engine, share, is_multi_gpu(trainer), resumes=resumed is not None))
        begin, steps_before, exact = None, 0, True
        if resumed is not None:
            begin, content = resumed.path, resumed.content
            exact = content.get(SEEDING) == RULE
            steps_before = content["global_step"]
            share.position.begin(*resume_position(content, parts.train.reading))
            at, batches = share.position.epoch, share.position.batch
            if engine.stop_after is not None and (at, batches) > (engine.stop_after, 0):
                more = " and a part of the next" if batches else ""
                raise ValueError(
                    f"engine.stop_after={engine.stop_after}: {at} epochs{more} are done; give a larger one, or leave "
                    "it out"
                )
            resumed = resumed._replace(content={name: content[name] for name in ("global_step", "epoch")})
            del content  # lightning reads it again
        if trainer.is_global_zero:  # everything is checked and built: only now is anything replaced
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(claimed(out))
            if begin is not None and key_of(begin) != before.get(begin):
                raise ValueError(f"another process has saved {begin} meanwhile; run the same command again")
            if on_existing == "replace":
                clear(out)
            clear_unfinished(out)
            if resumed is not None:
                put_back(resumed)
            write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            task.introduce(parts, out)
            if resumed is not None:
                at = share.position.epoch
                told = f"going on with epoch {at + 1}, step {steps_before}"
                if at >= task.fitting.epochs:
                    told = f"all {at} epochs are done; what follows them is done again"
                elif at == engine.stop_after:
                    told = f"{at} epochs are done, and engine.stop_after={engine.stop_after} asks for no more"
                print(f"{told}, from {begin}" + ("" if exact else INEXACT), file=sys.stderr)
        begun = True
        metrics = fit(trainer, parts.module, (parts.train, parts.val), begin=begin, go_on=go_on)
        final, best = last, last.with_name("best.ckpt")
        if task.fitting.final == "best" and best.is_file():
            step = read_checkpoint(best, task=task.name)["global_step"]  # what the file holds, not what was best
            final, metrics = best, history.metrics_at(step, task.metric) or metrics
        if trainer.is_global_zero:
            for doubt in doubts(history.rows, task, ended=trainer.current_epoch if trainer.should_stop else None):
                print(doubt, file=sys.stderr)
            task.draw(final, parts, out, device=trainer.strategy.root_device)
        summary = task.summarise(
            metrics,
            parts,
            checkpoint=final,
            wall_seconds=round(history.seconds(), 1),
            peak_memory_mb=round(peak_memory_mb()),
            gpu_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else 0,
            hardware=hardware(trainer.strategy.root_device, trainer.world_size),
            seed=engine.seed,
            epochs=trainer.current_epoch,
            unreadable=len(parts.module.bad.reasons),
            out=out,
        )
        if trainer.is_global_zero:
            write_json(out / "summary.json", plain(summary), indent=2)
            if engine.report:
                report_after(task.reporter, lambda: read_record(out), out, device=trainer.strategy.root_device)
        return summary


def doubts(rows: Sequence[Mapping[str, float]], task: Task[Any], *, ended: int | None) -> list[str]:
    """Lines on how a fit went: that it ended early after an epoch, and signs that it did not learn."""
    fitting = task.fitting
    name = fitting.shown.get(fitting.monitor, fitting.monitor)
    lines = []
    if ended is not None and ended < fitting.epochs:
        best = max((row for row in rows if fitting.monitor in row), key=lambda row: row[fitting.monitor])
        lines.append(
            f"ended after epoch {ended} of {fitting.epochs}: no better {name} in {fitting.patience} evaluations than "
            f"{best[fitting.monitor]:.3f} in epoch {best['epoch'] + 1:g}"
        )
    return lines + [line for line in (nothing_found(rows, metric=fitting.monitor, name=name), flat_loss(rows)) if line]
