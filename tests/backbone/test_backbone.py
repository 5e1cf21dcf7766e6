"""The family: counts of the paper, odd sizes, a ResNet's weights, timm's doors."""

import pytest
import timm
import torch
from timm.models.resnet import Bottleneck

import botvision
from botvision.attention import MHSA2d
from botvision.backbone import VARIANTS, BoTBlock, load_resnet

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


@pytest.mark.parametrize("size", [(64, 64), (333, 517), (33, 95)])
@pytest.mark.parametrize("stride", [32, 16])
def test_odd_and_oblong_images_give_the_sizes_of_the_resnet_twin(size, stride):
    x = torch.randn(1, 3, *size)
    options = {"features_only": True, "output_stride": stride}
    ours = timm.create_model("botnet14", **options).eval()
    twin = timm.create_model("resnet50", **options).eval()
    with torch.no_grad():
        assert [f.shape for f in ours(x)] == [f.shape for f in twin(x)]


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


def test_a_resnet50_loads_with_attention_alone_fresh(tmp_path):
    source = timm.create_model("resnet50")
    model = botvision.create_model("botnet50")
    report = load_resnet(model, source.state_dict())
    assert report.fresh == [f"layer4.{i}.mhsa.{t}" for i in range(3) for t in ("rel_h", "rel_w", "qkv.weight")]
    assert report.unused == [f"layer4.{i}.conv2.weight" for i in range(3)]
    assert torch.equal(model.layer3[5].conv2.weight, source.layer3[5].conv2.weight)
    assert torch.equal(model.fc.weight, source.fc.weight)
    assert "fresh: layer4.0.mhsa.rel_h" in str(report)

    torch.save({"state_dict": source.state_dict()}, tmp_path / "r50.pth")
    assert load_resnet(botvision.create_model("botnet50", num_classes=7), tmp_path / "r50.pth").fresh[-1] == "fc.bias"


def test_with_zero_gamma_the_new_blocks_change_nothing_at_the_start():
    source, model = timm.create_model("resnet50").eval(), botvision.create_model("botnet50").eval()
    load_resnet(model, source.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():  # both last stages are their shortcuts alone
        assert torch.equal(model.forward_features(x), source.forward_features(x))


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"not of this model's ResNet twin: missing layer1\.2.*resnet50 for botnet50"):
        load_resnet(botvision.create_model("botnet50"), timm.create_model("resnet26").state_dict())
    with pytest.raises(FileNotFoundError, match=r"no weights at gone\.pth"):
        load_resnet(botvision.create_model("botnet14"), "gone.pth")
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"notes\.pth is not a file of weights"):
        load_resnet(botvision.create_model("botnet14"), tmp_path / "notes.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        load_resnet(botvision.create_model("botnet14"), tmp_path / "list.pth")
    with pytest.raises(ValueError, match="unknown model 'resnet5O'; did you mean resnet50"):
        load_resnet(botvision.create_model("botnet14"), "resnet5O")


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
