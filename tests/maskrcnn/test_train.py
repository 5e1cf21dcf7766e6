"""A whole run, small: folder, resuming, scoring, predicting; and what stops it."""

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
import yaml
from PIL import Image

from botvision.cli import main
from botvision.engine.checkpoint import read_checkpoint
from botvision.engine.config import DeviceConfig, EngineConfig
from botvision.engine.shared_results import SharedResults
from botvision.maskrcnn import evaluate, predict, train
from botvision.maskrcnn.checkpoint import build_model, carry_over, load_detector
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.maskrcnn.module import MaskRCNNModule
from botvision.maskrcnn.prediction import Predictor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

MODEL = ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]})
OPTIM = OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=2, epochs=2, clip=5.0)
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, log_every=1)


def data_of(scenes):
    return DataConfig(
        scenes / "annotations" / "train.json",
        scenes / "train",
        scenes / "annotations" / "val.json",
        scenes / "val",
        flip=False,
        batch_size=4,
        workers=0,
        on_bad="skip",
    )


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=replace(ENGINE, report=True))


def test_train_leaves_the_whole_folder(run):
    out = run.out
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert {"config.yaml", "metrics.csv", "curves.png", "summary.json", "report.html", "predictions/sheet.jpg"} <= names
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= names
    assert len(list((out / "predictions").glob("0*.jpg"))) == 6
    summary = json.loads((out / "summary.json").read_text())
    assert {"box_ap", "mask_ap", "wall_seconds", "peak_memory_mb", "seed", "model"} <= set(summary)
    assert (summary["model"], summary["seed"], summary["epochs"]) == ("botnet14", 0, 2)
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [r["step"] for r in rows if r["train/loss"]] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert [float(r["val/box_ap"]) for r in rows if r["val/box_ap"]][-1] == summary["box_ap"]
    assert str(run).endswith(f"next: botvision maskrcnn predict {out}/checkpoints/last.ckpt YOUR_IMAGE")


def test_train_writes_checkpoints_of_tensors_only(run):
    content = torch.load(run.out / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["botvision"]["model"]["backbone"] == "botnet14"
    assert all(isinstance(v, torch.Tensor) for v in content["state_dict"].values())


def test_train_from_its_own_config_gives_the_same_run(run, scenes, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["maskrcnn", "train", "--config", str(run.out / "config.yaml"), "--out", "x", "--print_config"])
    assert stop.value.code == 0
    config, printed = yaml.safe_load((run.out / "config.yaml").read_text()), yaml.safe_load(capsys.readouterr().out)
    assert {key: printed[key] for key in config} == config
    assert config["data"]["train_images"] == str(scenes / "train")
    again = train(data_of(scenes), tmp_path / "again", model=MODEL, optim=OPTIM, engine=ENGINE)
    ours, theirs = (
        read_checkpoint(r.out / "checkpoints" / "last.ckpt", task="maskrcnn")["state_dict"] for r in (run, again)
    )
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_train_run_that_stopped_resumes_where_it_was(run, scenes, tmp_path, monkeypatch):
    out = tmp_path / "broken"
    half = replace(ENGINE, stop_after=1)
    train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=half)
    with pytest.raises(ValueError, match=r"holds a run already; add --on_existing resume"):
        train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=ENGINE)
    with pytest.raises(ValueError, match="was begun with other settings of optim; resume it with --config"):
        train(data_of(scenes), out, model=MODEL, optim=replace(OPTIM, lr=1.0), engine=ENGINE, on_existing="resume")
    before = read_checkpoint(out / "checkpoints" / "last.ckpt", task="maskrcnn")
    moments = []

    class Look(MaskRCNNModule):
        def on_train_start(self):
            weights = {k: v.clone() for k, v in self.state_dict().items()}
            moments.append((weights, copy.deepcopy(self.trainer.optimizers[0].state_dict()["state"])))

    monkeypatch.setattr("botvision.maskrcnn.task.MaskRCNNModule", Look)
    done = train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert done.epochs == 2
    weights, state = moments[0]
    assert all(torch.equal(weights[k], v) for k, v in before["state_dict"].items())
    assert all(
        torch.equal(state[i]["exp_avg"], s["exp_avg"]) for i, s in before["optimizer_states"][0]["state"].items()
    )
    again = train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume")
    assert (again.box_ap, again.mask_ap, again.epochs) == (done.box_ap, done.mask_ap, 2)  # nothing left to do
    rows = [list(csv.DictReader((o / "metrics.csv").open())) for o in (out, run.out)]
    whole, resumed = ([(r["step"], r["lr"]) for r in table if r["train/loss"]] for table in rows)
    assert whole == resumed


def test_train_with_averaged_weights(scenes, tmp_path):
    out = train(data_of(scenes), tmp_path, model=MODEL, optim=replace(OPTIM, ema=0.9, epochs=1), engine=ENGINE).out
    content = read_checkpoint(out / "checkpoints" / "last.ckpt", task="maskrcnn")
    live, averaged = content["current_model_state"], content["state_dict"]
    key = "model.roi_heads.box_head.fc6.weight"
    assert not torch.equal(live[key], averaged[key])
    assert torch.equal(load_detector(out / "checkpoints" / "last.ckpt").model.state_dict()[key[6:]], averaged[key])


def test_train_in_bf16(scenes, tmp_path):
    done = train(
        data_of(scenes),
        tmp_path,
        model=MODEL,
        optim=replace(OPTIM, epochs=1),
        engine=replace(ENGINE, precision="bf16-mixed"),
    )
    assert done.epochs == 1


def test_train_stops_on_a_loss_that_is_not_finite(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is not finite at step \d+ .*begin anew with a lower --optim.lr"):
        train(
            data_of(scenes),
            tmp_path,
            model=MODEL,
            optim=replace(OPTIM, optimizer="sgd", lr=1e20, warmup_steps=0, clip=None),
            engine=ENGINE,
        )


def test_trained_weights_score_as_the_run_said(run, scenes, tmp_path):
    scores = evaluate(
        run.out / "checkpoints" / "last.ckpt",
        scenes / "annotations" / "val.json",
        scenes / "val",
        out=tmp_path,
        workers=0,
        engine=DeviceConfig("cpu"),
    )
    assert scores.box["AP"] == pytest.approx(run.box_ap, abs=1e-6)
    assert scores.mask["AP"] == pytest.approx(run.mask_ap, abs=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text())["box"] == scores.box
    assert isinstance(json.loads((tmp_path / "results.json").read_text()), list)


def test_processes_share_an_evaluation_and_the_last_counts(run, scenes, tmp_path, monkeypatch):
    """A part that was killed and begun again does what it had left; the figures are one process's."""
    places = [run.out / "checkpoints" / "last.ckpt", scenes / "annotations" / "val.json", scenes / "val"]
    given = {"out": tmp_path / "out", "workers": 0, "batch_size": 1, "engine": DeviceConfig("cpu")}
    add, calls = SharedResults.add, []

    def killed(self, name, **found):
        add(self, name, **found)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SharedResults, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*places, **given, part="1/2")
    first = evaluate(*places, **given, part="0/2")
    assert str(first).startswith("results of 3 images at")
    assert "other processes have 1 to do, and the last of them counts" in str(first)
    both = evaluate(*places, **given, part="1/2")
    assert len(calls) == 6
    alone = evaluate(*places, **given | {"out": tmp_path / "alone"})
    assert both == alone
    for name in ("results.json", "metrics.json"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "alone" / name).read_text()
    with pytest.raises(ValueError, match=r"part 0/2 is put together by the files of a folder; give --out"):
        evaluate(*places, workers=0, part="0/2")


def test_trained_weights_refuse_other_classes(run, coco, scenes):
    document, save = coco
    document["categories"][9]["name"] = "ten"
    with pytest.raises(ValueError, match=r"finds 10 classes .* give annotations with the categories"):
        evaluate(run.out / "checkpoints" / "last.ckpt", *save(), workers=0)


def test_trained_weights_predict_a_folder_and_skip_a_bad_image(run, scenes, tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(scenes / "val", folder)
    (folder / "bad.jpg").write_bytes((folder / "000001.jpg").read_bytes()[:300])
    done = predict(run.out / "checkpoints" / "last.ckpt", str(folder), out=tmp_path / "out", threshold=0.0)
    assert (done.images, len(done.skipped)) == (6, 1)
    assert "6 images, 1 skipped" in str(done)
    assert "cannot read image" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 6
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(results) == done.objects > 0
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation", "file_name"}


def test_trained_weights_predict_from_python(run):
    predictor = Predictor.load(run.out / "checkpoints" / "last.ckpt", threshold=0.0)
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    found = predictor(image)
    assert isinstance(found, sv.Detections)
    assert len(found) > 0
    assert found.mask.shape[1:] == (50, 80)
    assert set(found.class_id) <= set(range(10))
    assert list(found.data["class_name"]) == [predictor.names[i] for i in found.class_id]
    assert len(Predictor.load(run.out / "checkpoints" / "last.ckpt", threshold=1.0)(image)) == 0
    with pytest.raises(ValueError, match="threshold=2 must lie in 0 … 1"):
        Predictor.load(run.out / "checkpoints" / "last.ckpt", threshold=2)


def test_predict_on_nothing_but_bad_images_is_refused_and_writes_nothing(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 1 images could be read"):
        predict(run.out / "checkpoints" / "last.ckpt", str(tmp_path / "a.png"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["gone", "text", "cut", "foreign", "pickle"])
def test_what_is_no_checkpoint_is_named(run, tmp_path, what):
    path = tmp_path / "a.ckpt"
    message = "is not a whole checkpoint of tensors"
    if what == "gone":
        path, message = Path("gone.ckpt"), r"no checkpoint at gone\.ckpt; give a file such as"
    elif what == "text":
        path.write_text("hello")
    elif what == "cut":
        path.write_bytes((run.out / "checkpoints" / "last.ckpt").read_bytes()[:10_000])
    elif what == "foreign":
        torch.save({"state_dict": {}}, path)
        message = "is no checkpoint of ours; give one from runs/maskrcnn"
    elif what == "pickle":
        torch.save({"state_dict": {}, "code": Predictor}, path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_detector(path)


def test_a_checkpoint_whose_tensors_do_not_fit_is_named(run, tmp_path):
    content = read_checkpoint(run.out / "checkpoints" / "last.ckpt", task="maskrcnn")
    content["botvision"]["categories"].pop()
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="does not fit the model that it describes: size mismatch"):
        load_detector(tmp_path / "a.ckpt")


def test_train_refuses_another_val_list_and_too_few_images(scenes, coco, tmp_path):
    document, save = coco
    document["categories"][0]["name"] = "nought"
    path, images = save()
    data = replace(data_of(scenes), val_annotations=path, val_images=images)
    with pytest.raises(
        ValueError, match=r"list different categories, first '0' \(id 1\) and 'nought' \(id 1\); use one list"
    ):
        train(data, tmp_path / "x", model=MODEL, optim=OPTIM, engine=ENGINE)
    with pytest.raises(ValueError, match="has 16 images, fewer than batch_size=32 × 1 devices"):
        train(replace(data_of(scenes), batch_size=32), tmp_path / "x", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert not (tmp_path / "x").exists()


def test_the_last_weights_are_scored_whatever_evaluate_every_says(scenes, tmp_path):
    done = train(data_of(scenes), tmp_path, model=MODEL, optim=OPTIM, engine=replace(ENGINE, evaluate_every=3))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert rows[-1]["step"] == "8"
    assert float(rows[-1]["val/box_ap"]) == done.box_ap


def test_replace_keeps_the_old_run_until_the_new_one_can_begin(run, scenes, tmp_path):
    shutil.copytree(run.out, tmp_path / "old")
    kept = sorted(p for p in (tmp_path / "old").rglob("*"))
    wrong = replace(data_of(scenes), train_annotations=tmp_path / "typo.json")
    with pytest.raises(FileNotFoundError, match="no COCO annotations"):
        train(wrong, tmp_path / "old", model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="replace")
    assert sorted(p for p in (tmp_path / "old").rglob("*")) == kept


@pytest.mark.parametrize("name", ["epochs", "evaluate_every"])
def test_train_refuses_counts_below_one(scenes, tmp_path, name):
    optim, engine = (
        (replace(OPTIM, epochs=0), ENGINE) if name == "epochs" else (OPTIM, replace(ENGINE, evaluate_every=0))
    )
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        train(data_of(scenes), tmp_path, model=MODEL, optim=optim, engine=engine)


@pytest.mark.parametrize(
    ("optim", "said"),
    [
        ({"lr": -1.0}, "optim.lr=-1 must be a number above 0"),
        ({"lr_batch_size": 0}, "optim.lr_batch_size=0 must be at least 1: the batch that lr is given for"),
        ({"backbone_lr": -1e-3}, "optim.backbone_lr=-0.001 must be a number above 0"),
        ({"weight_decay": -0.1}, "optim.weight_decay=-0.1 must be 0 or more"),
        ({"warmup_steps": -5}, "optim.warmup_steps=-5 must be 0 or more; 0 is no warm-up"),
        ({"warmup_from": 5.0}, "optim.warmup_from=5 must be a share in 0 … 1"),
        ({"ema": 1.0}, "optim.ema=1.0 must be at least 0 and below 1"),
        ({"optimizer": "fusedsgd"}, "optimizer 'fusedsgd' cannot be built here: "),
    ],
)
def test_numbers_that_are_none_are_refused_before_an_old_run_is_replaced(run, scenes, tmp_path, optim, said):
    shutil.copytree(run.out, tmp_path / "old")
    kept = sorted(p for p in (tmp_path / "old").rglob("*"))
    with pytest.raises(ValueError, match=re.escape(said)):
        train(data_of(scenes), tmp_path / "old", model=MODEL, optim=replace(OPTIM, **optim), engine=ENGINE,
              on_existing="replace")  # fmt: skip
    assert sorted(p for p in (tmp_path / "old").rglob("*")) == kept


def test_a_detector_begins_from_another_and_says_what_stays_fresh(run, tmp_path):
    path = run.out / "checkpoints" / "last.ckpt"
    state = {k.removeprefix("model."): v for k, v in read_checkpoint(path, task="maskrcnn")["state_dict"].items()}
    same = build_model(MODEL, 10)
    report = carry_over(same, path)
    assert (report.fresh, report.unused) == ([], [])
    assert all(torch.equal(same.state_dict()[key], state[key]) for key in state)
    other = build_model(replace(MODEL, backbone_options={"position": "absolute"}), 3)
    fresh = carry_over_fresh(other, tmp_path)
    assert {key for key in fresh if "mhsa" in key} == {key for key in other.state_dict() if "mhsa" in key}
    assert {key for key in fresh if "predictor" in key and "bbox" in key} == {
        "roi_heads.box_predictor.bbox_pred.weight", "roi_heads.box_predictor.bbox_pred.bias"}  # fmt: skip
    with pytest.raises(ValueError, match="these weights are another model's"):
        carry_over(build_model(ModelConfig("resnet50", "tiny", 64), 10), path)


def test_heads_are_carried_over_by_the_names_of_their_classes(run, tmp_path):
    content = torch.load(run.out / "checkpoints" / "last.ckpt", weights_only=True)
    known = [name for _, name in content["botvision"]["categories"]]
    assert len(known) == 10
    classes = [known[3], "zebra", known[0]]
    path = run.out / "checkpoints" / "last.ckpt"
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items()}
    model = build_model(MODEL, 3)
    began = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = carry_over(model, path, classes=classes)
    heads = {"box_predictor.cls_score": 1, "box_predictor.bbox_pred": 4, "mask_predictor.mask_fcn_logits": 1}
    for name, rows in heads.items():
        for part in ("weight", "bias"):
            key = f"roi_heads.{name}.{part}"
            head, came, own = (tensors[key].split(rows) for tensors in (model.state_dict(), state, began))
            expected = [came[0], came[4], own[2], came[1]]  # background first
            assert all(torch.equal(got, wanted) for got, wanted in zip(head, expected, strict=True))
            assert f"{key} of zebra" in report.fresh
    strange = build_model(MODEL, 10)
    report = carry_over(strange, path, classes=[f"new {number}" for number in range(10)])
    assert {name for name in report.fresh if "predictor.cls" in name} == {
        "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.cls_score.bias"}  # fmt: skip


def carry_over_fresh(model, folder):
    """What stays fresh in a detector for fewer classes that begins from its ResNet baseline's checkpoint."""
    baseline = ModelConfig("resnet26", "tiny", 64, {"layers": [1, 1, 1, 1]})
    state = {f"model.{key}": value for key, value in build_model(baseline, 10).state_dict().items()}
    torch.save({"state_dict": state, "botvision": {"task": "maskrcnn"}}, folder / "baseline.ckpt")
    return carry_over(model, folder / "baseline.ckpt").fresh


def test_two_origins_of_the_backbones_weights_are_refused(run, scenes, tmp_path):
    with pytest.raises(ValueError, match="both bring the backbone's weights; give one of them"):
        train(data_of(scenes), tmp_path / "x", backbone_weights="resnet50", init_from=run.out)
    with pytest.raises(FileNotFoundError, match="no checkpoint at gone"):
        train(data_of(scenes), tmp_path / "x", model=MODEL, optim=OPTIM, engine=ENGINE, init_from=Path("gone"))
    assert not (tmp_path / "x").exists()


def test_predict_never_replaces_the_images_it_was_given(run, scenes, tmp_path):
    shutil.copy(scenes / "val" / "000001.jpg", tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(ValueError, match="would replace the image itself; give another --out"):
        predict(run.out / "checkpoints" / "last.ckpt", str(tmp_path), out=tmp_path)
    assert (tmp_path / "a.jpg").read_bytes() == before
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="would be taken for images the next time; give another --out"):
        predict(run.out / "checkpoints" / "last.ckpt", str(tmp_path), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_train_on_two_processes(scenes, tmp_path):
    """Distributed training and evaluation: each its own images and jitter, 6 val images each counted once."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "from botvision.cli import main\n"
        "from botvision.maskrcnn import data\n"
        "own = data.CocoInstances.__getitem__\n"
        "def note(self, index):\n"
        "    sample = own(self, index)\n"
        "    if self.jitter is not None:\n"
        f"        with open(r'{tmp_path}/' + os.environ.get('LOCAL_RANK', '0'), 'a') as seen:\n"
        "            print(int(sample[1]['image_id']), float(sample[0].float().mean()), file=seen)\n"
        "    return sample\n"
        "data.CocoInstances.__getitem__ = note\n"
        "sys.exit(main())\n"
    )
    data = data_of(scenes)
    command = [sys.executable, str(script), "maskrcnn", "train", "--out", str(tmp_path / "two")]
    command += [f"--data.{k}={v}" for k, v in vars(data).items() if k not in {"jitter", "flip"}]
    command += ["--data.flip=false", "--model.backbone=botnet14", "--model.preset=tiny", "--model.img_size=64"]
    command += ["--optim.epochs=1", "--optim.lr=0.001", "--engine.devices=2", "--engine.accelerator=cpu"]
    command += ["--engine.progress=false"]
    subprocess.run(command, check=True, timeout=600)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["epochs"] == 1
    alone = evaluate(tmp_path / "two/checkpoints/last.ckpt", data.val_annotations, data.val_images, workers=0)
    assert summary["box_ap"] == pytest.approx(alone.box["AP"], abs=1e-6)
    seen = [[line.split() for line in (tmp_path / str(rank)).read_text().splitlines()] for rank in (0, 1)]
    assert sorted(int(number) for part in seen for number, _ in part) == list(range(1, 17))


def test_predictions_are_drawn_larger_where_images_are_small(run, scenes, tmp_path):
    predict(run.out / "checkpoints" / "last.ckpt", str(scenes / "val" / "000001.jpg"), out=tmp_path)
    with Image.open(tmp_path / "000001.jpg") as drawn:
        assert drawn.size == (640, 640)


def test_predict_refuses_to_overwrite_before_it_writes(run, scenes, tmp_path):
    """photos/a.png with --out photos: a.jpg there is the user's own."""
    Image.open(scenes / "val" / "000001.jpg").save(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_bytes(b"mine")
    checkpoint = run.out / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"a\.jpg is there already and would be overwritten; give another --out, or"):
        predict(checkpoint, str(tmp_path / "a.png"), out=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.jpg"}
    assert (tmp_path / "a.jpg").read_bytes() == b"mine"
    assert main(["maskrcnn", "predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path)]) == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("mine")
    with pytest.raises(ValueError, match=r"predictions\.json is there already"):
        predict(checkpoint, str(tmp_path / "a.png"), out=tmp_path / "out")
    predict(checkpoint, str(tmp_path / "a.png"), out=tmp_path, on_existing="replace")
    assert (tmp_path / "a.jpg").read_bytes() != b"mine"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_true_16_bits_are_refused(scenes, tmp_path, precision):
    with pytest.raises(ValueError, match=f"engine.precision={precision} rounds boxes to 16 bits.*use bf16-mixed"):
        train(data_of(scenes), tmp_path / "x", model=MODEL, engine=replace(ENGINE, precision=precision))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet50.a1_in1k", "HF_HUB:a/b", "local-dir:/tmp"])
def test_a_checkpoint_that_names_a_hub_asks_no_network(run, tmp_path, monkeypatch, name):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    content = read_checkpoint(run.out / "checkpoints" / "last.ckpt", task="maskrcnn")
    content["botvision"]["model"]["backbone"] = name
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="is of a hub or a folder, which a checkpoint cannot be built from"):
        load_detector(tmp_path / "a.ckpt")
    content["botvision"]["model"] |= {"backbone": "resnet26", "backbone_options": {"checkpoint_path": "/etc/passwd"}}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="options of resnet26 cannot be checkpoint_path, which load files"):
        load_detector(tmp_path / "a.ckpt")


def test_a_checkpoint_from_before_an_option_opens_and_resumes(scenes, tmp_path, capsys):
    out = tmp_path / "old"
    half = replace(ENGINE, stop_after=1)
    train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=half)
    last = out / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    del content["botvision"]["model"]["auxiliary"]
    del content["botvision_seeding"]
    torch.save(content, last)
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["model"]["auxiliary"]
    del config["optim"]["momentum"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_detector(last).model.auxiliary is None
    assert train(data_of(scenes), out, model=MODEL, optim=OPTIM, engine=ENGINE, on_existing="resume").epochs == 2
    assert "it is an older version's, which drew its random numbers otherwise" in capsys.readouterr().err
    content["botvision"]["model"]["later"] = 1
    torch.save(content, last)
    with pytest.raises(ValueError, match="was made with options that this version does not know: later; update"):
        load_detector(last)


def test_checkpoints_by_the_names_before_the_first_release_still_load(run, tmp_path):
    content = torch.load(run.out / "checkpoints" / "last.ckpt", weights_only=True)
    about = content["botvision"]
    about["house"] = about.pop("task")
    about["model"]["canvas"] = about["model"].pop("img_size")
    torch.save(content, tmp_path / "old.ckpt")
    old, new = (load_detector(path) for path in (tmp_path / "old.ckpt", run.out / "checkpoints" / "last.ckpt"))
    assert old.categories == new.categories
    image = torch.randint(0, 255, (3, 60, 80), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(*(d.model([image]).detections[0]["boxes"] for d in (old, new)))
