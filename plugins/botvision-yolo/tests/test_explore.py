"""A YOLO's checkpoint in the explorer: found by the entry point's name, attention and objects on one picture."""

import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from botvision.cli import main
from botvision.explore import subjects

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
OFFERED = [EntryPoint(n, v, "botvision.explore") for n, v in PROJECT["entry-points"]["botvision.explore"].items()]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)).save(path)
    return str(path)


def test_a_checkpoint_is_explored(trained, image, tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "entry_points", lambda group: OFFERED)
    trained("yolo11n-botnet.yaml").save(tmp_path / "m.pt")
    out = tmp_path / "m.html"
    assert (
        main(["explore", str(tmp_path / "m.pt"), image, "--out", str(out), "--img_size", "96", "--threshold", "0"]) == 0
    )
    data = json.loads(re.search(r'id="data">(.*?)</script>', out.read_text())[1])
    [view] = data["images"][0]["views"]
    assert (view["width"], view["height"]) == (96, 64)
    assert view["frame"] == pytest.approx([0, 0, 90, 60])
    assert {(block["height"], block["width"]) for block in view["blocks"]} == {(2, 3)}


def test_without_the_plug_in_its_name_is_said(trained, image, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "entry_points", lambda group: [])
    (tmp_path / "m.pt").touch()
    assert main(["explore", str(tmp_path / "m.pt"), image]) == 2
    assert "pip install botvision-yolo" in capsys.readouterr().err
