"""Every backend against the float64 reference: forward and each gradient, on oblong maps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from botvision.attention import BACKENDS, MHSA2d, attend, chunked, why_not
from botvision.attention.dispatch import choose
from botvision.attention.position import pick, relative_logits, slide

FAST = ["explicit", "chunked", "onehot", "auto"]
LOW = {  # error of the output, and of each gradient over its largest entry
    torch.float32: (5e-6, 1e-5),
    torch.float16: (5e-3, 1e-2),
    torch.bfloat16: (4e-2, 4e-2),
}
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
    q, k, v, rel_h, rel_w = thin_tensors(21, 20, dim=dim, value_dim=value_dim, batch=1, heads=1)
    expected = attend(q, k, v, rel_h, rel_w, scale=0.3, backend="explicit")
    got = attend(q, k, v, rel_h, rel_w, scale=0.3, backend=backend)
    assert got.shape == v.shape
    assert (got - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("backend", ["plain", "explicit", "reference", "auto"])
def test_without_positions(backend):
    q, k, v, _, _ = thin_tensors(3, 4)
    out = attend(q, k, v, scale=0.5, backend=backend)
    assert (out - ((q @ k.mT) * 0.5).softmax(-1) @ v).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("backend", FAST)
def test_low_precision_stays_near(backend, dtype):
    """The same rounded inputs in float64: what is left is the backend's own rounding."""
    low = [t.detach().to(dtype).requires_grad_() for t in thin_tensors(6, 7, dim=16)]
    exact = [t.detach().double().requires_grad_() for t in low]
    seed_gradient = torch.randn_like(low[2])
    expected, expected_grads = outcome(exact, "reference", seed_gradient.double())
    got, grads = outcome(low, backend, seed_gradient)
    forward, backward = LOW[dtype]
    assert got.dtype == dtype
    assert (got.double() - expected).abs().max() <= forward
    for grad, want in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        assert (grad.double() - want).abs().max() <= backward * want.abs().max()


def test_auto_goes_by_the_measured_table(caplog):
    caplog.set_level("DEBUG", logger="botvision.attention")
    small, large = thin_tensors(4, 4), thin_tensors(21, 20, heads=1, batch=1)
    assert [choose(t[0], *t[2:]) for t in (small, large)] == ["explicit", "chunked"]  # to train
    assert "skipped plain: plain attention has no position terms" in caplog.text
    with torch.no_grad():
        assert [choose(t[0], *t[2:]) for t in (small, large)] == ["chunked", "chunked"]
    assert choose(small[0], small[2], None, None) == "plain"
    elsewhere = [[t.detach().to("meta") for t in tensors] for tensors in (small, large)]
    assert [choose(t[0], *t[2:]) for t in elsewhere] == ["explicit", "onehot"]


@pytest.mark.parametrize("blocks", [(1, 1), (3, 7), (5, 40), (2**10, 3)])
def test_chunks_of_any_size_give_the_same(blocks, monkeypatch):
    queries, logits = blocks
    monkeypatch.setattr(chunked, "BLOCK_QUERIES", queries)
    monkeypatch.setattr(chunked, "BLOCK_LOGITS", logits * 35)
    tensors = thin_tensors(5, 7, heads=3)
    seed_gradient = torch.randn_like(tensors[2])
    expected, expected_grads = outcome(tensors, "reference", seed_gradient)
    got, grads = outcome(tensors, "chunked", seed_gradient)
    assert (got - expected).abs().max() <= 1e-12
    assert all((a - b).abs().max() <= 1e-12 for a, b in zip(grads, expected_grads, strict=True))


def test_chunked_holds_no_n_by_n_tensor():
    """Forward and backward at 48×48: the largest tensor is a block's logits, far below the heads' N×N."""
    tensors = thin_tensors(48, 48, dim=4, heads=4, batch=1, dtype=torch.float32)
    with Largest() as seen:
        attend(*tensors, scale=0.5, backend="chunked").sum().backward()
    assert seen.numel <= max(chunked.BLOCK_LOGITS, chunked.BLOCK_QUERIES * 48**2) < 4 * 48**4
    with Largest() as seen:
        attend(*tensors, scale=0.5, backend="explicit").sum().backward()
    assert seen.numel == 4 * 48**4


class Largest(TorchDispatchMode):
    """Watches the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *(t.untyped_storage().nbytes() // t.element_size() for t in tensors)])
        return out


@pytest.mark.parametrize("backend", ["chunked", "explicit"])
def test_strong_logits_in_bfloat16_are_those_of_float32_to_rounding(backend, monkeypatch):
    """Large logits over several blocks: rounded to bfloat16 they would be off by tens of per cent."""
    monkeypatch.setattr(chunked, "BLOCK_QUERIES", 16)
    tensors = [t.detach().bfloat16() for t in thin_tensors(9, 10, dim=32)]
    tensors = [t * scale for t, scale in zip(tensors, (6, 6, 1, 3, 3), strict=True)]
    seed_gradient = torch.randn_like(tensors[2])
    exact = [t.double().requires_grad_() for t in tensors]
    low = [t.requires_grad_() for t in tensors]
    out, expected = outcome(exact, "reference", seed_gradient.double())
    found, grads = outcome(low, backend, seed_gradient)
    for grad, want in zip([found, *grads], [out, *expected], strict=True):
        assert grad.dtype == torch.bfloat16
        assert (grad.double() - want).abs().max() <= 2e-2 * want.abs().max()


def test_many_gradients_at_once(monkeypatch):
    """`jacobian(…, vectorize=True)` runs a backward under torch's old vmap, which writes nothing in place."""
    monkeypatch.setattr(chunked, "BLOCK_QUERIES", 5)
    tensors = [t.detach().float() for t in thin_tensors(2, 3)]

    def run(backend):
        def sums(*inputs):
            return attend(*inputs, scale=0.3, backend=backend).sum((0, 1, 3))

        return torch.autograd.functional.jacobian(sums, tuple(tensors), vectorize=True)

    for ours, want in zip(run("chunked"), run("explicit"), strict=True):
        assert torch.allclose(ours, want, atol=1e-5)


@pytest.mark.parametrize("backend", FAST)
def test_every_backend_keeps_the_callers_dtype_under_autocast(backend):
    tensors = [t.detach().float() for t in thin_tensors(3, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*tensors, scale=0.3, backend=backend)
    assert torch.equal(out, attend(*tensors, scale=0.3, backend=backend))


@pytest.mark.parametrize("backend", ["chunked", "explicit"])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_output_may_be_changed_in_place(backend, batch):
    """By what follows: an activation, a residual sum, dropout."""
    tensors = [t.detach().float().requires_grad_() for t in thin_tensors(21, 21, batch=batch)]
    out = attend(*tensors, scale=0.3, backend=backend)
    want = out.detach().relu()
    on_map = out.mT.unflatten(-1, (21, 21)).relu_()
    assert torch.equal(on_map.flatten(-2).mT, want)
    on_map.sum().backward()


@pytest.mark.parametrize("queries", [5, 1024])
def test_chunked_under_autocast_keeps_the_callers_dtype(queries, monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK_QUERIES", queries)
    tensors = [t.detach().float().requires_grad_() for t in thin_tensors(3, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*tensors, scale=0.3, backend="chunked")
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


@pytest.mark.parametrize("backend", FAST)
def test_an_empty_batch_passes(backend):
    q, k, v, *_ = (t.requires_grad_() for t in thin_tensors(3, 4, batch=0))
    table_h, table_w = torch.randn(5, 8, dtype=torch.float64), torch.randn(7, 8, dtype=torch.float64)
    out = attend(q, k, v, *relative_logits(q, table_h, table_w, size=(3, 4)), scale=1.0, backend=backend)
    assert out.shape == (0, 2, 12, 8)
    out.sum().backward()


def test_torch_func_and_second_derivatives_go_another_way():
    q, k, v, *_ = (t.detach() for t in thin_tensors(2, 3))
    tables = [torch.randn(2 * side - 1, 8, dtype=torch.float64) for side in (2, 3)]

    def energy(q, backend="auto"):
        logits = relative_logits(q, *tables, size=(2, 3))
        return attend(q, k, v, *logits, scale=0.3, backend=backend).square().sum()

    expected = torch.func.grad(lambda q: energy(q, "reference"))(q)
    assert torch.allclose(torch.func.grad(energy)(q), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"chunked has a backward of its own, which torch\.func cannot transform"):
        torch.func.grad(lambda q: energy(q, "chunked"))(q)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, in forward mode
@pytest.mark.parametrize("position", ["relative", "none"])
def test_torch_func_differentiates_any_number_of_times(position):
    """Gradients of gradients, forward mode, and a Hessian product, by the layer as it is."""
    torch.manual_seed(0)
    layer = MHSA2d(8, 2, position=position, max_size=(3, 4), qkv_std=0.5, dtype=torch.float64)
    x, along = torch.randn(2, 2, 8, 3, 4, dtype=torch.float64)

    def energy(x):
        return layer(x).square().sum()

    slope = torch.func.grad(energy)(x)
    assert torch.allclose(torch.func.jvp(energy, (x,), (along,))[1], (slope * along).sum(), atol=1e-10)
    twice = torch.func.grad(lambda x: (torch.func.grad(energy)(x) * along).sum())(x)
    step = 1e-5
    nearby = [torch.func.grad(energy)(x + sign * step * along) for sign in (1, -1)]
    assert torch.allclose(twice, (nearby[0] - nearby[1]) / (2 * step), atol=1e-6)
    assert torch.allclose(torch.func.jvp(torch.func.grad(energy), (x,), (along,))[1], twice, atol=1e-10)
    assert torch.allclose(torch.func.vmap(layer)(x[:, None])[:, 0], layer(x), atol=1e-12)
    each = torch.func.vmap(torch.func.grad(lambda image: energy(image[None])))(x)
    assert torch.allclose(each, slope, atol=1e-10)


def test_no_token_is_refused():
    empty = torch.zeros(1, 2, 0, 8)
    with pytest.raises(ValueError, match=r"q and k of shape \(B, heads, N, D\)"):
        attend(empty, empty, empty, scale=1.0)


def test_strides_of_any_kind_and_one_token():
    q, k, v, rel_h, rel_w = thin_tensors(3, 4, heads=2)
    strided = [t.detach().transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v, rel_h, rel_w)]
    for backend in FAST:
        got = attend(*strided, scale=0.3, backend=backend)
        assert torch.allclose(got, attend(q, k, v, rel_h, rel_w, scale=0.3, backend="reference"), atol=1e-12)
    single = thin_tensors(1, 1)
    for backend in FAST:
        assert torch.allclose(attend(*single, scale=0.3, backend=backend), single[2])


def test_a_backend_asked_for_by_name_says_why_it_cannot():
    q, k, v, rel_h, rel_w = thin_tensors(2, 2)
    with pytest.raises(ValueError, match="'plain' cannot run: plain attention has no position terms"):
        attend(q, k, v, rel_h, rel_w, scale=1.0, backend="plain")
    with pytest.raises(ValueError, match=r"'onehot' cannot run.*use plain"):
        attend(q, k, v, scale=1.0, backend="onehot")
    with pytest.raises(ValueError, match=f"unknown attention backend 'flash'; use auto, {', '.join(BACKENDS)}"):
        attend(q, k, v, scale=1.0, backend="flash")
    huge = torch.empty(1, 1, 1, 8).expand(1, 4, 128 * 128, 8)
    assert why_not("explicit", huge) is None
    assert "use plain" in why_not("explicit", huge.expand(4, -1, -1, -1))
    assert "use chunked" in why_not("explicit", huge.expand(4, -1, -1, -1), huge, huge)
    assert why_not("explicit", huge.expand(4, -1, -1, -1).to("meta")) is None  # nothing is held there


def test_shapes_that_do_not_fit_are_named():
    q, k, v, rel_h, rel_w = thin_tensors(2, 3)
    with pytest.raises(ValueError, match=r"q and k of shape \(B, heads, N, D\)"):
        attend(q, k[..., :3], v, scale=1.0)
    with pytest.raises(
        ValueError, match=r"one dtype; got torch\.float32, torch\.float64; cast them with \.to\(q\.dtype\)"
    ):
        attend(q, k, v.float(), scale=1.0)
    with pytest.raises(ValueError, match=r"one device; got cpu, meta; move them with \.to\(q\.device\)"):
        attend(q, k.to("meta"), v, scale=1.0)
    with pytest.raises(ValueError, match="both rel_h and rel_w, or neither"):
        attend(q, k, v, rel_h, scale=1.0)
    with pytest.raises(ValueError, match=r"rel_w \(B, heads, H·W, W\)"):
        attend(q, k, v, rel_h, rel_w[..., :2], scale=1.0)


@given(height=sides, width=sides)
@settings(max_examples=20, deadline=None)
def test_sliding_is_picking(height, width):
    products = torch.randn(2, 3, height * width, 2 * height - 1, dtype=torch.float64)
    slid = slide(products.view(2, 3, height, width, -1), along=2).flatten(2, 3)
    assert torch.equal(slid, pick(products, query=torch.arange(height * width) // width, side=height))
    products = torch.randn(2, 3, height * width, 2 * width - 1, dtype=torch.float64)
    slid = slide(products.view(2, 3, height, width, -1), along=3).flatten(2, 3)
    assert torch.equal(slid, pick(products, query=torch.arange(height * width) % width, side=width))


def test_relative_logits_of_strided_queries_and_their_gradients():
    q = torch.randn(2, 12, 3, 4, dtype=torch.float64, requires_grad=True)
    table_h, table_w = (torch.randn(2 * side - 1, 4, dtype=torch.float64, requires_grad=True) for side in (3, 4))
    rel_h, rel_w = relative_logits(q.transpose(1, 2), table_h, table_w, size=(3, 4))
    i, j = 7, 1  # query at row 1, column 3; a key in row 1, and one in column 1
    assert torch.allclose(rel_h[0, 2, i, j], q[0, i, 2] @ table_h[j - 1 + 2])
    assert torch.allclose(rel_w[0, 2, i, j], q[0, i, 2] @ table_w[j - 3 + 3])
    assert torch.autograd.gradcheck(
        lambda *t: relative_logits(t[0].transpose(1, 2), *t[1:], size=(3, 4)), (q, table_h, table_w)
    )


@pytest.mark.parametrize("position", ["relative", "relative_only"])
@pytest.mark.parametrize("side", [6, 21])
@pytest.mark.parametrize("backend", ["auto", "chunked", "explicit"])
def test_second_derivatives_are_the_references(position, side, backend):
    """With 21×21 tokens "auto" trains by `chunked`, whose backward is ours: it ended in torch's sentence."""
    found = []
    for name in ("reference", backend):
        torch.manual_seed(0)
        layer = MHSA2d(8, 2, position=position, max_size=(side, side), qkv_std=0.3, dtype=torch.float64, backend=name)
        x = torch.linspace(-1, 1, 8 * side * side, dtype=torch.float64).sin().view(1, 8, side, side).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), [x, *layer.parameters()]))
    for exact, own in zip(*found, strict=True):
        assert torch.allclose(own, exact, rtol=1e-10, atol=1e-10 * float(exact.abs().max()))


def test_the_graph_of_a_gradient_is_as_exact_as_the_gradient_itself():
    layer = MHSA2d(8, 2, max_size=(21, 21), qkv_std=0.3, dtype=torch.float64)
    x = torch.randn(1, 8, 21, 21, dtype=torch.float64)
    plain, kept = (torch.autograd.grad(layer(x).square().sum(), [*layer.parameters()], create_graph=c) for c in (0, 1))
    for own, exact in zip(kept, plain, strict=True):
        assert torch.allclose(own, exact, rtol=1e-10)


@pytest.mark.parametrize("position", ["none", "absolute"])
def test_a_second_derivative_that_torch_lacks_ends_with_its_cure(position):
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    layer = MHSA2d(8, 2, position=position, max_size=(5, 5))
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(
        ValueError, match="no second derivative; give backend='explicit' to attend, or set it on the MHSA"
    ):
        torch.autograd.grad(gradient.square().sum(), x)
    layer.backend = "explicit"
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].abs().sum() > 0


def test_a_layer_on_a_large_map_trains_under_gradient_checkpointing():
    """Saved tensors are given out once there; `chunked` asked twice."""
    layer = MHSA2d(8, 2, max_size=(21, 21), qkv_std=0.3, dtype=torch.float64)
    x = torch.randn(1, 8, 21, 21, dtype=torch.float64, requires_grad=True)
    exact, found = [], []
    for run, out in (
        (layer, exact),
        (lambda t: torch.utils.checkpoint.checkpoint(layer, t, use_reentrant=False), found),
    ):
        out += torch.autograd.grad(run(x).square().sum(), [x, *layer.parameters()])
    for own, wanted in zip(found, exact, strict=True):
        assert torch.allclose(own, wanted, rtol=1e-10)


@pytest.mark.parametrize("learning", [False, True])
def test_forward_mode_differentiation_is_that_of_the_reference(learning):
    """`torch.autograd.forward_ad`, which knows no backward of ours; `auto` takes what it knows."""
    torch.manual_seed(0)
    shapes = [(1, 2, 300, side) for side in (8, 8, 8, 15, 20)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=learning) for shape in shapes]
    tangents = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    found = []
    for backend in ("auto", "reference"):
        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(*pair) for pair in zip(tensors, tangents, strict=True)]
            out = attend(*duals, scale=0.3, backend=backend)
            found.append(torch.autograd.forward_ad.unpack_dual(out).tangent.detach())
    assert (found[0] - found[1]).abs().max() <= 1e-12
