"""Fit a module; Ctrl-C, SIGTERM and SLURM's pre-emption end it after a step, saved."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from botvision.engine.history import History, is_evaluated
from botvision.engine.loader import ResumableLoader
from botvision.engine.stopping import Stopped, signals

EVERY = 30.0  # seconds


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt after each evaluation, with what it gave."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save where the epoch was evaluated."""
        if is_evaluated(trainer, trainer.current_epoch):
            super().on_train_epoch_end(trainer, pl_module)


class LeaveError(Exception):
    """Ends lightning's loops; lightning takes a KeyboardInterrupt for its own and exits with 1."""


class Interruptible(Callback):
    """Ends the run after the step in which a signal came, once `last.ckpt` is saved.

    Lightning's own handling exits with 0 on SIGTERM, with 1 on Ctrl-C, and saves on neither. The last step before an
    evaluation is always saved, so that a run which is stopped while it evaluates has lost no training; resumed, it
    evaluates first. Of other epochs, which may take a second, the last step is saved where the last save was `EVERY`
    seconds ago.
    """

    def __init__(self, checkpoint: Path) -> None:
        """`checkpoint` is where it saves: last.ckpt."""
        self.checkpoint = checkpoint
        self.signum: int | None = None
        self.saved = False
        self.saved_at = time.monotonic()
        self.forward: Callable[[int], None] | None = None

    def listen(self, trainer: L.Trainer) -> None:
        """Take the signals over from lightning, which puts the old handlers back when it ends."""
        self.forward = getattr(trainer.strategy.launcher, "kill", None)
        for signum in signals():
            signal.signal(signum, self.note)

    def note(self, signum: int, _: Any) -> None:
        """Remember the signal; a second Ctrl-C ends the run at once."""
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum is None:
            if self.forward is not None and signum != signal.SIGINT:  # Ctrl-C reaches the other processes by itself
                self.forward(signum)
            # not by print: the signal may have come in the middle of one
            os.write(2, f"\n{signal.Signals(signum).name}: stopping after this step\n".encode())
        self.signum = signum

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on signals are ours."""
        self.listen(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave, all processes together, where any of them was told to."""
        self.saved = False
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return  # gradients are being summed, and no checkpoint keeps them
        asked = self.signum is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked or (trainer.is_last_batch and self.is_due(trainer)):
            trainer.save_checkpoint(self.checkpoint)
            self.saved, self.saved_at = True, time.monotonic()
        if asked:
            self.leave()

    def leave(self) -> None:
        """End lightning's loops."""
        self.signum = self.signum or signal.SIGTERM
        forget_children()
        raise LeaveError

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether the end of this epoch is saved, the same for all processes."""
        soon = is_evaluated(trainer, trainer.current_epoch)
        return soon or bool(trainer.strategy.broadcast(time.monotonic() - self.saved_at >= EVERY))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Leave, of a single process; what was trained is saved already."""
        if self.signum is not None and trainer.world_size == 1:
            self.leave()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave, all processes together: one whose part is done waits for the others, and must not wait for ever."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.signum is not None, all=False):
            self.leave()


def forget_children() -> None:
    """Have lightning's observer end, which kills this process where a child ends with another code than 0."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # of none all have ended with 0


def fit(
    trainer: L.Trainer,
    module: L.LightningModule,
    loaders: tuple[ResumableLoader, ResumableLoader],
    *,
    begin: Path | None,
    go_on: Callable[[], str],
) -> dict[str, float]:
    """Train and evaluate.

    Args:
        trainer: by `build_trainer`.
        module: what is trained.
        loaders: for training and validation.
        begin: checkpoint to resume from.
        go_on: what to do to go on, for the message of a run that was stopped.

    Returns:
        The row of the latest evaluation.

    Raises:
        Stopped: by a signal.
    """
    watch = next(c for c in trainer.callbacks if isinstance(c, Interruptible))  # type: ignore[attr-defined]
    history = next(c for c in trainer.callbacks if isinstance(c, History))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, *loaders, ckpt_path=None if begin is None else str(begin), weights_only=True)
        if watch.signum is not None:  # after the last batch
            watch.leave()
    except (LeaveError, SystemExit) as end:
        if trainer.is_global_zero and history.rows:
            history.write()
        signum = watch.signum or (signal.SIGTERM if isinstance(end, SIGTERMException) else signal.SIGINT)
        kept = f"saved at step {trainer.global_step}" if watch.saved else "as it was last saved"
        raise Stopped(signum, f"stopped by {signal.Signals(signum).name}, {kept}; {go_on()}") from None
    except BaseException:
        # the others would wait in a collective for this process, where lightning has started them; torchrun and SLURM
        # end theirs themselves
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if kill is not None:
            forget_children()
            kill(getattr(signal, "SIGKILL", signal.SIGTERM))
        raise
    finally:
        for loader in loaders:
            loader.close()
    return history.last_metrics()
