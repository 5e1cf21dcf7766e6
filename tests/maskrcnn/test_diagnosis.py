"""A detector's figures and mistakes against truths counted by hand."""

import numpy as np
import pytest

from botvision.maskrcnn.diagnosis import count
from botvision.maskrcnn.mistakes import Mistake, judge

NAMES = {7: "cat", 9: "dog", 11: "cow"}
CAT, DOG = [10, 10, 20, 20], [50, 50, 20, 20]


def truth(*things):
    return [{"bbox": box, "category_id": kind} for kind, box in things]


def found(*things):
    return [{"bbox": box, "category_id": kind, "score": score} for kind, box, score in things]


@pytest.mark.parametrize(
    ("detections", "right", "mistakes", "sentence"),
    [
        ([(7, CAT, 0.9), (9, DOG, 0.8)], 2, [], "All 2 found, named and placed."),
        ([(7, CAT, 0.9)], 1, [("missed", None, "dog")], "Missed dog. 1 right."),
        ([(7, CAT, 0.9), (9, DOG, 0.49)], 1, [("missed", None, "dog")], "Missed dog. 1 right."),
        ([(7, CAT, 0.9), (9, DOG, 0.8), (7, [11, 10, 20, 20], 0.7)], 2, [("twice", "cat", "cat")],
         "Found twice: cat. 2 right."),
        ([(7, CAT, 0.9), (11, DOG, 0.8)], 1, [("class", "cow", "dog")], "Wrong class: cow for dog. 1 right."),
        # 10 px aside: 10·20 of 600 px
        ([(7, CAT, 0.9), (9, [60, 50, 20, 20], 0.8)], 1, [("placed", "dog", "dog")],
         "Poorly placed: dog (IoU 0.33). 1 right."),
        ([(7, CAT, 0.9), (11, [60, 50, 20, 20], 0.8)], 1, [("both", "cow", "dog")],
         "Wrong class and poorly placed: cow for dog (IoU 0.33). 1 right."),
        ([(7, CAT, 0.9), (9, DOG, 0.8), (11, [80, 10, 9, 9], 0.7)], 2, [("background", "cow", None)],
         "On background: cow. 2 right."),
        ([], 0, [("missed", None, "cat"), ("missed", None, "dog")], "Missed cat, dog."),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_and_its_sentence(detections, right, mistakes, sentence):
    verdict = judge(truth((7, CAT), (9, DOG)), found(*detections), NAMES)
    assert (verdict.right, [(m.kind, m.said, m.true) for m in verdict.mistakes]) == (right, mistakes)
    assert str(verdict) == sentence
    assert verdict.f1 == 2 * right / (2 + sum(score >= 0.5 for *_, score in detections))


def test_the_surer_of_two_takes_an_object_and_an_empty_image_is_right():
    verdict = judge(truth((7, CAT)), found((7, [12, 10, 20, 20], 0.6), (7, CAT, 0.9)), NAMES)
    assert [mistake.iou for mistake in verdict.mistakes] == [pytest.approx(18 / 22)]
    empty = judge([], [], NAMES)
    assert (empty.f1, str(empty)) == (1.0, "All is right: nothing is there, and nothing was found.")
    assert judge([], found((7, CAT, 0.9)), NAMES).mistakes == (Mistake("background", "cat", None),)
    many = judge(truth(*((kind, CAT) for kind in (7, 7, 9, 11))), [], {**NAMES})
    assert str(many) == "Missed cat × 2, dog, cow."


def document():
    things = [(1, 7, CAT), (1, 9, DOG), (2, 7, CAT)]
    return {
        "images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 11, "name": "cow"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": kind, "bbox": box, "area": 400, "iscrowd": 0}
            for n, (image, kind, box) in enumerate(things, 1)
        ],
    }


def test_figures_of_known_detections():
    results = [
        {"image_id": 1, **found((7, CAT, 0.9))[0]},
        {"image_id": 1, **found((7, DOG, 0.8))[0]},  # the dog, called a cat
        {"image_id": 2, **found((9, [70, 70, 20, 20], 0.6))[0]},  # nothing there
    ]
    counted = count(document(), results, masks=False)
    # dog, cat, cow, in the order of the document; truth down, then background; the last column missed
    assert counted["confusion"].tolist() == [[0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    box = counted["box"]
    assert box.ap(kind=0) == 0  # the dog
    # one of two cats is found by the surest box: precision 1 at the 51 of 101 recalls up to one half
    assert box.ap(kind=1) == pytest.approx(51 / 101)
    assert box.ap(kind=2) is None  # no cow is there
    assert box.ap() == pytest.approx(51 / 202)
    assert box.ap(size=1) == pytest.approx(51 / 202)  # 400 px are small
    assert box.ap(size=3) is None
    curve = dict(box.curve(0.5))
    assert [curve[0.0], curve[0.5], curve[1.0]] == pytest.approx([0.5, 0.5, 0.0])
    bins = [(b["avg_confidence"], b["avg_accuracy"]) for b in counted["calibration"] if b["count"]]
    assert bins == [(pytest.approx(0.6), 0), (pytest.approx(0.8), 0), (pytest.approx(0.9), 1)]
    assert counted["gap"] == pytest.approx((0.6 + 0.8 + 0.1) / 3)
    assert counted["errors"]["Cls"] > 0
    assert counted["mask"] is None


def test_confusion_counts_every_box_of_a_crowded_image():
    """AP's 100 boxes are of each class; those of all classes together once hid true ones from the matrix."""
    boxes = [(7 if n % 2 else 9, [10 * (n % 15), 10 * (n // 15), 9, 9]) for n in range(150)]
    crowded = document() | {
        "images": [{"id": 1, "height": 100, "width": 150}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": kind, "bbox": box, "area": 81, "iscrowd": 0}
            for n, (kind, box) in enumerate(boxes, 1)
        ],
    }
    results = [{"image_id": 1, **found((kind, box, 0.9 - n / 1000))[0]} for n, (kind, box) in enumerate(boxes)]
    assert count(crowded, results, masks=False)["confusion"][:3].tolist() == [[75, 0, 0, 0], [0, 75, 0, 0], [0] * 4]


def test_nothing_found_is_all_missed():
    counted = count(document(), [], masks=False)
    assert counted["confusion"][:3, 3].tolist() == [1, 2, 0]
    assert counted["box"].ap() == 0
    assert np.sum(counted["confusion"]) >= 3
    assert (counted["calibration"], counted["gap"], counted["errors"]) == ([], None, {})
