"""torch.compile of a whole backbone: one graph per size, or one graph for all."""

import shutil

import pytest
import torch

from botvision import create_model
from botvision.attention.graphs import is_exported
from botvision.backbone.blocks import HalvingPool

SIZES = [(96, 160), (64, 64), (96, 96), (129, 65)]  # squares first: torch would take the sides for one symbol


class Counting:
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    graphs = 0

    def __call__(self, graph, _):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def model():
    torch._dynamo.reset()
    torch.manual_seed(0)
    return create_model("botnet14", num_classes=10)


def test_one_graph_per_size(model):
    backend, images = Counting(), [torch.randn(2, 3, *size) for size in SIZES]
    compiled = torch.compile(model.eval(), backend=backend, fullgraph=True, dynamic=False)
    with torch.no_grad():
        for image in images * 2:
            assert torch.allclose(compiled(image), model(image), atol=1e-5)
    assert backend.graphs == len(SIZES)


@pytest.mark.parametrize("train", [False, True])
def test_one_graph_for_all_sizes(model, train):
    backend, images = Counting(), [torch.randn(2, 3, *size) for size in SIZES]
    compiled = torch.compile(model.train(train), backend=backend, fullgraph=True, dynamic=True)
    for image in images:
        out = compiled(image)
        if not train:  # batch statistics move in between
            assert torch.allclose(out, model(image), atol=1e-5)
        out.sum().backward()
    assert backend.graphs == 1


def test_a_compiled_run_is_not_taken_for_an_exported_one():
    class Told(torch.nn.Module):
        def forward(self, x):
            return x + is_exported()

    image = torch.zeros(1)
    assert torch.compile(Told(), backend="eager", fullgraph=True)(image) == 0
    for strict in (True, False):
        assert torch.export.export(Told(), (image,), strict=strict).module()(image) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs one of C++")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_pool_is_trained_in_channels_last():
    """Behind attention, whose maps are channels_last: the compiler stopped at the gradient of a replicated edge."""
    pool = HalvingPool()
    plain = torch.randn(2, 8, 6, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    mine = plain.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    seed = torch.randn(2, 8, 3, 3)
    (pool(plain * 2) * seed).sum().backward()
    (torch.compile(lambda x: pool(x * 2) * seed)(mine)).sum().backward()
    assert torch.allclose(mine.grad, plain.grad, atol=1e-6)
