"""Weights in: a ResNet's, a BoTNet's own, tables of another size, and what is refused."""

from argparse import Namespace

import pytest
import timm
import torch
import torchvision

import botvision
from botvision.backbone import load_resnet, load_weights


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
    with pytest.raises(ValueError, match=r"model's ResNet baseline: missing layer1\.2.*resnet50 for botnet50"):
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


def test_torchvisions_resnet_loads_as_timms_does():
    source = torchvision.models.resnet50()
    model = botvision.create_model("botnet50")
    report = load_resnet(model, source.state_dict())
    assert all(".mhsa." in name for name in report.fresh)
    assert torch.equal(model.layer2[3].bn3.weight, source.layer2[3].bn3.weight)


def test_an_se_resnet_fills_the_scaled_family_but_for_its_longer_c5():
    source = timm.create_model("seresnet50")
    model = botvision.create_model("botnet_s1_59")
    report = load_resnet(model, source.state_dict())
    assert torch.equal(model.layer3[5].se.fc1.weight, source.layer3[5].se.fc1.weight)
    assert torch.equal(model.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    assert all(".mhsa." in n or n.startswith(("layer4.3.", "layer4.4.", "layer4.5.")) for n in report.fresh)
    assert all(n.startswith("layer4.") for n in report.unused)  # the 3×3 convolutions and SE that BoT blocks lack


def test_weights_with_parts_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match=r"no place for layer1\.0\.se\.fc1\.weight, .* and \d+ more"):
        load_resnet(botvision.create_model("botnet50"), timm.create_model("seresnet50").state_dict())
    with pytest.raises(ValueError, match=r"missing layer1\.0\.se\.fc1\.weight"):
        load_resnet(botvision.create_model("botnet_s1_59"), timm.create_model("resnet50").state_dict())


def test_load_weights_finds_out_whose_they_are(tmp_path):
    resnet, model = timm.create_model("resnet26"), botvision.create_model("botnet26")
    assert load_weights(model, resnet.state_dict()).unused == [f"layer4.{i}.conv2.weight" for i in range(2)]
    again = botvision.create_model("botnet26", num_classes=5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "own.pth")
    assert load_weights(again, tmp_path / "own.pth").fresh == ["fc.weight", "fc.bias"]
    assert torch.equal(again.layer4[1].mhsa.qkv.weight, model.layer4[1].mhsa.qkv.weight)


def test_foreign_weights_name_their_converter():
    state = {"net.0.net.3.to_qkv.weight": torch.zeros(3, 1, 1, 1), "net.0.net.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"these are lucidrains's weights, not a ResNet's: .*; use load_weights"):
        load_resnet(botvision.create_model("botnet14"), state)


def test_missing_and_foreign_names_are_listed_five_at_a_time():
    model = botvision.create_model("botnet14")
    state = {k: v for k, v in model.state_dict().items() if "layer2" not in k} | {"neck.weight": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"missing layer2\.0\.conv1\.weight(, layer2\S+){4} and \d+ more; .*no place for neck"
    ):
        load_weights(model, state)


@pytest.mark.parametrize("position", ["relative", "absolute"])
@pytest.mark.parametrize("extend", ["stretch", "clamp"])
def test_a_checkpoint_with_tables_of_another_size_computes_the_same_at_the_models_size(position, extend):
    options = {"position": position, "extend": extend, "num_classes": 3}
    small = botvision.create_model("botnet14", img_size=64, **options).double().eval()
    torch.nn.init.ones_(small.layer4[0].bn3.weight)
    for table in small.no_weight_decay():
        torch.nn.init.normal_(small.get_parameter(table))
    large = botvision.create_model("botnet14", img_size=(192, 128), **options).double().eval()
    large.load_state_dict(small.state_dict())
    image = torch.randn(1, 3, 192, 128, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(large(image), small(image), rtol=1e-10)
    back = botvision.create_model("botnet14", img_size=64, **options).double().eval()
    load_weights(back, large.state_dict())
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(back(image), large(image), rtol=1e-10)


def test_a_table_of_another_width_is_still_refused():
    state = botvision.MHSA2d(16, 4).state_dict() | {"rel_h": torch.zeros(1, 27, 5)}
    with pytest.raises(RuntimeError, match="size mismatch for rel_h"):
        botvision.MHSA2d(16, 4).load_state_dict(state)
    with pytest.raises(ValueError, match="other shape rel_h"):
        load_weights(botvision.MHSA2d(16, 4), state)


def test_by_a_timm_name_the_hubs_weights_are_loaded(monkeypatch):
    source = timm.create_model("resnet26")
    asked = []

    def download(name, **options):  # the one call that needs a network
        asked.append((name, options))
        return source

    model = botvision.create_model("botnet26")
    monkeypatch.setattr(timm, "create_model", download)
    assert all(".mhsa." in name for name in load_resnet(model, "resnet26.bt_in1k").fresh)
    assert asked == [("resnet26.bt_in1k", {"pretrained": True})]
    assert torch.equal(model.layer3[1].conv2.weight, source.layer3[1].conv2.weight)


@pytest.mark.parametrize("source", ["botnet50.pth.tar", "runs/last.ckpt", "weights/botnet50", "gone.bin"])
def test_a_file_that_is_not_there_is_called_so(source):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*; give a file that exists, or a timm model name"):
        load_weights(botvision.create_model("botnet14"), source)


def test_names_without_weights_and_things_that_are_none():
    with pytest.raises(ValueError, match=r"timm has no weights under 'botnet14': .*; give another name, or a file"):
        load_resnet(botvision.create_model("botnet14"), "botnet14")
    with pytest.raises(ValueError, match="weights come as a state dict, a file or a timm name; got NoneType"):
        load_weights(botvision.create_model("botnet14"), None)
    with pytest.raises(ValueError, match=r"no name begins with prefix='backbone\.'; the names are conv1\.weight, "):
        load_weights(botvision.create_model("botnet14"), timm.create_model("resnet26").state_dict(), prefix="backbone.")


def test_a_file_of_timms_training_script_is_read(tmp_path):
    source = timm.create_model("resnet26", num_classes=3)
    content = {"epoch": 3, "arch": "resnet26", "state_dict": source.state_dict(), "args": Namespace(lr=0.1)}
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = botvision.create_model("botnet26", num_classes=3)
    load_resnet(model, tmp_path / "model_best.pth.tar")
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("key", "wrapped"), [("state_dict_ema", False), ("model_ema", True)], ids=["timm", "torchvision"]
)
def test_averaged_weights_are_taken_where_a_file_keeps_both(key, wrapped, tmp_path):
    """As timm's own loaders do; torchvision's script keeps torch's AveragedModel, with its counter."""
    last, source = (timm.create_model("resnet26", num_classes=3) for _ in range(2))
    averaged = torch.optim.swa_utils.AveragedModel(source) if wrapped else source
    torch.save({"state_dict": last.state_dict(), key: averaged.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    model = botvision.create_model("botnet26", num_classes=3)
    report = load_resnet(model, tmp_path / "checkpoint.pth")
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.equal(model.fc.weight, source.fc.weight)
    assert not any("n_averaged" in name for name in report.unused)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model."])
def test_names_of_wrapped_models_are_unwrapped(wrapper):
    source = botvision.create_model("botnet14")
    model = torch.nn.DataParallel(botvision.create_model("botnet14"))
    report = load_weights(model, {f"{wrapper}{k}": v for k, v in source.state_dict().items()})
    assert report.fresh == report.unused == []
    assert torch.equal(model.module.fc.weight, source.fc.weight)


def replica_of(module):
    """As nn.DataParallel makes them: weights are attributes, and no parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        replica._modules[name] = replica_of(child)
    for name, parameter in module._parameters.items():
        replica._parameters.pop(name, None)
        replica.__dict__[name] = None if parameter is None else parameter.detach()
    return replica


def test_a_replica_of_data_parallel_runs():
    model = botvision.create_model("botnet14", channels=(8, 16, 32, 64), img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    replica = replica_of(model)
    assert not list(replica.parameters())
    with torch.no_grad():
        assert torch.equal(replica(images), model(images))


def test_what_fits_is_loaded_where_exactness_is_not_asked_for():
    source = botvision.create_model("botnet14", img_size=64, num_classes=4)
    model = botvision.create_model("botnet26", img_size=96)
    with pytest.raises(ValueError, match=r"another model's: missing layer1\.1\."):
        load_weights(model, source.state_dict())
    report = load_weights(model, source.state_dict(), exact=False)
    assert "layer4.0.mhsa.rel_h" in report.loaded  # a table of another size
    assert {"layer1.1.conv1.weight", "fc.weight"} <= set(report.fresh)
    assert report.unused == ["fc.weight", "fc.bias"]


def test_a_pyramid_that_ends_early_takes_the_resnets_first_stages():
    model = timm.create_model("botnet26", features_only=True, out_indices=(1, 2))
    source = timm.create_model("resnet26")
    assert load_resnet(model, source.state_dict()).fresh == []
    assert torch.equal(model.layer2[1].conv2.weight, source.layer2[1].conv2.weight)
