"""Boxes in float32 under any autocast, in training and prediction; masks by size counted by hand."""

import pytest
import torch
from torch import nn

from botvision.maskrcnn import build_mask_rcnn, masks_in_boxes
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.evaluation import coco_metrics
from botvision.maskrcnn.heads import CentreClassifier, crop_masks
from botvision.maskrcnn.results import batch_results
from botvision.maskrcnn.targets import CROP_SIDE, check_targets

TRUE = [[600.3, 701.7, 707.9, 771.2], [33.1, 515.7, 49.6, 533.2], [811.4, 20.6, 1003.7, 640.9]]


def truth(boxes):
    return {
        "boxes": torch.tensor(boxes),
        "labels": torch.arange(len(boxes)) % 3 + 1,
        "masks": torch.ones(len(boxes), CROP_SIDE, CROP_SIDE, dtype=torch.uint8),
    }


@pytest.fixture
def large():
    """A detector on a canvas of 1024 px, small enough to run."""
    options = {"channels": [8, 16, 32, 64]}
    return build_mask_rcnn("botnet14", 3, preset="nano", img_size=1024, backbone_options=options)


def test_true_boxes_reach_the_coder_to_the_bit_in_a_training_step(large, monkeypatch):
    """bfloat16 would make [600.3, 701.7, 707.9, 771.2] into [600, 700, 708, 772]."""
    reached = {}
    for part, coder in (("rpn", large.rpn.box_coder), ("roi", large.roi_heads.box_coder)):

        def encode(reference, proposals, own=coder.encode, part=part):
            reached[part] = (torch.cat(reference), torch.cat(proposals), torch.cat(own(reference, proposals)))
            return own(reference, proposals)

        monkeypatch.setattr(coder, "encode", encode)
    images = [torch.rand(3, 1024, 1024), torch.rand(3, 640, 1024)]
    targets = [truth(TRUE), truth(TRUE[:1] * 0 + [[100.3, 501.7, 117.9, 531.2]])]
    with torch.autocast("cpu", torch.bfloat16):
        losses = large(images, targets).losses
    exact = {tuple(box) for target in targets for box in target["boxes"].tolist()}
    for part, tensors in reached.items():
        assert all(t.dtype == torch.float32 for t in tensors), part
        seen = {tuple(box) for box in tensors[0].tolist()} - {(0.0,) * 4}
        assert exact <= seen, part
    assert {v.dtype for v in losses.values()} == {torch.float32}
    for dtype in (torch.bfloat16, torch.float16):
        anchors = large.rpn.anchor_generator(large.resize(images), [torch.zeros(1, 1, 64, 64, dtype=dtype)] * 5)
        assert anchors[0].dtype == torch.float32


class Oracle(nn.Module):
    """Heads that know the truth: what a trained network says, so that only the arithmetic on boxes is tested."""

    def __init__(self, model, boxes, labels):
        super().__init__()
        self.coder = model.roi_heads.box_coder
        self.boxes, self.labels, self.classes = boxes, labels, model.num_classes + 1

    def forward(self, proposals):
        """Proposals (P, 4) → logits (P, K+1) and deltas (P, 4·(K+1)), in 16 bits under autocast as a linear layer's."""
        nearest = torch.cdist(proposals.float(), self.boxes).argmin(1)
        deltas = self.coder.encode([self.boxes[nearest]], [proposals.float()])[0].repeat(1, self.classes)
        logits = 8.0 * nn.functional.one_hot(self.labels[nearest], self.classes)
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        return logits.to(low), deltas.to(low)


class Places(nn.Module):
    """Proposals themselves for their features."""

    def forward(self, features, proposals, shapes):
        return torch.cat(proposals)


def found_by(model, boxes, labels, dtype):
    """Detections of a model whose heads know the truth, with its proposals near it."""
    oracle = Oracle(model, boxes, labels)
    model.roi_heads.box_roi_pool = Places()
    model.roi_heads.box_head = nn.Identity()
    model.roi_heads.box_predictor = oracle
    torch.manual_seed(3)
    near = boxes + torch.randn(len(boxes), 4) * 0.03 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    coder = model.rpn.box_coder

    def decode(deltas, anchors):  # what the proposal network would say for the anchors nearest to the truth
        nearest = torch.cdist(anchors[0].float(), near).argmin(1)
        wanted = coder.encode([near[nearest]], [anchors[0].float()])[0]
        return type(coder).decode(coder, wanted.to(dtype).to(deltas.dtype), anchors)

    model.rpn.box_coder.decode = decode
    model.rpn._pre_nms_top_n["testing"], model.rpn._post_nms_top_n["testing"] = 4000, 200
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model([torch.zeros(3, 1024, 1024)]).detections[0]


def test_detections_in_bf16_are_as_good_as_in_float32(large):
    """On an overfitted set box AP fell from 0.863 to 0.759 where boxes were decoded in bfloat16."""
    torch.manual_seed(0)
    corners = torch.cartesian_prod(torch.arange(8), torch.arange(8)) * 128.0 + torch.rand(64, 2) * 20
    boxes = torch.cat([corners, corners + 12 + torch.rand(64, 2) * 60], 1)
    labels = torch.arange(64) % 3 + 1
    document = {
        "images": [{"id": 1, "height": 1024, "width": 1024}],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0,
             "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], "area": (x2 - x1) * (y2 - y1)}
            for i, (label, (x1, y1, x2, y2)) in enumerate(zip(labels, boxes.tolist(), strict=True), 1)
        ],
    }  # fmt: skip
    scores = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = found_by(large.eval(), boxes, labels, dtype)
        assert found["boxes"].dtype == found["scores"].dtype == torch.float32
        categories = [Category(i, str(i)) for i in (1, 2, 3)]
        images, targets = [torch.zeros(3, 1024, 1024)], [{"image_id": torch.tensor(1)}]
        scores[dtype] = coco_metrics(document, batch_results([found], images, targets, categories)).box["AP"]
    assert scores[torch.float32] > 0.9
    assert scores[torch.bfloat16] == pytest.approx(scores[torch.float32], abs=0.005)


def test_the_auxiliary_classifier_reads_the_same_places_in_16_bits():
    last, boxes = torch.randn(1, 4, 64, 64).bfloat16(), torch.tensor(TRUE)
    classifier = CentreClassifier(4, 3)
    exact = classifier.read(last[0].float(), boxes, size=(1024, 1024))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(classifier.read(last[0], boxes, size=(1024, 1024)), exact)
        assert classifier(last, [truth(TRUE)], size=(1024, 1024)).dtype == torch.float32


def test_mask_targets_are_the_same_under_autocast():
    crop = (torch.rand(1, CROP_SIDE, CROP_SIDE) > 0.5).to(torch.uint8)
    own, proposals = torch.tensor(TRUE[:1]), torch.tensor([[601.3, 700.2, 706.4, 770.0]])
    told = {"boxes": proposals, "objects": torch.zeros(1, dtype=torch.long), "side": 28}
    exact = crop_masks(crop, own, **told)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crop_masks(crop, own, **told), exact)


def test_a_model_in_16_bits_or_64_keeps_boxes_in_32_at_least(large):
    image = [torch.rand(3, 1024, 1024)]
    for dtype in (torch.bfloat16, torch.float64):
        model = large.to(dtype).eval()
        model.roi_heads.score_thresh = 0.0
        with torch.inference_mode():
            found = model(image).detections[0]
        assert found["boxes"].dtype in (torch.float32, torch.float64)
        assert len(found["boxes"])


def test_two_maps_of_a_stride_become_one_that_bears_both():
    """S1 models: c4 and c5 both at stride 16; every box that stride 16 is for reads what attention made."""
    model = build_mask_rcnn("botnet_s1_50", 2, img_size=128)
    maps, last = model.pyramid(torch.rand(1, 3, 128, 128))
    assert list(maps) == ["0", "1", "2", "pool", "pool2"]
    assert torch.autograd.grad(maps["2"].sum(), last, retain_graph=True)[0].any()
    assert [128 // m.shape[-1] for m in maps.values()] == model.pyramid.all_strides == [4, 8, 16, 32, 64]
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    pool = model.roi_heads.box_roi_pool
    assert pool.strides == [4, 8, 16]
    huge = pool(
        {str(n): torch.full((1, 1, 126, 126), float(n)) for n in range(3)}, [torch.tensor([[0.0, 0, 2000, 2000]])]
    )
    assert huge.mean() == 2
    assert build_mask_rcnn("botnet50", 2, img_size=128).pyramid.all_strides == [4, 8, 16, 32, 64]


def target(**changes):
    return {**truth(TRUE[:2]), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": torch.ones(2, 480, 640)}, r"masks must be \(2, 112, 112\).*got \(2, 480, 640\);.*masks_in_boxes"),
        ({"masks": torch.ones(1, 112, 112)}, r"masks must be \(2, 112, 112\).*got \(1, 112, 112\)"),
        ({"boxes": torch.tensor(TRUE[:2]).bfloat16()}, "boxes must be .* in float32.*torch.bfloat16; 16 bits"),
        ({"boxes": torch.ones(2, 5)}, r"boxes must be \(G, 4\).*got \(2, 5\)"),
        ({"boxes": torch.tensor([[5.0, 5, 5, 9], [0, 0, 1, 1]])}, "must be x1 < x2, y1 < y2 .*; got .5.0, 5.0, 5.0"),
        ({"boxes": torch.tensor([[5.0, 5, float("nan"), 9], [0, 0, 1, 1]])}, "in finite pixels; got .5.0, 5.0, nan"),
        ({"masks": torch.full((2, 112, 112), 255, dtype=torch.uint8)}, "0 outside and 1 inside; got up to 255"),
        ({"masks": torch.full((2, 112, 112), float("nan"))}, "must hold 0 outside and 1 inside; got up to nan"),
        ({"labels": torch.tensor([0, 1])}, "label must lie in 1 … 3.*got 0; 0 is background"),
        ({"labels": torch.tensor([1, 4])}, "label must lie in 1 … 3.*got 4"),
        ({"boxes": torch.tensor([[5.0, 5, 9, 9], [0, 0, 0.4, 1]])}, "in pixels of its image, 1024×1024.*fractions"),
        ({"boxes": torch.tensor([[5.0, 5, 9, 9], [1024.0, 3, 1030, 9]])}, "box must be in pixels of.* lies outside it"),
        ({"boxes": torch.tensor([[5.0, 5, 9, 9], [3, -9, 10, 0.0]])}, "box must be in pixels of.* lies outside it"),
        ({"boxes": torch.zeros(0, dtype=torch.int64)}, r"got \(0,\) in torch.int64; an image without objects"),
        ({"boxes": TRUE[:2]}, "target 0: boxes must be a tensor; got list; use torch.as_tensor"),
        ({"masks": None}, "target 0: masks must be a tensor; got NoneType"),
        ({"labels": torch.tensor([1.0, 2.0])}, r"labels must be \(2,\) in int64"),
    ],
)  # fmt: skip
def test_targets_that_would_train_something_else_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_targets([target(**changes)], sizes=[(1024, 1024)], classes=3)


def test_a_detector_checks_its_targets_and_images(large):
    with pytest.raises(ValueError, match="1 images need as many targets, got 2"):
        large([torch.rand(3, 64, 64)], [target(), target()])
    with pytest.raises(ValueError, match="target 0 lacks masks"):
        large([torch.rand(3, 64, 64)], [{k: v for k, v in target().items() if k != "masks"}])
    with pytest.raises(ValueError, match=r"an image must be \(3, H, W\), RGB.*got \(1, 64, 64\)"):
        large([torch.rand(1, 64, 64)], [target()])
    with pytest.raises(ValueError, match="target 0 must be a dictionary of boxes, labels and masks; got None"):
        large([torch.rand(3, 64, 64)], [None])


def test_dense_masks_become_crops_of_their_boxes():
    dense = torch.zeros(2, 80, 60)
    dense[0, 10:50, 10:20] = 1  # the left half of its box
    dense[1, 60:70, 30:50] = 1
    boxes = torch.tensor([[10.0, 10, 30, 50], [30, 60, 50, 70]])
    crops = masks_in_boxes(dense, boxes)
    assert crops.dtype == torch.uint8
    assert crops[0, 1:-1, 1:55].all()
    assert not crops[0, :, 57:].any()
    assert crops[1].float().mean() > 0.99  # bilinear: a box's own corners lie half outside
    check_targets([{"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": crops}], sizes=[(80, 60)], classes=1)
    with pytest.raises(ValueError, match="must hold 0 outside and 1 inside; got up to 255; 0/255 is masks > 0"):
        masks_in_boxes(dense * 255, boxes)
    with pytest.raises(ValueError, match=r"masks \(G, H, W\) need boxes \(G, 4\)"):
        masks_in_boxes(dense, boxes[:1])
