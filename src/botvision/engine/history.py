"""Metrics of a run, row by row: kept in the checkpoint, written as metrics.csv and curves.png."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from botvision.draw.curves import draw_curves
from botvision.files import write_text

DRAW_EVERY = 10.0  # seconds between drawings of curves.png, but for the last


def is_evaluated(trainer: L.Trainer, epoch: int) -> bool:
    """Whether an evaluation follows an epoch: every so many, and the last, so that it can be the best."""
    return (epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0 or epoch + 1 == trainer.max_epochs


class History(Callback):
    """Rows of step, epoch, rate, losses and metrics; a resumed run goes on where its checkpoint ended."""

    def __init__(
        self, out: Path, *, panels: Mapping[str, Sequence[str]], metric: str, log_every: int, started: float
    ) -> None:
        """`panels` of curves.png by their title; `metric` is the column that every evaluation fills."""
        self.out = out
        self.panels = panels
        self.metric = metric
        self.log_every = log_every
        self.started = started
        self.seconds_before = 0.0
        self.rows: list[dict[str, float]] = []
        self.logged = 0
        self.rate = 0.0
        self.drawn = started
        self.undrawn = False

    def seconds(self) -> float:
        """Seconds of all sessions of this run."""
        return self.seconds_before + time.monotonic() - self.started

    def last_metrics(self) -> dict[str, float]:
        """The row of the latest evaluation.

        Raises:
            ValueError: none was made.
        """
        for row in reversed(self.rows):
            if self.metric in row:
                return row
        raise ValueError("nothing was evaluated yet; go on with the run, with a larger --engine.stop_after or without")

    def metrics_at(self, step: int, metric: str) -> dict[str, float] | None:
        """The row of the evaluation of the weights after so many steps; none where there was none."""
        return next((row for row in reversed(self.rows) if metric in row and row["step"] == step), None)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note the rate of the step to come: lightning steps the schedule before it calls what follows a batch."""
        self.rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """A row of training losses, every so many steps."""
        is_new = trainer.global_step > self.logged  # batches that are summed up to one step share its number
        if is_new and trainer.global_step % self.log_every == 0:
            self.logged = trainer.global_step
            self.add(trainer, {"lr": self.rate, **numbers(trainer, "train/")})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where a run is resumed inside its last epoch, which lightning does not begin again.

        What tells of it as it was goes.
        """
        if trainer.is_global_zero:
            for told in ("summary.json", "report.html"):
                (self.out / told).unlink(missing_ok=True)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last epoch is always evaluated, so that it can be the best."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A row of validation metrics."""
        self.add(trainer, numbers(trainer, "val/"))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the files up to date; the plot takes most of a second, and waits where epochs are short."""
        if trainer.is_global_zero and self.rows:
            is_last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
            self.write(draw=is_last or time.monotonic() - self.drawn >= DRAW_EVERY)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last rows, where what ended the run came after them."""
        if trainer.is_global_zero and self.undrawn:
            self.write()

    def add(self, trainer: L.Trainer, values: dict[str, float]) -> None:
        """One more row."""
        place = {"step": trainer.global_step, "epoch": trainer.current_epoch, "seconds": round(self.seconds(), 1)}
        self.rows.append({**place, **values})
        self.undrawn = True

    def write(self, *, draw: bool = True) -> None:
        """metrics.csv, and curves.png where it is to be drawn, whole."""
        columns = sorted(dict.fromkeys(key for row in self.rows for key in row), key=lambda key: "/attention_" in key)
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.out / "metrics.csv", text.getvalue())
        if draw:
            draw_curves(self.rows, self.out / "curves.png", panels=self.panels)
            self.drawn, self.undrawn = time.monotonic(), False

    def state_dict(self) -> dict[str, Any]:
        """Rows and seconds, for the checkpoint."""
        return {"rows": self.rows, "seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after these rows."""
        self.rows = list(state_dict["rows"])
        self.logged = max((int(row["step"]) for row in self.rows), default=0)
        self.seconds_before = state_dict["seconds"]


def numbers(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The latest logged values whose name starts so."""
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
