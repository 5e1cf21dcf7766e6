"""lightning's Trainer, made of a run's options."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from botvision.engine.attention import AttentionLog
from botvision.engine.config import EngineConfig, Final
from botvision.engine.fit import Interruptible, LastCheckpoint
from botvision.engine.history import History
from botvision.engine.progress import RunProgress
from botvision.engine.saving import WholeCheckpointIO


@dataclass(frozen=True)
class FitOptions:
    """What the Trainer needs to know of how a task is optimised.

    Attributes:
        epochs: passes over the training data.
        monitor: metric by which best.ckpt is chosen; more is better.
        clip: largest norm of the gradient; none leaves it.
        ema: decay of averaged weights, which are then evaluated and saved; none keeps the plain ones.
        accumulate: batches whose gradients are summed before a step.
        patience: evaluations in a row that may be no better than the best before the run ends; none runs to the end.
        final: whose weights the run reports, draws and offers: the last or the best ones.
        shown: metrics of the progress line, and what they are called there.
    """

    epochs: int
    monitor: str
    clip: float | None = None
    ema: float | None = None
    accumulate: int = 1
    patience: int | None = None
    final: Final = "last"
    shown: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing could be learnt."""
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema={self.ema} must be at least 0 and below 1; e.g. 0.99, or null for none")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"optim.clip={self.clip} must be above 0; e.g. 5, or null for none")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"optim.patience={self.patience} must be at least 1 evaluation; e.g. 10, or null for none")


def build_trainer(out: Path, fitting: FitOptions, engine: EngineConfig, history: History) -> L.Trainer:
    """Lightning's Trainer with our callbacks."""
    check_averaging(fitting, engine)
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        AttentionLog(compiled=engine.compile, epochs=fitting.epochs),  # before the history, which writes what it logs
        history,
        # whole, not weights alone: lightning puts averaged weights only into whole checkpoints
        BestCheckpoint(folder, "best", monitor=fitting.monitor, mode="max", enable_version_counter=False),
        LastCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if engine.save_every is not None:
        every = engine.save_every
        callbacks.append(StepCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False))
    if fitting.patience is not None:
        callbacks.append(Patience(fitting.monitor, mode="max", patience=fitting.patience, check_finite=False))
    if fitting.ema is not None:
        callbacks.append(WeightAveraging(avg_fn=partial(averaged, decay=fitting.ema)))
    callbacks.append(Interruptible(folder / "last.ckpt"))  # after the weights were averaged
    if engine.progress:
        callbacks.append(RunProgress(fitting.shown))
    if engine.live is not None:
        callbacks.append(LearningRateMonitor("step"))
    check_devices(engine)
    return L.Trainer(
        accelerator=engine.accelerator,
        devices=engine.devices,
        num_nodes=engine.num_nodes,
        precision=pick_precision(engine.accelerator) if engine.precision == "auto" else engine.precision,
        max_epochs=fitting.epochs if engine.stop_after is None else min(fitting.epochs, engine.stop_after),
        check_val_every_n_epoch=engine.evaluate_every,
        gradient_clip_val=fitting.clip,
        accumulate_grad_batches=fitting.accumulate,
        use_distributed_sampler=False,  # our loaders give each process its part
        num_sanity_val_steps=0,
        logger=False if engine.live is None else live_logger(engine.live, out),
        log_every_n_steps=engine.log_every,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO(), *environments()],
        enable_progress_bar=engine.progress,
        enable_model_summary=False,
        default_root_dir=out,
    )


def check_averaging(fitting: FitOptions, engine: EngineConfig) -> None:
    """Refuse averages of weights in other numbers than float32, which lightning keeps the averages in.

    Raises:
        ValueError: optim.ema with bf16-true, 64-true and the like.
    """
    precision = str(engine.precision)
    if fitting.ema is not None and precision in ("64", "bf16-true", "16-true", "64-true", "transformer-engine"):
        raise ValueError(
            f"optim.ema={fitting.ema:g} averages in float32, and engine.precision={precision} holds weights in other "
            "numbers; use 32-true or bf16-mixed, or --optim.ema null"
        )


def check_devices(engine: EngineConfig) -> None:
    """Refuse what lightning would end with a traceback.

    Raises:
        ValueError: no number of devices, and no list of them where there are any.
    """
    named = str(engine.devices)
    on_cpu = engine.accelerator == "cpu" or (engine.accelerator == "auto" and not torch.accelerator.is_available())
    if named != "auto" and not re.fullmatch(r"\d+" if on_cpu else r"-1|\d+(,\d+)*,?", named.replace(" ", "")):
        raise ValueError(
            f"engine.devices={named} must be auto or how many"
            + (", of the CPU's processes" if on_cpu else ", or the numbers of some, e.g. 0,2")
        )


def environments() -> list[SLURMEnvironment]:
    """SLURM's, where it has started the processes; those of torchrun, in a job of SLURM too, lightning finds itself.

    SLURM requeues a job itself (sbatch --requeue); lightning would save and resume by files of its own.
    """
    if not SLURMEnvironment.detect() or TorchElasticEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


class StepCheckpoint(ModelCheckpoint):
    """last.ckpt each so many steps, and not at the step that a resumed run begins with.

    Lightning would save there once more, after the first of the batches that are summed up to the next step.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What was resumed is saved."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt, whose score a run keeps when its folder has moved: lightning would forget it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the paths for those of this folder; what does not lie there does not count."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        scores = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        kept = {name: here(state_dict.get(name, "")) for name in ("best_model_path", "kth_best_model_path")}
        if all(Path(path).is_file() for path in scores):
            super().load_state_dict({**state_dict, **kept, "best_k_models": scores, "dirpath": self.dirpath})


class Patience(EarlyStopping):
    """Early stopping that waits for a first finding, and does not train on when a run is resumed that it had ended."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning keeps the count, and not that it had stopped."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        """Count, unless the metric is still zero: a detector finds nothing for its first epochs."""
        found = trainer.callback_metrics.get(self.monitor)
        if found is None or float(found) > 0 or float(self.best_score) > 0:
            super()._run_early_stopping_check(trainer)


def averaged(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor, *, decay: float) -> torch.Tensor:
    """The exponential moving average's next value; counters and index tables are taken as they are.

    The decay grows to its own as (1 + n) / (10 + n) with the `count` of values so far, as TensorFlow's average does
    where it is told the step: at a fixed one a short run would end with much of the weights that it began from.
    """
    if not average.is_floating_point():
        return current
    grown = ((1 + count) / (10 + count)).clamp(max=decay)  # a tensor: a number would wait for the GPU
    return torch.lerp(current, average, grown.to(average.dtype))


def live_logger(kind: str, out: Path) -> Logger:
    """TensorBoard's or Weights & Biases' logger.

    Raises:
        ValueError: its package is missing.
    """
    try:
        if kind == "wandb":
            return WandbLogger(name=out.name, save_dir=out, project="botvision")
        return TensorBoardLogger(out, name=None, version="tensorboard")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"engine.live={kind} needs its package: pip install {kind}, or leave --engine.live out"
        ) from error


def pick_precision(accelerator: str = "auto") -> Any:
    """bf16-mixed where the GPU or the CPU has instructions for it; elsewhere it would be slower than float32."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    known = getattr(torch.cpu, "get_capabilities", None)  # younger than the oldest torch that we take
    capabilities: dict[str, Any] = known() if known else {}
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


def is_multi_gpu(trainer: L.Trainer) -> bool:
    """Whether BatchNorm has other GPUs to be synchronised with (paper section 4.1)."""
    return trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda"


def check_launch(trainer: L.Trainer) -> None:
    """Refuse processes that are forked from this one: they would all read the first one's part."""
    if trainer.world_size > 1 and isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            "several devices need a process each from the start; run the `botvision` command or torchrun, not a "
            "notebook, or give --engine.devices 1"
        )
