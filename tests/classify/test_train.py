"""A whole run, small: folder, resuming, scoring at other sizes, predicting; recipes; and what stops it."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from PIL import Image
from timm.optim import list_optimizers

from botvision.classify import evaluate, predict, train
from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from botvision.classify.data import Batch, build_split, train_transform, val_transform
from botvision.classify.evaluation import Reservoir
from botvision.classify.model import Classifier, build_model, load_classifier, normalisation
from botvision.classify.module import ClassifierModule, first_five, loss_of, mixing, right
from botvision.cli import main, recipe_names, recipe_path
from botvision.digits import make_digits
from botvision.engine.checkpoint import read_checkpoint
from botvision.engine.config import EngineConfig
from botvision.engine.fit import Stopped
from botvision.engine.loader import EpochPosition, Share, resume_position
from botvision.engine.trainer import check_launch
from botvision.optim import build_optimizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
RECIPES = recipe_names("botvision.classify.recipes")
MODEL = ModelConfig("botnet14", img_size=32, options={"output_stride": 16, "channels": [16, 32, 64, 128]})
OPTIM = OptimConfig("adamw", lr_per_256=2e-2, warmup_epochs=0.5, epochs=2, clip=5.0)
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, log_every=5)
DATA = DataConfig(
    "digits", "digits", batch_size=64, workers=0, crop=1.0, augment=AugmentConfig(flip=0.0, scale=(0.8, 1))
)


FEW = replace(DATA, batch_size=16)  # with the fixture few_digits: 21 batches an epoch as well


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        DATA, tmp_path_factory.mktemp("runs") / "whole", model=MODEL, optim=OPTIM, engine=replace(ENGINE, report=True)
    )


@pytest.fixture(scope="module")
def checkpoint(run):
    return run.out / "checkpoints" / "last.ckpt"


def test_train_leaves_the_whole_folder_and_learns(run):
    names = {str(path.relative_to(run.out)) for path in run.out.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml", "metrics.csv", "curves.png", "confusion.png", "summary.json", "predictions/sheet.jpg",
        "samples.jpg", "report.html", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/previous.ckpt",
    }  # fmt: skip
    summary = json.loads((run.out / "summary.json").read_text())
    assert (summary["model"], summary["epochs"], summary["unreadable"]) == ("botnet14", 2, 0)
    assert 0.3 < summary["top1"] <= summary["top5"] <= 1
    assert str(run).endswith(f"next: botvision classify predict {run.out}/checkpoints/last.ckpt YOUR_IMAGE")


def test_the_checkpoint_is_tensors_and_scores_as_the_run_said(run, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    assert content["botvision"]["model"]["name"] == "botnet14"
    scores = evaluate(checkpoint, "digits", workers=0, out=tmp_path)
    assert scores.rows[0].top1 == pytest.approx(run.top1)
    assert scores.rows[0].top5 == pytest.approx(run.top5)
    assert scores.rows[0].confusion.diagonal().sum() / 450 == pytest.approx(run.top1)
    assert json.loads((tmp_path / "metrics.json").read_text())[0]["images"] == 450
    assert (tmp_path / "confusion-32.png").is_file()


def test_a_run_from_its_own_config_gives_the_same(run, checkpoint, tmp_path):
    config = yaml.safe_load((run.out / "config.yaml").read_text())
    assert config["data"]["augment"]["scale"] == [0.8, 1]
    arguments = ["--config", str(run.out / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(["classify", "train", *arguments]) == 0
    ours, theirs = (
        read_checkpoint(path, task="classify")["state_dict"]
        for path in (checkpoint, tmp_path / "again" / "checkpoints" / "last.ckpt")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_one_checkpoint_scores_at_several_sizes_from_the_command_line(checkpoint, capsys):
    assert (
        main(["classify", "evaluate", str(checkpoint), "digits", "--img-size", "32", "48", "64", "--workers", "0"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["32", "48", "64"]
    with pytest.raises(ValueError, match="img_size=8 must be at least 32 px"):
        evaluate(checkpoint, "digits", img_size=(8,))


@pytest.mark.usefixtures("few_digits")
def test_a_run_stopped_after_an_epoch_goes_on(tmp_path):
    part = replace(ENGINE, stop_after=1)
    train(FEW, tmp_path / "r", model=MODEL, optim=OPTIM, engine=part)
    resumed = train(FEW, tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert resumed.epochs == 2
    steps = [int(line.split(",")[0]) for line in (tmp_path / "r" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps)
    assert steps[-1] == 42


@pytest.mark.usefixtures("few_digits")
def test_a_run_that_died_inside_an_epoch_goes_on_with_the_images_it_had_not_seen(tmp_path, monkeypatch):
    seen, original, dies_at = [], ClassifierModule.training_step, [30]

    def dies(self, batch, batch_idx):
        seen.append(batch.labels.tolist())
        if len(seen) in dies_at:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassifierModule, "training_step", dies)
    options = {"model": MODEL, "optim": OPTIM, "engine": replace(ENGINE, save_every=5)}
    with pytest.raises(Stopped, match="stopped by SIGINT, as it was last saved; go on with: botvision classify train"):
        train(FEW, tmp_path / "r", **options)
    content = read_checkpoint(tmp_path / "r" / "checkpoints" / "last.ckpt", task="classify")
    assert resume_position(content, [0, 1]) == (1, 4)  # 21 batches an epoch, saved after 25
    with pytest.raises(ValueError, match=r"read with engine\.seed 0, devices 1; go on with the same"):
        resume_position(content, [0, 2])
    train(FEW, tmp_path / "r", **options, on_existing="resume")
    rows = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows if row.split(",")[-1]] == ["21", "42"]  # scored at the end of each epoch
    resumed = seen[30:]
    seen.clear()
    dies_at.clear()
    train(FEW, tmp_path / "whole", **options | {"engine": ENGINE}, on_existing="replace")
    assert resumed == seen[25:]


@pytest.mark.usefixtures("few_digits")
def test_unreadable_images_are_counted_once_and_past_the_limit_listed(tmp_path, capsys):
    make_digits(tmp_path / "d", size=32)
    broken = sorted((tmp_path / "d" / "train" / "3").iterdir())[:2]
    for path in broken:
        path.write_bytes(b"no image")
    data = replace(
        DATA, train=str(tmp_path / "d" / "train"), val=str(tmp_path / "d" / "val"), bad_limit=2, batch_size=112
    )
    engine = replace(ENGINE, evaluate_every=3)
    summary = train(data, tmp_path / "r", model=MODEL, optim=replace(OPTIM, epochs=3), engine=engine)
    assert summary.unreadable == 2  # 112 divides the images: every epoch meets both
    assert capsys.readouterr().err.count(f"skipped: cannot read image {broken[0].parent}") == 2
    with pytest.raises(
        ValueError, match=r"[12] images could not be read, more than --data\.bad_limit 0 allows: cannot"
    ):
        train(replace(data, bad_limit=0), tmp_path / "s", model=MODEL, optim=OPTIM, engine=ENGINE)


@pytest.mark.parametrize(
    ("optim", "message"),
    [({"ema": 1.5}, "optim.ema=1.5 must be at least 0 and below 1"), ({"clip": 0.0}, "optim.clip=0.0 must be above 0")],
)
def test_averages_and_clips_that_learn_nothing_are_refused_at_once(tmp_path, optim, message):
    with pytest.raises(ValueError, match=message):
        train(DATA, tmp_path / "r", model=MODEL, optim=replace(OPTIM, **optim), engine=ENGINE)
    assert not (tmp_path / "r").exists()


def test_batches_of_unreadable_images_alone_teach_nothing():
    split = build_split("digits", DATA, lambda _: torch.zeros(3, 32, 32), Share(64, True, EpochPosition()))
    task = ClassifierModule(build_model(MODEL, 10), config=MODEL, optim=OPTIM, data=DATA, train=split)
    loss = task.training_step(Batch(torch.zeros(0, 3, 1, 1), torch.zeros(0, dtype=torch.int64), ["a"]), 0)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in task.model.parameters())


def test_predict_says_what_is_in_images(checkpoint, tmp_path, capsys):
    make_digits(tmp_path / "d", size=32)
    (tmp_path / "d" / "val" / "7" / "broken.png").write_bytes(b"")
    found = predict(checkpoint, str(tmp_path / "d" / "val" / "7"), out=tmp_path / "out", top=3)
    assert len(found.predictions) == len(list((tmp_path / "d" / "val" / "7").iterdir())) - 1
    assert len(found.skipped) == 1
    first = json.loads((tmp_path / "out" / "predictions.json").read_text())[0]
    assert len(first["names"]) == 3
    assert first["probabilities"] == sorted(first["probabilities"], reverse=True)
    assert (tmp_path / "out" / "sheet.jpg").is_file()
    with pytest.raises(ValueError, match="none of 1 images could be read"):
        predict(checkpoint, str(tmp_path / "d" / "val" / "7" / "broken.png"), out=tmp_path / "x")
    with pytest.raises(ValueError, match="top=0 must be at least 1"):
        predict(checkpoint, "x", top=0)


def test_a_checkpoint_of_another_house_or_of_other_classes_is_refused(run, checkpoint, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "p" / "cat").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "p" / "cat" / "a.png")
    with pytest.raises(ValueError, match=r"the model knows 10 classes \(0, 1, 2, 3, 4\), .* has 1 \(cat\)"):
        evaluate(checkpoint, str(tmp_path / "p"), workers=0)
    with pytest.raises(ValueError, match="is one of `botvision classify`; give one from runs/maskrcnn"):
        read_checkpoint(checkpoint, task="maskrcnn")
    content = read_checkpoint(checkpoint, task="classify")
    content["botvision"]["classes"].pop()
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="does not fit the model that it describes: size mismatch"):
        load_classifier(tmp_path / "a.ckpt")


def test_real_labels_need_imagenets_names(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="real_labels go by ImageNet's file names; give class folders"):
        evaluate(checkpoint, "digits", real_labels=tmp_path / "real.json", workers=0)
    root = tmp_path / "val" / "0"
    root.mkdir(parents=True)
    for name in range(1, 10):
        (tmp_path / "val" / str(name)).mkdir()
    for number in range(10):
        folder = tmp_path / "val" / str(number)
        Image.new("RGB", (32, 32)).save(folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG", "JPEG")
    said = evaluate(checkpoint, str(tmp_path / "val"), workers=0).rows[0]
    common = int(said.confusion.sum(0).argmax())  # the same image ten times
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[common]]))
    with pytest.raises(ValueError, match="fit ImageNet's whole val, by its file names; 10 images for 1 labels"):
        evaluate(checkpoint, str(tmp_path / "val"), real_labels=real, workers=0)
    real.write_text(json.dumps([[common], [common], [], *[[(common + 1) % 10]] * 7]))
    rows = evaluate(checkpoint, str(tmp_path / "val"), real_labels=tmp_path / "real.json", workers=0).rows
    assert rows[0].real_top1 == pytest.approx(2 / 9)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_losses_of_labels_and_of_their_shares_are_the_same(kind):
    logits, labels = torch.randn(5, 7), torch.randint(7, (5,))
    shares = torch.nn.functional.one_hot(labels, 7).float()
    both = [loss_of(logits, targets, kind=kind, smoothing=0.1) for targets in (labels, shares)]
    assert torch.allclose(*both)
    if kind == "ce":
        own = -(shares * 0.9 + 0.1 / 7) * logits.log_softmax(1)
        assert torch.allclose(both[0], own.sum(1).mean())


def test_mixing_gives_shares_of_classes():
    assert mixing(AugmentConfig(), classes=10) is None
    mix = mixing(AugmentConfig(mixup=0.8, cutmix=1.0), classes=10)
    images, shares = mix(torch.randn(5, 3, 8, 8), torch.arange(5))
    assert images.shape == (5, 3, 8, 8)
    assert torch.allclose(shares.sum(1), torch.ones(5))


def test_right_counts_first_and_first_five():
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4], [9.0, 8, 7, 6, 5, 4]])
    assert tuple(int(n) for n in right(first_five(logits), torch.tensor([0, 4, 5]))) == (1, 2)
    assert tuple(int(n) for n in right(first_five(logits[:, :2]), torch.tensor([0, 1, 1]))) == (1, 3)


def test_the_lot_gives_every_image_the_same_chance():
    lot = Reservoir(3)
    batch = type("B", (), {"images": torch.arange(50.0), "labels": torch.arange(50)})
    lot.offer(batch, torch.randn(50, 4))
    assert len(lot.images) == len(lot.predicted) == 3
    assert [int(image) for image in lot.images] == [label for label, _, _ in lot.predicted]
    assert max(int(image) for image in lot.images) > 3


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_parse_and_build(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["classify", "train", "--recipe", name, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    shipped = yaml.safe_load(recipe_path(name, "botvision.classify.recipes").read_text())
    for part in ("model", "optim", "engine"):
        for key, value in shipped.get(part, {}).items():
            assert printed[part][key] == value
    assert Path(printed["out"]).name == name
    with torch.device("meta"):
        model = build_model(ModelConfig(**shipped["model"]), 1000)
    assert OptimConfig(**shipped["optim"]).optimizer in list_optimizers()
    augment = AugmentConfig(**shipped["data"]["augment"])
    size = shipped["model"]["img_size"]
    transform = train_transform(DataConfig("a", "b", augment=augment), size, *normalisation(model))
    assert transform(Image.new("RGB", (90, 60), "red")).shape == (3, size, size)
    assert (mixing(augment, classes=10) is None) == (name != "a1-style")
    assert val_transform(size, shipped["data"]["crop"], *normalisation(model))(Image.new("RGB", (9, 9))).numel() > 0


def test_the_papers_numbers_are_in_the_recipes():
    """PAPER: 100 epochs at batch 1024 and 1e-4; 200 at 4096, 8e-5, RandAugment 2 × 10, smoothing 0.1; T3 … T7."""
    found = {}
    for name in RECIPES:
        own = yaml.safe_load(recipe_path(name, "botvision.classify.recipes").read_text())
        batch = 8 * own["data"]["batch_size"] * own["optim"].get("accumulate", 1)
        found[name] = (own["model"]["name"], own["model"]["img_size"], own["optim"]["epochs"], batch)
        if name.startswith("imagenet-350ep"):
            assert own["model"]["drop"] > 0
            assert own["model"]["drop_path"] > 0
            assert own["optim"]["ema"] > 0.99
            assert own["optim"]["weight_decay"] < 8e-5
            assert own["data"]["augment"]["auto_augment"].startswith("rand-")
        if name in ("imagenet-100ep", "imagenet-200ep"):
            assert own["optim"]["weight_decay"] == {"imagenet-100ep": 1e-4, "imagenet-200ep": 8e-5}[name]
            assert own["data"]["augment"].get("smoothing", 0) == {"imagenet-100ep": 0, "imagenet-200ep": 0.1}[name]
    assert found["imagenet-100ep"] == ("botnet_s1_50", 224, 100, 1024)
    assert found["imagenet-200ep"] == ("botnet_s1_50", 224, 200, 4096)
    sizes = {"t3": ("botnet_s1_59", 224), "t4": ("botnet_s1_110", 224), "t5": ("botnet_s1_128", 256),
             "t6": ("botnet_s1_77", 320), "t7": ("botnet_s1_128", 384)}  # fmt: skip
    for row, (model, size) in sizes.items():
        assert found[f"imagenet-350ep-s1-{row}"] == (model, size, 350, 4096)


def test_every_option_of_a_recipe_together(tmp_path):
    augment = AugmentConfig("rand-m5-n1", flip=0.0, mixup=0.2, cutmix=1.0, smoothing=0.1, erase=0.2)
    optim = OptimConfig(
        "lamb", 5e-3, loss="bce", accumulate=2, ema=0.5, layer_decay=0.9, epochs=2, warmup_epochs=0.5, clip=1.0
    )
    engine = replace(ENGINE, precision="bf16-mixed", evaluate_every=2, log_every=1)
    model = replace(MODEL, drop=0.1, drop_path=0.1)
    data = replace(DATA, augment=augment, batch_size=128)
    run = train(data, tmp_path / "r", model=model, optim=optim, engine=engine)
    rows = list(csv.DictReader((tmp_path / "r" / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["lr"]] == [
        str(step) for step in range(1, 11)
    ]  # 10 batches an epoch, 2 a step
    best, last = (read_checkpoint(tmp_path / f"r/checkpoints/{n}.ckpt", task="classify") for n in ("best", "last"))
    assert all(torch.equal(value, last["state_dict"][key]) for key, value in best["state_dict"].items())
    average, current = last["state_dict"], last["current_model_state"]
    assert any(not torch.equal(average[key], current[key]) for key in average if key.endswith("conv1.weight"))
    assert average["model.bn1.num_batches_tracked"] == current["model.bn1.num_batches_tracked"]
    scored = evaluate(tmp_path / "r" / "checkpoints" / "best.ckpt", "digits", workers=0).rows[0]
    assert scored.top1 == pytest.approx(run.top1, abs=0.02)  # scored in bfloat16 there, in float32 here


@pytest.mark.parametrize("name", ["densenet121", "vgg11", "vit_tiny_patch16_224", "tf_efficientnet_b0", "resnest14d"])
def test_any_timm_model_goes_in(name):
    config = ModelConfig(name, img_size=64)
    with torch.device("meta"):
        model = build_model(config, 7)
    assert model(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 7)
    classifier = Classifier(model, list("abcdefg"), config, (0.5,) * 3, (0.5,) * 3, 1.0)
    if name.startswith("vit"):
        with pytest.raises(
            ValueError, match=r"takes images of 64 px alone, as it was built; got 96; leave img_size out"
        ):
            classifier.check_size(96)
    else:
        classifier.check_size(96)


def test_an_unknown_optimizer_is_refused_before_anything_is_replaced(run):
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamww'; timm knows .*adamw"):
        train(
            DATA, run.out, model=MODEL, optim=replace(OPTIM, optimizer="adamww"), engine=ENGINE, on_existing="replace"
        )
    assert (run.out / "summary.json").is_file()


def test_forked_processes_are_refused(tmp_path):
    engine = replace(ENGINE, devices=2)
    fake = SimpleNamespace(world_size=2, strategy=SimpleNamespace(launcher=object.__new__(_MultiProcessingLauncher)))
    with pytest.raises(
        ValueError, match="several devices need a process each from the start; run the `botvision` command"
    ):
        check_launch(fake)
    fake.world_size = 1
    check_launch(fake)
    assert engine.devices == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_reaches_97_per_cent(tmp_path, seed):
    """And in under three minutes; wall_seconds says how long."""
    arguments = ["--out", str(tmp_path / "d"), "--engine.seed", str(seed), "--engine.progress", "false"]
    assert main(["classify", "train", "--recipe", "demo", *arguments]) == 0
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert summary["top1"] >= 0.97
    assert summary["wall_seconds"] < 180


@pytest.mark.slow
def test_the_streamed_demo_reaches_97_per_cent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["digits", "data/digits-shards", "--shards", "4"]) == 0
    assert main(["classify", "train", "--recipe", "shards-demo", "--engine.progress", "false"]) == 0
    assert json.loads(Path("runs/classify/shards-demo/summary.json").read_text())["top1"] >= 0.97


def test_layer_decay_gives_each_depth_its_rate(tmp_path, monkeypatch):
    kept = []
    original = ClassifierModule.configure_optimizers
    monkeypatch.setattr(ClassifierModule, "configure_optimizers", lambda self: kept.append(original(self)) or kept[-1])
    optim = OptimConfig(
        "adamw", lr_per_256=1e-3, layer_decay=0.5, warmup_epochs=0, schedule="steps", milestones=(), epochs=1
    )
    train(replace(DATA, batch_size=256), tmp_path / "r", model=MODEL, optim=optim, engine=ENGINE)
    groups = kept[0]["optimizer"].param_groups
    rates = {round(group["lr"], 12) for group in groups}
    assert max(rates) == 1e-3
    assert min(rates) <= 1e-3 * 0.5**4
    assert all(group["weight_decay"] == 0 for group in groups if all(p.ndim == 1 for p in group["params"]))
    model = build_model(MODEL, 10)
    groups = build_optimizer(model, "adamw", lr=1.0, weight_decay=1e-4, layer_decay=0.5).param_groups
    spared = [group for group in groups if not group["weight_decay"]]
    tables = {id(p) for name, p in model.named_parameters() if name.endswith(("rel_h", "rel_w"))}
    assert tables
    assert tables <= {id(p) for group in spared for p in group["params"]}


@pytest.mark.slow
def test_train_on_two_processes_streams_and_scores_every_sample_once(tmp_path):
    make_digits(tmp_path / "d", size=32, shards=3)
    command = [sys.executable, "-m", "botvision.cli", "classify", "train", "--out", str(tmp_path / "two")]
    command += [f"--data.{split}={tmp_path}/d/{split}.json" for split in ("train", "val")]
    command += [f"--data.class_names={tmp_path}/d/classes.txt", "--data.batch_size=64", "--data.workers=1"]
    command += ["--data.crop=1.0", "--model.name=botnet14", "--model.img_size=32", "--optim.epochs=1"]
    command += ["--engine.devices=2", "--engine.accelerator=cpu", "--engine.progress=false"]
    subprocess.run(command, check=True, timeout=600)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    alone = evaluate(tmp_path / "two" / "checkpoints" / "last.ckpt", str(tmp_path / "d" / "val.json"), workers=0)
    assert alone.rows[0].images == 450
    assert summary["top1"] == pytest.approx(alone.rows[0].top1, abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "two" / "metrics.csv").open()))
    assert rows[-1]["step"] == str(1347 // 128)


def test_live_numbers_need_their_package(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr("botvision.engine.trainer.TensorBoardLogger", missing)
    with pytest.raises(ValueError, match=r"engine\.live=tensorboard needs its package: pip install tensorboard"):
        train(DATA, tmp_path / "r", model=MODEL, optim=OPTIM, engine=replace(ENGINE, live="tensorboard"))
    assert not (tmp_path / "r").exists()


def test_live_numbers_go_to_the_logger(tmp_path, monkeypatch):
    class Kept(CSVLogger):
        def __init__(self, out, **options):
            super().__init__(out, name="", version="live")

    monkeypatch.setattr("botvision.engine.trainer.TensorBoardLogger", Kept)
    engine = replace(ENGINE, live="tensorboard")
    train(DATA, tmp_path / "r", model=MODEL, optim=replace(OPTIM, epochs=1), engine=engine)
    written = (tmp_path / "r" / "live" / "metrics.csv").read_text()
    assert "val/top1" in written
    assert "lr-AdamW" in written
