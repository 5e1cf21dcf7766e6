"""The benchmark runs, its contenders compute the same, and its ratios are what they say."""

import json

import pytest
import torch

from botvision.bench.attention import BACKENDS, attention, cores, layers


@pytest.mark.parametrize("train", [False, True])
def test_a_small_race_fills_every_row(tmp_path, train):
    report = attention(sides=(4, 16), rounds=2, train=train, out=tmp_path / "a.md")
    assert {row.side for row in report.rows} == {4, 16}
    assert all(len(row.seconds) == 2 and row.ratio > 0 for row in report.rows)
    assert [row.ratio for row in report.rows if "o positions" in row.name] == [1.0] * 2
    assert [row.ratio for row in report.rows if "without positions" in row.name] == [1.0] * 2
    text = (tmp_path / "a.md").read_text()
    assert "timm BottleneckAttn" in text
    assert ("Forward and backward" in text) == train
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == len(report.rows)


def test_every_core_computes_the_same_but_the_yardstick():
    runs = cores(5, batch=2)
    with torch.no_grad():
        results = {name: run() for name, run in runs.items()}
    expected = results["attend explicit"]
    assert {name for name, out in results.items() if torch.allclose(out, expected, atol=1e-4)} == set(runs) - {
        "torch SDPA, no positions"
    }


def test_every_layer_gives_a_map_of_the_same_shape():
    with torch.no_grad():
        shapes = {name: tuple(run().shape) for name, run in layers(5, batch=1).items()}
    assert set(shapes.values()) == {(1, 512, 5, 5)}
    assert {f"MHSA2d {backend}" for backend in BACKENDS} < set(shapes)


def test_nothing_to_run_is_refused():
    with pytest.raises(ValueError, match="rounds=0"):
        attention(rounds=0)
