"""A task of one's own, as docs/architecture.md tells: the engine runs it unchanged."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
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


@dataclass(frozen=True)
class Summed(Line):
    """Batches of four steps' gradients, by SGD with momentum, whose state a lost one would show in."""

    accumulate: int = 1
    patience: int | None = None

    @property
    def fitting(self):
        return FitOptions(self.epochs, self.metric, accumulate=self.accumulate, patience=self.patience)


def interrupted(task, out, engine, monkeypatch, at, how):
    """One session, which ends before its step `at` by a kill, or after it by a signal; its epochs and batches."""
    seen, original = [], LineModule.training_step

    class KilledError(BaseException):
        pass

    def step(self, batch, batch_idx):
        if len(seen) + 1 == at and how == "kill":
            raise KilledError
        if len(seen) + 1 == at:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append((self.current_epoch, batch_idx))
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, suppress(KilledError, Stopped):
        patch.setattr(LineModule, "training_step", step)
        run(task, out, engine=engine, on_existing="resume")
    return seen


@pytest.mark.parametrize(("save_every", "accumulate"), [(None, 1), (2, 4)])
@pytest.mark.parametrize("first", [("kill", 9), ("kill", 12), ("signal", 8), ("signal", 13)])
@pytest.mark.parametrize("second", [("signal", 3), ("kill", 6)])
def test_sessions_over_epochs_without_an_evaluation_make_each_step_once(
    save_every, accumulate, first, second, tmp_path, monkeypatch
):
    """Where epochs are saved at their end and not evaluated; sums of batches where steps are saved as well."""
    monkeypatch.setattr("botvision.engine.fit.EVERY", 0.0)
    task = Summed(epochs=4, accumulate=accumulate)
    engine = replace(ENGINE, evaluate_every=4, save_every=save_every, report=False)
    for out, sessions in (("whole", ()), ("parts", (first, second))):
        for how, at in sessions:
            interrupted(task, tmp_path / out, engine, monkeypatch, at, how)
        run(task, tmp_path / out, engine=engine, on_existing="resume")
    whole, parts = (
        torch.load(tmp_path / out / "checkpoints" / "last.ckpt", weights_only=True) for out in ("whole", "parts")
    )
    assert parts["global_step"] == whole["global_step"] == 4 * 8 // accumulate
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], tensor)
    assert str(parts["optimizer_states"]) == str(whole["optimizer_states"])


def test_patience_that_ends_a_run_leaves_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(LineModule, "validation_step", lambda self, *_: self.log("val/minus_error", 0.5))
    done = run(Summed(epochs=40, patience=1), tmp_path / "r", engine=ENGINE, on_existing="refuse")
    assert done.epochs < 40
    assert (tmp_path / "r" / "curves.png").is_file()


def test_a_resumed_run_does_not_keep_the_summary_of_its_last_session(tmp_path, monkeypatch, capsys):
    task, engine = Line(epochs=3), replace(ENGINE, stop_after=1)
    run(task, tmp_path / "r", engine=engine, on_existing="refuse")
    run(task, tmp_path / "r", engine=engine, on_existing="resume")
    assert "1 epochs are done, and engine.stop_after=1 asks for no more" in capsys.readouterr().err
    assert (tmp_path / "r" / "summary.json").is_file()
    interrupted(task, tmp_path / "r", ENGINE, monkeypatch, 3, "kill")
    assert not {"summary.json", "report.html"} & {path.name for path in (tmp_path / "r").iterdir()}


def test_a_checkpoint_that_another_process_saves_meanwhile_is_not_gone_on_with(tmp_path, monkeypatch):
    run(Line(epochs=2), tmp_path / "r", engine=replace(ENGINE, stop_after=1), on_existing="refuse")
    original = Line.build

    def build(self, session):
        last = tmp_path / "r" / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes())
        return original(self, session)

    monkeypatch.setattr(Line, "build", build)
    with pytest.raises(
        ValueError, match=r"another process has saved .*last\.ckpt meanwhile; run the same command again"
    ):
        run(Line(epochs=2), tmp_path / "r", engine=ENGINE, on_existing="resume")


def test_a_session_that_is_asked_to_end_before_it_begins_is_refused_and_takes_nothing_away(tmp_path, monkeypatch):
    run(Line(epochs=4), tmp_path / "r", engine=ENGINE, on_existing="refuse")
    with pytest.raises(ValueError, match=r"engine\.stop_after=1: 4 epochs are done; give a larger one"):
        run(Line(epochs=4), tmp_path / "r", engine=replace(ENGINE, stop_after=1), on_existing="resume")
    assert {"summary.json", "report.html"} <= {path.name for path in (tmp_path / "r").iterdir()}
    engine = replace(ENGINE, evaluate_every=4)
    interrupted(Line(epochs=4), tmp_path / "s", engine, monkeypatch, 19, "signal")
    with pytest.raises(ValueError, match=r"engine\.stop_after=2: 2 epochs and a part of the next are done"):
        run(Line(epochs=4), tmp_path / "s", engine=replace(engine, stop_after=2), on_existing="resume")


@pytest.mark.parametrize("devices", ["foo", "0,1"])
def test_devices_that_cannot_be_are_one_line(devices, tmp_path):
    with pytest.raises(ValueError, match=f"engine.devices={devices} must be auto or how many"):
        run(Line(), tmp_path / "r", engine=replace(ENGINE, devices=devices), on_existing="refuse")


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
