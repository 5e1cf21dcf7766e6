"""Scenes: real COCO, nothing shared between splits, the same again from the same seed."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from botvision.scenes import load_material, make_scenes


def test_annotations_are_coco_and_true(scenes):
    document = json.loads((scenes / "annotations" / "val.json").read_text())
    assert [c["name"] for c in document["categories"]] == [str(d) for d in range(10)]
    for annotation in document["annotations"]:
        dense = rle.decode(annotation["segmentation"])
        rows, columns = np.nonzero(dense)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert dense.sum() == annotation["area"] > 0
    for image in document["images"]:
        with Image.open(scenes / "val" / image["file_name"]) as image:
            assert image.size == (64, 64)
    assert "CC BY" in (scenes / "CREDITS.txt").read_text()


def test_masks_of_one_image_never_share_a_pixel(scenes):
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    for image in document["images"]:
        own = [a["segmentation"] for a in document["annotations"] if a["image_id"] == image["id"]]
        assert sum(rle.decode(code).astype(int) for code in own).max() == 1


def test_splits_share_no_digit_and_no_part_of_a_photograph():
    train, val = load_material("train"), load_material("val")
    digits = {d.tobytes() for d in train.images}
    assert len(train.labels) + len(val.labels) == 1797
    assert sum(d.tobytes() in digits for d in val.images) == 0
    assert [p.shape for p in train.photos] == [p.shape for p in val.photos] == [(427, 160, 3)] * 4
    lines = [{p[:, x].tobytes() for p in part.photos for x in range(160)} for part in (train, val)]
    assert not lines[0] & lines[1]  # no column of pixels is in both


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path):
    def images(name, seed):
        make_scenes(tmp_path / name, train=2, val=1, size=48, seed=seed)
        return [(tmp_path / name / "train" / f"00000{i}.jpg").read_bytes() for i in (1, 2)]

    assert images("a", 0) == images("b", 0) != images("c", 1)
    assert "already" in make_scenes(tmp_path / "a", train=2, val=1, size=48, seed=0)
    with pytest.raises(ValueError, match="holds something else; give a folder that is empty"):
        make_scenes(tmp_path / "a", train=3, val=1, size=48, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "train=0 and val=200 must be at least 1"),
        ({"size": 8}, "size=8 must be at least 32"),
        ({"scale": (0.5, 0.2)}, r"scale=\(0.5, 0.2\) must be"),
        ({"digits": (0, 2)}, r"digits=\(0, 2\) must be"),
        ({"overlap": 1.0}, "overlap=1.0 must be"),
    ],
)
def test_numbers_out_of_range_are_refused_and_nothing_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_scenes(tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())
