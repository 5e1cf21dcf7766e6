"""SIGTERM, Ctrl-C and SLURM's warning in training: saved, a line on how to go on, exit codes 143 and 130."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from botvision.classify import train
from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from botvision.classify.module import ClassifierModule
from botvision.cli import main
from botvision.engine.checkpoint import read_checkpoint
from botvision.engine.config import EngineConfig
from botvision.engine.fit import Stopped

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("few_digits"),
]
STEPS = 21  # of an epoch: 336 of the digits in batches of 16
FLAGS = {
    "--data.train": "digits", "--data.val": "digits", "--data.batch_size": "16", "--data.workers": "0",
    "--data.crop": "1.0", "--model.name": "botnet14", "--model.img_size": "32", "--optim.optimizer": "adamw",
    "--optim.epochs": "2", "--optim.warmup_epochs": "0.5", "--engine.accelerator": "cpu", "--engine.devices": "1",
    "--engine.progress": "false", "--data.augment.flip": "0", "--model.options": "{channels: [8, 16, 32, 64]}",
}  # fmt: skip
MODEL = ModelConfig("botnet14", img_size=32, options={"channels": [8, 16, 32, 64]})
OPTIM = OptimConfig("adamw", epochs=2, warmup_epochs=0.5)
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, log_every=5)
DATA = DataConfig("digits", "digits", batch_size=16, workers=0, crop=1.0, augment=AugmentConfig(flip=0.0))


@pytest.fixture(autouse=True)
def interruptible():
    """A shell that starts the tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(out):
    return ["classify", "train", "--out", str(out), *(part for pair in FLAGS.items() for part in pair)]


def interrupted(monkeypatch, signum, *, at, step="training_step"):
    """Have the process send itself a signal in a certain step; gives the numbers of the images of each step."""
    seen, original = [], getattr(ClassifierModule, step)

    def sends(self, batch, batch_idx):
        seen.append(batch.labels.tolist())
        if len(seen) == at:
            os.kill(os.getpid(), signum)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassifierModule, step, sends)
    return seen


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_a_run_after_its_step_saved_and_says_how_to_go_on(tmp_path, capsys, monkeypatch, name, code):
    handler = signal.getsignal(getattr(signal, name))
    seen = interrupted(monkeypatch, getattr(signal, name), at=26)
    assert main(command(tmp_path / "run")) == code
    said = capsys.readouterr()
    assert f"botvision: stopped by {name}, saved at step 26; go on with: botvision classify train" in said.err
    assert said.out == ""
    assert len(seen) == 26
    assert signal.getsignal(getattr(signal, name)) == handler
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", task="classify")
    assert (saved["global_step"], saved["epoch"]) == (26, 1)
    go_on = shlex.split(said.err.strip().splitlines()[-1].partition("go on with: ")[2])
    assert go_on[0] == "botvision"
    assert main(go_on[1:]) == 0
    assert "after 2 epochs" in capsys.readouterr().out
    assert len(seen) == 2 * STEPS
    steps = [int(row.split(",")[0]) for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps[-1] == 2 * STEPS
    assert steps == sorted(steps)


def test_a_resumed_run_sees_each_image_once_an_epoch(tmp_path, monkeypatch):
    whole = interrupted(monkeypatch, signal.SIGTERM, at=0)
    train(DATA, tmp_path / "whole", model=MODEL, optim=OPTIM, engine=ENGINE)
    expected = list(whole)
    monkeypatch.undo()
    seen = interrupted(monkeypatch, signal.SIGTERM, at=26)
    with pytest.raises(Stopped) as stopped:
        train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert (stopped.value.code, stopped.value.signum) == (143, signal.SIGTERM)
    assert isinstance(stopped.value, KeyboardInterrupt)  # what a notebook stops at
    train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert seen == expected


def test_gradients_that_are_summed_are_not_lost(tmp_path, monkeypatch):
    """Four batches a step: a signal in the second of them ends the run after the fourth."""
    seen = interrupted(monkeypatch, signal.SIGTERM, at=6)
    optim = replace(OPTIM, accumulate=4)
    with pytest.raises(Stopped, match="saved at step 2"):
        train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE)
    assert len(seen) == 8
    done = train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE, on_existing="resume")
    assert (done.epochs, len(seen)) == (2, 2 * STEPS)


def test_what_the_shell_ignores_is_left_ignored(tmp_path, monkeypatch):
    """Nohup ignores SIGHUP: closing the terminal must not end the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen = interrupted(monkeypatch, signal.SIGHUP, at=3)
        train(DATA, tmp_path / "r", model=MODEL, optim=replace(OPTIM, epochs=1), engine=ENGINE)
        assert len(seen) == STEPS
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be under nohup themselves
        interrupted(monkeypatch, signal.SIGHUP, at=3)
        with pytest.raises(Stopped) as stopped:
            train(DATA, tmp_path / "r2", model=MODEL, optim=OPTIM, engine=ENGINE)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stopped.value.code == 129


def test_slurms_warning_counts_as_sigterm(tmp_path, monkeypatch):
    """#SBATCH --signal=USR1@90; without SLURM the signal is not ours."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    interrupted(monkeypatch, signal.SIGUSR1, at=3)
    with pytest.raises(Stopped) as stopped:
        train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert stopped.value.code == 143
    assert "stopped by SIGUSR1, saved at step 3" in str(stopped.value)
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_signal_while_it_evaluates_loses_nothing(tmp_path, monkeypatch):
    evaluated = interrupted(monkeypatch, signal.SIGTERM, at=2, step="validation_step")
    with pytest.raises(Stopped, match=f"saved at step {STEPS}"):
        train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert len(evaluated) == 2
    saved = read_checkpoint(tmp_path / "r" / "checkpoints" / "last.ckpt", task="classify")
    assert saved["global_step"] == STEPS
    done = train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert done.epochs == 2
    rows = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[1:]
    assert int(rows[-1].split(",")[0]) == 2 * STEPS


def test_the_last_epochs_score_is_made_up_for_and_can_be_the_best(tmp_path, monkeypatch):
    interrupted(monkeypatch, signal.SIGTERM, at=2, step="validation_step")
    optim = replace(OPTIM, epochs=1)
    with pytest.raises(Stopped):
        train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE)
    assert not (tmp_path / "r" / "checkpoints" / "best.ckpt").exists()
    train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE, on_existing="resume")
    assert read_checkpoint(tmp_path / "r" / "checkpoints" / "best.ckpt", task="classify")["global_step"] == STEPS


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_averages_of_other_numbers_than_float32_are_refused_before_anything_is_made(precision, tmp_path):
    engine = replace(ENGINE, precision=precision)
    with pytest.raises(ValueError, match=f"averages in float32, and engine.precision={precision} holds weights in oth"):
        train(DATA, tmp_path / "r", model=MODEL, optim=replace(OPTIM, ema=0.9), engine=engine)
    assert not (tmp_path / "r").exists()


def test_averaged_weights_are_saved_too(tmp_path, monkeypatch):
    interrupted(monkeypatch, signal.SIGTERM, at=30)
    optim = replace(OPTIM, ema=0.9)
    with pytest.raises(Stopped):
        train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE)
    saved = read_checkpoint(tmp_path / "r" / "checkpoints" / "last.ckpt", task="classify")
    assert not all((saved["state_dict"][key] == value).all() for key, value in saved["current_model_state"].items())
    done = train(DATA, tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE, on_existing="resume")
    assert done.epochs == 2


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("botvision.classify.task.open_splits", "nothing was begun; run the same command again"),
        ("botvision.classify.task.draw_end", "go on with: botvision classify train"),
    ],
)
def test_a_signal_outside_training_ends_the_run_at_once_and_says_how_to_go_on(
    tmp_path, capsys, monkeypatch, where, says
):
    """While the data is opened, and while the examples of a finished training are drawn."""
    handler = signal.getsignal(signal.SIGTERM)

    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("it went on")

    monkeypatch.setattr(where, stopped)
    flags = [*command(tmp_path / "run"), "--optim.epochs", "1"]
    assert main(flags) == 143
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"botvision: stopped by SIGTERM; {says}")
    assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.undo()
    again = flags if "same command" in said else shlex.split(said.partition("go on with: ")[2])[1:]
    assert main(again) == 0
    assert (tmp_path / "run" / "predictions" / "sheet.jpg").is_file()


def test_a_run_that_is_stopped_before_it_replaces_another_leaves_it(tmp_path, monkeypatch):
    """The line must not send to the older run's settings."""
    options = {"model": MODEL, "optim": replace(OPTIM, epochs=1), "engine": ENGINE}
    train(DATA, tmp_path / "r", **options)
    before = (tmp_path / "r" / "config.yaml").read_text()
    monkeypatch.setattr("botvision.classify.task.open_splits", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped, match="nothing was begun"):
        train(DATA, tmp_path / "r", **options | {"engine": replace(ENGINE, seed=3)}, on_existing="replace")
    assert (tmp_path / "r" / "config.yaml").read_text() == before
    assert (tmp_path / "r" / "checkpoints" / "last.ckpt").is_file()


def test_a_signal_after_the_last_batch_ends_the_run_too(tmp_path, monkeypatch):
    original = ClassifierModule.on_validation_epoch_end

    def sends(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    monkeypatch.setattr(ClassifierModule, "on_validation_epoch_end", sends)
    with pytest.raises(Stopped, match=f"stopped by SIGTERM, saved at step {STEPS}; go on with"):
        train(DATA, tmp_path / "r", model=MODEL, optim=replace(OPTIM, epochs=1), engine=ENGINE)
    assert not (tmp_path / "r" / "summary.json").exists()


def test_a_torn_last_checkpoint_does_not_end_a_run(tmp_path, capsys):
    out = tmp_path / "r"
    train(DATA, out, model=MODEL, optim=OPTIM, engine=replace(ENGINE, stop_after=1))
    (out / "checkpoints" / "last.ckpt").write_bytes(b"")
    done = train(DATA, out, model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert done.epochs == 2
    torn = f"last.ckpt in {out / 'checkpoints'} is torn; going on from previous.ckpt, step {STEPS}"
    assert torn in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_real_process_with_workers_is_stopped_by_ctrl_c(tmp_path):
    """Ctrl-C reaches the workers too: they must not die before the main process has saved."""
    flags = [*command(tmp_path / "run"), "--data.workers", "2", "--optim.epochs", "1000", "--engine.save_every", "5"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "botvision.cli", *flags],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "stopped by SIGINT, saved at step" in said
    assert "Traceback" not in said
    assert read_checkpoint(last, task="classify")["global_step"] > 0
