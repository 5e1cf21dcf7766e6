"""Attention read from outside equals what the layer computes, and reading it changes nothing."""

import copy
import math

import pytest
import torch

from botvision import create_model
from botvision.attention import MHSA2d, layer_statistics, watch

POSITIONS = ("relative", "absolute", "relative_only", "none")


def own_weights(layer, x):
    """(B, M, N, N): the layer itself, with values that name their key; float64."""
    layer, x = layer.double(), x.double()
    batch, _, height, width = x.shape
    q, k, _ = layer.project(x)
    q, k, rel_h, rel_w = layer.with_positions(q, k, (height, width))
    from botvision.attention import attend

    names = torch.eye(height * width, dtype=torch.float64).expand(batch, layer.num_heads, -1, -1)
    return attend(q, k, names, rel_h, rel_w, scale=layer.scale, backend="reference")


def sharp(position, *, size=(5, 7), max_size=(4, 7)):
    """A layer whose attention is far from flat, on a map larger than its tables."""
    layer = MHSA2d(24, 3, position=position, max_size=max_size, qkv_std=0.4, position_std=0.6)
    return layer, torch.randn(2, 24, *size)


@pytest.mark.parametrize("position", POSITIONS)
def test_rows_are_the_layers_own(position):
    layer, x = sharp(position)
    with watch(layer) as seen:
        layer(x)
    [one] = seen
    rows = torch.stack([torch.stack([one.attention_row(y, c, image=i) for y in range(5) for c in range(7)], 1)
                        for i in range(2)])  # fmt: skip
    expected = own_weights(layer, x)
    assert rows.shape == (2, 3, 35, 5, 7)
    assert expected.max() > 0.5
    torch.testing.assert_close(rows.flatten(-2).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_content_times_position_is_both(position):
    layer, x = sharp(position)
    layer, x = layer.double(), x.double()
    with watch(layer) as seen:
        layer(x)
    both, content, place = (seen[""].attention_row(4, 2, image=1, part=p) for p in ("both", "content", "position"))
    product = content * place
    torch.testing.assert_close(both, product / product.sum((1, 2), keepdim=True), atol=1e-12, rtol=0)
    assert (content - place).abs().max() > 0.1


def test_entropy_and_distance_are_those_of_the_weights():
    layer, x = sharp("relative")
    with watch(layer) as seen:
        layer(x)
    weights = own_weights(layer, x)
    y, c = torch.arange(35) // 7, torch.arange(35) % 7
    apart = torch.hypot((y[:, None] - y).double(), (c[:, None] - c).double())
    layer.float()
    [one] = seen
    entropy = -(weights * weights.log()).sum(-1).mean((0, 2)) / math.log(35)
    torch.testing.assert_close(one.entropy().double(), entropy, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.mean_distance().double(), (weights * apart).sum(-1).mean((0, 2)), atol=1e-5, rtol=0)
    assert one.statistics() == layer_statistics(layer, x)


def test_watching_changes_no_bit_and_ends():
    model = create_model("botnet14", channels=[16, 32, 64, 128], num_classes=4).eval()
    images = torch.rand(2, 3, 96, 64)
    before = model(images)
    with watch(model) as seen:
        assert torch.equal(model(images), before)
        [first] = seen
    assert first.size == (6, 4)
    kept = first.x
    model(torch.rand(1, 3, 64, 64))
    [after] = seen
    assert after.x is kept
    assert torch.equal(model(images), before)


def test_it_computes_by_the_fast_path():
    """The layer's backend is asked as ever: a hook on its inputs does not write the weights out."""
    layer, x = sharp("relative")
    asked = []
    forward = layer.forward
    layer.forward = lambda x: asked.append(layer.backend) or forward(x)
    with watch(layer) as seen, torch.no_grad():
        layer(x)
    assert asked == ["auto"]
    assert seen[""].x.data_ptr() != x.data_ptr()


def test_a_copy_that_runs_is_not_taken_for_the_model():
    layer = MHSA2d(16, 2)
    with watch(layer) as seen, torch.no_grad():
        layer(torch.randn(2, 16, 4, 5))
        copy.deepcopy(layer)(torch.randn(1, 16, 3, 3))
    assert [one.size for one in seen] == [(4, 5)]


def test_half_precision_weights_are_read_in_float32():
    layer, x = sharp("relative")
    layer = layer.bfloat16()
    with watch(layer) as seen:
        layer(x.bfloat16())
    assert seen[""].attention_row(0, 0).dtype == torch.float32


@pytest.mark.parametrize(
    ("position", "asked", "said"),
    [
        ("relative", {"y": 5, "x": 0}, r"\(5, 0\) is outside the map of 5 × 7"),
        ("relative", {"y": 0, "x": 0, "image": 2}, "image=2 is not in the batch of 2"),
        ("relative", {"y": 0, "x": 0, "part": "key"}, "part='key' is unknown; use both, content or position"),
        ("none", {"y": 0, "x": 0, "part": "position"}, "has no position logits; use part='content'"),
        ("relative_only", {"y": 0, "x": 0, "part": "content"}, "has no content logits; use part='position'"),
    ],
)
def test_what_is_not_there_is_refused(position, asked, said):
    layer, x = sharp(position)
    with watch(layer) as seen:
        layer(x)
    with pytest.raises(ValueError, match=said):
        seen[""].attention_row(**asked)


def test_a_model_without_attention_and_a_layer_that_did_not_run_are_refused():
    with pytest.raises(ValueError, match="watch needs a model with MHSA2d"):
        watch(torch.nn.Conv2d(3, 3, 1))
    with watch(MHSA2d(8, 2)) as seen, pytest.raises(KeyError, match="none has run yet"):
        seen["layer4.0"]
