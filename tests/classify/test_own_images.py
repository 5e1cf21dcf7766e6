"""A stranger's own images: one folder, a part of it kept, a frozen model, an end that says what was learnt."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from botvision.classify import evaluate, train
from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from botvision.classify.model import build_model
from botvision.classify.module import head_of
from botvision.classify.sources import Folders, Part
from botvision.cli import main
from botvision.engine.config import EngineConfig
from botvision.optim import freeze

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

MODEL = ModelConfig("botnet14", 32, options={"channels": [16, 32, 64, 128], "output_stride": 8})
OPTIM = OptimConfig("adamw", lr_per_256=1e-2, warmup=0.1, epochs=2, final="best")
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=True, report=False, log_every=1)
AUGMENT = AugmentConfig(scale=(0.8, 1.0), color_jitter=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten red, six green and two blue images."""
    root = tmp_path_factory.mktemp("own") / "colours"
    noise = np.random.default_rng(0)
    for channel, (name, count) in enumerate({"red": 10, "green": 6, "blue": 2}.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 90, (20 + number, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_a_part_of_each_class_is_kept_by_the_seed(folder):
    source = Folders(folder)
    halves = [[Part(source, 0.3, seed=seed, kept=kept) for kept in (False, True)] for seed in (0, 0, 1)]
    assert [[len(part) for part in half] for half in halves] == [[12, 6]] * 3  # 1 + 2 + 3 of 2, 6 and 10
    assert halves[0][1].numbers == halves[1][1].numbers != halves[2][1].numbers
    assert not set(halves[0][0].numbers) & set(halves[0][1].numbers)
    for half in halves:
        assert {label for part in half for _, label in part.samples} == {0, 1, 2}
        assert {label for _, label in half[1].samples} == {0, 1, 2}
        assert half[0].open(0)[1] == half[0].samples[0][1]
    with pytest.raises(ValueError, match=r"data\.val_fraction=0 must lie between 0 and 1"):
        Part(source, 0, seed=0, kept=True)


def test_one_folder_trains_and_says_what_it_read(folder, tmp_path, capsys):
    data = DataConfig(str(folder), val_fraction=0.3, batch_size=6, workers=0, augment=AUGMENT)
    optim = replace(OPTIM, epochs="auto", patience=1, lr_per_256=1e-12, warmup=2.0)
    done = train(data, tmp_path / "run", model=MODEL, optim=optim, engine=ENGINE)
    printed = capsys.readouterr()
    assert "train: 12 images of 3 classes: blue 1, green 4, red 7" in printed.err
    assert "val: 6 images of 3 classes: blue 1, green 2, red 3" in printed.err
    assert done.epochs == 2
    assert "ended after epoch 2 of 100: no better top-1 in 1 evaluations" in printed.err
    assert "the warm-up of 400 steps is longer than the run of 200" in printed.err
    assert (tmp_path / "run" / "samples.jpg").is_file()
    rows = [row for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open()) if row["val/top1"]]
    assert done.top1 == max(float(row["val/top1"]) for row in rows)
    assert done.checkpoint.name == "best.ckpt"
    assert f"{done.top1:.4f}" in str(evaluate(done.checkpoint, str(folder), workers=0)) or done.top1 < 1
    assert "best.ckpt was trained on most of these images: the figures say nothing" in capsys.readouterr().err


def test_parts_are_for_class_folders(tmp_path, folder, capsys):
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "only" / "a.png")
    for source, match in (
        (str(tmp_path / "one"), "class only has 1 images, and two splits need two; add images"),
        ("digits", "a part can be kept of class folders alone; give --data.val"),
    ):
        arguments = ["--data.train", source, "--out", str(tmp_path / "x"), "--data.workers", "0"]
        assert main(["classify", "train", "--recipe", "finetune", *arguments]) == 2
        assert match in capsys.readouterr().err


def test_a_folder_of_splits_is_no_folder_of_classes(folder, tmp_path):
    (tmp_path / "set").mkdir()
    for split in ("train", "valid"):
        (tmp_path / "set" / split).symlink_to(folder)
    with pytest.raises(
        ValueError, match=r"holds splits \(train, valid\), not classes; give each by itself, e\.g\. --data"
    ):
        Folders(tmp_path / "set")


def test_one_image_more_moves_no_other_to_the_other_split(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "more")
    shutil.copy(folder / "red" / "3.png", tmp_path / "more" / "red" / "0new.png")
    before, after = (
        {Path(path).name for path, label in Part(Folders(root), 0.3, seed=0, kept=True).samples if label == 2}
        for root in (folder, tmp_path / "more")
    )
    assert len(before & after) >= len(before) - 1


def test_models_with_two_heads_are_trained():
    head = head_of(timm.create_model("levit_128s", num_classes=3))
    assert len(list(head.parameters())) >= 4


def test_a_frozen_classifier_learns_its_attention_blocks_and_its_last_layer(folder, tmp_path):
    data = DataConfig(str(folder), val_fraction=0.3, batch_size=6, workers=0, augment=AUGMENT)
    with pytest.raises(ValueError, match=r"optim\.freeze keeps the weights as they were loaded, and none are"):
        train(data, tmp_path, model=MODEL, optim=replace(OPTIM, freeze=True), engine=ENGINE)
    model = build_model(MODEL, 3)
    freeze(model)
    learns = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learns == {"layer4"}  # and the last layer, by the module
    weights = tmp_path / "resnet.pt"
    resnet = build_model(
        ModelConfig("resnet26", 32, options={"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}), 3
    )
    torch.save(resnet.state_dict(), weights)
    optim = replace(OPTIM, freeze=True, epochs=1, final="last")
    done = train(data, tmp_path / "run", model=MODEL, optim=optim, engine=ENGINE, backbone_weights=str(weights))
    state = torch.load(done.checkpoint, weights_only=True)["state_dict"]
    shared = {name: value for name, value in resnet.state_dict().items() if f"model.{name}" in state}
    same = {name for name, value in shared.items() if torch.equal(value, state[f"model.{name}"])}
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv2.weight", "layer3.0.bn3.weight"} <= same
    assert not {"fc.weight", "layer4.0.conv1.weight"} & same
