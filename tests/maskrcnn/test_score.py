"""AP: the same twelve figures from both packages, and right on cases known by heart."""

import json

import numpy as np
import pytest
import torch

from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.score import FIGURES, evaluate, picture_results
from botvision.maskrcnn.task import once_each


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


def test_hotcoco_and_pycocotools_give_identical_figures(truth):
    path, document = truth
    results = noisy(document)
    ours, reference = (evaluate(path, results, backend=b) for b in ("hotcoco", "pycocotools"))
    assert tuple(reference.box) == FIGURES
    assert ours == reference
    assert 0.05 < reference.box["AP"] < 0.9
    assert reference.box["AP"] != reference.mask["AP"]


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_the_truth_itself_scores_one_and_nothing_scores_zero(truth, backend):
    path, document = truth
    perfect = [{**a, "score": 1.0} for a in document["annotations"]]
    scores = evaluate(path, perfect, backend=backend)
    assert scores.box["AP"] == scores.mask["AP"] == 1.0
    assert evaluate(path, [], backend=backend).box["AP"] == 0.0
    assert "AP50" in str(scores)


@pytest.mark.parametrize("spoil", ["id", "area", "iscrowd"])
def test_both_packages_agree_on_files_that_lack_what_coco_has(truth, tmp_path, spoil):
    path, document = truth
    results = noisy(document)
    expected = evaluate(path, results)
    for number, annotation in enumerate(document["annotations"]):
        if spoil == "id":
            annotation["id"] = number  # from 0: pycocotools would not match the first one
        else:
            del annotation[spoil]
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert evaluate(tmp_path / "a.json", results, backend="hotcoco") == expected
    assert evaluate(tmp_path / "a.json", results, backend="pycocotools") == expected


def test_an_unknown_backend_is_refused(truth):
    with pytest.raises(ValueError, match="backend='coco' is unknown; use auto, hotcoco or pycocotools"):
        evaluate(truth[0], [], backend="coco")


def test_detections_become_coco_results():
    found = {
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.75]),
        "mask_probs": torch.ones(1, 28, 28),
    }
    (result,) = picture_results(found, [Category(4, "a"), Category(9, "b")], image_id=5, size=(16, 20))
    assert result["image_id"] == 5
    assert result["category_id"] == 9
    assert result["bbox"] == [2, 3, 10, 6]
    assert result["score"] == 0.75
    dense = masks.decode(result["segmentation"], height=16, width=20)
    assert dense[3:9, 2:12].all()
    assert dense.sum() == 60


def test_a_picture_that_two_processes_saw_counts_once():
    a, b, c = ({"image_id": i} for i in (1, 2, 3))
    assert once_each([([1, 2], [a, b]), ([3, 1], [c, a])]) == [a, b, c]
    assert once_each([([1], []), ([1], [a])]) == []
