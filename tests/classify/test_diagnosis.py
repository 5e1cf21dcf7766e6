"""A classifier's figures against answers counted by hand, and its page."""

from dataclasses import replace

import numpy as np
import pytest

from botvision.classify.diagnosis import Diagnosis
from botvision.classify.report import ClassifierReporter, by_class, in_words
from botvision.classify.task import Classification
from botvision.draw.sections import confused
from botvision.engine.record import Record
from botvision.engine.report import assemble
from botvision.engine.reporter import Entry, Group

PICTURE = np.zeros((8, 8, 3), np.uint8)
CLASSES = ("<b>cat</b>", "dog", "cow")


@pytest.fixture
def one():
    answers = np.array([[0, 1, 2], [1, 0, 2], [1, 2, 0], [1, 0, 2], [0, 2, 1]])
    return Diagnosis(
        CLASSES, np.array([0, 0, 1, 2, 0]), answers, np.array([0.9, 0.7, 0.75, 0.35, 0.95]), [PICTURE] * 5, 9, 0, 7
    )


def test_figures_of_known_answers(one):
    assert one.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert by_class(one) == [(0, pytest.approx(2 / 3), 3), (1, 1.0, 1), (2, 0.0, 1)]
    assert one.right.tolist() == [True, False, True, False, True]
    assert one.bins() == [
        (pytest.approx(0.35), 0, 1), (pytest.approx(0.725), 0.5, 2), (pytest.approx(0.925), 1, 2)
    ]  # fmt: skip
    assert one.gap == pytest.approx((0.35 + 2 * 0.225 + 2 * 0.075) / 5)
    assert one.counted == "figures by class and examples are of 5 of 9 validation images"
    assert in_words(one, 3) == "dog 0.35, is cow: the truth is answer 3"
    assert in_words(one, 0) == "<b>cat</b>, 0.90"
    assert confused(one.confusion.tolist(), CLASSES, CLASSES, most=1) == [["<b>cat</b>", "dog", "1"]]


def test_two_classes_of_one_name_are_two_rows(one, tmp_path):
    twice = replace(one, classes=("crane", "ox", "crane"), every=5)
    text = assemble(ClassifierReporter({}), [Group("mine", [Entry(Record(tmp_path, {}, (), {}, None), twice)])])
    part = text[text.index("Accuracy by class</h2>") :]
    assert part.index("0.0 %") < part.index("66.7 %") < part.index("100.0 %")
    assert "<strong>0.0 %</strong><span>worst class</span>" in text
    assert "were evaluated on different" not in text


def test_weights_that_are_no_numbers_have_no_calibration_gap(one):
    assert replace(one, sure=np.array([0.9, np.nan, 0.7, 0.3, 0.9])).gap is None


def test_other_validation_images_are_told(one, tmp_path):
    record = Record(tmp_path, {}, (), {}, None)
    other = replace(one, labels=np.array([1, 0, 1, 2, 0]))
    groups = [Group("mine", [Entry(record, one)]), Group("theirs", [Entry(record, other)], True)]
    assert "were evaluated on different validation images" in assemble(ClassifierReporter({}), groups)


def test_images_of_other_names_are_others_though_their_classes_are_the_same(one):
    same, more = (replace(one, names=frozenset(names)) for names in (("a/1.png", "b/2.png"), ("a/1.png",)))
    other = replace(one, names=frozenset(("a/1.png", "b/3.png")))
    reporter = ClassifierReporter({})
    assert not reporter.other_images(same, more)
    assert reporter.other_images(same, other)


def test_the_page_of_a_classifier(one, tmp_path):
    rows = ({"step": 1.0, "train/loss": 2.0}, {"step": 2.0, "val/top1": 0.5, "val/top5": 0.75})
    record = Record(tmp_path, {"model": {"name": "botnet14"}}, rows, {"top1": 0.625, "top5": 1.0}, None)
    text = assemble(ClassifierReporter(Classification.panels), [Group("mine", [Entry(record, one)])])
    assert "<strong>62.5 %</strong><span>top-1</span>" in text
    assert "<span>worst class</span>" not in text  # of 5 of 9 images
    assert "dog 0.70, is &lt;b&gt;cat&lt;/b&gt;: the truth is answer 2" in text
    assert "<b>cat" not in text
    wrong = text[text.index("Surest wrong answers") : text.index("Surest right answers")]
    assert wrong.count("<img ") == 2
    assert wrong.index("dog 0.70") < wrong.index("dog 0.35")
