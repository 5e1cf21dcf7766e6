"""Weights out and in again: a folder, and what would go to the hub, caught in a folder."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import botvision
from botvision.backbone import hub
from botvision.backbone.counts import count


def shaken(**options):
    model = botvision.create_model("botnet14", num_classes=3, **options).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": "absolute", "num_heads": 8, "img_size": (64, 96), "shortcut_act": True, "extend": "clamp"},
        {"stem_type": "deep", "in_chans": 1, "output_stride": 16, "act_layer": "silu"},
    ],
    ids=str,
)
def test_a_folder_rebuilds_the_same_model(tmp_path, options):
    model = shaken(**options).to(memory_format=torch.channels_last)
    folder = botvision.save_pretrained(model, tmp_path / "deep" / "model", how_trained="Not at all: shaken weights.")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]  # nothing half-written stays behind
    x = torch.randn(1, options.get("in_chans", 3), 64, 96)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(botvision.from_pretrained(folder).eval()(x), expected, atol=1e-6)
        assert torch.allclose(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x), expected, atol=1e-6)


def test_insertions_and_a_later_size_are_kept(tmp_path):
    model = botvision.create_model("botnet26", insert=("c4",), insert_block="bot", num_classes=2)
    model.set_input_size(96)
    again = botvision.from_pretrained(botvision.save_pretrained(model, tmp_path / "m", how_trained="Initial weights."))
    assert again.model_args == model.model_args
    assert again.layer3.extra.mhsa.rel_h.shape == (1, 11, 64)


def test_options_given_on_opening_win(tmp_path):
    model = shaken(img_size=64)
    folder = botvision.save_pretrained(model, tmp_path / "m", how_trained="Shaken.")
    pyramid = botvision.from_pretrained(folder, features_only=True, img_size=128)
    assert pyramid.layer4[0].mhsa.rel_h.shape[1] == 15
    assert torch.equal(pyramid.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    other = botvision.from_pretrained(folder, num_classes=9)
    assert other.fc.out_features == 9


@pytest.mark.parametrize(
    "options",
    [
        {"position": "none", "num_classes": 5},
        {"position": "absolute", "features_only": True},
        {"insert": ("c4",), "layers": (1, 1, 2, 1), "num_classes": 5},
    ],
)
def test_options_that_are_not_the_weights_are_refused_beside_another_classifier_too(tmp_path, options):
    model = botvision.create_model("botnet14", channels=(8, 16, 32, 64), img_size=64)
    folder = botvision.save_pretrained(model, tmp_path / "m", how_trained="Initial weights.")
    with pytest.raises(ValueError, match=r"does not fit a model with .*: no (place for|layer)"):
        botvision.from_pretrained(folder, **options)
    assert botvision.from_pretrained(folder, features_only=True, out_indices=(1, 2), in_chans=1)
    assert botvision.from_pretrained(folder, num_classes=0)


def test_the_card_says_what_one_must_know(tmp_path):
    model = shaken(position="absolute", img_size=(64, 96))
    folder = botvision.save_pretrained(model, tmp_path / "m", how_trained="On nothing.", licence="cc-by-4.0")
    card = (folder / "README.md").read_text()
    counts = count(model, (64, 96))
    facts = ["license: cc-by-4.0", "`botnet14`", "3 × 64 × 96", "On nothing.", '"position": "absolute"']
    for fact in [*facts, f"{counts.parameters:,}", f"{counts.madds / 1e9:.3f}G"]:
        assert fact in card
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "botnet14"
    assert config["pretrained_cfg"]["license"] == "cc-by-4.0"
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 96]
    assert model.pretrained_cfg["license"] == "apache-2.0"  # the model itself is left alone


def test_the_options_do_not_need_timms_own_memory(tmp_path, monkeypatch):
    """timm before 1.0.31 does not record what a model was built with."""
    model = shaken(layers=(1, 2, 1, 2), output_stride=16, act_layer="silu", stem_type="deep", position="absolute")
    del model._model_args, model._traits
    again = botvision.from_pretrained(botvision.save_pretrained(model, tmp_path / "m", how_trained="Shaken.")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-6)


def test_a_compiled_model_is_saved_as_itself(tmp_path):
    model = shaken()
    folder = botvision.save_pretrained(torch.compile(model), tmp_path / "m", how_trained="Shaken.")
    assert torch.equal(botvision.from_pretrained(folder).fc.weight, model.fc.weight)


def test_what_no_file_can_hold_is_refused(tmp_path):
    model = botvision.create_model("botnet14", act_layer=torch.nn.SiLU)
    with pytest.raises(ValueError, match=r"cannot be written so that it opens again: .*SiLU.*act_layer='silu'"):
        botvision.save_pretrained(model, tmp_path / "m", how_trained="Shaken.")
    with pytest.raises(ValueError, match=r"a fused model; give options by .* and save a model before fuse"):
        botvision.save_pretrained(botvision.fuse(shaken()), tmp_path / "m", how_trained="Shaken.")
    assert not (tmp_path / "m").exists()


def test_pushing_uploads_the_same_folder(tmp_path, monkeypatch):
    asked = []

    class Hub:
        def __init__(self, token):
            asked.append(token)

        def create_repo(self, repo_id, *, private, exist_ok):
            asked.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            Path(folder_path).rename(tmp_path / "uploaded")
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr(hub, "HfApi", Hub)
    model = shaken()
    address = botvision.push_to_hub(model, "someone/botnet14", how_trained="Shaken.", private=True, token="secret")
    assert address == "https://hub/someone/botnet14/commit/1"
    assert 'from_pretrained("someone/botnet14")' in (tmp_path / "uploaded" / "README.md").read_text()
    assert asked == ["secret", ("someone/botnet14", True, True)]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(botvision.from_pretrained(tmp_path / "uploaded").eval()(x), model(x), atol=1e-6)


def test_folders_beside_it_stay_and_torn_weights_are_told(tmp_path):
    (tmp_path / ".m-original").mkdir()
    (tmp_path / ".m-original" / "mine").touch()
    os.utime(tmp_path / ".m-original", (0, 0))
    folder = botvision.save_pretrained(shaken(), tmp_path / "m", how_trained="Shaken.")
    assert (tmp_path / ".m-original" / "mine").exists()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="its weights are not whole"):
        botvision.from_pretrained(folder)


def test_what_cannot_be_saved_or_opened_says_so(tmp_path):
    with pytest.raises(ValueError, match="only whole models from create_model can be saved so; got Linear"):
        botvision.save_pretrained(torch.nn.Linear(2, 2), tmp_path / "m", how_trained="x")
    with pytest.raises(ValueError, match="how_trained is empty"):
        botvision.save_pretrained(shaken(), tmp_path / "m", how_trained=" ")
    with pytest.raises(ValueError, match="only whole models from create_model"):
        botvision.save_pretrained(
            botvision.create_model("botnet14", features_only=True), tmp_path / "m", how_trained="x"
        )
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        botvision.from_pretrained(tmp_path)
    folder = botvision.save_pretrained(shaken(), tmp_path / "m", how_trained="Shaken.")
    with pytest.raises(ValueError, match=r"does not fit a model with \{'position': 'absolute'\}.*leave the opt"):
        botvision.from_pretrained(folder, position="absolute")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        botvision.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="no folder runs/gone"):
        botvision.from_pretrained(Path("runs/gone"))
    with pytest.raises(FileNotFoundError, match=r"no folder \./gone; give one that .* wrote, or owner/name"):
        botvision.from_pretrained("./gone")
