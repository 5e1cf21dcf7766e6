"""A stranger's own data: a folder, boxes alone, a frozen backbone, an end that says what was learnt."""

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from botvision.cli import main
from botvision.engine.config import EngineConfig, epochs_for
from botvision.engine.doubts import flat_loss, nothing_found, slow_start
from botvision.engine.folder import clear
from botvision.engine.trainer import Patience, averaged
from botvision.maskrcnn import evaluate, predict, train
from botvision.maskrcnn.checkpoint import build_model, load_detector
from botvision.maskrcnn.coco import has_masks
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.intake import settle_data, unlearnable
from botvision.maskrcnn.model import build_mask_rcnn
from botvision.optim import build_optimizer, freeze, rate_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

MODEL = ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]}, masks="auto")
OPTIM = OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup=0.1, epochs=2, clip=5.0)
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=True, report=False, log_every=1)


@pytest.fixture(scope="module")
def boxes(scenes, tmp_path_factory):
    """One file without masks, with Roboflow's empty first category, beside its images."""
    root = tmp_path_factory.mktemp("own") / "set"
    shutil.copytree(scenes / "train", root)
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"], annotation["area"]
    document["categories"].insert(0, {"id": 0, "name": "digits", "supercategory": "none"})
    (root / "labels.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def run(boxes, tmp_path_factory):
    """Trained on boxes, with a rate of nothing, so that it ends early; and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "boxes"
    data = DataConfig(root=boxes, val_fraction=0.25, flip=False, batch_size=4, workers=0)
    optim = replace(OPTIM, lr=1e-9, epochs="auto", patience=1, final="best")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *words, **_: said.extend(" ".join(map(str, words)).splitlines()))
        return train(data, out, model=MODEL, optim=optim, engine=ENGINE), said


def test_boxes_alone_train_a_faster_rcnn(run, boxes, tmp_path, capsys):
    done, said = run
    assert done.mask_ap is None
    model = load_detector(done.checkpoint).model
    assert not model.masks
    assert not [name for name, _ in model.named_parameters() if "mask" in name]
    metrics = evaluate(done.checkpoint, boxes / "labels.json", boxes, out=tmp_path, workers=0)
    assert metrics.mask == {}
    assert "mask" not in str(metrics)
    assert len(json.loads((tmp_path / "metrics.json").read_text())["box"]) == 12
    assert "best.ckpt was trained on 12 of these 16 images: the figures say nothing" in capsys.readouterr().err
    kept = evaluate(done.checkpoint, next((done.out / "annotations").glob("val-*.json")), boxes, workers=0)
    assert kept.box["AP"] == pytest.approx(done.box_ap, abs=1e-6)
    assert "was trained on" not in capsys.readouterr().err
    evaluate(done.checkpoint, next((done.out / "annotations").glob("train-*.json")), boxes, workers=0)
    assert "best.ckpt was trained on these images: the figures say nothing of others" in capsys.readouterr().err
    predicted = predict(done.checkpoint, str(boxes / "000001.jpg"), out=tmp_path / "found", threshold=0.0)
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert len(results) == predicted.objects > 0
    assert not any("segmentation" in result for result in results)
    assert next(line for line in said if "objects with boxes" in line).startswith("train: 12 images of 64×64")


def test_a_folder_is_evaluated_as_it_is_trained_on(run, boxes, scenes, tmp_path, capsys):
    """Its validation split, or all images where it has none; by words and by names; nothing is left beside the data."""
    done, _ = run
    whole = evaluate(done.checkpoint, boxes, workers=0)
    assert "one COCO file at" in (said := capsys.readouterr().err)
    assert "no validation split, so all 16 images" in said
    assert whole == evaluate(done.checkpoint, boxes / "labels.json", boxes, workers=0)
    capsys.readouterr()
    assert main(["maskrcnn", "evaluate", str(done.checkpoint), str(boxes / "labels.json"), str(boxes)]) == 0
    assert f"AP           {whole.box['AP']:.3f}" in capsys.readouterr().out

    yolo = tmp_path / "yolo"
    for name in ("train", "val"):
        shutil.copytree(scenes / name, yolo / "images" / name)
        (yolo / "labels" / name).mkdir(parents=True)
        for path in (scenes / name).iterdir():
            (yolo / "labels" / name / f"{path.stem}.txt").write_text("3 0.5 0.5 0.25 0.25")
    names = [category.name for category in load_detector(done.checkpoint).categories]
    (yolo / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    before = sorted(yolo.rglob("*"))
    evaluate(done.checkpoint, yolo, out=tmp_path / "evaluation", workers=0)
    assert "YOLO (data.yaml) at" in (said := capsys.readouterr().err)
    assert "6 images of its validation split" in said
    assert sorted(yolo.rglob("*")) == before
    (kept,) = (tmp_path / "evaluation" / "annotations").iterdir()
    assert len(json.loads(kept.read_text())["images"]) == 6
    with pytest.raises(ValueError, match=r"is a file alone; give the folder of its images behind it, or by --im"):
        evaluate(done.checkpoint, boxes / "labels.json")
    with pytest.raises(FileNotFoundError, match=r"no annotations at .*nowhere; give a COCO file, or the folder"):
        evaluate(done.checkpoint, boxes / "nowhere")
    with pytest.raises(ValueError, match=r"is a folder and brings its images; leave .* out, or give its COCO file"):
        evaluate(done.checkpoint, boxes, boxes)


def test_a_run_says_what_was_read_and_how_it_ended(run):
    done, said = run
    assert any(line.startswith("data: one COCO file at") for line in said)
    assert "data: no validation split; 4 of 16 images are kept to evaluate on" in said
    assert any(line.startswith("left out: categories without an object: digits") for line in said), said
    assert done.epochs == 2  # of a hundred: the second evaluation was no better than the first
    assert any(
        line.startswith("ended after epoch 2 of 100: no better box AP in 1 evaluations than 0.") for line in said
    )
    assert any(line.startswith("epoch 1/100 ") and "steps/s" in line and "box AP 0.0" in line for line in said)
    assert all(len(line) <= 80 for line in said if line.startswith("epoch "))
    with Image.open(done.out / "samples.jpg") as sheet:
        assert sheet.size == (3 * 420, 3 * 420)
    assert str(done).splitlines()[1].endswith("checkpoints/best.ckpt YOUR_IMAGE")


def test_its_config_names_every_number_and_goes_on(run, boxes):
    done, _ = run
    config = yaml.safe_load((done.out / "config.yaml").read_text())
    assert (config["optim"]["epochs"], config["model"]["masks"], config["data"]["root"]) == (100, False, None)
    files = [config["data"][f"{split}_annotations"] for split in ("train", "val")]
    images = [{i["file_name"] for i in json.loads(open(path).read())["images"]} for path in files]  # noqa: PTH123, SIM115
    assert [len(names) for names in images] == [12, 4]
    assert not images[0] & images[1]
    settled, _ = settle_data(DataConfig(root=boxes, val_fraction=0.25), done.out, seed=0)
    assert [str(settled.train_annotations), str(settled.val_annotations)] == files
    changed, _ = settle_data(DataConfig(root=boxes, val_fraction=0.5), done.out, seed=0)
    assert str(changed.train_annotations) not in files


def test_best_weights_are_reported(scenes, tmp_path):
    """The reported AP is the table's largest, and best.ckpt gives it again."""
    files = [
        scenes / "annotations" / "train.json",
        scenes / "train",
        scenes / "annotations" / "val.json",
        scenes / "val",
    ]
    data = DataConfig(*files, flip=False, batch_size=4, workers=0, on_bad="skip")
    done = train(data, tmp_path, model=MODEL, optim=replace(OPTIM, final="best", epochs=3, ema=0.99), engine=ENGINE)
    rows = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["val/mask_ap"]]
    assert done.mask_ap == max(float(row["val/mask_ap"]) for row in rows)
    again = evaluate(done.checkpoint, files[2], files[3], workers=0)
    assert (again.box["AP"], again.mask["AP"]) == pytest.approx((done.box_ap, done.mask_ap), abs=1e-6)


def test_replacing_a_run_leaves_labels_alone(run, boxes, tmp_path):
    """Those that a run has converted, which its config.yaml names, and those of a folder that it is written into."""
    done, _ = run
    shutil.copytree(done.out, tmp_path / "run")
    (tmp_path / "run" / "annotations" / "train.json").write_text("mine")
    clear(tmp_path / "run")
    kept = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kept == {"train.json", *(path.name for path in (done.out / "annotations").iterdir())}


def test_few_masks_among_boxes_are_not_trained_on(coco, caplog):
    document, save = coco
    for annotation in document["annotations"][3:]:
        del annotation["segmentation"]
    path, _ = save()
    assert not has_masks(document, path, on_bad="skip")
    assert "objects have no mask: all are trained as boxes; --model.masks true leaves these out" in caplog.text
    for annotation in document["annotations"]:
        annotation["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    assert has_masks(document, path, on_bad="refuse")
    del document["annotations"][0]["segmentation"]
    assert has_masks(document, path, on_bad="skip")
    for annotation in document["annotations"]:
        annotation["segmentation"] = [[]]  # as some tools write of a box
    assert not has_masks(document, path, on_bad="refuse")


def test_patience_waits_for_a_first_finding_and_outlives_a_resume():
    patience = Patience("val/box_ap", mode="max", patience=2, check_finite=False)
    trainer = SimpleNamespace(callback_metrics={}, should_stop=False, fast_dev_run=False, world_size=1, current_epoch=0)
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    counts = []
    for found in (0.0, 0.0, 0.0, 0.1, 0.0, 0.05):
        trainer.callback_metrics = {"val/box_ap": torch.tensor(found)}
        patience._run_early_stopping_check(trainer)
        counts.append(patience.wait_count)
    assert counts == [0, 0, 0, 0, 1, 2]
    assert trainer.should_stop
    again = SimpleNamespace(should_stop=False)
    patience.on_train_start(again, None)
    assert again.should_stop


def test_images_of_both_splits_are_warned_of(scenes):
    sets = [CocoInstances(scenes / "annotations" / f"{n}.json", scenes / n, on_bad="skip") for n in ("train", "val")]
    assert not [line for line in unlearnable(*sets) if "trained on" in line]
    assert "16 of 16 validation images are trained on, e.g. " in "".join(unlearnable(sets[0], sets[0]))


def test_annotations_of_which_some_have_masks(coco, tmp_path):
    document, save = coco
    del document["annotations"][0]["segmentation"]
    annotations, images = save()
    data = DataConfig(annotations, images, batch_size=4, workers=0)
    with pytest.raises(
        ValueError, match=r"1 of \d+ annotations have no mask; --data\.on_bad skip leaves them out, --mod"
    ):
        train(data, tmp_path / "a", model=MODEL, optim=OPTIM, engine=ENGINE)
    with pytest.raises(ValueError, match=r"has no segmentation.*; --model\.masks false trains on boxes alone"):
        train(data, tmp_path / "a", model=replace(MODEL, masks=True), optim=OPTIM, engine=ENGINE)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({}, r"no images to train on; give --data\.root FOLDER, or --data\.train_annotations FILE\.json and"),
        ({"train_annotations": "a.json"}, r"no images to train on; give --data\.root FOLDER"),
        (
            {"root": "x", "train_images": "y"},
            r"data\.root=x brings its own files; leave data\.train_annotations, .* out",
        ),
    ],
)
def test_data_that_is_not_told(data, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        train(DataConfig(**data), tmp_path, model=MODEL)


def test_the_recipe_needs_a_folder_and_nothing_else(capsys, tmp_path):
    assert main(["maskrcnn", "train", "--recipe", "finetune", "--out", str(tmp_path / "x")]) == 2
    assert "no images to train on; give --data.root FOLDER" in capsys.readouterr().err
    assert main(["maskrcnn", "train", "--recipe", "finetune", "--data.root", str(tmp_path), "--out", "x"]) == 2
    assert "holds no annotations in a layout that is known" in capsys.readouterr().err


def test_a_frozen_backbone_keeps_all_but_its_attention_blocks():
    model = build_mask_rcnn("botnet26", 2, preset="nano", img_size=64)
    freeze(model.pyramid.body)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0.1)
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1]),
              "masks": torch.ones(1, 112, 112, dtype=torch.uint8)}  # fmt: skip
    sum(model([torch.rand(3, 64, 64)] * 2, [target] * 2).losses.values()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    body = {name.removeprefix("pyramid.body.") for name in changed if name.startswith("pyramid.body.")}
    assert all(name.startswith("layer4.") for name in body)
    assert {"layer4.0.mhsa.qkv.weight", "layer4.0.bn2.running_mean", "layer4.1.conv1.weight"} <= body
    assert any(name.startswith("roi_heads.") for name in changed)


def test_freezing_random_weights_is_refused(scenes, tmp_path):
    data = DataConfig(scenes / "annotations" / "train.json", scenes / "train", batch_size=4, workers=0, on_bad="skip")
    with pytest.raises(
        ValueError, match=r"optim\.freeze keeps the backbone's weights as they were loaded, and none are"
    ):
        train(data, tmp_path, model=MODEL, optim=replace(OPTIM, freeze=True), engine=ENGINE)


def test_the_backbone_has_a_rate_of_its_own():
    model = build_model(replace(MODEL, masks=True), 2)
    body = set(map(id, model.pyramid.body.parameters()))
    slow = set(model.pyramid.body.parameters())
    groups = build_optimizer(model, "adamw", lr=1e-2, weight_decay=0.1, slow=slow, slow_lr=1e-3)
    rates = {(id(p) in body, group["lr"]) for group in groups.param_groups for p in group["params"]}
    assert rates == {(True, 1e-3), (False, 1e-2)}
    assert sum(len(group["params"]) for group in groups.param_groups) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in groups.param_groups} == {0.0, 0.1}


@pytest.mark.parametrize(
    ("name", "meant_for", "rate"), [("momentum", 8, 0.2), ("adamw", 8, 0.1 * 2**0.5), ("adamw", None, 0.1)]
)
def test_rates_follow_the_batch(name, meant_for, rate):
    assert rate_for(0.1, name, batch=16, meant_for=meant_for) == pytest.approx(rate)


@pytest.mark.parametrize(("images", "epochs"), [(1, 100), (32, 100), (64, 50), (200, 16), (279, 12), (10_000, 12)])
def test_epochs_follow_the_number_of_images(images, epochs):
    assert epochs_for(images) == epochs


def test_averaging_forgets_what_a_short_run_began_from():
    """After 16 steps at a fixed decay of 0.99, 85 % of the average would still be the beginning."""
    average = torch.zeros(())
    for count in range(1, 17):
        average = averaged(average, torch.ones(()), torch.tensor(count), decay=0.99)
    assert average > 0.95
    late = averaged(torch.zeros(()), torch.ones(()), torch.tensor(100_000), decay=0.99)
    assert late == pytest.approx(0.01, abs=1e-6)
    assert averaged(torch.tensor(3), torch.tensor(5), torch.tensor(9), decay=0.99) == 5


def test_doubts_name_the_cure():
    rows = [{"train/loss": value, "val/box_ap": 0.0} for value in np.full(9, 2.0)]
    assert "the training loss did not fall (2 in the first third" in flat_loss(rows)
    assert "box AP is 0.000 after 9 evaluations" in nothing_found(rows, metric="val/box_ap", name="box AP")
    assert "500 steps is longer than the run of 16" in slow_start(warmup_steps=500, total=16)
    falling = [{"train/loss": 2.0 - step / 9, "val/box_ap": 0.1 * (step == 4)} for step in range(9)]
    assert flat_loss(falling) == nothing_found(falling, metric="val/box_ap", name="x") == ""
    assert slow_start(warmup_steps=15, total=16) == flat_loss(rows[:5]) == ""


def test_a_run_that_was_moved_finds_the_labels_in_its_own_folder(run, tmp_path, capsys):
    """They were converted into it; its config.yaml names the place where it was."""
    done, _ = run
    shutil.copytree(done.out, tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    config.write_text(config.read_text().replace(str(done.out), "gone"))
    assert "gone/annotations" in config.read_text()
    given = ["--config", str(config), "--out", str(tmp_path / "moved"), "--on_existing", "resume"]
    assert main(["maskrcnn", "train", *given, "--data.workers", "0"]) == 0
    assert "going on with epoch" in capsys.readouterr().err
    assert str(tmp_path / "moved" / "annotations") in config.read_text()
