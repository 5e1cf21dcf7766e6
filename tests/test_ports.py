"""Other ports: where each deviates from the paper, shown by arithmetic, and how its weights become ours.

The ports' layers are written here anew, from what they compute; docs/correctness.md has a row for each test.
"""

import math

import pytest
import timm
import torch
import torchvision
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn import functional as F

import botvision
from botvision.attention import MHSA2d
from botvision.backbone import BoTBlock, convert, load_weights

HEADS, DIM = 4, 32
D = DIM // HEADS


@pytest.fixture(autouse=True)
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tokens(t):
    """(B, M·D, H, W) → (B, M, N, D): pixels row by row, channels head by head."""
    return t.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3)


def image(t, size):
    """(B, M, N, D) → (B, M·D, H, W)."""
    return t.transpose(2, 3).flatten(1, 2).unflatten(-1, size)


def offset_bias(q, rows_h, rows_w, size):
    """q · (R_h[y_key − y_query] + R_w[x_key − x_query]) as one N×N tensor, from tables of (2L−1, D)."""
    height, width = size
    y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    r = rows_h[y[None] - y[:, None] + rows_h.shape[0] // 2] + rows_w[x[None] - x[:, None] + rows_w.shape[0] // 2]
    return torch.einsum("bmqd,qkd->bmqk", q, r)


def gist_attention(state, x):
    """distribuuuu's, CandiceD17's and lucidrains' layer: q scaled before both terms, offsets or coordinates."""
    joint = "to_qkv.weight" in state
    weight = state["to_qkv.weight"] if joint else torch.cat([state["to_qk.weight"], state["to_v.weight"]])
    q, k, v = map(tokens, F.conv2d(x, weight).chunk(3, 1))
    q = q * q.shape[-1] ** -0.5
    size = tuple(x.shape[2:])
    if "pos_emb.rel_height" in state:
        bias = offset_bias(q, state["pos_emb.rel_height"], state["pos_emb.rel_width"], size)
    else:
        places = (state["pos_emb.height"][:, None] + state["pos_emb.width"][None]).flatten(0, 1)
        bias = q @ places.T
    return image((q @ k.mT + bias).softmax(-1) @ v, size)


def gist_state(dim, size, *, joint, relative, prefix=""):
    """Random weights under the names of these ports."""
    d, (height, width) = dim // HEADS, size
    state = {"to_qkv.weight": torch.randn(3 * dim, dim, 1, 1)}
    if not joint:
        state = {"to_qk.weight": torch.randn(2 * dim, dim, 1, 1), "to_v.weight": torch.randn(dim, dim, 1, 1)}
    if relative:
        state |= {
            "pos_emb.rel_height": torch.randn(2 * height - 1, d),
            "pos_emb.rel_width": torch.randn(2 * width - 1, d),
        }
    else:
        state |= {"pos_emb.height": torch.randn(height, d), "pos_emb.width": torch.randn(width, d)}
    scaled = {k: v * dim**-0.5 if k.startswith("to_") else v for k, v in state.items()}
    return {prefix + key: value for key, value in scaled.items()}


def norm_state(name, channels):
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.randn(channels),
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(3),
    }


def stack_state(dims, size, *, blocks, stride, joint, shortcut_kernel):
    """A stack of blocks under the ports' names: dims = (in, bottleneck, out)."""
    inner, outer = dims[1:]
    state = {}
    for i in range(blocks):
        before, here = (dims[0] if i == 0 else outer), (size if i == 0 else tuple(s // stride for s in size))
        block = {"net.0.weight": torch.randn(inner, before, 1, 1) * before**-0.5} | norm_state("net.1", inner)
        block |= gist_state(inner, here, joint=joint, relative=True, prefix="net.3.")
        block |= norm_state("net.5", inner)
        block |= {"net.7.weight": torch.randn(outer, inner, 1, 1) * inner**-0.5} | norm_state("net.8", outer)
        if i == 0:
            k = shortcut_kernel
            block |= {"shortcut.0.weight": torch.randn(outer, before, k, k) * (k * before) ** -0.5}
            block |= norm_state("shortcut.1", outer)
        state |= {f"net.{i}.{key}": value for key, value in block.items()}
    return state


def part(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def batch_norm(x, state):
    return F.batch_norm(x, state["running_mean"], state["running_var"], state["weight"], state["bias"])


def stack(state, x, *, stride):
    """The stack's arithmetic: an activation on the projected shortcut, the average pool that rounds down."""
    for i in range(1 + max(int(key.split(".")[1]) for key in state)):
        block = part(state, f"net.{i}.")
        shortcut, pooled = x, i == 0 and stride == 2
        if "shortcut.0.weight" in block:
            kernel = block["shortcut.0.weight"]
            shortcut = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
            shortcut = batch_norm(shortcut, part(block, "shortcut.1.")).relu()
        x = batch_norm(F.conv2d(x, block["net.0.weight"]), part(block, "net.1.")).relu()
        x = gist_attention(part(block, "net.3."), x)
        x = batch_norm(F.avg_pool2d(x, 2) if pooled else x, part(block, "net.5.")).relu()
        x = (batch_norm(F.conv2d(x, block["net.7.weight"]), part(block, "net.8.")) + shortcut).relu()
    return x


def snippet_state(size):
    """The `MHSA` that YOLO forks share (PAPER section 6)."""
    state = {}
    for name in ("query", "key", "value"):
        state |= {f"{name}.weight": torch.randn(DIM, DIM, 1, 1) * DIM**-0.5, f"{name}.bias": torch.randn(DIM)}
    return state | {"rel_h": torch.randn(1, HEADS, D, 1, size[0]), "rel_w": torch.randn(1, HEADS, D, size[1], 1)}


def snippet_parts(state, x):
    q, k, v = (tokens(F.conv2d(x, state[f"{n}.weight"], state[f"{n}.bias"])) for n in ("query", "key", "value"))
    return q, k, v, place_of(state)


def place_of(state):
    """1 M N D; its axes are (width, height), flattened so."""
    return (state["rel_h"] + state["rel_w"]).flatten(3).mT


def snippet(state, x, *, positions):
    q, k, v, place = snippet_parts(state, x)
    logits = q @ k.mT + (place @ q.mT if positions else 0)
    return image(logits.softmax(-1) @ v, tuple(x.shape[2:]))


def largest(a, b):
    return (a - b).abs().max().item()


# ── weights of the ports become ours ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("joint", [True, False], ids=["lucidrains", "distribuuuu"])
def test_layers_of_the_gists_translations_convert(joint, relative):
    size = (5, 7)
    state, x = gist_state(DIM, size, joint=joint, relative=relative), torch.randn(2, DIM, *size)
    converted = convert(state)
    assert converted.options == {
        "position": "relative" if relative else "absolute",
        "qkv_bias": False,
        "num_heads": HEADS,
    }
    layer = MHSA2d(DIM, max_size=size, **converted.options)
    report = load_weights(layer, state)
    assert report.fresh == report.unused == []
    assert largest(layer(x), gist_attention(state, x)) <= 1e-6


@pytest.mark.parametrize("stride", [1, 2])
def test_a_stack_of_lucidrains_converts_with_its_3x3_shortcut(stride):
    size, dims = (6, 8), (24, DIM, 128)
    state = stack_state(dims, size, blocks=2, stride=stride, joint=True, shortcut_kernel=3)
    shortcut = nn.Sequential(nn.Conv2d(24, 128, 3, stride, 1, bias=False), nn.BatchNorm2d(128))
    inside = tuple(s // stride for s in size)
    ours = nn.Sequential(
        BoTBlock(24, DIM, stride, shortcut, num_heads=HEADS, max_size=size, shortcut_act=True),
        BoTBlock(128, DIM, num_heads=HEADS, max_size=inside),
    )
    assert load_weights(ours, state).fresh == []
    x = torch.randn(2, 24, *size)
    assert largest(ours.eval()(x), stack(state, x, stride=stride)) <= 1e-6


def test_distribuuuus_botnet50_converts_whole(tmp_path):
    """The only public ImageNet weights of BoT50: a torchvision ResNet-50 cut open, c5 at stride 1."""
    resnet = torchvision.models.resnet50().eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    parts = list(resnet.children())
    front, fc = nn.Sequential(*parts[:7]), nn.Linear(2048, 1000)
    c5 = stack_state((1024, 512, 2048), (4, 6), blocks=3, stride=1, joint=False, shortcut_kernel=1)
    state = front.state_dict() | {f"7.{k}": v for k, v in c5.items()}
    state |= {f"10.{k}": v for k, v in fc.state_dict().items()}
    torch.save({"epoch": 99, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "botnet50.pth.tar")

    model = botvision.create_model("botnet_s1_50", img_size=(64, 96), shortcut_act=True).eval()
    report = load_weights(model, tmp_path / "botnet50.pth.tar")
    assert report.fresh == report.unused == []
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = fc(stack(c5, front(x), stride=1).mean((2, 3)))
        got = model.double()(x)
    assert largest(got, expected) <= 1e-6 * expected.abs().max()

    with pytest.raises(
        ValueError, match=r"distribuuuu's weights compute the same only in a model built with shortcut_act=True"
    ):
        load_weights(botvision.create_model("botnet_s1_50"), tmp_path / "botnet50.pth.tar")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_timms_layer_converts(scaled, bias):
    size = (5, 7)
    theirs = BottleneckAttn(DIM, feat_size=size, num_heads=HEADS, scale_pos_embed=scaled, qkv_bias=bias)
    layer = MHSA2d(DIM, HEADS, max_size=size, qkv_bias=bias)
    load_weights(layer, theirs.state_dict(), scaled_positions=scaled)
    x = torch.randn(2, DIM, *size)
    assert largest(layer(x), theirs(x)) <= 1e-6


def test_a_layer_inside_timms_botnet26t_converts_by_its_prefix():
    theirs = timm.create_model("botnet26t_256").eval()
    inside = "stages.3.1.self_attn."
    layer = MHSA2d(512, 4, max_size=(8, 8))
    load_weights(layer, theirs.state_dict(), prefix=inside)
    x = torch.randn(1, 512, 8, 8)
    assert largest(layer(x), theirs.get_submodule(inside[:-1])(x)) <= 1e-6


def test_the_snippets_content_converts_and_its_positions_are_named():
    size = (5, 5)
    state, x = snippet_state(size), torch.randn(2, DIM, *size)
    layer = MHSA2d(DIM, HEADS, position="none", qkv_bias=True)
    report = load_weights(layer, state)
    assert report.unused == ["rel_h", "rel_w"]
    assert largest(layer(x), snippet(state, x, positions=False)) <= 1e-6
    assert largest(layer(x), snippet(state, x, positions=True)) > 1e-2

    relative = MHSA2d(DIM, HEADS, qkv_bias=True)
    with pytest.raises(ValueError, match=r"built with position='none'; rel_h: .*p_query·q_key, transposed"):
        load_weights(relative, state)
    report = load_weights(relative, state, exact=False)
    assert report.fresh == ["rel_h", "rel_w"]
    assert torch.equal(relative.qkv.weight, layer.qkv.weight)


def test_the_snippet_without_positions_takes_the_heads_of_the_layer():
    state = without_tables(snippet_state((5, 5)))
    with pytest.raises(ValueError, match="num_heads is not in these weights; give num_heads, a divisor of 32"):
        convert(state)
    layer, x = MHSA2d(DIM, HEADS, position="none", qkv_bias=True), torch.randn(1, DIM, 9, 4)
    load_weights(layer, state)
    assert largest(layer(x), snippet(snippet_state((4, 9)) | state, x, positions=False)) <= 1e-6


def test_what_no_port_has_is_refused_with_the_first_five_names():
    strange = {f"encoder.{i}.weight": torch.zeros(1) for i in range(7)}
    with pytest.raises(ValueError, match=r"these names: encoder\.0\.weight, .*\.4\.weight and 2 more; known are dist"):
        convert(strange)
    wide = gist_state(DIM, (4, 4), joint=True, relative=True) | {"to_qkv.weight": torch.zeros(3 * DIM, 16, 1, 1)}
    with pytest.raises(ValueError, match="qkv projects 16 channels to 96; MHSA2d needs query, key and value"):
        convert(wide)


@pytest.mark.parametrize(
    "names",
    [
        {"layer.0.query.weight": (8, 8), "layer.0.key.weight": (8, 8), "layer.0.value.weight": (8, 8)},  # a ViT
        {"0.to_qkv.weight": (24, 8)},  # another ViT
        {"query.weight": (8, 8, 1, 1), "key.weight": (8, 8, 1, 1), "value.weight": (8, 8, 1, 1)},  # no biases
        {"to_qk.weight": (16, 8, 1, 1)},  # no values
    ],
)
def test_other_networks_are_not_taken_for_ports(names):
    with pytest.raises(ValueError, match="no port known here has these names"):
        convert({name: torch.zeros(shape) for name, shape in names.items()})


def test_attention_without_tables_is_not_taken_for_absolute():
    with pytest.raises(ValueError, match=r"no position tables beside to_qkv\.weight; these are not a BoTNet layer's"):
        convert({"to_qkv.weight": torch.zeros(24, 8, 1, 1)})


def test_tables_of_another_size_convert_too():
    state = gist_state(DIM, (5, 7), joint=True, relative=True)
    for exact in (True, False):
        layer = MHSA2d(DIM, HEADS, max_size=(14, 14))
        assert load_weights(layer, state, exact=exact).fresh == []
        x = torch.randn(1, DIM, 14, 14)
        small = MHSA2d(DIM, HEADS, max_size=(5, 7))
        load_weights(small, state)
        assert largest(layer(x), small(x)) <= 1e-12


# ── where the ports deviate from the paper ────────────────────────────────────────────────────────────────────────


def paper(weights, rows_h, rows_w, x):
    """The paper's layer: both terms scaled, positions by offset, shared by the heads."""
    q, k, v = map(tokens, F.conv2d(x, weights).chunk(3, 1))
    q, size = q * D**-0.5, tuple(x.shape[2:])
    return image((q @ k.mT + offset_bias(q, rows_h, rows_w, size)).softmax(-1) @ v, size)


def test_timms_positions_are_unscaled():
    size = (5, 7)
    theirs = BottleneckAttn(DIM, feat_size=size, num_heads=HEADS)
    rows, x = theirs.pos_embed, torch.randn(2, DIM, *size)
    same_tables = paper(theirs.qkv.weight, rows.height_rel, rows.width_rel, x)
    grown = paper(theirs.qkv.weight, rows.height_rel * math.sqrt(D), rows.width_rel * math.sqrt(D), x)
    assert largest(theirs(x), same_tables) > 1e-2
    assert largest(theirs(x), grown) <= 1e-12


def test_timms_layer_knows_one_size_and_says_nothing():
    theirs = BottleneckAttn(DIM, feat_size=(8, 8), num_heads=HEADS)
    with pytest.raises(AssertionError) as refused:
        theirs(torch.randn(1, DIM, 9, 8))
    assert str(refused.value) == ""
    assert MHSA2d(DIM, HEADS, max_size=(8, 8))(torch.randn(1, DIM, 9, 8)).shape == (1, DIM, 9, 8)


def test_timms_tables_are_decayed():
    theirs, ours = timm.create_model("botnet26t_256"), botvision.create_model("botnet26")
    decayed = [
        {
            id(p)
            for group in param_groups_weight_decay(m, 0.1, no_weight_decay_list=skip)
            if group["weight_decay"]
            for p in group["params"]
        }
        for m, skip in ((theirs, ()), (ours, ours.no_weight_decay()))
    ]
    assert not hasattr(theirs, "no_weight_decay")
    assert all(id(p) in decayed[0] for n, p in theirs.named_parameters() if n.endswith(("height_rel", "width_rel")))
    assert not any(id(p) in decayed[1] for n, p in ours.named_parameters() if ".rel_" in n)


def absolute(state, x, *, scale, transposed):
    """Attention with a position vector a pixel and a head: q_query·p_key, or p_query·q_key."""
    q, k, v, place = snippet_parts(state, x)
    bias = place @ q.mT if transposed else q @ place.mT
    return image((scale * (q @ k.mT + bias)).softmax(-1) @ v, tuple(x.shape[2:]))


def test_the_snippets_positions_are_transposed_and_nothing_is_scaled():
    """At equal weights only the transposed term without 1/√d gives the snippet's output, not what it is said to be."""
    size = (5, 5)
    state, x = snippet_state(size), torch.randn(1, DIM, *size)
    theirs = snippet(state, x, positions=True)
    assert largest(theirs, absolute(state, x, scale=1, transposed=True)) <= 1e-12
    assert largest(theirs, absolute(state, x, scale=1, transposed=False)) > 1e-2
    assert largest(theirs, absolute(state, x, scale=D**-0.5, transposed=True)) > 1e-2
    rolled = snippet(state, x.roll(1, -1), positions=True).roll(-1, -1)
    assert largest(theirs, rolled) > 1e-2  # absolute: it matters where a thing is, even on a torus
    unbiased = state | {f"{name}.bias": torch.zeros(DIM) for name in ("query", "key", "value")}
    assert largest(theirs, snippet(unbiased, x, positions=True)) > 1e-2


def test_the_snippet_on_a_smaller_map_reads_the_wrong_rows():
    """YOLO forks cut the flattened positions to the tokens they have: rows wrap at the table's width, not the map's."""
    table, smaller = 4, 3
    state, x = snippet_state((table, table)), torch.randn(1, DIM, smaller, smaller)
    q, k, v, place = (*snippet_parts(snippet_state((smaller, smaller)) | without_tables(state), x)[:3], place_of(state))
    wanted = place.unflatten(2, (table, table))[:, :, :smaller, :smaller].flatten(2, 3)
    cut = place[:, :, : smaller * smaller]
    wrong = (cut != wanted).any(-1)[0, 0]
    assert wrong.tolist() == [False] * smaller + [True] * smaller * (smaller - 1)  # right on the first row alone
    outputs = [image((q @ k.mT + p @ q.mT).softmax(-1) @ v, (smaller, smaller)) for p in (cut, wanted)]
    assert largest(*outputs) > 1e-2


def without_tables(state):
    return {key: value for key, value in state.items() if not key.startswith("rel")}


def test_heads_split_by_reshape_alone_scatter_a_pixel():
    """MartinGer: (B, C, H, W) reshaped to (B, heads, H, W, D) without a permutation."""
    x = torch.zeros(1, DIM, 8, 8)
    x[..., 3, 4] = 1
    scattered = x.reshape(1, HEADS, 8, 8, D).abs().sum((1, 4))[0]
    right = tokens(x).abs().sum((1, 3)).view(8, 8)
    assert (right > 0).sum() == 1
    assert (scattered > 0).sum() > 1
    assert scattered[3, 4] < right[3, 4]


def test_an_output_einsum_over_the_querys_own_place_is_no_attention():
    """NZ99: softmax over the last axis alone, then values taken at the query's place: H times the input's value."""
    height, width = 5, 7
    weights = torch.randn(2, height, width, height, width).softmax(-1)
    v = torch.randn(2, height, width, D)
    out = torch.einsum("bhwij,bhwd->bhwd", weights, v)
    assert largest(out, height * v) <= 1e-12


def test_a_pool_that_rounds_down_breaks_odd_maps():
    x = torch.randn(1, 8, 7, 9)
    strided = F.conv2d(x, torch.randn(8, 8, 1, 1), stride=2).shape[2:]
    assert F.avg_pool2d(x, 2).shape[2:] == (3, 4)
    assert F.avg_pool2d(x, 2, ceil_mode=True).shape[2:] == strided == (4, 5)


def test_a_3x3_shortcut_is_16_8_million_parameters_too_many():
    """lucidrains' stack in c5's place: 37.6 M where the paper has 20.8 M; its README cuts after c2: 14.8 M."""

    def parameters(state):
        return sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k)

    def stack_of(dims, size):
        state = stack_state(dims, size, blocks=3, stride=2, joint=True, shortcut_kernel=3)
        return parameters(state)

    resnet = timm.create_model("resnet50")
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in resnet.named_children()}
    until_c2 = parts["conv1"] + parts["bn1"] + parts["layer1"]
    until_c4 = until_c2 + parts["layer2"] + parts["layer3"]
    bot50 = sum(p.numel() for p in botvision.create_model("botnet50").parameters())
    assert until_c4 + stack_of((1024, 512, 2048), (14, 14)) + parts["fc"] == bot50 + 8 * 1024 * 2048 == 37_629_224
    assert until_c2 + stack_of((256, 512, 2048), (56, 56)) + parts["fc"] == 14_805_288


def test_bot101_has_39_8_million_parameters_not_41():
    """keras_cv_attention_models prints 41 M for BotNet101, whose c5 has stride 1."""
    for options in ({}, {"output_stride": 16}):
        with torch.device("meta"):
            model = botvision.create_model("botnet101", **options)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(39.85e6, abs=0.01e6)
