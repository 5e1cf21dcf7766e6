"""Labels that would be learnt wrong, or fail an hour later, are told on opening, with their cure."""

import copy
import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from botvision.engine.loader import EpochPosition, Share
from botvision.maskrcnn import coco as coco_module
from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import read_coco, read_document
from botvision.maskrcnn.config import DataConfig
from botvision.maskrcnn.data import Bad, CocoInstances, build_loader, train_set, val_set
from botvision.maskrcnn.evaluation import coco_metrics
from botvision.maskrcnn.labels import is_flat, runs_of
from botvision.maskrcnn.resize import image_size


def two_corners(document):
    for annotation in document["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


def without_masks(document):
    for annotation in document["annotations"]:
        annotation.pop("segmentation")


@pytest.mark.parametrize("masked", [True, False])
def test_boxes_of_two_corners_are_recognised_and_read_by_a_word(coco, masked):
    document, save = coco
    right = CocoInstances(*save(), masks=masked)
    truth = [right[index][1]["boxes"].tolist() for index in range(len(right))]
    two_corners(document)
    if not masked:
        without_masks(document)
    with pytest.raises(ValueError, match=r"the boxes seem to be two corners, .*; --data\.box_format xyxy reads them"):
        CocoInstances(*save(), masks=masked, on_bad="skip")
    read = CocoInstances(*save(), masks=masked, box_format="xyxy")
    assert [read[index][1]["boxes"].tolist() for index in range(len(read))] == truth
    perfect = [{**a, "score": 1.0} for a in read.truth()["annotations"]]
    assert coco_metrics(read.truth(), perfect, masks=masked).box["AP"] == 1.0
    if not masked:
        assert len(CocoInstances(*save(), masks=False, on_bad="skip", box_format="xywh"))


@pytest.mark.parametrize("seed", range(4))
def test_right_boxes_are_never_taken_for_two_corners(seed, coco):
    """Even those of large objects, some of which reach out of their image by a little."""
    document, save = coco
    rng = random.Random(seed)
    without_masks(document)
    for annotation in document["annotations"]:
        x, y = rng.uniform(0, 20), rng.uniform(0, 20)
        annotation["bbox"] = [x, y, rng.uniform(1, 65 - x), rng.uniform(1, 65 - y)]
    assert len(CocoInstances(*save(), masks=False)) == 16


def test_a_single_box_of_two_corners_is_a_bad_annotation(coco):
    document, save = coco
    last = max(document["annotations"], key=lambda a: min(a["bbox"][:2]))
    x, y, w, h = last["bbox"]
    last["bbox"] = [x, y, x + w, y + h]
    with pytest.raises(ValueError, match=rf"annotation {last['id']} has a box that fits its mask as two corners alone"):
        CocoInstances(*save())


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("segmentation", {"size": [64, 64], "counts": "@@@zzz"}, "has an RLE whose text gives no runs that add up"),
        ("segmentation", {"size": [64, 64], "counts": ""}, "has an RLE whose text gives no runs that add up"),
        ("segmentation", {"size": [64, 64], "counts": "é"}, "has an RLE whose text gives no runs that add up"),
        ("segmentation", {"size": 64, "counts": [4096]}, "has an RLE of size 64 on an image of height 64, width 64"),
        ("segmentation", {"size": [64, 64], "counts": [4096]}, "has a mask without area"),
        ("segmentation", {"size": [64, 64], "counts": [0, True, 4095]}, "counts are not whole numbers"),
        ("segmentation", [[5, 5, 9, 9, 20, 20]], "has a mask without area"),
        ("segmentation", [[5, 5, 5, 5, 5, 5]], "has a mask without area"),
        ("segmentation", [[1, 1, 1e12, 1, 5, 5]], "has a polygon that is no list of at least three x, y in finite"),
        ("segmentation", [[1, 1, 1e6, 1, 5, 5]], "has a polygon far outside its image of 64×64"),
        ("segmentation", [[1, 1, float("nan"), 1, 5, 5]], "has a polygon that is no list of at least three x, y"),
        ("segmentation", [[70, 70, 90, 70, 90, 90]], "has a mask outside its image of 64×64"),
        ("segmentation", [[True, 1, 9, 1, 9, 9]], "has a polygon that is no list of at least three x, y"),
        ("bbox", [1, 1, float("inf"), 5], r"not \[x, y, width, height\] in finite numbers"),
        ("bbox", [1, 1, 10**400, 5], r"not \[x, y, width, height\] in finite numbers"),
        ("bbox", [1, 1, 1e6, 5], "has a box far outside its image of 64×64"),
        ("bbox", [[[[1]]]] * 4, r"has bbox \[\[\[\[1\]\]\], "),
        ("iscrowd", "0", "iscrowd of annotation 1 must be 0 or 1; got '0'; write the number"),
        ("iscrowd", 2, "iscrowd of annotation 1 must be 0 or 1"),
        ("image_id", "1", "annotation 1 names image_id '1', which is not among its 16 images"),
        ("image_id", True, "annotation 1 names image_id True"),
        ("category_id", 1.5, "annotation 1 has category_id 1.5"),
        ("category_id", [1], r"category_id of .* in annotations must be a whole number"),
    ],
)  # fmt: skip
def test_an_annotation_that_would_fail_later_is_told_on_opening(coco, part, value, message):
    document, save = coco
    document["annotations"][0][part] = value
    with pytest.raises(ValueError, match=message) as told:
        CocoInstances(*save())
    assert "spoilt.json" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_mask_beside_its_box_is_told(coco):
    document, save = coco
    document["annotations"][0] |= {"bbox": [2, 2, 10, 10], "segmentation": [[40, 40, 60, 40, 60, 60]]}
    with pytest.raises(ValueError, match=r"annotation 1 has a mask that lies outside its box, \[2, 2, 10, 10\]"):
        CocoInstances(*save())


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("categories", {"name": 7}, "the name of category 1 must be text; got 7; put it in quotes"),
        ("categories", {"id": -1}, r"category id -1 must lie in 0 … 2\^63 − 1; renumber"),
        ("categories", {"id": "1"}, "needs a whole-number id and a name"),
        ("images", {"id": -4}, r"image id -4 must lie in 0 … 2\^63 − 1; renumber"),
        ("images", {"id": True}, "needs id and file_name, and height and width or neither; correct it"),
        ("images", {"width": 0}, "is said to be 0×64 px, which must be at least 1×1 and at most"),
        ("images", {"width": 10**9}, "is said to be 1000000000×64 px, which must be .* at most 178,956,970 together"),
        ("images", {"width": 65}, r"is 64×64, but .*spoilt\.json says 65×64; correct the file's entry"),
    ],
)
def test_an_image_or_a_category_that_would_fail_later_is_told_on_opening(coco, where, change, message):
    document, save = coco
    document[where][0] |= change
    with pytest.raises(ValueError, match=message):
        CocoInstances(*save(), on_bad="skip")


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000, "\ud800.jpg", ""])
def test_file_names_that_no_file_can_have_are_told(coco, name):
    document, save = coco
    document["images"][0]["file_name"] = name
    with pytest.raises(FileNotFoundError, match=r"spoilt\.json names image .*, which is not in"):
        CocoInstances(*save(), on_bad="skip")


def test_an_image_that_is_listed_twice_is_told(coco):
    document, save = coco
    document["images"][1]["file_name"] = "./" + document["images"][0]["file_name"]
    with pytest.raises(ValueError, match=r"lists image .*\.jpg 2 times, as 1, 2: .*; list it once, with all its annot"):
        CocoInstances(*save(), on_bad="skip")


def test_crowds_alone_are_refused(coco):
    document, save = coco
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(ValueError, match=r"all \d+ annotations are crowds \(iscrowd 1\), and nothing can be learnt"):
        CocoInstances(*save(), on_bad="skip")


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_what_nothing_is_counted_by_disturbs_no_counting(coco, backend):
    """Both packages read whole entries, and refuse text for a licence after an epoch of training."""
    document, save = coco
    path, _ = save()
    perfect = [{**a, "score": 1.0} for a in document["annotations"]]
    expected = coco_metrics(path, perfect, backend=backend)
    odd = copy.deepcopy(document)
    odd |= {"licenses": "mine", "info": 7}
    for image in odd["images"]:
        image |= {"license": "CC-BY", "coco_url": 5, "date_captured": [1]}
    for number, annotation in enumerate(odd["annotations"]):
        annotation |= {"id": -number, "area": (None, "12", float("nan"), -4)[number % 4], "iscrowd": None, "score": "x"}
    odd["categories"][0]["supercategory"] = 3
    assert coco_metrics(odd, perfect, backend=backend) == expected


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 64), (300, 1000)])
def test_runs_are_those_of_pycocotools(shape):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 1.0):
        dense = np.asfortranarray((rng.random(shape) < share).astype(np.uint8))
        runs = runs_of(rle.encode(dense)["counts"].decode())
        column_by_column = dense.T.ravel().astype(int)
        changes = np.flatnonzero(np.diff(np.r_[0, column_by_column]))
        assert runs.tolist() == np.diff(np.r_[0, changes, dense.size]).tolist()


def test_a_polygon_that_crosses_itself_has_area():
    assert not is_flat([0, 0, 10, 10, 10, 0, 0, 10])
    assert is_flat([0, 0, 3, 3, 9, 9])
    assert masks.decode([[0, 0, 10, 10, 10, 0, 0, 10]], height=12, width=12).any()


def test_a_folder_is_parsed_once(scenes, tmp_path, monkeypatch):
    """is_coco, images_of, masks and epochs look into the same file before it is opened."""
    from botvision.maskrcnn.layouts import find_splits

    for name in ("train", "val"):
        shutil.copytree(scenes / name, tmp_path / "images" / name)
    shutil.copytree(scenes / "annotations", tmp_path / "annotations")
    parsed = []
    original = coco_module.read_json
    monkeypatch.setattr(coco_module, "read_json", lambda path, what: parsed.append(path) or original(path, what=what))
    found = find_splits(tmp_path)
    for split in (found.train, found.val):
        split.document()
        CocoInstances(split.annotations, split.images, on_bad="skip")
    assert len(parsed) == 2
    (tmp_path / "annotations" / "train.json").write_text("{}")  # changed since: read anew
    with pytest.raises(ValueError, match="is no COCO file"):
        read_document(tmp_path / "annotations" / "train.json")


@pytest.fixture
def broken(scenes, tmp_path):
    """The scenes with one image that is cut short and one that is gone after opening; its DataConfig."""
    root = tmp_path / "set"
    shutil.copytree(scenes, root)
    cut = root / "train" / "000003.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    files = [root / "annotations" / "train.json", root / "train", root / "annotations" / "val.json", root / "val"]
    return DataConfig(*files, flip=False, batch_size=4, workers=0, on_bad="skip")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_left_out_of_training_and_told(broken, workers):
    data = replace(broken, workers=workers)
    loader = build_loader(train_set(data, image_size(64), masks=True), data, Share(4, True, EpochPosition()))
    batches = list(loader)
    loader.close()
    assert sum(len(batch.images) for batch in batches) == 15
    (reason,) = [reason for batch in batches for reason in batch.bad]
    assert "cannot read image" in reason
    assert "000003.jpg" in reason


def test_an_unreadable_image_is_an_error_in_evaluation(broken):
    (broken.val_images / "000002.jpg").write_bytes(b"<html>")
    data = val_set(broken, masks=True)
    assert isinstance(data.attempt(1), Bad)
    loader = build_loader(data, broken, Share(4, False, EpochPosition()))
    with pytest.raises(ValueError, match=r"cannot read image .*000002\.jpg: cannot identify image file.*; replace"):
        list(loader)


def test_many_images_are_compared_with_their_headers(tmp_path, monkeypatch):
    """A camera's note turns the image, which its entry must know."""
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=tag)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    entry = {"id": 1, "file_name": "a.jpg", "height": 20, "width": 40}
    document = {"images": [entry], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"image a\.jpg is 20×40, but .* says 40×20; its EXIF tag turns it"):
        read_coco(tmp_path / "a.json", tmp_path, on_bad="refuse", masks=False)
