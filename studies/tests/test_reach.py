"""Reach: what a gradient's support says, on models whose reach is known."""

import pytest
import torch

from studies.grid import Variant
from studies.reach import farthest, reach, reach_of, within

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64], "zero_init_last": False}


def test_support_and_share_of_a_gradient():
    columns = torch.tensor([0.0, 0.0, 1.0, 97.0, 1.0, 1.0, 0.0, 0.0])
    assert farthest(columns, 3.5) == 2.5
    assert within(columns, 3.5) == 1.0
    assert farthest(torch.zeros(4), 2.0) == 0


def test_a_resnets_reach_is_that_of_its_convolutions_and_a_mean_over_the_image_has_none():
    """A cell's field is 75 px around pixel 32·i; between cells, whose centres count as 32·i + 16, two are read."""
    plain = reach_of(Variant("plain", "resnet26", SMALL), preset="nano", size=256, box=24)
    assert plain.backbone[0] == 83
    assert plain.backbone[1] < 64
    assert plain.backbone[0] < plain.detector[0] < 128
    assert not plain.edge
    whole = reach_of(
        Variant("se", "resnet26", {**SMALL, "block_args": {"attn_layer": "se"}}), preset="nano", size=256, box=24
    )
    assert whole.edge


def test_boxes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="box=300 must be at least 8 and at most half of size=384"):
        reach(box=300)
