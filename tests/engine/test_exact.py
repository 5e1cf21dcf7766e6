"""A run that was stopped and resumed is the uninterrupted one to the bit: weights, optimiser, averages, metrics."""

import csv
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from botvision import classify, maskrcnn
from botvision.classify.config import AugmentConfig
from botvision.classify.module import ClassifierModule
from botvision.engine.config import EngineConfig
from botvision.engine.fit import Stopped
from botvision.engine.loader import EpochPosition, ResumableLoader, Share, seed_draws
from botvision.maskrcnn.module import MaskRCNNModule

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("few_digits"),
]
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, log_every=1, evaluate_every=2)
AUGMENT = AugmentConfig("rand-m5-n1", mixup=0.2, cutmix=1.0, smoothing=0.1, erase=0.2)
CLASSIFIER = {
    "data": classify.config.DataConfig("digits", "digits", batch_size=84, workers=0, crop=1.0, augment=AUGMENT),
    "model": classify.config.ModelConfig(
        "botnet14", img_size=32, options={"channels": [8, 16, 32, 64]}, drop=0.2, drop_path=0.2
    ),
    "optim": classify.config.OptimConfig("adamw", epochs=4, warmup_epochs=0.5, ema=0.9, clip=1.0),
    "engine": ENGINE,
}  # four steps an epoch


def detector(scenes):
    """Four steps an epoch as well."""
    places = [scenes / "annotations" / "train.json", scenes / "train", scenes / "annotations" / "val.json"]
    data = maskrcnn.config.DataConfig(*places, scenes / "val", batch_size=4, workers=0, on_bad="skip")
    model = maskrcnn.config.ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]})
    optim = maskrcnn.config.OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=2, epochs=2, clip=5.0)
    return {"data": data, "model": model, "optim": optim, "engine": ENGINE}


def same(one, other, place=""):
    """Names of the tensors and numbers that differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        return [name for key in one for name in same(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), place
        return [name for n, pair in enumerate(zip(one, other, strict=True)) for name in same(*pair, f"{place}.{n}")]
    return [] if (torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other) else [place]


def ending(out):
    """What a run ends with: its checkpoint, and its rows but for the seconds that they took."""
    content = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    kept = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    return {key: content.get(key) for key in kept}, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def stopped(monkeypatch, module, step, *, at):
    """Have the process send itself SIGTERM in certain steps of a module."""
    seen, original = [0], getattr(module, step)

    def sends(self, batch, batch_idx):
        seen[0] += 1
        if seen[0] in at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module, step, sends)


def sessions(train, options, out, *, count):
    """Train until the run is over, which takes so many sessions."""
    for number in range(count - 1):
        with pytest.raises(Stopped):
            train(out=out, **options, on_existing="resume" if number else "refuse")
    train(out=out, **options, on_existing="resume")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """How an uninterrupted run of a classifier ends, with every random option on."""
    from sklearn import datasets
    from sklearn.utils import Bunch

    every = datasets.load_digits()
    few = Bunch(images=every.images[:448], target=every.target[:448])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", lambda: few)
        out = tmp_path_factory.mktemp("runs") / "whole"
        classify.train(out=out, **CLASSIFIER)
    return ending(out)


@pytest.mark.parametrize(("step", "at"), [("training_step", (3, 8)), ("validation_step", (1,))])
def test_a_classifier_stopped_anywhere_ends_as_if_it_had_not_been(whole, tmp_path, monkeypatch, step, at):
    """Inside an epoch, after its last step, and while it evaluates, which is made up for."""
    stopped(monkeypatch, ClassifierModule, step, at=at)
    sessions(classify.train, CLASSIFIER, tmp_path / "r", count=len(at) + 1)
    content, rows = ending(tmp_path / "r")
    assert same(whole[0], content) == []
    assert rows == whole[1]


def test_workers_change_nothing(whole, tmp_path, monkeypatch):
    stopped(monkeypatch, ClassifierModule, "training_step", at=(6,))
    options = CLASSIFIER | {"data": replace(CLASSIFIER["data"], workers=2)}
    sessions(classify.train, options, tmp_path / "r", count=2)
    content, rows = ending(tmp_path / "r")
    assert same(whole[0], content) == []
    assert rows == whole[1]


@pytest.mark.parametrize(("step", "at"), [("training_step", (3,)), ("validation_step", (1,))])
def test_a_detector_stopped_anywhere_ends_as_if_it_had_not_been(scenes, tmp_path, monkeypatch, step, at):
    options = detector(scenes)
    maskrcnn.train(out=tmp_path / "whole", **options)
    stopped(monkeypatch, MaskRCNNModule, step, at=at)
    sessions(maskrcnn.train, options, tmp_path / "r", count=2)
    (expected, rows), (content, found) = ending(tmp_path / "whole"), ending(tmp_path / "r")
    assert same(expected, content) == []
    assert rows == found


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
