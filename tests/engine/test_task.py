"""A task of one's own, as docs/architecture.md tells: the engine runs it unchanged."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from botvision.engine.config import EngineConfig
from botvision.engine.fit import Stopped
from botvision.engine.loader import EpochBatches, ResumableLoader
from botvision.engine.module import TaskModule
from botvision.engine.run import Parts, RunSummary, Task, run
from botvision.engine.trainer import FitOptions
from botvision.files import write_text
from botvision.optim import build_optimizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, log_every=5)


@dataclass(frozen=True, kw_only=True)
class Summary(RunSummary):
    error: float

    @property
    def headline(self):
        return f"error {self.error:.3f}"


class LineModule(TaskModule):
    def loss(self, batch):
        x, y = (t[:, None] for t in batch)
        return (self.model(x) - y).abs().mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/minus_error", -self.loss(batch))

    def configure_optimizers(self):
        return build_optimizer(self.model, "adamw", lr=0.05, weight_decay=0.0)


@dataclass(frozen=True)
class Line(Task[Summary]):
    """Fits y = 2x + 1."""

    name = "line"
    metric = "val/minus_error"
    panels: ClassVar = {"loss": ("train/loss",), "error": ("val/minus_error",)}
    fixed = ("slope",)

    slope: float = 2.0
    epochs: int = 6

    @property
    def fitting(self):
        return FitOptions(self.epochs, self.metric)

    @property
    def batch_size(self):
        return 4

    def check(self, engine):
        if self.slope == 0:
            raise ValueError("slope=0 is no line to fit; e.g. 2")

    def build(self, session):
        points = [(x, self.slope * x + 1) for x in torch.linspace(-1, 1, 32)]

        def loader(share):
            return ResumableLoader(points, batch_sampler=EpochBatches(len(points), share), share=share)

        train, val = loader(session.share), loader(session.share.validation())
        model = session.prepared(nn.Linear(1, 1))
        return Parts(LineModule(model, about={"task": self.name, "model": {}}, config={}, loader=train), train, val)

    def draw(self, checkpoint: Path, parts: Parts, out: Path, *, device: torch.device):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        write_text(out / "predictions" / "line.txt", f"{weights['model.weight'].item():.2f}")

    def summarise(self, metrics: Mapping[str, float], parts: Parts, **common: Any):
        return Summary(error=-metrics[self.metric], model="linear", **common)


def test_a_task_of_ones_own_trains_stops_resumes_and_says_how_it_went(tmp_path, monkeypatch, capsys):
    task, original, steps = Line(), LineModule.training_step, []

    def stops_once(self, batch, batch_idx):
        steps.append(sorted(batch[0].tolist()))
        if len(steps) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(LineModule, "training_step", stops_once)
    with pytest.raises(Stopped, match="saved at step 11; go on with: botvision line train --config"):
        run(task, tmp_path / "r", engine=ENGINE, on_existing="refuse")
    with pytest.raises(ValueError, match="begun with other settings of slope"):
        run(Line(slope=3.0), tmp_path / "r", engine=ENGINE, on_existing="resume")
    done = run(task, tmp_path / "r", engine=ENGINE, on_existing="resume")
    assert len(steps) == 6 * 8
    assert sorted(x for step in steps[8:16] for x in step) == sorted(x for step in steps[:8] for x in step)
    assert done.error < 0.5
    capsys.readouterr()
    again = run(task, tmp_path / "r", engine=ENGINE, on_existing="resume")
    assert "all 6 epochs are done; what follows them is done again, from " in capsys.readouterr().err
    assert (again.error, len(steps)) == (done.error, 6 * 8)
    assert str(done).startswith(f"error {done.error:.3f} after 6 epochs")
    assert "next:" not in str(done)  # there is no such command
    names = {str(path.relative_to(tmp_path / "r")) for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "curves.png", "summary.json", "report.html", "predictions/line.txt"} <= names
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= names


def test_a_report_that_fails_is_a_warning_and_the_run_is_whole(tmp_path, monkeypatch, capsys):
    def analyse(*_, **__):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(type(Line().reporter), "analyse", analyse)
    done = run(Line(epochs=1), tmp_path / "r", engine=ENGINE, on_existing="refuse")
    said = capsys.readouterr().err
    assert f"warning: {tmp_path}/r/report.html could not be made (CUDA out of memory); the run itself is whole" in said
    assert f"make the report by botvision report {tmp_path}/r" in said
    assert not list((tmp_path / "r").glob("*.html")) + list((tmp_path / "r").glob(".unfinished*"))
    assert (done.out / "summary.json").is_file()
    monkeypatch.undo()
    done = run(Line(epochs=1), tmp_path / "r", engine=ENGINE, on_existing="resume")
    assert re.search(r"report: .*report.html: 0.0 MB, made in \d+\.\d s", capsys.readouterr().err)
    text = (done.out / "report.html").read_text()
    assert text.count('class="chart"') == 2
    off = run(Line(epochs=1), tmp_path / "off", engine=replace(ENGINE, report=False), on_existing="refuse")
    assert not (off.out / "report.html").exists()


def test_a_task_of_ones_own_refuses_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="slope=0 is no line to fit"):
        run(Line(slope=0.0), tmp_path / "r", engine=ENGINE, on_existing="refuse")
    assert not (tmp_path / "r").exists()


def test_a_folder_that_another_process_writes_into_is_refused(tmp_path):
    """As by a job that was begun twice; one that was killed holds nothing."""
    out = tmp_path / "r"
    out.mkdir()
    holds = "import os, sys, time; from pathlib import Path; from botvision.engine.folder import claimed\n"
    holds += "with claimed(Path(sys.argv[1])):\n    print('has it', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds, str(out)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "has it\n"
        for on_existing in ("refuse", "resume", "replace"):
            with pytest.raises(ValueError, match=r"another process is writing into .*r; let it end, or stop it"):
                run(Line(epochs=1), out, engine=ENGINE, on_existing=on_existing)
        assert [path.name for path in out.iterdir()] == [".lock"]
        other.kill()
    assert run(Line(epochs=1), out, engine=ENGINE, on_existing="refuse").epochs == 1
    torn = out / "checkpoints" / "last.ckpt.torn"  # as a run keeps it that went on from an older one
    torn.write_bytes(b"")
    assert run(Line(epochs=1), out, engine=ENGINE, on_existing="replace").epochs == 1
    assert not torn.exists()
