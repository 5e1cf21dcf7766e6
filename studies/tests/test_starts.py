"""Starts of attention: equal trials, forms with the same hills, a page that is what its files give."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from botvision import MHSA2d
from botvision.attention import layer_statistics
from botvision.engine.intervals import difference, verdict
from botvision.scenes import make_scenes
from studies.starts import reading
from studies.starts.contenders import AIMED, CONTENDERS
from studies.starts.forms import FORMS, Gated
from studies.starts.page import build_page, counted
from studies.starts.sweep import starts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse's, of whichever file comes first
ROOT = Path(__file__).parent.parent.parent
FILED = ROOT / "benchmarks" / "results" / "starts"


@pytest.fixture
def small(monkeypatch):
    """Twelve and four scenes."""
    monkeypatch.setattr(reading, "Setting", partial(reading.Setting, images=(18, 8)))


def test_trials_are_made_once_and_tabled(small, tmp_path):
    asked = {"worlds": ("pair_near",), "contenders": ("resnet", "directional"), "seeds": (3,), "steps": 2}
    done = starts(**asked, out=tmp_path, jobs=1)
    assert done.failed == []
    files = sorted((tmp_path / "results").iterdir())
    assert [path.name for path in files] == ["pair_near_directional_seed3.json", "pair_near_resnet_seed3.json"]
    ours, theirs = (json.loads(path.read_text()) for path in files)
    assert (ours["steps"], len(ours["before"]), theirs["before"]) == (2, 4, [])
    assert all(head[0] < 0.8 for head in ours["before"])
    assert 0 <= ours["right"] <= 1
    assert re.fullmatch(r"([0-9a-f]{7,}\+?)?", ours["commit"])
    assert "| BoT, directional start |" in str(done)
    before = [path.stat().st_mtime_ns for path in files]
    page = tmp_path / "page.md"
    again = starts(**asked, out=tmp_path, report=page)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert str(again) == str(done)
    assert "too few seeds to tell" in page.read_text()
    assert "Not run yet: ResNet baseline in *pair_far*, *match* and *plain*; ResNet + SE; " in page.read_text()


def test_a_trial_does_not_depend_on_what_ran_before(small, tmp_path):
    first, second = (reading.trial("plain", "paper", 0, scenes=tmp_path, steps=2) for _ in range(2))
    assert {k: v for k, v in first.items() if k != "step_ms"} == {k: v for k, v in second.items() if k != "step_ms"}


@pytest.mark.parametrize("form", ["q_bias", "v_bias", "per_head", "soft", "sharp"])
def test_each_form_looks_to_the_same_sides(form):
    layer = MHSA2d(128, 4, max_size=(12, 12), **AIMED)
    FORMS[form](layer)
    seen = layer_statistics(layer, torch.randn(4, 128, 12, 12).relu())
    for head, (down, right) in zip(seen, ((0, 1), (0, -1), (1, 0), (-1, 0)), strict=True):
        assert head.down * down + head.right * right > 1
        assert abs(head.down * right) + abs(head.right * down) < 0.5
    assert (seen[0].entropy > 0.7) == (form == "soft")


def test_a_gated_layer_is_a_mixture_of_two_attentions():
    layer = MHSA2d(32, 4, max_size=(5, 6), **AIMED)
    FORMS["gated"](layer)
    x = torch.randn(2, 32, 5, 6).relu()
    assert isinstance(layer, Gated)
    with torch.no_grad():
        by_content, mixed, by_position = [
            layer(x) for gate in (-50.0, 0.0, 50.0) if layer.gate.fill_(gate).isfinite().all()
        ]
        assert torch.allclose(mixed, (by_content + by_position) / 2, atol=1e-6)
        plain = MHSA2d(32, 4, position="none")
        plain.qkv.weight.copy_(layer.qkv.weight)
        assert torch.allclose(by_content, plain(x), atol=1e-6)


@pytest.mark.parametrize("world", ["pair_near", "plain"])
def test_the_images_are_those_that_make_scenes_writes(world, tmp_path):
    (train, val) = reading.open_world(world, 3, tmp_path, reading.Setting(images=(3, 2)))
    make_scenes(tmp_path / "scenes", train=3, val=2, size=192, seed=3, **reading.SCENES[world])
    for split, ours in (("train", train), ("val", val)):
        document = json.loads((tmp_path / "scenes" / "annotations" / f"{split}.json").read_text())
        written = [np.asarray(Image.open(tmp_path / "scenes" / split / one["file_name"])) for one in document["images"]]
        assert np.array_equal(ours.images.numpy(), np.stack(written))
        asked = [a for a in document["annotations"] if "partner" in a] or document["annotations"]
        boxes = torch.tensor([a["bbox"] for a in asked])
        assert torch.equal(ours.centre, boxes[:, :2] + boxes[:, 2:] / 2)
        assert ours.label.tolist() == [a["category_id"] - 1 for a in asked]
        assert ours.image.tolist() == [a["image_id"] - 1 for a in asked]
        assert ours.distance.tolist() == pytest.approx([a.get("distance", 0) for a in asked])


def test_every_contender_is_built_and_differs_in_its_start_alone():
    sizes = {name: sum(p.numel() for p in one.build(96).parameters()) for name, one in CONTENDERS.items()}
    assert sizes["paper"] == sizes["wide"] == sizes["directional"] == sizes["soft"] < sizes["v_bias"]


def test_the_picture_is_drawn(small, tmp_path):
    starts(limit=0, steps=1, out=tmp_path, picture=tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1.0, 2.0], ("+1.0, +2.0", "too few seeds to tell")),
        ([], ("not run", "too few seeds to tell")),
        ([1.0, 1.2, 0.8], ("+1.0 ± 0.5 (n = 3)", "above")),
        ([-1.0, -1.2, -0.8], ("-1.0 ± 0.5 (n = 3)", "below")),
        ([1.0, -1.0, 0.0], ("+0.0 ± 2.5 (n = 3)", "no difference can be told")),
    ],
)
def test_differences_say_where_their_interval_lies(values, told):
    found = difference(dict(enumerate(value / 100 for value in values)), dict.fromkeys(range(9), 0.0))
    assert (counted(found, sign=True), verdict(found)) == told


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"worlds": ("par",)}, "no world 'par'; there are pair_near, pair_far, match, plain"),
        ({"contenders": ("bot",)}, "no contender 'bot'; there are resnet"),
        ({"jobs": 0}, "jobs=0 and steps=500 must be at least 1"),
    ],
)
def test_what_there_is_not_is_refused(asked, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        starts(**asked, out=tmp_path)


def test_the_page_is_what_its_files_give():
    assert (ROOT / "docs" / "directional-start.md").read_text() == build_page(FILED), "run: make starts"
