"""Weights out and in again: a folder, and what would go to the hub, caught in a folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import botvision
from botvision.backbone import hub


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
        {"stem_type": "deep", "in_chans": 1},
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


def test_the_card_says_what_one_must_know(tmp_path):
    model = shaken(position="absolute", img_size=(64, 96))
    folder = botvision.save_pretrained(model, tmp_path / "m", how_trained="On nothing.", licence="cc-by-4.0")
    card = (folder / "README.md").read_text()
    count = sum(p.numel() for p in model.parameters())
    for fact in (
        "license: cc-by-4.0",
        "`botnet14`",
        f"{count:,}",
        "3 × 64 × 96",
        "On nothing.",
        '"position": "absolute"',
    ):
        assert fact in card
    assert json.loads((folder / "config.json").read_text())["architecture"] == "botnet14"


def test_pushing_uploads_the_same_folder(tmp_path, monkeypatch):
    asked = []

    class Hub:
        def __init__(self, token):
            asked.append(token)

        def create_repo(self, repo_id, *, private, exist_ok):
            asked.append((repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            Path(folder_path).rename(tmp_path / "uploaded")
            return SimpleNamespace(__str__=lambda self: "address")

    monkeypatch.setattr(hub, "HfApi", Hub)
    model = shaken()
    botvision.push_to_hub(model, "someone/botnet14", how_trained="Shaken.", private=True, token="secret")
    assert asked == ["secret", ("someone/botnet14", True, True)]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(botvision.from_pretrained(tmp_path / "uploaded").eval()(x), model(x), atol=1e-6)


def test_what_cannot_be_saved_or_opened_says_so(tmp_path):
    with pytest.raises(ValueError, match="only models from create_model can be saved so; got Linear"):
        botvision.save_pretrained(torch.nn.Linear(2, 2), tmp_path / "m", how_trained="x")
    with pytest.raises(ValueError, match="how_trained is empty"):
        botvision.save_pretrained(shaken(), tmp_path / "m", how_trained=" ")
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        botvision.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder \./gone; give one that .* wrote, or owner/name"):
        botvision.from_pretrained("./gone")
