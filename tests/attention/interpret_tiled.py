"""The Triton kernels against the float64 reference, run by Triton's interpreter, which test_tiled.py starts."""

import os

import pytest
import torch

from botvision.attention import MHSA2d, attend, tiled

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
TOLERANCE = {torch.float32: 5e-6, torch.float16: 5e-3}  # the interpreter multiplies bfloat16's bits as whole numbers
GRADIENTS = {torch.float32: 1e-5, torch.float16: 1e-2}  # of the largest entry


def outcome(tensors, backend, seed_gradient):
    out = attend(*tensors, scale=0.37, backend=backend)
    return out.detach(), torch.autograd.grad(out, tensors, seed_gradient)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "heads", "height", "width", "dim", "value_dim"),
    [(1, 1, 1, 1, 8, 8), (2, 2, 3, 5, 8, 8), (1, 2, 9, 17, 12, 20), (1, 1, 2, 40, 16, 16), (2, 1, 13, 6, 0, 4)],
)  # in 16 bits tiles of 4, 4, 2, 1 and 4 rows of keys
def test_forward_and_every_gradient(batch, heads, height, width, dim, value_dim, dtype):
    n = height * width
    sides = (dim, dim, value_dim, height, width)
    tensors = [torch.randn(batch, heads, n, side).to(dtype).requires_grad_() for side in sides]
    seed_gradient = torch.randn(batch, heads, n, value_dim).to(dtype)
    got, grads = outcome(tensors, "tiled", seed_gradient)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected, expected_grads = outcome(exact, "reference", seed_gradient.double())
    assert got.dtype == dtype
    assert (got.double() - expected).abs().max() <= TOLERANCE[dtype]
    for name, grad, want in zip(("q", "k", "v", "rel_h", "rel_w"), grads, expected_grads, strict=True):
        assert grad.shape == want.shape
        if want.numel():
            limit = GRADIENTS[dtype] * max(want.abs().max(), 1)
            assert (grad.double() - want).abs().max() <= limit, name


@pytest.mark.parametrize("memory", [232_448, 120_000, 101_376])
def test_tiles_of_every_gpu_give_the_same(memory, monkeypatch):
    """What fits a large GPU's shared memory, and less of it; a row beyond 64 columns has tiles of its own."""
    monkeypatch.setattr(tiled, "on_chip", lambda _: (memory, 0, 9))
    for height, width in ((5, 27), (2, 70)):
        tensors = [torch.randn(1, 2, height * width, side).half().requires_grad_() for side in (8, 8, 8, height, width)]
        seed_gradient = torch.randn(1, 2, height * width, 8).half()
        got, grads = outcome(tensors, "tiled", seed_gradient)
        expected, wanted = outcome(
            [t.detach().double().requires_grad_() for t in tensors], "reference", seed_gradient.double()
        )
        for ours, theirs in zip((got, *grads), (expected, *wanted), strict=True):
            assert (ours.double() - theirs).abs().max() <= 1e-2 * max(theirs.abs().max(), 1)


def test_strided_inputs_and_an_empty_batch():
    q, k, v, rel_h, rel_w = (torch.randn(1, 12, 2, side).transpose(1, 2) for side in (8, 8, 8, 3, 4))
    expected = attend(q, k, v, rel_h, rel_w, scale=0.3, backend="reference")
    assert (attend(q, k, v, rel_h, rel_w, scale=0.3, backend="tiled") - expected).abs().max() <= 5e-6
    none = [t[:0].requires_grad_() for t in (q, k, v, rel_h, rel_w)]
    attend(*none, scale=0.3, backend="tiled").sum().backward()


def test_the_layer_trains_on_it():
    layer, image = MHSA2d(32, 2, max_size=(4, 4), backend="tiled"), torch.randn(2, 32, 5, 7)
    ours = torch.autograd.grad(layer(image).square().sum(), list(layer.parameters()))
    layer.backend = "reference"
    wanted = torch.autograd.grad(layer(image).square().sum(), list(layer.parameters()))
    for grad, want in zip(ours, wanted, strict=True):
        assert (grad - want).abs().max() <= 1e-4 * max(want.abs().max(), 1)


def test_what_it_cannot_hold_is_refused():
    q, rel = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 2)
    with pytest.raises(ValueError, match=r"multiplies float16, bfloat16 and float32; got torch\.float64; use onehot"):
        attend(*(t.double() for t in (q, q, q, rel, rel)), scale=1.0, backend="tiled")
    wide = torch.randn(1, 1, 4, 200)
    with pytest.raises(ValueError, match="heads of up to 128 channels; got 200; use onehot"):
        attend(wide, wide, q, rel, rel, scale=1.0, backend="tiled")
    n, row = torch.randn(1, 1, 65, 8), torch.randn(1, 1, 65, 65)
    with pytest.raises(ValueError, match=r"up to 64 columns in torch\.float32; got 65; use onehot"):
        attend(n, n, n, row[..., :1], row, scale=1.0, backend="tiled")
    attend(*(t.half() for t in (n, n, n, row[..., :1], row)), scale=1.0, backend="tiled")
    with pytest.raises(ValueError, match="values of up to 128 channels a head; got 200; use onehot"):
        attend(q, q, wide, rel, rel, scale=1.0, backend="tiled")
