"""Starts of attention: the paper's is untouched; a directional one looks where it says, and costs nothing."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from botvision import create_model, fuse, load_resnet
from botvision.attention import MHSA2d, attend, attention_statistics, layer_statistics
from botvision.attention.start import DEPTH, hills

SIDES = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}  # (down, right)


def features(*shape):
    """What stands before attention in a BoT block: normalised, then ReLU."""
    return torch.randn(*shape).relu()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_each_head_looks_to_its_side(heads):
    layer = MHSA2d(128, heads, max_size=(16, 24), start="directional")
    seen = layer_statistics(layer, features(2, 128, 48, 72)[..., :16, :24])
    for one in seen:
        down, right = SIDES[one.head]
        assert one.size == (16, 24)
        assert 0.3 < one.entropy < 0.8
        assert (one.down, one.right) == pytest.approx((0.18 * 16 * down, 0.18 * 24 * right), abs=0.07 * 24)
        assert 2 < one.distance < 10


def test_at_the_papers_start_all_heads_average():
    for one in layer_statistics(MHSA2d(512, 4), features(2, 512, 14, 14)):
        assert one.entropy > 0.9999
        assert abs(one.down) + abs(one.right) < 0.1


def test_further_heads_look_half_as_far_then_half_as_far_again_then_nowhere():
    layer = MHSA2d(14 * 32, 14, max_size=(16, 16), start="directional", start_distance=0.2)
    right = [one.right for one in layer_statistics(layer, features(4, 14 * 32, 16, 16))]
    assert right[8] > right[0] > right[4] > 0.5
    assert abs(right[12]) < 0.1
    assert len(hills(14, (16, 16), 0.2)) == 12


def test_the_logits_at_the_start_are_the_hills():
    """Exact where the mean of the input's channels is 0.4: zero at the place looked at, −8 at most far from it."""
    layer = MHSA2d(64, 4, max_size=(9, 9), start="directional", position_std=0.0, qkv_std=0.0).double()
    x = torch.full((1, 64, 9, 9), 0.4, dtype=torch.float64)
    q, _, _ = layer.project(x)
    rel_h, rel_w = layer.position_logits(q, (9, 9))
    logits = (rel_h[..., :, None] + rel_w[..., None, :]).unflatten(2, (9, 9))  # B M H W H W
    place, width = 0.25 * 9, 0.25 * 9 / 3
    for head, (down, right) in SIDES.items():
        for y, x_ in ((4, 4), (0, 8), (7, 2)):
            for key_y, key_x in ((4, 4), (2, 6), (8, 8)):
                off = [key_y - y - down * place, key_x - x_ - right * place]
                expected = sum(-min(o * o / (2 * width * width), DEPTH) for o in off)
                assert logits[0, head, y, x_, key_y, key_x].item() == pytest.approx(expected, abs=1e-5)


def test_it_adds_no_parameter_and_loads_in_both_ways():
    paper, directional = (MHSA2d(128, 4, start=start) for start in ("paper", "directional"))
    assert {n: p.shape for n, p in paper.named_parameters()} == {n: p.shape for n, p in directional.named_parameters()}
    x = features(1, 128, 7, 9)
    paper.load_state_dict(directional.state_dict())
    assert torch.equal(paper(x), directional(x))
    assert "start='directional'" in repr(directional)
    assert "start" not in repr(paper)


def test_the_papers_start_draws_what_it_drew_before():
    torch.manual_seed(0)
    layer = MHSA2d(64, 4, max_size=(5, 5))
    torch.manual_seed(0)
    weight = torch.empty(192, 64, 1, 1)
    torch.nn.Conv2d(64, 192, 1, bias=False)  # its own initialisation comes first
    torch.nn.init.normal_(weight, std=0.01)
    assert torch.equal(layer.qkv.weight, weight)


@pytest.mark.parametrize("backend", ["reference", "explicit", "chunked", "onehot", "auto"])
@pytest.mark.parametrize("size", [(12, 12), (6, 9), (20, 31)])
def test_every_backend_agrees_in_float64_with_gradients(backend, size):
    layer = MHSA2d(64, 4, max_size=(12, 12), start="directional").double()
    x = features(1, 64, *size).double().requires_grad_()
    results = []
    for name in ("reference", backend):
        layer.backend = name
        out = layer(x)
        seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, [x, *layer.parameters()], seed)])
    for expected, got in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-10 * max(1, expected.abs().max())


def test_a_backbone_begins_so_at_its_own_size_and_keeps_it_through_fuse_and_load_resnet():
    model = create_model("botnet26", img_size=128, start="directional", start_distance=0.3, num_classes=3)
    assert model.model_args["start"] == "directional"
    layer = model.layer4[0].mhsa
    assert layer.start_distance == 0.3
    assert layer.max_size() == (8, 8)
    before = {n: p.clone() for n, p in model.named_parameters() if ".mhsa." in n}
    load_resnet(model, create_model("resnet26").state_dict())
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in before.items())
    image = torch.randn(2, 3, 128, 160)
    seen = attention_statistics(model.train(), image)
    assert [one.layer for one in seen] == ["layer4.0.mhsa"] * 4 + ["layer4.1.mhsa"] * 4
    assert all(one.entropy < 0.8 for one in seen)
    model.eval()
    with torch.no_grad():
        plain = model(image)
        assert torch.allclose(fuse(model)(image), plain, atol=1e-4 * plain.abs().max())


def test_one_graph_of_a_directional_layer_runs_at_a_second_size():
    layer = MHSA2d(32, 4, max_size=(8, 8), start="directional").eval()
    sides = {2: torch.export.Dim("h", min=3, max=64), 3: torch.export.Dim("w", min=3, max=64)}
    graph = torch.export.export(layer, (features(1, 32, 6, 7),), dynamic_shapes=(sides,))
    x = features(1, 32, 11, 9)
    assert torch.allclose(graph.module()(x), layer(x), atol=1e-5)


def test_statistics_are_those_of_the_weights_written_out():
    layer = MHSA2d(16, 2, max_size=(4, 5)).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.7)
    x = torch.randn(2, 16, 4, 5, dtype=torch.float64)
    identity = torch.eye(20, dtype=torch.float64).expand(2, 2, 20, 20)
    q, k, _ = layer.project(x)
    with torch.no_grad():
        weights = attend(q, k, identity, *layer.position_logits(q, (4, 5)), scale=layer.scale, backend="reference")
    for one in layer_statistics(layer, x, name="here"):
        rows = weights[:, one.head].reshape(-1, 20)
        entropy = -(rows * rows.log()).sum(-1).mean() / math.log(20)
        distance = right = 0.0
        for query in range(20):
            for key in range(20):
                share = weights[:, one.head, query, key].mean()
                distance += share * math.hypot(key // 5 - query // 5, key % 5 - query % 5) / 20
                right += share * (key % 5 - query % 5) / 20
        assert [one.entropy, one.distance, one.right] == pytest.approx(
            [float(value) for value in (entropy, distance, right)], abs=1e-9
        )
        assert (one.layer, one.size) == ("here", (4, 5))


def test_statistics_look_at_some_queries_of_a_large_map_and_leave_no_hook():
    model = create_model("botnet14", img_size=64, channels=(8, 16, 32, 64)).eval()
    whole = attention_statistics(model, torch.randn(1, 3, 640, 640))
    assert whole[0].size == (40, 40)
    assert not model.layer4[0].mhsa._forward_pre_hooks
    layer = MHSA2d(16, 2)
    x = torch.randn(1, 16, 9, 11)
    few, all_ = (layer_statistics(layer, x, queries=n)[0].entropy for n in (20, 99))
    assert few == pytest.approx(all_, abs=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (20, 20), (48, 64), (128, 128)])
def test_queries_of_a_large_map_are_of_all_its_rows_and_columns(size):
    """A plain average looks in no direction; queries at even strides through the map would all stand in few columns."""
    seen = layer_statistics(MHSA2d(8, 1, max_size=size), torch.randn(1, 8, *size))[0]
    assert abs(seen.down) + abs(seen.right) < 0.02 * sum(size)


def test_looking_leaves_no_trace_in_training_mode():
    model = create_model("botnet14", img_size=64, channels=(8, 16, 32, 64), drop_path_rate=0.5).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    attention_statistics(model, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.training


def test_no_image_has_no_statistics():
    with pytest.raises(ValueError, match=r"attention_statistics needs an image at least; got a batch of 0"):
        layer_statistics(MHSA2d(8, 1), torch.zeros(0, 8, 4, 4))


@pytest.mark.parametrize("position", ["absolute", "none"])
def test_other_positions_have_statistics_too(position):
    assert all(one.entropy > 0.99 for one in layer_statistics(MHSA2d(64, 2, position=position), features(1, 64, 6, 6)))


def test_a_compiled_model_that_has_run_has_statistics():
    """A graph that torch.compile has made does not look at hooks."""
    model = torch.nn.Sequential(MHSA2d(16, 2, max_size=(4, 4), start="directional"))
    compiled, x = torch.compile(model, backend="eager"), torch.rand(1, 16, 4, 4)
    with torch.no_grad():
        compiled(x)
    assert attention_statistics(compiled, x)[0][1:] == attention_statistics(model, x)[0][1:]


def test_a_model_that_leaves_its_attention_out_is_refused():
    class Left(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = MHSA2d(16, 2)

        def forward(self, x):
            return x

    model = Left()
    with pytest.raises(ValueError, match="called none of its attention layers"):
        attention_statistics(model, torch.rand(1, 16, 4, 4))


def test_a_bfloat16_layer_and_autocast_have_statistics():
    layer = MHSA2d(64, 4, max_size=(8, 8), start="directional")
    x = features(1, 64, 8, 8)
    exact = layer_statistics(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer_statistics(layer, x.bfloat16())
    rounded = layer_statistics(layer.bfloat16(), x)
    for one, two, three in zip(exact, mixed, rounded, strict=True):
        assert one.entropy == pytest.approx(two.entropy, abs=0.01) == pytest.approx(three.entropy, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "everywhere"}, "start='everywhere' is unknown; use one of paper, directional"),
        ({"position": "absolute"}, "needs relative positions, which tell a direction; got position='absolute'; use"),
        ({"position": "none"}, "got position='none'"),
        (
            {"num_heads": 16},
            "up to 12 heads; got num_heads=16, of 4 channels each; use at most as many heads as",
        ),
        ({"start_distance": 1.5}, "start_distance=1.5 must be a share of the map's side between 0 and 1; e.g. 0.25"),
        ({"start_distance": 0.0}, "start_distance=0.0 must be"),
        ({"start_distance": float("nan")}, "start_distance=nan must be"),
        ({"start_distance": None}, "start_distance=None must be a share"),
        ({"start_distance": "far"}, "start_distance='far' must be a share"),
        ({"start_distance": True}, "start_distance=True must be a share"),
        ({"start_distance": 1}, "start_distance=1 must be a share of the map's side between 0 and 1"),
        (
            {"dim": 144, "num_heads": 12, "start_distance": 0.7},
            "start_distance=0.7 has some of 12 heads look 1.5 times as far, 1.05 of the map's side, which is beyond "
            "it; use less than 0.667",
        ),
        (
            {"start_mean": 0.0},
            "start_mean=0.0 must be a mean of the input's channels between 0.001 and 1000; e.g. 0.4 behind ReLU",
        ),
        ({"start_mean": 1e-320}, "start_mean=1e-320 must be a mean"),
        ({"qkv_std": "a"}, "qkv_std='a' must be a standard deviation of at least 0; e.g. 0.05"),
    ],
)
def test_a_start_that_a_layer_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MHSA2d(**{"dim": 64, "num_heads": 4, "start": "directional", **options})


def test_models_are_built_in_any_default_dtype_and_without_memory():
    torch.set_default_dtype(torch.bfloat16)
    try:
        low = create_model("botnet14", img_size=64, start="directional", act_layer="silu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert low.layer4[0].mhsa.start_mean == 0.2
    with FakeTensorMode():
        assert create_model("botnet14", img_size=64, start="directional").layer4[0].mhsa.start_mean == 0.4


def test_a_number_of_numpys_is_a_distance():
    assert MHSA2d(64, 4, start="directional", start_distance=np.float32(0.25)).start_distance == 0.25


def test_a_layer_pickled_before_there_was_a_start_prints_and_begins_anew():
    layer = MHSA2d(64, 4)
    for name in ("start", "start_distance", "start_mean"):
        del layer.__dict__[name]
    layer = pickle.loads(pickle.dumps(layer))
    layer.reset_parameters()
    assert "start" not in repr(layer)


def test_a_model_without_attention_has_no_statistics():
    with pytest.raises(ValueError, match=r"needs a model with MHSA2d in it, e\.g\. a BoTNet; this one has none"):
        attention_statistics(torch.nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4))


def test_more_heads_than_channels_a_head_build_where_only_twelve_have_a_direction():
    layer = MHSA2d(20 * 16, 20, max_size=(8, 8), start="directional")
    assert [one.entropy > 0.98 for one in layer_statistics(layer, features(2, 320, 8, 8))] == [False] * 12 + [True] * 8


@pytest.mark.parametrize("name", ["botnet_s1_50", "botnet_s1_59"])
def test_behind_relu_and_silu_the_heads_look_about_as_far(name):
    model = create_model(name, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), img_size=192, start="directional")
    seen = attention_statistics(model.train(), torch.randn(4, 3, 192, 192))
    assert all(0.4 < one.entropy < 0.75 for one in seen)
    assert seen[0].right > 1.3


def test_a_start_of_blocks_without_attention_is_refused():
    with pytest.raises(ValueError, match="start='directional' is of BoT blocks; insert_block='non_local' has none"):
        create_model("botnet26", insert=("c4",), insert_block="non_local", start="directional")


def test_weights_that_were_never_drawn_are_drawn_on_any_default_device():
    layer = MHSA2d(64, 4, start="directional", device="meta").to_empty(device="cpu")
    with torch.device("meta"):
        layer.reset_parameters()
    assert all(one.entropy < 0.8 for one in layer_statistics(layer, features(1, 64, 14, 14)))


def test_statistics_of_a_layer_that_is_called_by_keyword_or_on_a_large_map():
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = MHSA2d(8, 2)

        def forward(self, images):
            return self.layer(x=images)

    assert [one.layer for one in attention_statistics(Named(), torch.rand(1, 8, 5, 4))] == ["layer", "layer"]
    large = layer_statistics(MHSA2d(8, 2), torch.rand(2, 8, 96, 90))
    assert all(one.entropy > 0.99 for one in large)
