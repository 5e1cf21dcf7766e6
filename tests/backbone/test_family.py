"""Every name of the family through timm's doors, on the pattern of timm's own tests."""

import copy
import io

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torchvision.models.feature_extraction import create_feature_extractor

import botvision
from botvision.attention import MHSA2d
from botvision.backbone import VARIANTS, BoTBlock

SIZE = (32, 96)
CLASSES = 7
GRAPHS = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


DEEP = ("botnet101", "botnet152", "botnet200", "botnet_s1_59", "botnet_s1_110", "botnet_s1_128", "botnet_s1_77")


def awaken(model):
    """Give attention a voice that reaches the logits, or no test could hear it fail.

    The last gammas start at zero, the projections near it, and BatchNorm knows no statistics yet.
    """
    for module in model.modules():
        if isinstance(module, BoTBlock):
            torch.nn.init.ones_(module.bn3.weight)
        if isinstance(module, MHSA2d):
            torch.nn.init.normal_(module.qkv.weight, std=0.04)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, *SIZE))
    return model.eval()


def build(name):
    torch.manual_seed(0)
    return awaken(botvision.create_model(name, num_classes=CLASSES, img_size=SIZE)).double()


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    """One of the family, in float64 and eval; tests must leave it as they found it."""
    return build(request.param)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in VARIANTS])
def quick_model(request):
    """The same, for what takes seconds on each of the deep ones: those run with -m slow."""
    return build(request.param)


@pytest.fixture
def image():
    return torch.randn(2, 3, *SIZE, dtype=torch.float64)


def strides(model):
    return [info["reduction"] for info in model.feature_info]


def near(a, b, tolerance=1e-9):
    return (a - b).abs().max() <= tolerance * b.abs().max()


def test_forward_and_its_parts(model, image):
    with torch.no_grad():
        logits, features = model(image), model.forward_features(image)
        assert logits.shape == (2, CLASSES)
        assert logits.isfinite().all()
        assert features.shape == (2, 2048, *(side // strides(model)[-1] for side in SIZE))
        assert torch.equal(model.forward_head(features), logits)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)


def test_attention_is_heard(quick_model, image):
    deaf = copy.deepcopy(quick_model)
    for layer in deaf.modules():
        if isinstance(layer, MHSA2d):
            torch.nn.init.zeros_(layer.rel_h)
    with torch.no_grad():
        assert not near(deaf(image), quick_model(image))


def test_backward_reaches_every_parameter(model, image):
    learner = copy.deepcopy(model).train()
    learner(image).square().mean().backward()
    assert [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.grad.any() for n, p in learner.named_parameters() if ".mhsa." in n)


def test_default_cfg_is_true(model):
    config = model.pretrained_cfg
    assert config["architecture"] in VARIANTS
    assert model.get_submodule(config["first_conv"]).in_channels == 3
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    assert config["pool_size"] == tuple(side // strides(model)[-1] for side in config["input_size"][1:])


def test_features_only(model, image):
    pyramid = timm.create_model(model.pretrained_cfg["architecture"], features_only=True, img_size=SIZE).double().eval()
    pyramid.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("fc.")})
    with torch.no_grad():
        maps, (last, own) = pyramid(image), model.forward_intermediates(image)
    assert pyramid.feature_info.reduction() == strides(model)
    assert [m.shape[1] for m in maps] == pyramid.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert all(m.shape[2:] == tuple(side // s for side in SIZE) for m, s in zip(maps, strides(model), strict=True))
    assert all(near(a, b) for a, b in zip(maps, own, strict=True))
    assert torch.equal(last, own[-1])


def test_pruning_to_an_intermediate_layer(model, image):
    short = copy.deepcopy(model)
    assert short.prune_intermediate_layers([2]) == [2]
    with torch.no_grad():
        [map_c3] = short.forward_intermediates(image, indices=[2], intermediates_only=True, stop_early=True)
    assert map_c3.shape[1] == 512


def test_reset_classifier(quick_model, image):
    other = copy.deepcopy(quick_model)
    other.reset_classifier(3)
    assert other(image).shape == (2, 3)
    other.reset_classifier(0)
    assert other(image).shape == (2, other.num_features)
    other.reset_classifier(0, "")
    assert other(image).shape[1:] == (2048, *(side // strides(quick_model)[-1] for side in SIZE))


def test_gradient_checkpointing_changes_no_gradient(quick_model, image):
    gradients = []
    for enable in (False, True):
        learner = copy.deepcopy(quick_model)  # in eval: BatchNorm's statistics would move twice
        learner.set_grad_checkpointing(enable)
        learner(image).square().mean().backward()
        gradients.append({n: p.grad for n, p in learner.named_parameters()})
    assert all(near(gradients[1][n], g) for n, g in gradients[0].items())


def test_group_matcher_orders_every_parameter(model):
    groups = group_parameters(model, model.group_matcher(coarse=False))
    assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in model.named_parameters())
    assert len(groups) == 2 + sum(VARIANTS[model.pretrained_cfg["architecture"]].blocks)  # stem, blocks, head
    assert "conv1.weight" in groups[0]
    assert "fc.weight" in groups[len(groups) - 1]
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 6


def test_no_weight_decay_holds_in_timms_optimiser(model):
    tables = {n for n, _ in model.named_parameters() if ".rel_" in n}
    assert model.no_weight_decay() == tables
    optimiser = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=0.1)
    decayed = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    assert not any(id(p) in decayed for n, p in model.named_parameters() if n in tables)


def test_set_input_size_keeps_the_function_at_that_size(quick_model):
    larger = copy.deepcopy(quick_model)
    larger.set_input_size((96, 160))
    assert larger.model_args["img_size"] == (96, 160)
    for layer, size in larger.attention_maps((96, 160)):
        assert tuple((t.shape[1] + 1) // 2 for t in (layer.rel_h, layer.rel_w)) == size
    image = torch.randn(1, 3, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        assert near(larger(image), quick_model(image))


def test_channels_last(quick_model, image):
    layout = torch.channels_last
    with torch.no_grad():
        maps = copy.deepcopy(quick_model).to(memory_format=layout).forward_features(image.to(memory_format=layout))
        assert near(maps, quick_model.forward_features(image))
    assert maps.is_contiguous(memory_format=layout)


@GRAPHS
def test_torchscript_saves_and_runs_at_a_second_size(quick_model):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(quick_model), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in (SIZE, (33, 130)):
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert near(loaded(image), quick_model(image))


@GRAPHS
def test_trace_runs_at_a_second_size(quick_model, image):
    traced = torch.jit.trace(quick_model, image)
    other = torch.randn(1, 3, 33, 130, dtype=torch.float64)
    with torch.no_grad():
        assert near(traced(other), quick_model(other))


def test_fx_feature_extraction_runs_at_a_second_size(quick_model):
    extractor = create_feature_extractor(quick_model, ["layer3", "layer4"])
    image = torch.randn(1, 3, 33, 130, dtype=torch.float64)
    with torch.no_grad():
        assert near(extractor(image)["layer4"], quick_model.forward_features(image))


def test_fx_backward(quick_model, image):
    graph = torch.fx.symbolic_trace(copy.deepcopy(quick_model))
    graph(image).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in graph.parameters())


@pytest.mark.parametrize("name", [n if n == "botnet14" else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_compile_in_one_graph(name, image):
    torch._dynamo.reset()
    model = build(name)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert near(compiled(image), model(image))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(in_chans):
    model = botvision.create_model("botnet14", in_chans=in_chans, num_classes=CLASSES)
    assert model(torch.randn(2, in_chans, *SIZE)).shape == (2, CLASSES)


def test_drop_path_grows_with_depth_and_acts_in_training_alone(image):
    model = awaken(botvision.create_model("botnet26", drop_path_rate=0.3, insert=("c4",))).double().train()
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    blocks = [block for stage in stages for block in stage if block.drop_path]
    rates = [block.drop_path.drop_prob for block in blocks]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert any(isinstance(b, BoTBlock) for b in blocks)
    assert not torch.equal(model.forward_features(image), model.forward_features(image))
    model.eval()
    assert torch.equal(model(image), model(image))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "chunked", "explicit", "onehot"])
@pytest.mark.parametrize("position", ["relative", "relative_only", "absolute", "none"])
def test_logits_of_ten_thousand_give_no_nan_under_autocast(dtype, backend, position):
    if backend in {"chunked", "onehot"} and position in {"absolute", "none"}:
        pytest.skip("no position logits to append")
    layer = MHSA2d(64, 4, position=position, max_size=(6, 8), backend=backend if position.startswith("rel") else "auto")
    x = torch.randn(2, 64, 6, 8, requires_grad=True)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
        q, k = (h.unflatten(1, (4, 16)).flatten(3) for h in layer.qkv(x).split(64, 1)[:2])
        if position == "relative_only":
            products = torch.einsum("bmdn,hd->bmnh", q, layer.rel_h[0])
        else:
            products = torch.einsum("bmdn,bmde->bmne", q, k)
        layer.qkv.weight[:64] *= 1e4 / (layer.scale * products.abs().max())
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
    assert out.dtype == dtype
    assert out.isfinite().all()
    out.float().square().mean().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_whole_model_under_autocast(dtype, image):
    model = build("botnet14").float().train()
    with torch.autocast("cpu", dtype=dtype):
        loss = model(image.float()).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
