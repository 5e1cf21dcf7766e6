"""What a layer costs in counts, which no busy machine changes: kernels started, N×N tensors made, operations done."""

from collections.abc import Sequence

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from botvision import MHSA2d

SIDE, DIM, HEADS = 24, 64, 4
TOKENS = SIDE**2
PROJECTIONS = 2 * 3 * TOKENS * DIM * DIM
PRODUCTS = 2 * 2 * TOKENS * TOKENS * DIM  # q·k and weights·v
POSITIONS = 2 * 2 * TOKENS * (2 * SIDE - 1) * DIM
AT_MOST = {"chunked": (10, 85), "explicit": (12, 47), "onehot": (23, 55)}  # kernels forward, forward and backward
LARGE = {"chunked": 2, "explicit": 3, "onehot": 0}  # N×N tensors forward: so small a map is one block


class Watch(TorchDispatchMode):
    """Counts operations that start a kernel, and tensors they make of N×N logits for all heads."""

    def __init__(self, *, logits: int) -> None:
        super().__init__()
        self.kernels = self.large = 0
        self.logits = logits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view and "unsafe_view" not in function.name():
            self.kernels += 1
            made = out if isinstance(out, Sequence) else [out]
            self.large += sum(isinstance(t, torch.Tensor) and t.numel() >= self.logits for t in made)
        return out


@pytest.fixture
def image():
    return torch.randn(1, DIM, SIDE, SIDE).to(memory_format=torch.channels_last)


def layer(backend):
    return MHSA2d(DIM, HEADS, max_size=(SIDE, SIDE), backend=backend)


@pytest.mark.parametrize("backend", AT_MOST)
def test_kernels_and_large_tensors(backend, image):
    (forward, trained), attention = AT_MOST[backend], layer(backend)
    with Watch(logits=HEADS * TOKENS**2) as watched, torch.no_grad():
        attention(image)
    assert watched.kernels <= forward, watched.kernels
    assert watched.large <= LARGE[backend]
    with Watch(logits=HEADS * TOKENS**2) as watched:
        attention(image).sum().backward()
    assert watched.kernels <= trained, watched.kernels


def test_without_positions_only_the_projection_and_the_kernel_start(image):
    attention = MHSA2d(DIM, HEADS, position="none")
    with Watch(logits=HEADS * TOKENS**2) as watched, torch.no_grad():
        attention(image)
    assert (watched.kernels, watched.large) == (2, 0)


def counted(query, key, value, *rest, out_shape=None, **options):
    return sdpa_flop_count(query, key, value)


@pytest.mark.parametrize(("backend", "extra"), [("chunked", 0), ("explicit", 0), ("onehot", 2 * PRODUCTS)])
def test_operations_are_the_papers_and_no_more(backend, extra, image):
    """One-hot channels widen q, k and v from 16 to 64 here; the others do what the equation says."""
    widths = (DIM // HEADS, -(-(DIM // HEADS + 2 * SIDE) // 8) * 8)
    extra = PRODUCTS * (widths[1] / widths[0] - 1) if extra else 0
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    uncounted = {} if fused in flop_registry else {fused: counted}  # before torch 2.15
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter, torch.no_grad():
        layer(backend)(image)
    assert counter.get_total_flops() == PROJECTIONS + PRODUCTS + POSITIONS + extra
