"""The benchmark runs, its contenders compute the same layer, and its ratios are what they say."""

import pytest
import torch

from botvision.bench.attention import attention, contenders


def test_a_small_race_fills_every_row(tmp_path):
    report = attention(sides=(4, 16), rounds=2, out=tmp_path / "a.md")
    assert {row.side for row in report.rows} == {4, 16}
    assert all(len(row.seconds) == 2 and row.ratio > 0 for row in report.rows)
    assert [row.ratio for row in report.rows if row.name == "layer without positions"] == [1.0, 1.0]
    assert "timm BottleneckAttn" in (tmp_path / "a.md").read_text()


def test_every_contender_gives_a_map_of_the_same_shape():
    runs = contenders(5, batch=1)
    with torch.inference_mode():
        shapes = {tuple(run().shape) for name, run in runs.items() if name != "torch SDPA alone"}
    assert shapes == {(1, 512, 5, 5)}


def test_nothing_to_run_is_refused():
    with pytest.raises(ValueError, match="rounds=0"):
        attention(rounds=0)
