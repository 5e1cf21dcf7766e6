"""Every backend against the float64 reference: forward and each gradient, on oblong maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from botvision.attention import BACKENDS, attend, why_not

FAST = ["explicit", "onehot", "auto"]
sides = st.integers(1, 9)


def thin_tensors(height, width, *, heads=2, dim=8, batch=2, dtype=torch.float64, value_dim=None):
    n = height * width
    shapes = [(n, dim), (n, dim), (n, value_dim or dim), (n, height), (n, width)]
    return [torch.randn(batch, heads, *s, dtype=dtype, requires_grad=True) for s in shapes]


def outcome(tensors, backend, seed_gradient):
    for t in tensors:
        t.grad = None
    out = attend(*tensors, scale=0.37, backend=backend)
    out.backward(seed_gradient)
    return out.detach(), [t.grad for t in tensors]


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, heads=st.integers(1, 3), dim=st.integers(1, 17))
def test_forward_and_every_gradient_equal_the_reference(backend, height, width, heads, dim):
    tensors = thin_tensors(height, width, heads=heads, dim=dim)
    seed_gradient = torch.randn_like(tensors[2])
    expected, expected_grads = outcome(tensors, "reference", seed_gradient)
    got, grads = outcome(tensors, backend, seed_gradient)
    assert (got - expected).abs().max() <= 1e-12
    for grad, want in zip(grads, expected_grads, strict=True):
        assert (grad - want).abs().max() <= 1e-12


@pytest.mark.parametrize("backend", FAST)
def test_content_width_zero_is_positions_alone(backend):
    q, _, v, rel_h, rel_w = thin_tensors(3, 5)
    out = attend(q[..., :0], q[..., :0], v, rel_h, rel_w, scale=1.0, backend=backend)
    weights = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2).softmax(-1)
    assert (out - weights @ v).abs().max() <= 1e-12


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dim", "value_dim"), [(0, 128), (8, 128), (128, 8), (0, 5)])
def test_values_wider_than_query_and_positions_together(backend, dim, value_dim):
    q, k, v, rel_h, rel_w = thin_tensors(21, 20, dim=dim, value_dim=value_dim, batch=1, heads=1)  # auto: onehot
    expected = attend(q, k, v, rel_h, rel_w, scale=0.3, backend="explicit")
    got = attend(q, k, v, rel_h, rel_w, scale=0.3, backend=backend)
    assert got.shape == v.shape
    assert (got - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("backend", ["plain", "explicit", "reference", "auto"])
def test_without_positions(backend):
    q, k, v, _, _ = thin_tensors(3, 4)
    out = attend(q, k, v, scale=0.5, backend=backend)
    assert (out - ((q @ k.mT) * 0.5).softmax(-1) @ v).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", FAST)
def test_low_precision_stays_near(backend, dtype):
    tensors = [t.detach() for t in thin_tensors(6, 7, dim=16)]
    expected = attend(*tensors, scale=0.25, backend="reference")
    got = attend(*(t.to(dtype) for t in tensors), scale=0.25, backend=backend)
    assert (got.double() - expected).abs().max() <= {torch.bfloat16: 5e-2, torch.float32: 5e-6}[dtype]


def test_auto_takes_explicit_on_small_maps_and_onehot_on_large(caplog):
    caplog.set_level("DEBUG", logger="botvision.attention")
    from botvision.attention.dispatch import choose

    small, large = thin_tensors(4, 4), thin_tensors(21, 20, heads=1, batch=1)
    assert choose(small[0], *small[3:]) == "explicit"
    assert choose(large[0], *large[3:]) == "onehot"
    assert "skipped plain: plain attention has no position terms" in caplog.text


def test_a_backend_asked_for_by_name_says_why_it_cannot():
    q, k, v, rel_h, rel_w = thin_tensors(2, 2)
    with pytest.raises(ValueError, match="'plain' cannot run: plain attention has no position terms"):
        attend(q, k, v, rel_h, rel_w, scale=1.0, backend="plain")
    with pytest.raises(ValueError, match=r"'onehot' cannot run.*use plain"):
        attend(q, k, v, scale=1.0, backend="onehot")
    with pytest.raises(ValueError, match=f"unknown attention backend 'flash'; use auto, {', '.join(BACKENDS)}"):
        attend(q, k, v, scale=1.0, backend="flash")
    huge = torch.empty(1, 1, 1, 8, device="meta").expand(1, 4, 128 * 128, 8)
    assert "4.0 GiB" not in (why_not("explicit", huge) or "")
    assert "use onehot" in why_not("explicit", huge.expand(4, -1, -1, -1))


def test_shapes_that_do_not_fit_are_named():
    q, k, v, rel_h, rel_w = thin_tensors(2, 3)
    with pytest.raises(ValueError, match=r"q and k of shape \(B, heads, N, D\)"):
        attend(q, k[..., :3], v, scale=1.0)
    with pytest.raises(ValueError, match="both rel_h and rel_w, or neither"):
        attend(q, k, v, rel_h, scale=1.0)
    with pytest.raises(ValueError, match=r"rel_w \(B, heads, H·W, W\)"):
        attend(q, k, v, rel_h, rel_w[..., :2], scale=1.0)
