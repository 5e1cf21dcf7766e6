"""Receptive fields: a convolution sees its own, attention sees everything."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from studies.receptive_field import energy_of, receptive_field, share_holding


def test_a_share_is_the_smallest_that_holds_the_energy():
    energy = np.zeros((10, 10))
    energy[4:6, 4:6] = 1
    assert share_holding(energy, 0.95) == 0.04
    assert share_holding(np.ones((10, 10)), 0.95) == 0.95


def test_a_convolutions_field_is_its_kernel():
    body = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2))
    body.forward = lambda x: [body[0](x)]
    energy = energy_of(body, torch.randn(2, 3, 32, 32), seed=0)
    rows, columns = np.nonzero(energy)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (14, 18, 14, 18)
    assert energy.sum() == pytest.approx(1)


def test_attention_looks_farther_than_its_baseline(tmp_path):
    found = receptive_field(models=("resnet26", "botnet26"), size=128, images=2, seeds=1, out=tmp_path / "f.json")
    baseline, ours = found.fields
    assert ours.share > baseline.share
    assert baseline.side == pytest.approx(128 * baseline.share**0.5, abs=0.1)
    content = json.loads((tmp_path / "f.json").read_text())
    assert [len(f["map"]) for f in content["fields"]] == [32, 32]
    assert max(map(max, content["fields"][0]["map"])) == 1
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert "botnet26" in str(found)


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="needs at least one model, grid or checkpoint"):
        receptive_field(models=())
    with pytest.raises(ValueError, match="images=0 and seeds=3 must be at least 1, size=512 at least 64"):
        receptive_field(images=0)
