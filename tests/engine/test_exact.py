"""A run that was stopped and resumed is the uninterrupted one to the bit: weights, optimiser, averages, metrics."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from botvision import classify, maskrcnn
from botvision.classify.config import AugmentConfig
from botvision.classify.module import ClassifierModule
from botvision.digits import make_digits
from botvision.engine.config import EngineConfig
from botvision.engine.fit import Stopped
from botvision.engine.loader import EpochPosition, ResumableLoader, Share, seed_draws
from botvision.maskrcnn.module import MaskRCNNModule
from tests.faults.kills import ending, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("few_digits"),
]
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, log_every=1, evaluate_every=2)
AUGMENT = AugmentConfig("rand-m5-n1", mixup=0.2, cutmix=1.0, smoothing=0.1, erase=0.2)
CLASSIFIER = {
    "data": classify.config.DataConfig("digits", "digits", batch_size=84, workers=0, crop=1.0, augment=AUGMENT),
    "model": classify.config.ModelConfig(
        "botnet14", img_size=32, options={"channels": [8, 16, 32, 64]}, drop=0.2, drop_path=0.2
    ),
    "optim": classify.config.OptimConfig("adamw", epochs=2, warmup_epochs=0.5, ema=0.9, clip=1.0),
    "engine": ENGINE,
}  # four steps an epoch


def detector(scenes):
    """Four steps an epoch as well."""
    places = [scenes / "annotations" / "train.json", scenes / "train", scenes / "annotations" / "val.json"]
    data = maskrcnn.config.DataConfig(*places, scenes / "val", batch_size=4, workers=0, on_bad="skip")
    model = maskrcnn.config.ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]})
    optim = maskrcnn.config.OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=2, epochs=2, clip=5.0)
    return {"data": data, "model": model, "optim": optim, "engine": ENGINE}


def stopped_once(monkeypatch, module, step, *, at):
    """Have the process send itself SIGTERM in a certain step of a module."""
    seen, original = [0], getattr(module, step)

    def sends(self, batch, batch_idx):
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module, step, sends)


def compared(train, options, tmp_path, monkeypatch, module):
    """What differs between an uninterrupted run and one of three sessions, the second of which has two workers."""
    train(out=tmp_path / "whole", **options)
    stopped_once(monkeypatch, module, "training_step", at=3)
    stopped_once(monkeypatch, module, "validation_step", at=1)
    for workers in (0, 2):
        with pytest.raises(Stopped):
            train(out=tmp_path / "r", **options | {"data": replace(options["data"], workers=workers)},
                  on_existing="resume" if workers else "refuse")  # fmt: skip
    train(out=tmp_path / "r", **options, on_existing="resume")
    return same(ending(tmp_path / "whole"), ending(tmp_path / "r"))


def test_a_classifier_stopped_in_an_epoch_and_in_an_evaluation_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """With every random option on; the evaluation is made up for."""
    assert compared(classify.train, CLASSIFIER, tmp_path, monkeypatch, ClassifierModule) == []


def test_a_detector_stopped_in_an_epoch_and_in_an_evaluation_ends_as_if_it_had_not_been(scenes, tmp_path, monkeypatch):
    """Here in the last evaluation, of which best.ckpt comes."""
    assert compared(maskrcnn.train, detector(scenes), tmp_path, monkeypatch, MaskRCNNModule) == []


@pytest.mark.slow
def test_a_run_on_shards_ends_as_if_it_had_not_been_stopped(tmp_path, monkeypatch):
    """Two workers stream: its images have names, no numbers."""
    make_digits(tmp_path / "d", size=32, shards=3)
    places = {"train": f"{tmp_path}/d/train.json", "val": f"{tmp_path}/d/val.json"}
    data = replace(CLASSIFIER["data"], **places, class_names=tmp_path / "d" / "classes.txt", workers=2)
    options = CLASSIFIER | {"data": data}
    classify.train(out=tmp_path / "whole", **options)
    stopped_once(monkeypatch, ClassifierModule, "training_step", at=6)
    with pytest.raises(Stopped):
        classify.train(out=tmp_path / "r", **options)
    classify.train(out=tmp_path / "r", **options, on_existing="resume")
    assert same(ending(tmp_path / "whole"), ending(tmp_path / "r")) == []


@pytest.mark.slow
def test_killed_runs_end_as_uninterrupted_ones(tmp_path):
    """A few of `make kills`."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.kills", "--kills", "6", "--folder", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "Lost: none." in said.stdout


def test_a_samples_random_numbers_are_its_own():
    """Whatever was drawn before, in whichever process; others in another epoch, for another seed or sample."""

    class Noise:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.rand(()).item(), random.random(), np.random.rand()

    def drawn(*, seed=0, epoch=0, rank=0, index=0):
        position = EpochPosition()
        position.begin(epoch)
        torch.rand(3)
        return ResumableLoader(Noise(), share=Share(1, True, position, seed, rank, 2)).dataset[index]

    assert drawn() == drawn() == drawn(rank=1)
    others = [drawn(), drawn(seed=1), drawn(epoch=1), drawn(index=1)]
    assert all(len(set(numbers)) == 4 for numbers in zip(*others, strict=True))
    seed_draws("step", 0, 0, 0, 0)
    one = torch.rand(())
    seed_draws("step", 0, 0, 0, 1)
    assert one != torch.rand(())  # of dropout each rank has its own
