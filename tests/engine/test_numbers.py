"""Numbers that are none never reach the weights; data at its smallest trains and is evaluated."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from botvision.classify import config as classify_config
from botvision.classify import train as train_classifier
from botvision.classify.data import Batch
from botvision.classify.model import build_model as build_classifier
from botvision.classify.module import ClassifierModule
from botvision.engine import module as engine_module
from botvision.engine.checkpoint import read_checkpoint
from botvision.engine.config import EngineConfig
from botvision.engine.module import Unreadable
from botvision.maskrcnn import train
from botvision.maskrcnn.checkpoint import build_model
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.maskrcnn.module import MaskRCNNModule
from tests.faults.rates import looked_at

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

MODEL = ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [8, 16, 32, 64]})
OPTIM = OptimConfig("adamw", lr=1e-3, schedule="cosine", warmup_steps=0, epochs=1)
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, log_every=1)


def data_of(scenes, **options):
    files = [
        scenes / "annotations" / "train.json",
        scenes / "train",
        scenes / "annotations" / "val.json",
        scenes / "val",
    ]
    return DataConfig(*files, **{"flip": False, "batch_size": 4, "workers": 0, "on_bad": "skip", **options})


def infinite_from(monkeypatch, steps):
    """Have the gradients of these steps be infinite, as an overflow in 16 bits makes them."""
    original = MaskRCNNModule.on_before_optimizer_step

    def spoilt(self, optimizer):
        if self.global_step in steps:
            next(self.model.parameters()).grad.fill_(float("inf"))
        original(self, optimizer)

    monkeypatch.setattr(MaskRCNNModule, "on_before_optimizer_step", spoilt)


def weights_of(out):
    state = read_checkpoint(out / "checkpoints" / "last.ckpt", task="maskrcnn")["state_dict"]
    return [tensor for tensor in state.values() if tensor.is_floating_point()]


def test_a_step_of_infinite_gradients_is_left_out_and_told(scenes, tmp_path, monkeypatch, capsys):
    infinite_from(monkeypatch, {1})
    train(data_of(scenes), tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert "step 1: gradients are not finite; the step is left out" in capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "r"))


def test_a_run_of_infinite_gradients_ends(scenes, tmp_path, monkeypatch):
    infinite_from(monkeypatch, {0, 1, 2, 3})
    monkeypatch.setattr(engine_module, "IN_A_ROW", 2)
    with pytest.raises(ValueError, match=r"gradients were not finite in 3 steps in a row, up to step 2; .*lower learn"):
        train(data_of(scenes), tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)


@pytest.fixture
def few(scenes, tmp_path):
    """Four training images, of which but the first have no object; one class that no validation image has."""
    for name in ("train", "val"):
        document = json.loads((scenes / "annotations" / f"{name}.json").read_text())
        document["images"] = document["images"][:4]
        first = document["images"][0]["id"]
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] == first]
        if name == "train":
            document["annotations"] += [{**document["annotations"][0], "id": 999, "category_id": 11}]
        document["categories"].append({"id": 11, "name": "rare"})
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return DataConfig(
        tmp_path / "train.json", scenes / "train", tmp_path / "val.json", scenes / "val", flip=False, batch_size=1,
        workers=0,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_batches_of_one_images_without_objects_and_a_class_that_val_lacks(few, tmp_path, capsys, precision):
    done = train(few, tmp_path / "r", model=MODEL, optim=OPTIM, engine=replace(ENGINE, precision=precision))
    assert done.box_ap >= 0
    assert re.search("no validation image has .*rare", capsys.readouterr().err)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(tmp_path / "r"))


@pytest.mark.usefixtures("few_digits")
def test_a_classifiers_batch_of_one_is_refused_where_batchnorm_has_one_value(tmp_path):
    """At 32 px, whose last map is of one place; where only one image of a larger batch can be read, it is left out."""
    small = classify_config.ModelConfig("botnet14", img_size=32, options={"channels": [8, 16, 32, 64]})
    data = classify_config.DataConfig("digits", "digits", batch_size=1, workers=0)
    given = {"optim": classify_config.OptimConfig("adamw", epochs=1), "engine": ENGINE}
    with pytest.raises(ValueError, match=r"data\.batch_size=1 at .*img_size=32 leaves BatchNorm one .*2 or more"):
        train_classifier(data, tmp_path / "r", model=small, **given)
    task = ClassifierModule.__new__(ClassifierModule)
    torch.nn.Module.__init__(task)
    task.model, task.mix, task.bad, task.optim = build_classifier(small, 3), None, Unreadable(0), given["optim"]
    task.data, task.config = replace(data, batch_size=4), small
    loss = task.training_step(Batch(torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), []), 0)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in task.model.parameters())


@pytest.mark.parametrize("task", ["maskrcnn", "classify"])
def test_ten_times_the_rate_in_bf16_leaves_no_number_that_is_none(scenes, tmp_path, task, few_digits):
    """`make rates` is the long form; here a rate a hundred times the recipe's, for a few steps."""
    engine = replace(ENGINE, precision="bf16-mixed")
    try:
        if task == "maskrcnn":
            train(data_of(scenes), tmp_path / "r", model=MODEL, optim=replace(OPTIM, lr=0.2, epochs=3), engine=engine)
        else:
            small = classify_config.ModelConfig("botnet14", img_size=32, options={"channels": [8, 16, 32, 64]})
            data = classify_config.DataConfig("digits", "digits", batch_size=56, workers=0)
            optim = classify_config.OptimConfig("adamw", lr_per_256=0.4, epochs=2, warmup_epochs=0)
            train_classifier(data, tmp_path / "r", model=small, optim=optim, engine=engine)
    except ValueError as refusal:
        assert re.search("not finite", str(refusal))  # noqa: PT017
    kept = looked_at(tmp_path / "r")
    assert kept[0] > 2
    assert kept[1] == 0


def test_a_batch_without_an_object_has_finite_losses():
    model = build_model(MODEL, 3).train()
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 112, 112, dtype=torch.uint8),
    }
    losses = model([torch.rand(3, 64, 64)], [nothing]).losses
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_of_unreadable_images_alone_is_a_loss_of_nothing(scenes, tmp_path, capsys):
    """The first process's batch may hold none while the others wait for its gradients."""
    shutil.copytree(scenes, tmp_path / "s")
    for path in sorted((tmp_path / "s" / "train").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:500])
    done = train(data_of(tmp_path / "s", batch_size=1), tmp_path / "r", model=MODEL, optim=OPTIM, engine=ENGINE)
    assert done.unreadable == 2
    assert "predictions; 2 unreadable images left out\nnext: " in str(done)
    assert capsys.readouterr().err.count("skipped: cannot read image") == 2
    limited = data_of(tmp_path / "s", batch_size=1, bad_limit=1)
    with pytest.raises(ValueError, match=r"2 images could not be read, more than --data\.bad_limit 1 allows: cannot"):
        train(limited, tmp_path / "limited", model=MODEL, optim=OPTIM, engine=ENGINE)
