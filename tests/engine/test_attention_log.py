"""Attention seen in training: entropy and distance of each head with every evaluation, a warning where all average."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from botvision.attention import HeadStatistics, MHSA2d
from botvision.classify import train
from botvision.classify.config import DataConfig, ModelConfig, OptimConfig
from botvision.engine.attention import AttentionLog, averaging
from botvision.engine.config import EngineConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
ENGINE = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False)
OPTIM = OptimConfig("sgd", lr_per_256=1e-6, warmup_epochs=0.0, epochs=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twice two classes of eight images."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(8):
                Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("start", "averages"), [("paper", True), ("directional", False)])
@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_heads_are_logged_and_an_average_is_warned_of(folders, tmp_path, capsys, start, averages, precision):
    data = DataConfig(str(folders / "train"), str(folders / "val"), batch_size=8, workers=0)
    model = ModelConfig("botnet14", img_size=64, options={"channels": [8, 16, 32, 64], "start": start})
    engine = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, precision=precision)
    train(data, tmp_path / "run", model=model, optim=OPTIM, engine=engine)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    evaluated = [row for row in rows if row["val/top1"]]
    assert len(evaluated) == 2
    for row in evaluated:
        for head in range(4):
            assert (float(row[f"val/attention_entropy/layer4.0.head{head}"]) > 0.99) == averages
            assert 0 < float(row[f"val/attention_distance/layer4.0.head{head}"]) < 4
    assert [name for name in rows[0] if "/attention_" in name] == list(rows[0])[-8:]  # what a run is judged by is first
    warned = capsys.readouterr().err.count("warning: attention is a plain average over the map in layer4.0 (")
    assert warned == int(averages)


def test_a_model_without_attention_and_a_compiled_one_are_left_alone(folders, tmp_path):
    data = DataConfig(str(folders / "train"), str(folders / "val"), batch_size=8, workers=0)
    model = ModelConfig("resnet14t", img_size=32, options={"channels": [8, 16, 32, 64]})
    train(data, tmp_path / "plain", model=model, optim=OPTIM, engine=ENGINE)
    assert "attention" not in (tmp_path / "plain" / "metrics.csv").read_text()
    trainer = SimpleNamespace(is_global_zero=True)
    for compiled, hooks in ((True, 0), (False, 1)):
        log = AttentionLog(compiled=compiled, epochs=2)
        log.on_validation_epoch_start(trainer, MHSA2d(8, 2))
        assert len(log.hooks) == hooks


def test_a_layer_is_named_where_all_of_its_heads_average():
    def heads(layer, *entropies):
        return [HeadStatistics(layer, n, e, 1.0, 0.0, 0.0, (8, 8)) for n, e in enumerate(entropies)]

    found = heads("layer4.0", 1.0, 0.999) + heads("layer4.1", 1.0, 0.9) + heads("layer4.2", 0.995, 0.991)
    assert "over the map in layer4.0, layer4.2 (" in averaging(found)
    assert "start=directional" in averaging(found)
    assert "start=directional" not in averaging(found, can_look=False)
    assert averaging(found[2:4]) == ""
    assert averaging([]) == ""
