"""Runs on clusters: launchers inside each other, other numbers of devices, disks that move or have no locks."""

import copy
import errno
import fcntl
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from botvision.classify.commands import train as train_classifier
from botvision.classify.config import DataConfig, ModelConfig, OptimConfig
from botvision.engine import module
from botvision.engine.config import EngineConfig
from botvision.engine.folder import LOCK, claimed
from botvision.engine.journal import Journal
from botvision.engine.loader import leave_signals
from botvision.engine.module import check_together, go_on_at
from botvision.engine.shared_results import SharedResults
from botvision.engine.sharing import Part
from botvision.engine.stopping import ENDING, WARNING
from botvision.engine.trainer import BestCheckpoint, environments, pick_precision
from botvision.optim import learning_rate_factor
from tests.engine.test_processes import TWO, noise_folders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
OPTIONS = {"depth": 1, "embed_dim": 48, "num_heads": 2, "patch_size": 8}
VIT = ["--model.name=vit_tiny_patch16_224", "--model.img_size=32", f"--model.options={json.dumps(OPTIONS)}"]
JOB = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}


@pytest.fixture
def images(tmp_path):
    """Thirty-two images of two classes."""
    return noise_folders(tmp_path / "images", 32, (32, 32))


def test_torchrun_inside_a_job_of_slurm_numbers_the_processes(monkeypatch):
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert len(environments()) == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert environments() == []


def test_precision_is_that_of_the_device_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert (pick_precision("auto"), pick_precision("cpu")) == ("bf16-mixed", "32-true")


def test_workers_leave_every_signal_to_the_main_process():
    before = {signum: signal.getsignal(signum) for signum in (*ENDING, WARNING)}
    try:
        leave_signals(0)
        assert {signal.getsignal(signum) for signum in before} == {signal.SIG_IGN}
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_processes_that_go_on_from_different_checkpoints_are_refused(monkeypatch):
    check_together(3, 12)
    monkeypatch.setattr(module, "of_all", lambda own: [own, own, (0, 0)])
    with pytest.raises(ValueError, match=r"process 0 at epoch 3, step 12, process 2 at epoch 0, step 0; give an --out"):
        check_together(3, 12)


@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_a_schedule_goes_on_at_its_own_step_after_anothers_was_loaded(schedule):
    def scheduled(rates, total):
        weights = [torch.nn.Parameter(torch.zeros(1)) for _ in rates]
        optimizer = torch.optim.SGD([{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)])
        options = {
            "total": total,
            "schedule": schedule,
            "warmup_steps": 2,
            "warmup_from": 0.1,
            "milestones": (0.5, 0.9),
        }
        return optimizer, LambdaLR(optimizer, lambda step: learning_rate_factor(step, **options))

    def stepped(pair, count):
        for _ in range(count):
            pair[0].step()
            pair[1].step()
        return [group["lr"] for group in pair[0].param_groups], pair[1].get_last_lr()

    before, ours, expected = scheduled([0.1, 0.2], 40), scheduled([0.2, 0.4], 20), scheduled([0.2, 0.4], 20)
    stepped(before, 20)
    for loaded, other in zip(ours, before, strict=True):
        loaded.load_state_dict(other.state_dict())
    go_on_at(*ours, [0.2, 0.4], step=10)
    assert stepped(ours, 0) == stepped(expected, 10)
    assert stepped(ours, 7) == stepped(expected, 7)


@pytest.mark.slow
def test_a_run_goes_on_with_more_devices_at_the_rates_of_its_schedule(images, tmp_path):
    """Two epochs on one process and two on two: rates are those of a run that had two all the time."""
    flags = [f"--data.train={images}", f"--data.val={images}", "--data.batch_size=4",
             *VIT, "--optim.epochs=4", "--optim.warmup_epochs=1", "--optim.lr_per_256=0.1",
             "--engine.accelerator=cpu", "--engine.log_every=1", "--engine.progress=false", "--engine.report=false",
             "--on_existing=resume"]  # fmt: skip

    def train(launcher, out, devices, *more):
        command = [*launcher, "-m", "botvision", "classify", "train", *flags, f"--engine.devices={devices}", *more]
        done = subprocess.run([*command, f"--out={tmp_path / out}"], timeout=200, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    train([sys.executable], "grown", 1, "--engine.stop_after=2")
    said = train(TWO, "grown", 2)
    assert "the whole run has 16 steps on these devices, and had 32: the rates go on as at step 8" in said
    train(TWO, "two", 2)

    def rates(out):
        rows = (tmp_path / out / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("lr")
        return [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]

    grown, two = rates("grown"), rates("two")
    assert (len(grown), len(two)) == (16 + 8, 16)
    assert grown[-8:] == pytest.approx(two[-8:], rel=1e-12)
    assert two[-8] > 0.0005


SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
from botvision.__main__ import main
from botvision.classify.module import ClassifierModule
step = ClassifierModule.validation_step
def slow(self, batch, batch_idx):
    step(self, batch, batch_idx)
    if self.global_rank == 1 and batch_idx == 1:
        time.sleep(3)  # the other one is at its end by now, and waits
        os.kill(os.getpid(), signal.SIGTERM)
ClassifierModule.validation_step = slow
raise SystemExit(main(sys.argv[1:]))
"""


def run(tmp_path, images, script, *launcher):
    """A classifier's training by two processes, by a script that stands before the command line; how it ended."""
    (tmp_path / "train.py").write_text(script)
    command = [*launcher, str(tmp_path / "train.py"), "classify", "train", f"--data.train={images}",
               f"--data.val={images}", "--data.batch_size=4", *VIT, "--optim.epochs=2", "--engine.accelerator=cpu",
               "--engine.devices=2", "--engine.progress=false", f"--out={tmp_path / 'out'}"]  # fmt: skip
    return subprocess.run(command, timeout=100, capture_output=True, text=True)


@pytest.mark.slow
def test_a_signal_in_an_evaluation_ends_all_processes_together(images, tmp_path):
    """One is told while the other's part is done: both leave, saved, and neither waits for ever."""
    done = run(tmp_path, images, SIGNALLED, *TWO)
    assert done.returncode != 0
    assert "stopped by SIGTERM" in done.stderr
    assert "--on_existing resume" in done.stderr
    assert "RuntimeError" not in done.stderr
    assert "exitcode  : 143" in done.stderr or "exitcode: 143" in done.stderr
    assert (tmp_path / "out" / "checkpoints" / "last.ckpt").is_file()


FAILS = """
import os, sys
from pathlib import Path
from botvision.__main__ import main
from botvision.classify.module import ClassifierModule
step = ClassifierModule.training_step
def fails(self, batch, batch_idx):
    Path(sys.argv[0]).with_name(f"pid-{self.global_rank}").write_text(str(os.getpid()))
    if self.global_rank == 0 and batch_idx == 2:
        raise ValueError("a loss of the first process alone")
    return step(self, batch, batch_idx)
ClassifierModule.training_step = fails
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_error_of_one_process_leaves_none_behind(images, tmp_path):
    """Where lightning starts the processes: the other one would wait in a collective, on its GPU, for half an hour."""
    done = run(tmp_path, images, FAILS, sys.executable)
    assert done.returncode == 2
    assert "botvision: a loss of the first process alone" in done.stderr
    other = int((tmp_path / "pid-1").read_text())
    ended = time.monotonic() + 5
    while Path(f"/proc/{other}").exists() and time.monotonic() < ended:
        time.sleep(0.1)
    assert not Path(f"/proc/{other}").exists()


@pytest.mark.slow
def test_a_stopped_run_that_lightning_has_started_says_how_to_go_on(images, tmp_path):
    """Lightning's observer kills the first process where another ends with a code: it must be told."""
    done = run(tmp_path, images, SIGNALLED, sys.executable)
    assert done.returncode == 143
    assert "stopped by SIGTERM" in done.stderr
    assert "--on_existing resume" in done.stderr


def test_a_folder_on_a_disk_without_locks_keeps_no_marker(monkeypatch, tmp_path):
    """A marker file would outlive a killed process, and refuse the run on every other machine."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path), claimed(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists() or (tmp_path / LOCK).read_bytes() == b""


def test_the_best_score_moves_with_the_folder_of_its_run(tmp_path):
    alone = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    old, new = (BestCheckpoint(tmp_path / name, "best", monitor="val/top1", mode="max") for name in ("old", "new"))
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "best.ckpt").touch()
    score, best = torch.tensor(0.9), str(tmp_path / "old" / "best.ckpt")
    old.best_k_models, old.best_model_path, old.kth_best_model_path = {best: score}, best, best
    old.best_model_score = old.kth_value = score
    state = old.state_dict()
    new.load_state_dict(copy.deepcopy(state))
    here = str(tmp_path / "new" / "best.ckpt")
    assert (new.best_model_path, new.kth_best_model_path, new.best_k_models) == (here, here, {here: score})
    assert not new.check_monitor_top_k(alone, torch.tensor(0.5))
    (tmp_path / "new" / "best.ckpt").unlink()
    gone = BestCheckpoint(tmp_path / "new", "best", monitor="val/top1", mode="max")
    gone.load_state_dict(state)
    assert gone.check_monitor_top_k(alone, torch.tensor(0.5))  # there is none any more


def test_another_seed_must_not_choose_other_validation_images(images, tmp_path):
    def train(seed, on_existing, **data):
        return train_classifier(
            DataConfig(str(images), batch_size=8, workers=0, **data), tmp_path / f"out-{len(data)}",
            model=ModelConfig("vit_tiny_patch16_224", img_size=32, options=OPTIONS), optim=OptimConfig(epochs=2),
            engine=EngineConfig(seed=seed, accelerator="cpu", devices=1, progress=False, report=False, stop_after=1),
            on_existing=on_existing,
        )  # fmt: skip

    train(0, "refuse")
    with pytest.raises(ValueError, match=r"engine.seed=1: .* was begun with 0, which has .*give --engine.seed 0"):
        train(1, "resume")
    assert train(0, "resume").epochs == 1
    train(0, "refuse", val=str(images))
    assert train(1, "resume", val=str(images)).epochs == 1  # chosen by the user


def test_a_full_disk_ends_a_prediction_with_a_line_that_says_so(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl", {"a": 1}, stale=[])
    journal.add({"file_name": "first"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match=r"no room to write .*predictions\.jsonl: .*make room and go on"):
            journal.add({"file_name": "x" * 400})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = Journal(tmp_path / "predictions.jsonl", {"a": 1}, stale=[])
    again.resume()
    assert again.done == {"first"}
    again.add({"file_name": "second"})
    again.close()
    assert [json.loads(line) for line in again.path.read_text().splitlines()][1:] == [
        {"file_name": "first"}, {"file_name": "second"},
    ]  # fmt: skip


def test_two_processes_with_the_same_part_do_not_write_over_each_other(tmp_path):
    first, second = (Journal(tmp_path / "predictions.jsonl", {"a": 1}, stale=[]) for _ in range(2))
    first.add({"file_name": "one"})
    with pytest.raises(ValueError, match=r"another process is writing .*predictions\.jsonl; give each its own --part"):
        second.add({"file_name": "two"})
    first.close()
    assert len(first.path.read_text().splitlines()) == 2
    third = Journal(first.path, {"a": 1}, stale=[])
    third.resume()
    with first.path.open("a") as file:
        file.write('{"file_name": "meanwhile"}\n{"file_na')  # another process had it, and died
    third.add({"file_name": "three"})
    third.close()
    names = [json.loads(line).get("file_name") for line in first.path.read_text().splitlines()]
    assert names == [None, "one", "meanwhile", "three"]


def test_figures_of_an_earlier_evaluation_do_not_outlive_a_new_one_by_parts(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    shared = SharedResults(tmp_path, Part(0, 2), {"checkpoint": "new"})
    shared.add("1", objects=[])
    assert [path.name for path in tmp_path.iterdir()] == ["results.0-of-2.jsonl"]
    (tmp_path / "metrics.json").write_text("{}")
    shared.journal.close()
    again = SharedResults(tmp_path, Part(0, 2), {"checkpoint": "new"})
    again.add("3", objects=[])
    again.journal.close()
    assert (tmp_path / "metrics.json").is_file()  # of these very settings
