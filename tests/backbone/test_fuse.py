"""Folding BatchNorm away changes nothing but the work."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import botvision


def lived_in(name, **options):
    """A model whose BatchNorms have seen something, and whose last gammas are not zero."""
    model = botvision.create_model(name, num_classes=5, **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("botnet26", {}),
        ("botnet26", {"position": "absolute"}),
        ("botnet26", {"position": "relative_only"}),
        ("botnet26", {"insert": ("c4", "c5"), "shortcut_act": True}),
        ("botnet_s1_59", {"img_size": 64}),
        ("resnet26d", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 64), (33, 95)])
def test_a_fused_model_gives_the_same(name, options, size):
    model = lived_in(name, **options)
    fused, image = botvision.fuse(model), torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image)
        assert torch.allclose(fused(image), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
        assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())  # the original is left alone


def test_no_batchnorm_of_a_botnet_is_left():
    fused = botvision.fuse(lived_in("botnet26"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_in_float32_the_difference_is_rounding():
    model, image = lived_in("botnet50").float(), torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        expected = model(image)
        assert (botvision.fuse(model)(image) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_inside_another_model():
    pyramid = timm.create_model("botnet26", features_only=True).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(botvision.fuse(pyramid)(image), pyramid(image), strict=True):
            assert torch.allclose(a, b, atol=1e-5 * b.abs().max().item())


def test_what_is_more_than_a_batchnorm_or_nothing_but_the_batch_stays():
    class Loud(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    for norm in (Loud(4), nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, affine=False)):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), norm).eval()
        x = torch.randn(2, 3, 5, 5)
        assert torch.allclose(botvision.fuse(model)(x), model(x), atol=1e-6)
    act = nn.ReLU()
    model = nn.Sequential(act, nn.Conv2d(3, 3, 1), act, nn.BatchNorm2d(3)).eval()
    nn.init.normal_(model[3].bias)
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(botvision.fuse(model)(x), model(x), atol=1e-6)


def test_a_part_in_training_is_refused():
    model = botvision.create_model("botnet14").eval()
    model.layer4.train()
    with pytest.raises(ValueError, match="fuse needs the statistics"):
        botvision.fuse(model)


def test_a_model_in_training_is_refused():
    with pytest.raises(ValueError, match=r"fuse needs the statistics .* call model\.eval\(\) first"):
        botvision.fuse(botvision.create_model("botnet14"))


@pytest.mark.parametrize("made", ["pruned", "weight_norm", "spectral_norm", "every convolution pruned"])
def test_weights_that_are_made_of_others_are_left_as_they_are(made):
    torch.manual_seed(0)
    model = botvision.create_model("botnet14", img_size=64, channels=(16, 32, 64, 128), zero_init_last=False)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
    model.eval()
    for conv in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        if conv is not model.layer4[0].mhsa.qkv and not made.startswith("every"):
            continue
        if made.endswith("pruned"):
            prune.l1_unstructured(conv, "weight", amount=0.5)
        else:
            getattr(parametrizations, made)(conv)
    model.eval()
    image = torch.rand(2, 3, 64, 64)
    model(image)  # with a graph, of which pruning keeps its weights
    fused = botvision.fuse(model)
    with torch.no_grad():
        want = model(image)
        assert (fused(image) - want).abs().max() <= 1e-4 * want.abs().max()
