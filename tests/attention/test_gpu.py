"""Every backend on a GPU, where there is one: forward and all gradients against the float64 reference."""

import pytest
import torch

from botvision.attention import attend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LOW = {torch.float32: (1e-5, 1e-4), torch.float16: (5e-3, 1e-2), torch.bfloat16: (4e-2, 4e-2)}
SHAPES = [
    (2, 2, 1, 1, 8),
    (1, 2, 1, 17, 12),
    (2, 1, 19, 1, 16),
    (1, 4, 14, 14, 128),
    (1, 2, 9, 40, 33),
    (1, 1, 32, 64, 128),
]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("backend", ["explicit", "onehot", "tiled", "auto"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_every_gradient(shape, backend, dtype):
    batch, heads, height, width, dim = shape
    n = height * width
    low = [torch.randn(batch, n, heads, side, device="cuda").to(dtype).transpose(1, 2).requires_grad_()
           for side in (dim, dim, dim, height, width)]  # fmt: skip
    seed_gradient = torch.randn(batch, heads, n, dim, device="cuda").to(dtype)
    got = attend(*low, scale=0.2, backend=backend)
    grads = torch.autograd.grad(got, low, seed_gradient)
    exact = [t.detach().double().requires_grad_() for t in low]
    expected = attend(*exact, scale=0.2, backend="reference")
    forward, backward = LOW[dtype]
    assert (got.double() - expected).abs().max() <= forward
    for grad, want in zip(grads, torch.autograd.grad(expected, exact, seed_gradient.double()), strict=True):
        assert (grad.double() - want).abs().max() <= backward * max(float(want.abs().max()), 1.0)
