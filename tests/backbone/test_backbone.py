"""The family: the paper's counts, its ablations, odd sizes."""

import pytest
import timm
import torch
from timm.layers import NonLocalAttn
from timm.models.resnet import Bottleneck

import botvision
from botvision.attention import MHSA2d
from botvision.backbone import VARIANTS, BoTBlock, load_resnet
from botvision.backbone.blocks import HalvingPool, StemPool
from botvision.backbone.counts import count

PARAMETERS = {  # PAPER.md section 3
    ("botnet50", 224): 20_852_008,
    ("botnet50", 1024): 20_903_208,
    ("botnet101", 224): 39_844_136,
    ("botnet101", 1024): 39_895_336,
    ("botnet152", 224): 55_487_784,
    ("botnet152", 1024): 55_538_984,
    ("botnet200", 224): 59_968_808,
    ("botnet200", 1024): 60_020_008,
    ("botnet_s1_50", 224): 20_859_176,
    ("botnet_s1_59", 224): 30_500_696,
    ("botnet_s1_110", 224): 51_739_544,
    ("botnet_s1_128", 256): 69_131_672,
    ("botnet_s1_128", 384): 69_180_824,
    ("botnet_s1_77", 320): 47_917_400,
}


@pytest.mark.parametrize(("name", "img_size"), PARAMETERS)
def test_parameter_counts_are_pinned(name, img_size):
    with torch.device("meta"):
        model = botvision.create_model(name, img_size=img_size)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, img_size]


MADDS = {  # PAPER.md section 3; at 1024 px without the classifier
    ("resnet50", 224, 1000): 4.0892e9,
    ("resnet50", 1024, 0): 85.413e9,
    ("resnet101", 1024, 0): 162.991e9,
    ("resnet152", 1024, 0): 240.569e9,
    ("botnet50", 224, 1000): 4.0246e9,
    ("botnet50", 1024, 0): 102.989e9,
    ("botnet101", 1024, 0): 180.567e9,
    ("botnet152", 1024, 0): 258.145e9,
    ("botnet200", 1024, 0): 331.159e9,
    ("botnet_s1_50", 224, 1000): 5.4180e9,
    ("botnet_s1_59", 224, 1000): 7.249e9,
    ("botnet_s1_110", 224, 1000): 10.963e9,
    ("botnet_s1_128", 256, 1000): 19.299e9,
    ("botnet_s1_77", 320, 1000): 23.321e9,
    ("botnet_s1_128", 384, 1000): 45.794e9,
    ("seresnet50", 224, 1000): 4.092e9,
    ("seresnet101", 224, 1000): 7.806e9,
    ("seresnet152", 288, 1000): 19.04e9,
}


@pytest.mark.parametrize(("name", "side", "classes"), MADDS)
def test_multiply_adds_are_pinned(name, side, classes):
    size = {"img_size": side} if name.startswith("botnet") else {}
    with torch.device("meta"):
        model = botvision.create_model(name, num_classes=classes, **size)
    assert count(model, (side, side)).madds == pytest.approx(MADDS[name, side, classes], rel=5e-4)


def test_the_count_is_the_arithmetic_of_one_layer():
    """c5 of BoT50 at 1024 px, its first block's attention: projections, offsets, q·k and weights·v."""
    layer = MHSA2d(512, 4, max_size=(64, 64))
    n = 64 * 64
    expected = n * 512 * 3 * 512 + 2 * n * 512 * (2 * 64 - 1) + 2 * n * n * 512
    assert count(Alone(layer), (64, 64)).madds == expected


class Alone(torch.nn.Sequential):
    """A layer as a whole model."""

    in_chans = 512


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"insert": ("c4",)}, {"layer3": BoTBlock}),
        ({"insert": ("c4", "c5")}, {"layer3": BoTBlock, "layer4": BoTBlock}),
        ({"insert": ("c4",), "insert_block": "non_local"}, {"layer3": NonLocalAttn}),
    ],
    ids=str,
)
def test_inserted_blocks_stand_before_the_last_and_change_nothing_at_first(options, extra):
    resnet = timm.create_model("resnet50").eval()
    model = botvision.create_model("botnet50", **options).eval()
    for stage, kind in extra.items():
        assert [n for n, _ in model.get_submodule(stage).named_children()][-2:] == [
            "extra",
            {"layer3": "5", "layer4": "2"}[stage],
        ]
        assert isinstance(model.get_submodule(stage)[-2], kind)
    assert sum(isinstance(m, BoTBlock | NonLocalAttn) for m in model.modules()) == len(extra)
    report = load_resnet(model, resnet.state_dict())
    assert all(".extra." in name for name in report.fresh)
    assert report.unused == []
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(model(x), resnet(x), atol=1e-6)
    model.train()
    for module in (m for n, m in model.named_modules() if n.endswith((".extra.bn3", ".extra.norm"))):
        torch.nn.init.ones_(module.weight)
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("insert", [(), ("c4",)])
def test_where_attention_begins_reaches_every_block(insert):
    model = botvision.create_model("botnet26", qkv_std=0.05, position_std=1.4, insert=insert)
    model.init_weights()  # timm's own start leaves ours alone
    layers = [module for module in model.modules() if isinstance(module, MHSA2d)]
    assert len(layers) == (1 if insert else 2)
    for layer in layers:
        assert layer.qkv.weight.std().item() == pytest.approx(0.05, rel=0.05)
        assert layer.rel_h.std().item() == pytest.approx(1.4, rel=0.1)


def test_inserted_layers_know_their_maps():
    model = botvision.create_model("botnet50", insert=("c4", "c5"), img_size=(256, 320))
    assert [size for _, size in model.attention_maps((256, 320))] == [(16, 20), (8, 10)]
    assert tuple(model.layer3.extra.mhsa.rel_h.shape) == (1, 31, 64)
    assert tuple(model.layer4.extra.mhsa.rel_w.shape) == (1, 19, 128)


def test_the_non_local_block_is_the_papers():
    """Embedded Gaussian, half the channels, with a residual whose BatchNorm starts at zero (arXiv 1711.07971)."""
    block = botvision.create_model("botnet26", insert=("c4",), insert_block="non_local").layer3.extra.double().eval()
    torch.nn.init.normal_(block.norm.weight)
    x = torch.randn(2, 1024, 3, 4, dtype=torch.float64)
    theta, phi, g = (conv(x).flatten(2) for conv in (block.t, block.p, block.g))
    assert theta.shape[1] == 512
    y = g @ (theta.mT @ phi).softmax(-1).mT
    expected = x + block.norm(block.z(y.unflatten(-1, (3, 4))))
    assert torch.allclose(block(x), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"insert": "c4"}, r"insert='c4' must name stages of c2, c3, c4, c5, each once, e.g. \('c4', 'c5'\)"),
        ({"insert": ("c4", "c4")}, "must name stages of c2, c3, c4, c5, each once"),
        ({"insert": ("c6",)}, "must name stages of c2, c3, c4, c5"),
        ({"insert": ("c4",), "insert_block": "swin"}, "insert_block='swin' is unknown; use one of bot, non_local"),
        ({"img_size": 0}, r"img_size=0 must be a side, or \(height, width\), in whole pixels, e\.g\. 224"),
        ({"img_size": (3, 224, 224)}, r"img_size=\(3, 224, 224\) must be a side, or"),
        ({"position": "rotary"}, "position='rotary' is unknown; use one of relative"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        botvision.create_model("botnet26", **options)


def test_a_stage_of_one_block_takes_no_insertion():
    with pytest.raises(ValueError, match="needs a block before the last, but c4 has one; use a deeper model"):
        botvision.create_model("botnet14", insert=("c4",))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"BoTNet needs floats; got torch\.uint8; scale to 0 … 1"),
        (torch.zeros(1, 3, 0, 64), r"needs images \(B, 3, H, W\) of at least 1×1; got \(1, 3, 0, 64\)"),
        (torch.zeros(1, 1, 64, 64), r"needs images \(B, 3, H, W\)"),
        (torch.zeros(3, 64, 64), r"needs images \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 64, 64, device="meta"), r"BoTNet is on cpu, its images on meta; move one with"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        botvision.create_model("botnet14")(images)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "options", [{"in_chans": 1}, {"in_chans": 4}, {"stem_type": "deep", "avg_down": True}], ids=str
)
def test_stems_of_every_name(name, options):
    with torch.device("meta"):
        model = botvision.create_model(name, num_classes=5, **options)
        assert model(torch.empty(2, options.get("in_chans", 3), 64, 96)).shape == (2, 5)


@pytest.mark.parametrize("name", VARIANTS)
def test_drop_path_of_every_name(name):
    with torch.device("meta"):
        model = botvision.create_model(name, drop_path_rate=0.2)
    assert model.layer4[-1].drop_path.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_tables_fit_the_map_at_every_output_stride(stride):
    model = botvision.create_model("botnet26", output_stride=stride, img_size=(96, 160))
    seen = []
    for layer in model.modules():
        if isinstance(layer, MHSA2d):
            layer.register_forward_hook(
                lambda layer, args, _: seen.append((layer.max_size(), tuple(args[0].shape[2:])))
            )
    model.eval()(torch.randn(1, 3, 96, 160))
    assert len(seen) == 2
    assert all(table == size for table, size in seen)


def test_a_whole_model_exports_for_free_sizes():
    """With ceil_mode in the pool torch refused this: its rule for the last window binds the sizes."""
    model = botvision.create_model("botnet14", num_classes=3).eval()
    torch.nn.init.ones_(model.layer4[0].bn3.weight)
    sizes = {2: torch.export.Dim("h", min=64, max=1024), 3: torch.export.Dim("w", min=64, max=1024)}
    program = torch.export.export(model, (torch.randn(1, 3, 96, 128),), dynamic_shapes=(sizes,)).module()
    for size in [(96, 128), (64, 97), (321, 129)]:
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.allclose(program(image), model(image), atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)  # the exporter's
def test_a_whole_model_is_one_onnx_graph_for_every_size_and_batch(tmp_path):
    import onnxruntime

    model = botvision.create_model("botnet14", num_classes=3, channels=(16, 32, 64, 128)).eval()
    torch.nn.init.ones_(model.layer4[0].bn3.weight)
    free = {0: torch.export.Dim("b", max=8), 2: torch.export.Dim("h", max=1024), 3: torch.export.Dim("w", max=1024)}
    image, path = torch.randn(2, 3, 96, 128), tmp_path / "model.onnx"
    torch.onnx.export(model, (image,), path, dynamo=True, dynamic_shapes=(free,), verbose=False)
    session = onnxruntime.InferenceSession(path)
    for batch, height, width in [(2, 96, 128), (1, 64, 97), (3, 225, 129)]:
        image = torch.randn(batch, 3, height, width)
        [found] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), model(image), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (9, 9), (33, 64)])
@pytest.mark.parametrize("pool", [HalvingPool(), StemPool()], ids=lambda pool: type(pool).__name__)
def test_pools_for_a_torch_that_binds_strides_have_the_same_bits(size, pool, monkeypatch):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = pool(x)
    monkeypatch.setattr("botvision.backbone.blocks.is_stride_refused", lambda: True)
    assert torch.equal(pool(x), expected)


def test_the_stem_pool_is_timms(monkeypatch):
    x = torch.randn(2, 3, 65, 96, dtype=torch.float64)
    monkeypatch.setattr("botvision.backbone.botnet.POOLS_BIND_SIZES", True)
    model, baseline = botvision.create_model("botnet14"), timm.create_model("resnet14t", stem_type="")
    assert isinstance(model.maxpool, StemPool)
    assert torch.equal(model.maxpool(x), baseline.maxpool(x))
    convolving = botvision.create_model("botnet14", replace_stem_pool=True)
    assert not isinstance(convolving.maxpool, StemPool)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (9, 9)])
def test_the_halving_pool_is_the_ceil_mode_pool(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    assert torch.allclose(HalvingPool()(x), expected, atol=1e-15)


@pytest.mark.parametrize("size", [(64, 64), (333, 517), (33, 95)])
@pytest.mark.parametrize("stride", [32, 16])
def test_odd_and_oblong_images_give_the_sizes_of_the_resnet_baseline(size, stride):
    x = torch.randn(1, 3, *size)
    options = {"features_only": True, "output_stride": stride}
    ours = timm.create_model("botnet14", **options).eval()
    baseline = timm.create_model("resnet50", **options).eval()
    with torch.no_grad():
        assert [f.shape for f in ours(x)] == [f.shape for f in baseline(x)]


def test_only_the_last_stage_is_attention():
    model = botvision.create_model("botnet50")
    blocks = [b for n in (1, 2, 3) for b in model.get_submodule(f"layer{n}")]
    assert all(isinstance(b, Bottleneck) for b in blocks)
    assert all(isinstance(b, BoTBlock) for b in model.layer4)
    assert [tuple(b.mhsa.rel_h.shape) for b in model.layer4] == [(1, 27, 128), (1, 13, 128), (1, 13, 128)]


def test_timm_initialisation_leaves_attention_alone_and_zeroes_the_last_gamma():
    model = botvision.create_model("botnet26")
    for block in model.layer4:
        assert abs(block.mhsa.qkv.weight.std() - 0.01) < 1e-4
        assert not block.bn3.weight.any()


def test_tables_want_no_weight_decay():
    model = botvision.create_model("botnet50")
    assert model.no_weight_decay() == {f"layer4.{i}.mhsa.rel_{a}" for i in range(3) for a in "hw"}
    assert botvision.create_model("botnet14", position="none").no_weight_decay() == set()


def test_a_table_of_another_size_changes_no_shape_of_other_layers():
    small, large = (dict(botvision.create_model("botnet14", img_size=s).named_parameters()) for s in (224, 512))
    differ = [n for n in small if small[n].shape != large[n].shape]
    assert differ == ["layer4.0.mhsa.rel_h", "layer4.0.mhsa.rel_w"]


def test_shortcut_act_adds_one_activation():
    block = botvision.create_model("botnet14", shortcut_act=True).layer4[0]
    assert isinstance(block.downsample[-1], torch.nn.ReLU)


def test_scaled_family_has_se_in_convolution_blocks_only():
    with torch.device("meta"):
        model = botvision.create_model("botnet_s1_59")
    assert model.layer3[0].se is not None
    assert not any("se." in n for n, _ in model.layer4.named_modules())
    assert isinstance(model.layer4[0].act1, torch.nn.SiLU)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'botnet_50'; did you mean botnet50"):
        botvision.create_model("botnet_50")


def test_heads_must_divide():
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=512"):
        botvision.create_model("botnet50", num_heads=3)


@pytest.mark.parametrize("position", ["relative", "relative_only", "absolute", "none"])
def test_every_position_trains_every_parameter(position):
    model = botvision.create_model("botnet14", position=position, num_classes=3, img_size=64)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        torch.nn.init.ones_(stage[0].bn3.weight)  # past the zero gamma
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_every_name_is_registered_and_listed():
    assert botvision.list_models() == list(VARIANTS)
    assert all(timm.is_model(name) for name in VARIANTS)
    assert any(isinstance(m, MHSA2d) for m in timm.create_model("botnet14").modules())
