"""A YOLO's checkpoint in the explorer: found by the entry point's name, attention and objects on one picture."""

import base64
import json
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from botvision.cli import main
from botvision.explore import subjects
from botvision_yolo.explore import coarsest_map

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
    assert "to open it, install plugins/botvision-yolo of this project" in capsys.readouterr().err


def test_a_yolo_without_our_attention_shows_its_receptive_field(trained, image, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "entry_points", lambda group: OFFERED)
    paths = {name: str(tmp_path / name / "weights" / "best.pt") for name in ("yolo11n", "yolo11n-botnet")}
    for name, path in paths.items():
        Path(path).parent.mkdir(parents=True)
        trained(f"{name}.yaml").save(path)
    out, plain = tmp_path / "m.html", paths["yolo11n"]
    shared = [image, "--out", str(out), "--img_size", "96"]
    assert main(["explore", plain, *shared]) == 2
    assert "--field 8 shows what each place depends on, its effective receptive field" in capsys.readouterr().err
    assert not out.exists()
    assert main(["explore", paths["yolo11n-botnet"], *shared, "--against", plain, "--field", "2"]) == 0
    data = json.loads(re.search(r'id="data">(.*?)</script>', out.read_text())[1])
    assert [model["name"] for model in data["models"]] == ["yolo11n-botnet/best", "yolo11n/best"]
    [views] = [one["views"] for one in data["images"]]
    kinds = [[block["kind"] for block in view["blocks"]] for view in views]
    assert kinds == [["attention", "attention", "field"], ["field"]]
    field = views[1]["blocks"][0]
    assert (field["down"], field["across"]) == ([0.25, 0.75], [1 / 6, 5 / 6])  # the middles of P5's 2 x 3 cells
    rows = np.frombuffer(base64.b64decode(field["rows"]), "<f4").reshape(4, 32, 32)
    assert rows.sum((1, 2)) == pytest.approx(1)
    assert rows[0][:, :8].sum() > rows[1][:, :8].sum()  # a place at the left depends on what is at the left


def test_the_coarsest_map_is_what_the_head_is_given(trained):
    model = trained("yolo11n.yaml").model
    x, given = torch.rand(1, 3, 64, 96), []
    hook = model.model[-1].register_forward_pre_hook(lambda _, inputs: given.extend(inputs[0]))
    before = model(x)[0]
    hook.remove()
    assert torch.equal(coarsest_map(model)(x), given[-1])
    assert torch.equal(model(x)[0], before)  # the head is as it was


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"hello", [], "m.pt cannot be opened: "),
        (b"PK\x03\x04 torn", [], "m.pt cannot be opened: "),
        (None, ["--img_size", "0"], "img_size=0 must be at least 32 px; e.g. 640"),
        (None, ["--img_size", "-64"], "img_size=-64 must be at least 32 px; e.g. 640"),
    ],
)
def test_bad_input_is_one_line(content, options, said, image, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "entry_points", lambda group: OFFERED)
    (tmp_path / "m.pt").write_bytes(content or b"")
    out = tmp_path / "m.html"
    assert main(["explore", str(tmp_path / "m.pt"), image, "--out", str(out), *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("botvision: ")
    assert said in line
    assert not out.exists()
