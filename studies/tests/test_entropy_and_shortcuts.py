"""Counts behind figures of the docs: the shortcuts of *side*, and how uniform attention begins."""

import json
from pathlib import Path

import pytest

from studies.cli import run
from studies.entropy import WIDE, measure
from studies.shortcuts import shortcuts

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse's


def test_the_shortcuts_of_side_are_counted(tmp_path, capsys):
    """One rule names every digit; trees that never see the key beat a coin; the filed count says the same."""
    assert run(shortcuts, ["--layouts", "2000", "--out", str(tmp_path / "a.json")]) == 0
    assert "key never seen" in capsys.readouterr().out
    filed = next(RESULTS.glob("side_shortcuts_*.json"))
    for path in (tmp_path / "a.json", filed):
        found = json.loads(path.read_text())
        digits = found["digits besides the key"]
        assert found["rightly named by: key in the right half of the image, so left"] == digits > found["layouts"]
        assert found["images whose digits all have one class"] == found["layouts"]
        alone, others = found["named by boosted trees, the key never seen"].values()
        assert 0.5 < alone < others < 0.75


def test_attention_begins_as_a_plain_average_but_with_a_wide_start():
    """What the docs tell users of small data; `botnet26` alone, on small images."""
    for options, low, high in (({}, 0.999, 1.0), (WIDE, 0.8, 0.97)):
        layers = measure("botnet26", options, 128, 0)
        assert [layer["layer"] for layer in layers] == ["layer4.0.mhsa", "layer4.1.mhsa"]
        assert all(low < layer["entropy / log N"] <= high for layer in layers)
        assert all((layer["output off its mean, %"] < 2) == (options == {}) for layer in layers)


def test_the_filed_entropies_are_those_of_the_docs():
    filed = json.loads(next(RESULTS.glob("attention_entropy_*.json")).read_text())["models"]
    for name in ("botnet14", "botnet26", "botnet50"):
        assert all(f"{layer['entropy / log N']:.4f}" == "0.9999" for layer in filed[name])
        assert all(0.35 < layer["output off its mean, %"] < 0.75 for layer in filed[name])
    assert [round(layer["entropy / log N"], 2) for layer in filed["botnet26, wide start"]] == pytest.approx(
        [0.92, 0.91]
    )
    for page in ("README.md", "docs/backbone.md", "docs/maskrcnn.md", "docs/classify.md"):
        assert "0.9999" in (ROOT / page).read_text(), page
