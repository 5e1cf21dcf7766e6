"""The blocks: any size, identity at the start, the core's layer inside, the shapes that C3k2 and its kin have."""

import functools
from typing import Union, get_args

import pytest
import torch
import ultralytics
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA, C3, Bottleneck, C3k2, Conv

from botvision.attention import MHSA2d, attention_statistics
from botvision_yolo import YOLO, write_yaml
from botvision_yolo.blocks import Attention, BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d

BLOCKS = {
    "row": lambda: ResidualMHSA2d(64),
    "bottleneck": lambda: BoTBottleneck(64, 64),
    "c3": lambda: C3BoT(64, 48),
    "c3k2": lambda: C3k2BoT(64, 48, 2),
    "c3k2 of c3": lambda: C3k2BoT(64, 48, 2, True),
    "c2": lambda: C2BoT(64, 64, 2),
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("size", [(1, 1), (10, 10), (20, 15), (3, 41)])
def test_any_size_and_every_weight_learns(make, size):
    block = make().train()
    block(torch.randn(2, 64, *size)).square().sum().backward()
    assert block(torch.randn(1, 64, 7, 5)).shape[2:] == (7, 5) if size != (1, 1) else True
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("make", [BLOCKS["row"], BLOCKS["bottleneck"]])
def test_a_residual_block_starts_as_identity_and_leaves_it(make):
    block, x = make(), torch.randn(2, 64, 6, 7)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    gamma = block.norm.weight if isinstance(block, ResidualMHSA2d) else block.expand.bn.weight
    assert gamma.grad.abs().sum() > 0


def test_the_row_is_the_cores_layer_with_a_norm_and_a_residual():
    block = ResidualMHSA2d(64, 2).double().eval()
    block.norm.weight.data.uniform_(0.5, 1.5)
    block.norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, 64, 5, 6, dtype=torch.float64)
    layer = MHSA2d(64, 2, max_size=(20, 20)).double()
    layer.load_state_dict(block.mhsa.state_dict())
    layer.backend = "reference"
    scaled = layer(x) * (block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt())[:, None, None]
    assert (block(x) - (x + scaled)).abs().max() < 1e-12


def test_without_residual_the_row_is_the_bare_layer():
    block = ResidualMHSA2d(64, 4, "none", residual=False, qkv_bias=True)
    x = torch.randn(1, 64, 5, 6)
    assert torch.equal(block(x), block.mhsa(x))
    assert block.mhsa.qkv.bias is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda **start: ResidualMHSA2d(128, **start),
        lambda **start: BoTBottleneck(128, 128, e=1.0, **start),
        lambda **start: C3BoT(256, 256, **start),
        lambda **start: C3k2BoT(256, 256, 1, **start),
        lambda **start: C3k2BoT(256, 256, 1, True, **start),
        lambda **start: C2BoT(256, 256, **start),
    ],
)
def test_a_directional_start_reaches_the_layer(make):
    def heads(block):
        with torch.no_grad():
            return attention_statistics(block.train(), torch.nn.functional.silu(torch.randn(2, channels, 20, 20)))

    channels = next(p for p in make().parameters() if p.ndim == 4).shape[1]
    assert all(one.entropy > 0.99 for one in heads(make()))
    assert all(one.entropy < 0.93 for one in heads(make(start="directional")))


def test_queries_of_a_directional_start_are_made_for_the_activation_that_the_yaml_has(monkeypatch):
    assert ResidualMHSA2d(64, start="directional").mhsa.start_mean == 0.2
    monkeypatch.setattr(Conv, "default_act", nn.ReLU())
    assert ResidualMHSA2d(64, start="directional").mhsa.start_mean == 0.4


def test_the_bottleneck_is_the_papers_block_in_the_papers_order():
    block = BoTBottleneck(32, 32, e=1.0).double().eval()
    block.expand.bn.weight.data.fill_(1.0)
    x = torch.randn(1, 32, 4, 6, dtype=torch.float64)
    narrow = torch.nn.functional.silu(block.contract.bn(block.contract.conv(x)))
    attended = torch.nn.functional.silu(block.norm(block.mhsa(narrow)))
    assert (block(x) - (x + block.expand.bn(block.expand.conv(attended)))).abs().max() < 1e-12


@pytest.mark.parametrize(("dim", "heads"), [(16, 1), (64, 2), (96, 3), (192, 6), (80, 2), (112, 2), (768, 24)])
def test_heads_are_as_many_as_leave_32_channels_each(dim, heads):
    layer = Attention().layer(dim)
    assert layer.num_heads == heads
    assert layer.head_dim >= min(dim, 32)


def test_the_other_parts_have_the_names_and_shapes_of_the_block_replaced():
    def outer(block):
        return {key: value.shape for key, value in block.state_dict().items() if not key.startswith("m.0.m.")}

    assert outer(C3k2BoT(64, 96, 1, True)) == outer(C3k2(64, 96, 1, True))
    assert {k: v for k, v in outer(C3BoT(64, 96)).items() if k[0] == "c"} == {
        k: v for k, v in outer(C3(64, 96)).items() if k[0] == "c"
    }
    own = {k for k in C2BoT(128, 128).state_dict() if k[0] == "c"}
    assert own == {k for k in C2PSA(128, 128).state_dict() if k[0] == "c"}


def test_no_tensor_of_a_bottleneck_fits_another_of_the_papers_block():
    assert not set(BoTBottleneck(64, 64).state_dict()) & set(Bottleneck(64, 64).state_dict())


def test_blocks_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match=r"C2BoT keeps its channels; got 64 in and 32 out; give the row before it"):
        C2BoT(64, 32)
    with pytest.raises(ValueError, match=r"num_heads=3 does not divide dim=64"):
        ResidualMHSA2d(64, 3)


def test_our_classes_equal_nothing_but_themselves():
    assert len({C3k2BoT, C3k2, C2BoT, C2PSA}) == 4
    assert set(get_args(Union[C3k2, C3k2BoT])) == {C3k2, C3k2BoT}  # noqa: UP007
    handle = functools.singledispatch(lambda block: "any")
    handle.register(C3k2, lambda block: "C3k2")
    assert handle(C3k2BoT(16, 16)) == "any"
    assert not hasattr(tasks, "frozenset")
    assert not isinstance(C3k2BoT(16, 16), C3k2)


@pytest.mark.parametrize("opened", [YOLO, ultralytics.YOLO], ids=["ours", "stock"])
@pytest.mark.parametrize("start", ["paper", "directional"])
def test_the_start_survives_a_reset_of_the_weights(start, opened, tmp_path):
    model = opened(str(write_yaml(f"yolo11n-insert-{start}.yaml", tmp_path)))
    block = model.model.model[9]
    nn.init.ones_(block.expand.bn.weight)
    block.mhsa.rel_h.data.fill_(9.0)
    model.reset_weights()
    assert not block.expand.bn.weight.any()
    assert block.mhsa.qkv.weight.std().item() == pytest.approx(block.mhsa.qkv_std, rel=0.05)
    assert block.mhsa.rel_h.abs().max() < 9.0 or start == "directional"
    again = ResidualMHSA2d(32).apply(
        lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None
    )
    assert not again.norm.weight.any()
