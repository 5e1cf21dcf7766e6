"""Two processes are one with the same global batch, by torchrun; bad images on one hang none; killed ones restart."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from botvision.classify import evaluate as evaluate_classifier
from botvision.classify.config import DataConfig, ModelConfig, OptimConfig
from botvision.classify.data import Batch, build_split
from botvision.classify.module import ClassifierModule
from botvision.engine.loader import EpochPosition, Share
from botvision.engine.module import Unreadable
from tests.faults.kills import ending, same

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# a model whose norms know no batch: BatchNorm is synchronised over GPUs alone
TRAINING = """
import os, random, sys
from pathlib import Path
from botvision import classify
from botvision.classify.config import *
from botvision.classify.module import ClassifierModule
from botvision.engine.config import EngineConfig
world, images, out = int(os.environ.get("WORLD_SIZE", "1")), sys.argv[1], sys.argv[2]
step = ClassifierModule.training_step
def noted(self, batch, batch_idx):
    loss = step(self, batch, batch_idx)
    with open(f"{out}-{self.global_rank}.txt", "a") as losses:
        print(self.current_epoch, batch_idx, float(loss), len(batch.labels), float(batch.images.sum()), file=losses)
    return loss
ClassifierModule.training_step = noted
vit = {"depth": 2, "embed_dim": 48, "num_heads": 2, "patch_size": 8}
augment = AugmentConfig("rand-m5-n1", flip=0.5, erase=0.2)
classify.train(
    DataConfig(images, images, batch_size=8 // world, workers=2, augment=augment), Path(out),
    model=ModelConfig("vit_tiny_patch16_224", img_size=32, options=vit),
    optim=OptimConfig("adamw", lr_per_256=0.03, warmup_epochs=0, epochs=2),
    engine=EngineConfig(accelerator="cpu", devices=world, progress=False, report=False, log_every=1),
)
"""


def noise_folders(root, count, size):
    """So many images of noise in folders of two classes, in turn."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def images(tmp_path):
    """Eighty images of two classes."""
    return noise_folders(tmp_path / "images", 80, (40, 32))


def trained(tmp_path, images, name, *launcher):
    script = tmp_path / "train.py"
    script.write_text(TRAINING)
    command = [*launcher, str(script), str(images), str(tmp_path / name)]
    subprocess.run(command, check=True, timeout=100, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    ranks = [path.read_text().splitlines() for path in sorted(tmp_path.glob(f"{name}-?.txt"))]
    return [[float(number) for number in line.split()] for rank in ranks for line in rank]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(images, tmp_path):
    """Twenty steps: images, augmentations and losses of each are the same; the metrics too, over all images."""
    one = trained(tmp_path, images, "one", sys.executable)
    two = trained(tmp_path, images, "two", *TWO)
    assert (len(one), len(two)) == (20, 40)
    for epoch, batch, loss, count, pixels in one:
        halves = [line for line in two if line[:2] == [epoch, batch]]
        assert sum(line[3] for line in halves) == count == 8
        assert sum(line[4] for line in halves) == pytest.approx(pixels, rel=1e-5)
        assert np.mean([line[2] for line in halves]) == pytest.approx(loss, abs=1e-5)
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert ours["top1"] == theirs["top1"]
    weights = [torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("one", "two")]
    for key, value in weights[0]["state_dict"].items():
        torch.testing.assert_close(weights[1]["state_dict"][key], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_images_that_one_process_alone_cannot_read_hang_none(images, tmp_path):
    """Whole batches of one rank: the second half of the first global batch, and of the last."""
    share = Share(8, True, EpochPosition())
    data = DataConfig(str(images), str(images), batch_size=8, workers=0)
    split = build_split(str(images), data, nn.Identity(), share)
    samples = split.batches.source.source.samples
    for batch in list(split.batches.batch_sampler)[::9]:
        for number in batch[1::2]:
            Path(samples[number][0]).write_bytes(b"no image")
    lines = trained(tmp_path, images, "two", *TWO)
    assert [line[2:4] for line in lines if line[:2] == [0, 0]][1] == [0.0, 0]
    assert len(lines) == 40
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert (summary["epochs"], summary["unreadable"]) == (2, 8)  # of both, each once
    evaluated = evaluate_classifier(tmp_path / "two" / "checkpoints" / "last.ckpt", str(images), workers=0)
    assert (evaluated.rows[0].images, len(evaluated.rows[0].skipped)) == (72, 8)


def detector_flags(scenes, out):
    w = scenes / "annotations"
    flags = {
        "data.train_annotations": w / "train.json", "data.train_images": scenes / "train",
        "data.val_annotations": w / "val.json", "data.val_images": scenes / "val", "data.batch_size": 1,
        "data.workers": 0, "model.backbone": "botnet14", "model.preset": "nano", "model.img_size": 64,
        "optim.epochs": 4, "optim.lr": 0.001, "engine.accelerator": "cpu", "engine.devices": 2,
        "engine.progress": "false", "engine.save_every": 3, "engine.log_every": 1, "on_existing": "resume", "out": out,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in flags.items()]


@pytest.mark.slow
def test_a_killed_worker_of_torchrun_is_restarted_and_the_run_goes_on_to_the_same_end(scenes, tmp_path):
    """And its detector is evaluated and used by two processes, which end as one does."""
    command = [*TWO, "--max-restarts", "2", "-m", "botvision", "maskrcnn"]
    agent = subprocess.Popen([*command, "train", *detector_flags(scenes, tmp_path / "killed")])
    while not (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists():
        assert agent.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    assert agent.wait(timeout=100) == 0
    subprocess.run([*command, "train", *detector_flags(scenes, tmp_path / "whole")], check=True, timeout=100)
    assert same(ending(tmp_path / "whole"), ending(tmp_path / "killed")) == []
    checkpoint = str(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    for verb, given, result in (
        ("predict", [checkpoint, str(scenes / "val"), "--threshold", "0"], "predictions.json"),
        ("evaluate", [checkpoint, str(scenes / "annotations" / "val.json"), str(scenes / "val")], "metrics.json"),
    ):
        given += ["--engine.accelerator", "cpu", "--batch_size", "1"]
        subprocess.run([*command, verb, *given, "--out", str(tmp_path / "two")], check=True, timeout=100)
        alone = [sys.executable, "-m", "botvision", "maskrcnn", verb, *given, "--out", str(tmp_path / "one")]
        subprocess.run(alone, check=True, timeout=100)
        assert (tmp_path / "two" / result).read_text() == (tmp_path / "one" / result).read_text()


@pytest.mark.slow
def test_a_detectors_process_without_an_image_or_an_object_hangs_none(scenes, tmp_path):
    """Batches of one image: a rank whose image cannot be read has none, one whose image is empty has no object."""
    broken = tmp_path / "scenes"
    shutil.copytree(scenes, broken)
    file = broken / "annotations" / "train.json"
    document = json.loads(file.read_text())
    unreadable, *empty = [image["id"] for image in document["images"][:3]]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] not in empty]
    file.write_text(json.dumps(document))
    (broken / "train" / document["images"][0]["file_name"]).write_bytes(b"no image")
    assert unreadable not in empty
    command = [*TWO, "-m", "botvision", "maskrcnn", "train", *detector_flags(broken, tmp_path / "out")]
    done = subprocess.run(command, check=True, timeout=200, capture_output=True, text=True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["epochs"], summary["unreadable"]) == (4, 1)
    assert "skipped: cannot read image" in done.stderr
    weights = torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())


@pytest.mark.slow
def test_a_classifier_is_evaluated_and_used_by_torchruns_two_processes_as_by_one(images, tmp_path):
    trained(tmp_path, images, "one", sys.executable)
    checkpoint = str(tmp_path / "one" / "checkpoints" / "last.ckpt")
    accuracies = ("images", "top1", "top5")
    for verb, result, more in (
        ("predict", "predictions.json", []),
        ("evaluate", "metrics.json", ["--batch_size", "7"]),
    ):
        given = [
            verb,
            checkpoint,
            str(images / "**" / "*" if verb == "predict" else images),
            "--engine.accelerator",
            "cpu",
            *more,
        ]
        found = []
        for launcher, out in ((TWO, "shared"), ([sys.executable], "alone")):
            command = [*launcher, "-m", "botvision", "classify", *given, "--out", str(tmp_path / out)]
            subprocess.run(command, check=True, timeout=100, env=os.environ | {"PYTHONWARNINGS": "ignore"})
            found.append(json.loads((tmp_path / out / result).read_text()))
        if verb == "evaluate":  # times differ
            found = [[{name: row[name] for name in accuracies} for row in rows] for rows in found]
        assert found[0] == found[1], verb


def test_a_process_without_an_image_takes_part_in_what_others_wait_for():
    """Synchronised norms speak to each other in the forward pass."""
    passed = []

    class Net(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm, self.fc = norm, nn.Linear(3, 2)

        def forward(self, x):
            passed.append(tuple(x.shape))
            return self.fc(x.mean((2, 3)))

    for norm, shapes in ((nn.BatchNorm2d(3), []), (nn.SyncBatchNorm(3), [(2, 3, 32, 32)])):
        module = ClassifierModule.__new__(ClassifierModule)
        nn.Module.__init__(module)
        module.model, module.config, module.bad = Net(norm), ModelConfig("any", img_size=32), Unreadable(0)
        module.data, module.optim, module.mix = DataConfig("a", "b"), OptimConfig(), None
        loss = module.training_step(Batch(torch.zeros(0, 3, 1, 1), torch.zeros(0, dtype=torch.int64), []), 0)
        loss.backward()
        assert loss == 0
        assert module.model.fc.weight.grad.abs().sum() == 0
        assert passed == shapes
