"""`MHSA2d` against the paper's equation, written out pixel by pixel."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from botvision.attention import POSITIONS, MHSA2d


def by_hand(layer, x):
    """PAPER section 1, one pixel pair at a time, from the layer's own parameters; shares no code with the package."""
    batch, dim, height, width = x.shape
    weight = layer.qkv.weight[:, :, 0, 0]
    flat = x.flatten(2)
    d = dim // layer.num_heads
    parts = torch.einsum("oc,bcn->bno", weight, flat).split(dim, -1)
    q, v = parts[0] * d**-0.5, parts[-1]
    k = parts[1] if len(parts) == 3 else None
    places = list(itertools.product(range(height), range(width)))
    out = torch.zeros(batch, dim, height * width, dtype=x.dtype)
    for m in range(layer.num_heads):
        part = slice(m * d, (m + 1) * d)
        for i, (yi, xi) in enumerate(places):
            logits = []
            for j, (yj, xj) in enumerate(places):
                logit = torch.zeros(batch, dtype=x.dtype)
                if k is not None:
                    logit = logit + (q[:, i, part] * k[:, j, part]).sum(-1)
                if layer.position in {"relative", "relative_only"}:
                    half_h, half_w = layer.rel_h.shape[1] // 2, layer.rel_w.shape[1] // 2
                    r = layer.rel_h[0, yj - yi + half_h] + layer.rel_w[0, xj - xi + half_w]
                    logit = logit + q[:, i, part] @ r
                if layer.position == "absolute":
                    logit = logit + q[:, i, part] @ (layer.abs_h[0, yj] + layer.abs_w[0, xj])
                logits.append(logit)
            weights = torch.stack(logits, -1).softmax(-1)
            out[:, part, i] = torch.einsum("bn,bnd->bd", weights, v[..., part])
    return out.unflatten(-1, (height, width))


def strong(layer):
    """Weights large enough that every term matters."""
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return layer


@pytest.mark.parametrize("backend", ["reference", "explicit", "chunked", "onehot", "auto"])
@pytest.mark.parametrize("position", POSITIONS)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), extra=st.integers(0, 3))
def test_every_position_equals_the_equation_forward_and_gradient(backend, position, height, width, extra):
    if position in {"absolute", "none"} and backend in {"chunked", "onehot"}:
        backend = "plain"  # no position logits to append; the kernel underneath is the same
    layer = strong(MHSA2d(8, 2, position=position, max_size=(height + extra, width), backend=backend).double())
    x = torch.randn(2, 8, height, width, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected, got = by_hand(layer, x), layer(x)
    assert (got - expected).abs().max() <= 1e-12
    seed = torch.randn_like(expected)
    expected_grads, grads = (torch.autograd.grad(out, inputs, seed) for out in (expected, got))
    for a, b in zip(expected_grads, grads, strict=True):
        assert (a - b).abs().max() <= 1e-12


def test_parameters_are_the_papers():
    layer = MHSA2d(512, 4, max_size=(14, 10))
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {
        "rel_h": (1, 27, 128),
        "rel_w": (1, 19, 128),
        "qkv.weight": (1536, 512, 1, 1),
    }
    assert layer.num_heads == 4
    assert layer.qkv.bias is None
    assert abs(layer.qkv.weight.std() - 0.01) < 1e-4
    assert abs(layer.rel_h.std() - 128**-0.5) < 3e-3
    assert MHSA2d(8, 2, position="relative_only").qkv.weight.shape[0] == 16  # no idle key projection


@pytest.mark.parametrize("extend", ["stretch", "clamp"])
@pytest.mark.parametrize("position", POSITIONS)
@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 25), width=st.integers(1, 25))
def test_any_size_without_a_rebuild(position, extend, height, width):
    layer = MHSA2d(8, 2, position=position, max_size=(7, 4), extend=extend)
    assert layer(torch.randn(1, 8, height, width)).shape == (1, 8, height, width)


def test_beyond_max_size_stretch_reaches_the_ends_and_clamp_repeats_them():
    from botvision.attention.position import coordinate_table, offset_table

    table = torch.arange(7.0)[None, :, None]  # L = 4, rows 0 … 6
    assert offset_table(table, 2, extend="stretch").flatten().tolist() == [2, 3, 4]
    assert offset_table(table, 7, extend="stretch").flatten().tolist() == [i / 2 for i in range(13)]
    assert offset_table(table, 6, extend="clamp").flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 6, 6]
    assert coordinate_table(table, 3, extend="stretch").flatten().tolist() == [0, 1, 2]
    assert coordinate_table(table, 13, extend="stretch").flatten().tolist() == [i / 2 for i in range(13)]
    assert coordinate_table(table, 9, extend="clamp").flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_changes_nothing(layout):
    layer = MHSA2d(16, 4, max_size=(6, 6))
    x = torch.randn(2, 16, 5, 6)
    assert torch.allclose(layer(x.to(memory_format=layout)), layer(x), atol=1e-6)


def test_export_holds_at_a_second_size():
    layer = MHSA2d(16, 4, max_size=(6, 6)).eval()
    sizes = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    program = torch.export.export(layer, (torch.randn(1, 16, 5, 7),), dynamic_shapes=(sizes,))
    for size in [(5, 7), (24, 31), (40, 3)]:
        x = torch.randn(1, 16, *size)
        assert torch.allclose(program.module()(x), layer(x), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads=3 does not divide dim=16; use 1, 2, 4, 8, 16"),
        ({"position": "rotary"}, "position='rotary' is unknown; use one of relative, absolute, relative_only, none"),
        ({"extend": "wrap"}, "extend='wrap' is unknown; use one of stretch, clamp"),
        ({"max_size": (0, 4)}, r"max_size=\(0, 4\) must be two whole sides of at least 1"),
        ({"max_size": 14}, r"max_size=14 must be two whole sides of at least 1, \(height, width\), e\.g\. \(14, 14\)"),
        ({"max_size": (14.0, 14)}, "must be two whole sides"),
        ({"backend": "flash"}, "backend='flash' is unknown; use auto, reference, plain, explicit, chunked, onehot"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MHSA2d(16, **options)


def test_bad_inputs_are_refused():
    layer = MHSA2d(16)
    with pytest.raises(ValueError, match=r"needs a map of at least 1×1; got \(1, 16, 0, 4\); give a larger image"):
        layer(torch.randn(1, 16, 0, 4))
    with pytest.raises(ValueError, match=r"MHSA2d is on cpu, its input on meta; move one with \.to\('meta'\)"):
        layer(torch.randn(1, 16, 4, 4, device="meta"))
    with pytest.raises(ValueError, match=r"needs \(B, 16, H, W\); got \(1, 8, 4, 4\)"):
        layer(torch.randn(1, 8, 4, 4))
    with pytest.raises(ValueError, match=r"needs floats; got torch.int64"):
        layer(torch.ones(1, 16, 4, 4, dtype=torch.long))


def test_a_table_trained_at_14_is_read_at_every_size():
    """Rows that say their own offset: within the table they are read as they are, beyond it as `extend` says."""
    for extend in ("stretch", "clamp"):
        layer = MHSA2d(8, 2, max_size=(14, 14), extend=extend).double()
        offsets = torch.arange(-13.0, 14).double()
        for side in (7, 9, 13, 14, 15, 20, 28, 32, 64):
            rows = layer.read_table(offsets[None, :, None].expand(1, 27, 4), side)[0, :, 0]
            own = torch.arange(1.0 - side, side).double()
            far = own.clamp(-13, 13) if extend == "clamp" else own * 13 / (side - 1)
            assert torch.allclose(rows, own if side <= 14 else far, atol=1e-12), (extend, side)


@pytest.mark.parametrize("position", ["relative", "absolute", "relative_only"])
@pytest.mark.parametrize("extend", ["stretch", "clamp"])
@pytest.mark.parametrize("size", [(7, 9), (14, 14), (15, 3), (40, 64)])
def test_set_max_size_and_loading_keep_the_function_at_that_size(position, extend, size):
    layer = strong(MHSA2d(8, 2, position=position, extend=extend).double())
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    expected = layer(x)
    loaded = MHSA2d(8, 2, position=position, extend=extend, max_size=size).double()
    loaded.load_state_dict(layer.state_dict())
    layer.set_max_size(size)
    assert layer(x).allclose(expected, atol=1e-12)
    assert loaded(x).allclose(expected, atol=1e-12)
    for name in layer.table_names():
        assert isinstance(getattr(layer, name), torch.nn.Parameter)
        assert torch.equal(getattr(layer, name), getattr(loaded, name))


def test_set_max_size_keeps_the_parameters_that_have_the_size_already():
    layer = MHSA2d(8, 2, max_size=(7, 9))
    before = layer.rel_h
    layer.set_max_size((7, 12))
    assert layer.rel_h is before  # an optimiser that holds it goes on
    assert layer.max_size() == (7, 12)


def test_after_growing_a_stretched_table_smaller_maps_change_and_a_clamped_ones_do_not():
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    for extend, same in (("stretch", False), ("clamp", True)):
        layer = strong(MHSA2d(8, 2, extend=extend).double())
        expected = layer(x)
        layer.set_max_size((64, 64))
        assert layer(x).allclose(expected, atol=1e-10) == same


@pytest.mark.parametrize(
    "rows", [torch.zeros(1, 26, 4), torch.zeros(1, 0, 4), torch.zeros(1, 27, 4, dtype=torch.long), torch.zeros(27, 4)]
)
def test_what_is_no_table_is_left_to_torchs_refusal(rows):
    layer = MHSA2d(8, 2, max_size=(7, 7))
    with pytest.raises(RuntimeError, match="size mismatch for rel_h"):
        layer.load_state_dict(layer.state_dict() | {"rel_h": rows})


def test_the_printed_layer_tells_its_options():
    text = repr(MHSA2d(16, 2, max_size=(7, 5), qkv_bias=True))
    assert "16, num_heads=2, position='relative', extend='stretch', max_size=(7, 5), qkv_bias=True" in text


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("position", POSITIONS)
def test_graphs_of_every_position_run_at_a_second_size(position):
    layer, second = MHSA2d(512, 4, position=position).eval(), torch.randn(1, 512, 24, 9)
    first = torch.randn(1, 512, 14, 14)
    torch._dynamo.reset()
    graphs = [
        torch.jit.script(layer),
        torch.jit.trace(layer, first),
        torch.fx.symbolic_trace(layer),
        torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager"),
    ]
    with torch.no_grad():
        for graph in graphs:
            for x in (first, second):
                assert torch.allclose(graph(x), layer(x), atol=1e-6)


def test_bias_of_the_projections_is_an_option_and_starts_at_zero():
    x = torch.randn(1, 8, 3, 4)
    plain, biased = MHSA2d(8, 2), MHSA2d(8, 2, qkv_bias=True)
    biased.load_state_dict(plain.state_dict() | {"qkv.bias": torch.zeros(24)})
    assert torch.equal(biased(x), plain(x))
    assert not MHSA2d(8, 2, qkv_bias=True).qkv.bias.any()


def test_import_takes_less_than_300_ms_beyond_torch():
    code = (
        "import time, torch; start = time.perf_counter(); import botvision, botvision.attention; "
        "print(time.perf_counter() - start)"
    )
    assert any(float(subprocess.check_output([sys.executable, "-c", code], text=True)) < 0.3 for _ in range(3))
    code = "import sys, botvision; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_attention_imports_torch_alone():
    code = (
        "import sys, botvision.attention; "
        "print([m for m in ('timm', 'torchvision', 'lightning', 'ultralytics') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_projections_begin_where_they_are_told():
    assert MHSA2d(128).qkv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert MHSA2d(128, qkv_std=0.05).qkv.weight.std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_tables_begin_where_they_are_told(position):
    tables = [MHSA2d(256, position=position, max_size=(32, 32), position_std=std) for std in (None, 1.4)]
    stds = [torch.cat([getattr(t, name).flatten() for name in t.table_names()]).std().item() for t in tables]
    assert stds == [pytest.approx(64**-0.5, rel=0.1), pytest.approx(1.4, rel=0.1)]


@pytest.mark.parametrize("start", [{"qkv_std": -0.1}, {"position_std": -1.0}, {"position_std": float("nan")}])
def test_what_is_no_standard_deviation_is_refused(start):
    with pytest.raises(ValueError, match=r"_std=.* must be a standard deviation of at least 0; e\.g\. 0\.05"):
        MHSA2d(64, **start)


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize(
    ("position", "extend"),
    [("relative", "stretch"), ("relative_only", "clamp"), ("absolute", "stretch"), ("none", "clamp")],
)
@pytest.mark.filterwarnings("ignore")  # the exporter's
def test_the_tracing_onnx_exporter_writes_one_graph_for_every_batch_and_size(position, extend, opset, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    layer, path = MHSA2d(16, 2, position=position, extend=extend, max_size=(4, 5)).eval(), tmp_path / "layer.onnx"
    torch.nn.init.normal_(layer.qkv.weight, std=0.3)
    free = {"x": {0: "batch", 2: "height", 3: "width"}, "y": {0: "batch", 2: "height", 3: "width"}}
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": free, "opset_version": opset}
    torch.onnx.export(layer, torch.randn(1, 16, 3, 3), path, dynamo=False, **names)
    session = onnxruntime.InferenceSession(path)
    for size in [(1, 3, 3), (2, 4, 5), (3, 7, 2), (2, 1, 1)]:
        x = torch.randn(size[0], 16, *size[1:])
        with torch.no_grad():
            assert np.abs(session.run(None, {"x": x.numpy()})[0] - layer(x).numpy()).max() < 1e-5


class Likeness(torch.nn.Module):
    """Of every place with every other, as attention behind the layer computes it."""

    def forward(self, x):
        heads = x.flatten(2).unflatten(1, (2, -1))
        return heads.mT @ heads


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of older versions
@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 asks for the sizes of what attention pads")
@pytest.mark.parametrize("position", ["relative", "none"])
def test_torch_exports_onnx_declares_a_free_batch_of_what_was_recorded_at_one_image(position):
    pytest.importorskip("onnxscript")
    layer = MHSA2d(16, 2, position=position, max_size=(4, 5))
    network = torch.nn.Sequential(layer, torch.nn.Conv2d(16, 4, 1), Likeness()).eval()
    free = ({0: "batch", 2: "height", 3: "width"},)
    program = torch.onnx.export(
        network, (torch.randn(1, 16, 3, 3),), dynamo=True, dynamic_shapes=free, opset_version=18, verbose=False
    )
    [found], x = program.model.graph.outputs, torch.randn(3, 16, 4, 5)
    assert str(found.shape[0]) == "batch"
    with torch.no_grad():
        assert (program(x)[0] - network(x)).abs().max() < 1e-5
