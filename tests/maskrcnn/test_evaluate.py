"""AP: the same twelve figures from both packages, and right on cases known by heart."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from botvision.maskrcnn import evaluate, masks
from botvision.maskrcnn.checkpoint import load_detector
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.diagnosis import count, not_judged
from botvision.maskrcnn.evaluation import FIGURES, coco_metrics, evaluate_detector
from botvision.maskrcnn.mistakes import outside_crowds
from botvision.maskrcnn.resize import image_size
from botvision.maskrcnn.results import image_results


@pytest.fixture
def truth(scenes):
    path = scenes / "annotations" / "train.json"
    return path, json.loads(path.read_text())


def noisy(document, seed=0):
    """Results near the truth: some moved, some missed, some doubled, some of another class."""
    rng = np.random.default_rng(seed)
    results = []
    for a in document["annotations"]:
        for _ in range(rng.integers(0, 3)):
            shift = rng.integers(-4, 5, 2)
            dense = np.roll(masks.decode(a["segmentation"], height=64, width=64), shift, (1, 0))
            results.append(
                {
                    "image_id": a["image_id"],
                    "category_id": int(a["category_id"] if rng.random() < 0.8 else rng.integers(1, 11)),
                    "bbox": [float(a["bbox"][0] + shift[0]), float(a["bbox"][1] + shift[1]), *a["bbox"][2:]],
                    "score": float(rng.random()),
                    "segmentation": masks.encode(np.ascontiguousarray(dense)),
                }
            )
    return results


def agree(ours, reference):
    """To rounding: hotcoco adds from left to right, numpy in pairs, and the last bit may differ."""
    return all(
        found == pytest.approx(want, rel=1e-12, abs=0)
        for found, want in ((ours.box, reference.box), (ours.mask, reference.mask))
    )


def test_hotcoco_and_pycocotools_give_identical_figures(truth):
    path, document = truth
    results = noisy(document)
    ours, reference = (coco_metrics(path, results, backend=b) for b in ("hotcoco", "pycocotools"))
    assert tuple(reference.box) == FIGURES
    assert agree(ours, reference)
    assert 0.05 < reference.box["AP"] < 0.9
    assert reference.box["AP"] != reference.mask["AP"]


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_truth_itself_scores_one_and_nothing_scores_zero(truth, backend):
    path, document = truth
    perfect = [{**a, "score": 1.0} for a in document["annotations"]]
    scores = coco_metrics(path, perfect, backend=backend)
    assert scores.box["AP"] == scores.mask["AP"] == 1.0
    assert coco_metrics(path, [], backend=backend).box["AP"] == 0.0
    assert "AP50" in str(scores)


@pytest.mark.parametrize("spoil", ["id", "area", "iscrowd"])
def test_both_packages_agree_on_files_that_lack_what_coco_has(truth, tmp_path, spoil):
    path, document = truth
    results = noisy(document)
    expected = coco_metrics(path, results)
    for number, annotation in enumerate(document["annotations"]):
        if spoil == "id":
            annotation["id"] = number  # from 0: pycocotools would not match the first one
        else:
            del annotation[spoil]
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert coco_metrics(tmp_path / "a.json", results, backend="hotcoco") == expected
    assert agree(coco_metrics(tmp_path / "a.json", results, backend="pycocotools"), expected)


def test_an_unknown_backend_is_refused(truth):
    with pytest.raises(ValueError, match="backend='coco' is unknown; use auto, hotcoco or pycocotools"):
        coco_metrics(truth[0], [], backend="coco")


def test_detections_become_coco_results():
    found = {
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.75]),
        "mask_probs": torch.ones(1, 28, 28),
    }
    (result,) = image_results(found, [Category(4, "a"), Category(9, "b")], image_id=5, size=(16, 20))
    assert result["image_id"] == 5
    assert result["category_id"] == 9
    assert result["bbox"] == [2, 3, 10, 6]
    assert result["score"] == 0.75
    dense = masks.decode(result["segmentation"], height=16, width=20)
    assert dense[3:9, 2:12].all()
    assert dense.sum() == 60


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_mask_ap_by_size_goes_by_the_masks_own_area(backend):
    """One medium object found, and a surer false mask: a diagonal of 200 px, small, whose box is of medium size.

    By masks the false one is of no concern to the medium objects: AP_medium is 1. By its box it would be one of them,
    found first and wrong: 0.5. hotcoco and pycocotools err alike where a result bears its box, so comparing them does
    not see it.
    """
    side = 128
    square, diagonal = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    square[10:60, 10:60] = 1  # 2,500 px: medium
    for k in range(60):
        diagonal[60 + k, 60 + k : 63 + k] = 1  # 180 px: small, in a box of 60 × 62
    document = {
        "images": [{"id": 1, "height": side, "width": side}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0,
                         "segmentation": masks.encode(square)}],
    }  # fmt: skip
    drawn = (([10.0, 10.0, 50.0, 50.0], 0.6, square), ([60.0, 60.0, 62.0, 60.0], 0.9, diagonal))
    found = [
        {"image_id": 1, "category_id": 1, "bbox": bbox, "score": score, "segmentation": masks.encode(mask)}
        for bbox, score, mask in drawn
    ]
    scores = coco_metrics(document, found, backend=backend)
    assert scores.mask["AP_medium"] == pytest.approx(1.0)
    assert scores.box["AP_medium"] == pytest.approx(0.5, abs=0.01)  # as a box it is of medium size, and wrong
    assert scores.mask["AP"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("without", [{}, {"segmentation": [[]]}, {"segmentation": [[1, 1]]}])
def test_an_object_without_a_mask_counts_in_box_ap_alone(without, backend):
    """Three objects, two without a mask: all found are all right, one missed is missed as a box alone."""
    places = [[5, 5, 20, 30], [40, 5, 20, 30], [80, 5, 20, 30]]
    dense = []
    for x, y, width, height in places:
        dense.append(np.zeros((64, 128), np.uint8))
        dense[-1][y : y + height, x : x + width] = 1
    forms = [{"segmentation": masks.encode(dense[0])}, without, without]
    document = {
        "images": [{"id": 1, "height": 64, "width": 128}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 600, "iscrowd": 0, **form}
            for n, (box, form) in enumerate(zip(places, forms, strict=True), 1)
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - n / 10, "segmentation": masks.encode(mask)}
        for n, (box, mask) in enumerate(zip(places, dense, strict=True))
    ]
    scores = coco_metrics(document, found, backend=backend)
    assert (scores.box["AP"], scores.mask["AP"]) == pytest.approx((1, 1))
    scores = coco_metrics(document, found[1:], backend=backend)
    assert scores.box["AP"] == pytest.approx(67 / 101)
    assert scores.mask["AP"] == 0
    crowds = not_judged(document, masks=True)
    told = count(document, found, masks=True, counting=[outside_crowds(found, document["annotations"][:1], crowds)])
    assert told["confusion"].tolist() == [[1, 0], [0, 0]]
    assert told["mask"].ap() == pytest.approx(1)


def test_a_class_without_masks_is_no_class_of_a_mask_rcnn(untrained, tmp_path, caplog):
    """Training leaves it out, so box AP does not count it as missed; an evaluation takes it for no strange one."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    box, polygon = [1, 1, 20, 20], {"segmentation": [[1, 1, 21, 1, 21, 21, 1, 21]]}
    own = {"image_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
    document = {
        "images": [{"id": 1, "height": 48, "width": 64, "file_name": "a.png"}],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("cat", "dog", "cow", "sign"), 1)],
        "annotations": [{"id": n, **own, "category_id": n, **(polygon if n < 4 else {})} for n in (1, 2, 3, 4)],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    data = CocoInstances(tmp_path / "a.json", tmp_path, on_bad="skip")
    data.restrict([category for category in data.categories if data.counts[category.id]])
    mask = masks.encode(np.pad(np.ones((20, 20), np.uint8), ((1, 27), (1, 43))))
    perfect = [{**own, "category_id": n, "score": 0.9, "segmentation": mask} for n in (1, 2, 3)]
    assert coco_metrics(data.truth(), perfect).box["AP"] == pytest.approx(1)
    with caplog.at_level("WARNING"):
        assert 0 <= evaluate(untrained, tmp_path / "a.json", tmp_path, workers=0).box["AP"] <= 1
    assert "left out 1 annotations; the first, 4, has no segmentation" in caplog.text
    assert "in an evaluation the boxes of 1 count in box AP" in caplog.text


def test_masks_that_cannot_be_used_are_told(untrained, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    document = {
        "images": [{"id": 1, "height": 48, "width": 64, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0,
                         "segmentation": {"size": [64, 48], "counts": [64 * 48]}}],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="no annotation that can be used: annotation 1 has an RLE of size"):
        evaluate(untrained, tmp_path / "a.json", tmp_path, workers=0)


def test_a_scrap_beside_an_outline_is_judged(tmp_path):
    outline = [10, 10, 50, 10, 50, 50, 10, 50]
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [[1, 1], outline]}
    document = {
        "images": [{"id": 1, "height": 64, "width": 64}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [truth],
    }
    assert not_judged(document, masks=True) == []


def test_a_class_that_a_file_lacks_is_left_out_of_the_mean(untrained, tmp_path, capsys):
    """The detector finds cat, dog, cow; Pascal VOC's files list what occurs alone."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    document = {
        "images": [{"id": 1, "height": 48, "width": 64, "file_name": "a.png"}],
        "categories": [{"id": 5, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = evaluate(untrained, tmp_path / "a.json", tmp_path, workers=0)
    assert 0 <= found.box["AP"] <= 1
    assert "has no class cat, cow: AP is a mean over the others" in capsys.readouterr().err
    document["categories"][0]["name"] = "horse"
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="give annotations with the categories that it was trained on"):
        evaluate(untrained, tmp_path / "a.json", tmp_path, workers=0)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_results_are_the_callers_own(truth, backend):
    path, document = truth
    results, before = noisy(document), json.dumps(document)
    kept = json.dumps(results)
    coco_metrics(path, results, backend=backend)
    coco_metrics(document, results, backend=backend)
    assert json.dumps(results) == kept
    assert json.dumps(document) == before


def test_on_free_sizes_what_is_found_does_not_depend_on_the_batch(untrained, tmp_path):
    """Attention sees padding, and a batch of free sizes is padded to its largest image."""
    sizes = [(64, 64), (64, 150), (150, 64), (90, 90)]
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes, 1):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / f"{number}.png")
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in enumerate(sizes, 1)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 11, "name": "cow"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": kind, "bbox": [5, 5, 30, 30], "area": 900, "iscrowd": 0}
            for n, kind in enumerate((7, 8, 11, 7), 1)
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(document))
    detector = load_detector(untrained)
    detector.model.eval().resize.rule = image_size((64, 192))
    found = {}
    for batch_size in (1, 4):
        _, results = evaluate_detector(
            detector, tmp_path / "val.json", tmp_path, device=torch.device("cpu"), batch_size=batch_size, workers=0,
            backend="auto",
        )  # fmt: skip
        found[batch_size] = [[one["image_id"], one["category_id"], *one["bbox"], one["score"]] for one in results]
    assert len(found[1]) > 20
    assert len(found[4]) == len(found[1])
    for ours, alone in zip(*(sorted(results) for results in found.values()), strict=True):
        assert ours == pytest.approx(alone, abs=1e-3)
