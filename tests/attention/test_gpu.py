"""Every backend on a GPU, where there is one: forward and all gradients against the float64 reference."""

import pytest
import torch

from benchmarks.gpu.exactness import BACKENDS, LARGE, SHAPES, TOLERANCE, deviation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
def test_forward_and_every_gradient(shape, backend, dtype):
    found = deviation(backend, shape, dtype, torch.device("cuda"))
    assert found["exact"], found
