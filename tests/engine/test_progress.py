"""The progress line: what a terminal of 80 columns shows of it."""

import io
import re
from types import SimpleNamespace

import torch

from botvision.engine.progress import RunProgress, figures

AP = {"val/box_ap": "box AP", "val/mask_ap": "mask AP"}
METRICS = {"train/loss": torch.tensor(2.2514), "val/box_ap": torch.tensor(0.1904), "val/mask_ap": torch.tensor(0.0)}


class Terminal(io.StringIO):
    """Text that a person would read."""

    def isatty(self) -> bool:
        return True


def test_the_line_fits_80_columns_at_its_longest(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    trainer = SimpleNamespace(current_epoch=99, max_epochs=100, global_step=0, estimated_stepping_batches=40_000,
                              callback_metrics=METRICS)  # fmt: skip
    progress = RunProgress(AP)
    progress.on_train_start(trainer, None)
    progress.bar.start_t -= 36_000  # 0.56 steps a second
    trainer.global_step = 20_000
    progress.on_train_batch_end(trainer, None)
    progress.on_validation_start(trainer, None)
    progress.on_validation_end(trainer, None)
    progress.on_train_end(trainer, None)
    lines = [line.strip() for line in re.split(r"[\r\n]+", terminal.getvalue()) if line.strip()]
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(
        r"epoch 100/100  50%  0\.56 it/s 10:00:\d\d left, loss 2\.25, box/mask AP 0\.190/0\.000", lines[-1]
    )
    assert any(line.startswith("evaluating  50%") for line in lines)


def test_names_that_end_alike_are_said_together():
    assert figures(AP, METRICS) == ", box/mask AP 0.190/0.000"
    assert figures(AP, {"val/box_ap": 0.5}) == ", box AP 0.500"
    assert (
        figures({"train/loss": "loss", "val/top1": "top-1"}, {"val/top1": 1, "train/loss": 2})
        == ", loss 2, top-1 1.000"
    )
