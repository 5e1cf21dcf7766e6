"""One progress line for a whole run: epoch, rate, time left, loss and metrics, within 80 columns."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

COLUMNS = 80
EVERY = 30.0  # seconds between lines where there is no terminal, but for those of an evaluation


class RunProgress(ProgressBar):
    """A bar over all steps of a run; without a terminal a line at each evaluation and twice a minute.

    Its rate and the time left include evaluations.
    """

    def __init__(self, metrics: Mapping[str, str]) -> None:
        """`metrics` to show, by their columns: what they are called, e.g. {"val/box_ap": "box AP"}."""
        super().__init__()
        self.metrics = metrics
        self.bar: tqdm[Any] | None = None
        self.begun = self.told = 0.0
        self.first = 0
        self.shown = True

    def disable(self) -> None:
        """On other processes than the first."""
        self.shown = False

    def enable(self) -> None:
        """On the first process."""
        self.shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from where the run begins or goes on."""
        self.begun = self.told = time.monotonic()
        self.first = trainer.global_step
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total(trainer),
                initial=self.first,
                unit=" it",
                dynamic_ncols=False,
                ncols=COLUMNS,
                bar_format="{desc} {percentage:3.0f}% {rate_noinv_fmt} {remaining} left{postfix}",
            )

    def total(self, trainer: L.Trainer) -> int:
        """Steps of all epochs."""
        return int(trainer.estimated_stepping_batches)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """One step on."""
        if self.bar is not None:
            self.bar.set_description_str(place(trainer), refresh=False)
            self.show_figures(trainer)
            self.bar.update(trainer.global_step - self.bar.n)
        elif self.shown and time.monotonic() - self.told >= EVERY:
            self.tell(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluating takes a while."""
        if self.bar is not None:
            self.bar.set_description_str("evaluating", refresh=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What it gave."""
        if self.bar is not None:
            self.bar.set_description_str(place(trainer), refresh=False)
            self.show_figures(trainer)
            self.bar.refresh()
        elif self.shown and trainer.state.fn == "fit":
            self.tell(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the line as it stands."""
        self.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the line as it stands."""
        self.close()

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def show_figures(self, trainer: L.Trainer) -> None:
        """Loss and metrics at the line's end; tqdm puts a comma before them itself."""
        if self.bar is not None:
            self.bar.set_postfix_str(self.figures(trainer).removeprefix(", "), refresh=False)

    def tell(self, trainer: L.Trainer) -> None:
        """A line of its own."""
        self.told = time.monotonic()
        done = trainer.global_step - self.first
        rate = done / max(1e-9, self.told - self.begun)
        left = (self.total(trainer) - trainer.global_step) / rate if done else 0.0
        pace = f"{rate:.2f} steps/s, {tqdm.format_interval(left)} left" if done else ""
        print(f"{place(trainer)} {pace}{self.figures(trainer)}", file=sys.stderr)

    def figures(self, trainer: L.Trainer) -> str:
        """Loss and metrics in a few characters."""
        return figures({"train/loss": "loss", **self.metrics}, trainer.callback_metrics)


def figures(named: Mapping[str, str], metrics: Mapping[str, Any]) -> str:
    """Metrics by their names, those that share a last word together: `, loss 0.51, box/mask AP 0.421/0.398`."""
    groups: dict[str, list[tuple[str, float]]] = {}
    for key, name in named.items():
        if key in metrics:
            first, _, last = name.rpartition(" ")
            groups.setdefault(last, []).append((first, float(metrics[key])))
    text = ""
    for last, pairs in groups.items():
        digits = "3g" if last == "loss" else "3f"
        name = " ".join(filter(None, ["/".join(first for first, _ in pairs), last]))
        text += f", {name} {'/'.join(f'{value:.{digits}}' for _, value in pairs)}"
    return text


def place(trainer: L.Trainer) -> str:
    """Epoch of how many."""
    return f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
