"""The detector: any backbone, and the five mends over torchvision's parts."""

import copy
from typing import get_args

import pytest
import timm
import torch
from torchvision.ops import MultiScaleRoIAlign

from botvision.backbone import load_resnet
from botvision.maskrcnn import PRESETS, build_mask_rcnn
from botvision.maskrcnn.checkpoint import build_model
from botvision.maskrcnn.config import ModelConfig, PresetName
from botvision.maskrcnn.heads import CentreClassifier, StridedRoIAlign, crop_masks
from botvision.maskrcnn.model import create_body
from botvision.maskrcnn.resize import Resize, image_size

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def target(*boxes, label=1):
    crops = torch.ones(len(boxes), 112, 112, dtype=torch.uint8)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.full((len(boxes),), label),
        "masks": crops,
    }


@pytest.mark.parametrize("backbone", ["botnet50", "botnet_s1_50", "resnet50", "resnest50d", "tf_efficientnet_b4"])
def test_any_backbone_takes_a_training_step(backbone):
    model = build_mask_rcnn(backbone, 3, preset="tiny", img_size=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    output = model([torch.rand(3, 50, 64), torch.rand(3, 64, 40)], [target([5, 5, 40, 40]), target()])
    assert set(output.losses) == LOSSES
    assert output.detections == []
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_auxiliary_classifier_reads_the_last_map_at_the_centres():
    last = torch.stack(torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij"))[None]  # y, x of its cells
    classifier = CentreClassifier(2, 2)
    boxes = torch.tensor([[32.0, 0.0, 64.0, 32.0], [60.0, 44.0, 100.0, 52.0], [28.0, 28.0, 36.0, 36.0]])
    at = classifier.read(last[0], boxes, size=(64, 96))
    assert torch.allclose(at, torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.5, 0.5]]), atol=1e-6)
    corner = classifier.read(last[0] + 1, torch.tensor([[92.0, 60.0, 96.0, 64.0]]), size=(64, 96))
    assert torch.allclose(corner, torch.tensor([[2.0, 3.0]]))  # beyond the last cell's centre: that cell
    loss = classifier(last, [{"boxes": boxes, "labels": torch.tensor([1, 2, 1])}], size=(64, 96))
    expected = torch.nn.functional.cross_entropy(classifier.linear(at), torch.tensor([0, 1, 0]))
    assert torch.allclose(loss, expected)
    nothing = classifier(last, [{"boxes": boxes[:0], "labels": torch.tensor([], dtype=torch.long)}], size=(64, 96))
    assert nothing.item() == 0
    assert nothing.requires_grad


def test_the_auxiliary_loss_reaches_the_backbone_and_no_detection():
    torch.manual_seed(0)
    model = build_mask_rcnn("botnet14", 3, preset="tiny", img_size=(64, 96), auxiliary=True)
    output = model([torch.rand(3, 50, 64), torch.rand(3, 64, 40)], [target([5, 5, 40, 40], label=3), target()])
    assert set(output.losses) == {*LOSSES, "loss_auxiliary"}
    output.losses["loss_auxiliary"].backward()
    assert model.pyramid.body.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*model.rpn.parameters(), *model.roi_heads.parameters()])
    assert set(model.eval()([torch.rand(3, 64, 64)], [target([5, 5, 40, 40])]).losses) == LOSSES


def test_the_configuration_brings_the_auxiliary_classifier():
    assert build_model(ModelConfig("botnet14", "tiny", 64), 2).auxiliary is None
    assert build_model(ModelConfig("botnet14", "tiny", 64, auxiliary=True), 2).auxiliary.linear.out_features == 2


@pytest.mark.parametrize("backbone", ["resnet50", "resnest50d", "tf_efficientnet_b4"])
def test_a_baselines_own_weights_load_whole(backbone):
    source = timm.create_model(backbone)
    model = build_mask_rcnn(backbone, 3, preset="tiny", img_size=64)
    report = load_resnet(model.pyramid.body, source.state_dict())
    assert report.fresh == []
    assert len(report.loaded) > 100


def test_the_options_know_every_preset():
    assert get_args(PresetName) == tuple(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_detects_in_the_images_own_pixels(preset):
    model = build_mask_rcnn("botnet14", 4, preset=preset, img_size=64).eval()
    model.roi_heads.score_thresh = 0.0
    with torch.inference_mode():
        small, large = model([torch.rand(3, 32, 64), torch.rand(3, 160, 200)]).detections
    for found, (height, width) in ((small, (32, 64)), (large, (160, 200))):
        assert len(found["boxes"]) > 0
        assert found["mask_probs"].shape[1:] == (28, 28)
        assert 1 <= found["labels"].min() <= found["labels"].max() <= 4
        x1, y1, x2, y2 = found["boxes"].T
        assert x1.min() >= 0
        assert y1.min() >= 0
        assert x2.max() <= width + 1e-3
        assert y2.max() <= height + 1e-3
    assert large["boxes"].max() > 64  # not the canvas's


def test_more_objects_are_found_where_more_are_asked_for():
    with torch.device("meta"):
        assert [build_mask_rcnn("resnet26", 2, preset=name, img_size=64).max_objects for name in PRESETS] == [
            100, 100, 100, 50,
        ]  # fmt: skip
        many = build_mask_rcnn("resnet26", 2, preset="tiny", img_size=64, max_objects=300)
    assert many.max_objects == many.roi_heads.detections_per_img == 300
    assert many.rpn._post_nms_top_n == {"training": 600, "testing": 600}
    with pytest.raises(ValueError, match="max_objects=0 must be at least 1"):
        build_mask_rcnn("resnet26", 2, max_objects=0)


def test_weights_of_another_contrast_are_told(monkeypatch):
    made = create_body
    unfilled = lambda name, pretrained, options: made(name, pretrained=False, options=options)  # noqa: E731
    monkeypatch.setattr("botvision.maskrcnn.model.create_body", unfilled)
    with pytest.warns(UserWarning, match="tf_efficientnetv2_s was trained on images normalised with mean"):
        build_mask_rcnn("tf_efficientnetv2_s", 2, preset="nano", img_size=64, pretrained=True)


@pytest.mark.parametrize("shape", [(300, 1), (1, 300), (300, 2)])
def test_images_a_pixel_wide_are_resized_as_others_are(shape):
    """Their values lie channels last, as files are read, and torch resizes those wrongly to a width of 1."""
    image = torch.rand(*shape, 3).permute(2, 0, 1)
    resize = Resize(image_size(128))
    expected = resize.prepare(image.contiguous())
    assert torch.allclose(resize.prepare(image), expected, atol=1e-5)


def test_paper_preset_has_the_papers_parts():
    with torch.device("meta"):
        model = build_mask_rcnn("botnet50", 90, preset="paper", img_size=1024)
    tables = {n: tuple(p.shape) for n, p in model.named_parameters() if n.endswith("rel_h")}
    assert sorted(tables.values()) == [(1, 63, 128), (1, 63, 128), (1, 127, 128)]
    assert model.roi_heads.box_head.fc6.in_features == 256 * 7 * 7
    assert len(model.rpn.head.conv) == 1
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert (model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n) == (
        {"training": 2000, "testing": 1000},
        {"training": 1000, "testing": 1000},
    )
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.pyramid.fpn.modules())


def test_a_wide_first_image_does_not_spoil_the_strides():
    """pytorch/vision#3747: torchvision takes 1/2 for 1/4 here, and keeps it."""
    maps = {name: torch.randn(1, 4, side, side) for name, side in zip("0123", (128, 64, 32, 16), strict=True)}
    options = {"output_size": 7, "sampling_ratio": 2}
    box = [torch.tensor([[40.0, 30.0, 120.0, 100.0]])]
    guessed = MultiScaleRoIAlign(list("0123"), **options)
    guessed(maps, box, [(240, 512)])  # a wide image on a 512² canvas comes first
    told = StridedRoIAlign((4, 8, 16, 32), output_size=7, sampling=2, aligned=False)
    told(maps, box, [(240, 512)])
    right = MultiScaleRoIAlign(list("0123"), **options)(maps, box, [(512, 512)])
    assert guessed.scales[0] == 0.5
    assert not torch.allclose(guessed(maps, box, [(512, 512)]), right)
    assert torch.equal(told(maps, box, [(512, 512)]), right)


def test_a_box_is_read_from_the_finest_map_that_is_allowed():
    maps = {
        name: torch.full((1, 1, side, side), float(name)) for name, side in zip("0123", (64, 32, 16, 8), strict=True)
    }
    boxes = [torch.tensor([[10.0, 10.0, 40.0, 40.0], [0.0, 0.0, 250.0, 250.0]])]
    for finest, read in ((0, [0.0, 2.0]), (2, [2.0, 2.0]), (3, [3.0, 3.0])):
        pool = StridedRoIAlign((4, 8, 16, 32), output_size=2, sampling=1, aligned=True, finest=finest)
        assert pool(maps, boxes).mean((1, 2, 3)).tolist() == read


def test_a_built_detector_finds_the_same_after_a_wide_first_image():
    first, second = torch.rand(3, 30, 128), torch.rand(3, 128, 128)
    answers = []
    fresh = build_mask_rcnn("botnet14", 2, preset="tiny", img_size=128).eval()
    fresh.roi_heads.score_thresh = 0.0
    for images in ([first, second], [second]):
        model = copy.deepcopy(fresh)
        with torch.no_grad():
            answers.append([model([p]).detections[0] for p in images][-1])
    assert all(torch.equal(answers[0][k], answers[1][k]) for k in answers[0])


def test_a_backbone_with_channels_last_maps_works():
    options = {"img_size": 64, "window_size": 2}
    model = build_mask_rcnn("swin_tiny_patch4_window7_224", 2, preset="tiny", img_size=64, backbone_options=options)
    assert set(model([torch.rand(3, 64, 64)], [target([5, 5, 40, 40])]).losses) == LOSSES


def test_every_anchor_stride_is_exact_on_free_sizes():
    model = build_mask_rcnn("botnet14", 2, preset="tiny", img_size=(64, 200))
    batch = model.resize([torch.rand(3, 80, 134)])
    maps, last = model.pyramid(batch.tensors)
    assert last.shape[1:] == (model.pyramid.channels, batch.tensors.shape[2] / 32, batch.tensors.shape[3] / 32)
    strides = [(batch.tensors.shape[2] / m.shape[2], batch.tensors.shape[3] / m.shape[3]) for m in maps.values()]
    assert strides == [(s, s) for s in (4, 8, 16, 32, 64)]


def test_losses_in_eval_leave_batchnorm_alone_and_come_with_detections():
    model = build_mask_rcnn("botnet14", 2, preset="tiny", img_size=64).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        output = model([torch.rand(3, 64, 64)], [target([5, 5, 40, 40])])
    assert set(output.losses) == LOSSES
    assert len(output.detections) == 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_detections_do_not_depend_on_whether_targets_are_given():
    model = build_mask_rcnn("botnet14", 2, preset="tiny", img_size=64).eval()
    model.roi_heads.score_thresh = 0.0
    image = [torch.rand(3, 64, 64)]
    with torch.no_grad():
        bare, told = model(image).detections[0], model(image, [target([5, 5, 40, 40])]).detections[0]
    assert all(torch.equal(bare[k], told[k]) for k in bare)


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match=r"training needs targets; give them, or call model.eval\(\)"):
        build_mask_rcnn("botnet14", 2, preset="tiny", img_size=64)([torch.rand(3, 64, 64)])


def test_a_batch_without_objects_trains():
    model = build_mask_rcnn("botnet14", 2, preset="tiny", img_size=64)
    losses = model([torch.rand(3, 64, 64)], [target()]).losses
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mask_targets_are_the_part_of_the_object_in_the_proposal():
    own = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    crop = torch.zeros(1, 112, 112)
    crop[:, :, :56] = 1  # the left half, 10 … 20
    proposals = torch.tensor([[10.0, 10.0, 30.0, 50.0], [10.0, 10.0, 20.0, 50.0], [20.0, 20.0, 30.0, 40.0],
                              [0.0, 10.0, 20.0, 50.0]])  # fmt: skip
    whole, left, right, beyond = crop_masks(
        crop, own, boxes=proposals, objects=torch.zeros(4, dtype=torch.long), side=28
    )
    assert torch.equal(whole[:, :14], torch.ones(28, 14))
    assert torch.equal(whole[:, 14:], torch.zeros(28, 14))
    assert left.min() > 0.9
    assert right.max() < 0.1
    assert beyond[:, :13].max() == 0
    assert beyond[:, 15:].min() > 0.9


def test_square_canvas_and_free_sizes():
    wide, tall = torch.rand(3, 50, 100), torch.rand(3, 90, 45)
    square = Resize(image_size(128))([wide, tall])
    assert tuple(square.tensors.shape) == (2, 3, 128, 128)
    assert square.image_sizes == [(64, 128), (128, 64)]
    assert not square.tensors[0, :, 64:].any()
    free = Resize(image_size((64, 100)))([wide, tall])
    assert free.image_sizes == [(50, 100), (100, 50)]
    assert tuple(free.tensors.shape) == (2, 3, 128, 128)
    assert tuple(Resize(image_size((64, 200)))([wide]).tensors.shape) == (1, 3, 64, 128)
    assert tuple(Resize(image_size((70, 200)))([wide]).tensors.shape) == (1, 3, 128, 192)
    pixels = (wide * 255).to(torch.uint8)
    canvas = Resize(image_size(100))
    assert torch.allclose(canvas([pixels]).tensors, canvas([pixels / 255]).tensors, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("botnet50", 0), {}, "num_classes=0 must be at least 1; count the classes without background"),
        (("botnet50", 2), {"preset": "huge"}, "preset='huge' is unknown; use one of paper, torchvision_v2, tiny"),
        (("botnet5O", 2), {}, "unknown model 'botnet5O'; did you mean botnet50"),
        (("vit_tiny_patch16_224", 2), {}, "maps at strides .*; Mask R-CNN needs a pyramid"),
        (("botnet50", 2), {"img_size": 16}, "img_size=16 must be one side of at least 32"),
        (("botnet50", 2), {"img_size": (1333, 800)}, r"img_size=\(1333, 800\) must be"),
        (("botnet50", 2), {"backbone_options": {"num_heads": 3}}, "num_heads=3 does not divide dim=512"),
        (
            ("resnet50", 2),
            {"backbone_options": {"position": "none"}},
            r"resnet50 does not take these options: .*'position'; leave",
        ),
    ],
)
def test_bad_options_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        build_mask_rcnn(*arguments, **options)
