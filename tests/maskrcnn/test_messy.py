"""A stranger's labels: what would be read as something else is read right, told, or refused."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from botvision.maskrcnn.coco import for_counting, read_coco
from botvision.maskrcnn.config import DataConfig
from botvision.maskrcnn.data import train_set
from botvision.maskrcnn.diagnosis import count
from botvision.maskrcnn.evaluation import coco_metrics
from botvision.maskrcnn.intake import told
from botvision.maskrcnn.layouts import find_splits
from botvision.maskrcnn.mistakes import judge, outside_crowds
from botvision.maskrcnn.resize import ImageSize

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]


@pytest.fixture
def folder(tmp_path):
    """One image of 100 × 80."""
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / "a.jpg")
    return tmp_path


def coco(folder, *annotations, categories=((1, "cat"), (2, "dog")), size=(80, 100), name="a.json"):
    """A COCO file of the image, with these annotations; class 1 unless they say otherwise."""
    usual = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "iscrowd": 0}
    own = [{**usual, "id": number, **given} for number, given in enumerate(annotations, 1)]
    image = {"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}
    document = {"images": [image], "annotations": own, "categories": [{"id": n, "name": t} for n, t in categories]}
    (folder / name).write_text(json.dumps(document))
    return folder / name


def yolo(root, label, *, extra="", names="[cat, dog]"):
    """A YOLO set of one image with one label file."""
    for place in ("images", "labels"):
        (root / place).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(root / "images" / "a.jpg")
    (root / "labels" / "a.txt").write_text(label)
    (root / "data.yaml").write_text(f"train: images\nnames: {names}\n{extra}")
    return root


def voc(root, *objects, stem="a", size="<width>100</width><height>80</height>", filename=""):
    """A Pascal VOC file beside its image."""
    root.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(root / f"{stem}.jpg")
    inner = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, hard, (x1, y1, x2, y2) in objects
    )
    text = f"<annotation>{filename}<size>{size}</size>{inner}</annotation>"
    (root / f"{stem}.xml").write_text(text)
    return root


def boxes(root):
    return [a["bbox"] for a in find_splits(root).train.document()["annotations"]]


@pytest.mark.parametrize(
    ("shape", "points"), [("[4, 2]", ".1 .1 .9 .1 .9 .9 .1 .9"), ("[2, 3]", ".1 .1 2 .9 .9 1")], ids=["xy", "visible"]
)
def test_keypoints_of_yolo_are_no_outlines(shape, points, tmp_path, capsys):
    root = yolo(tmp_path, f"0 .5 .5 .4 .4 {points}\n", extra=f"kpt_shape: {shape}\n")
    (annotation,) = find_splits(root).train.document()["annotations"]
    assert annotation["bbox"] == pytest.approx([30, 24, 40, 32])
    assert "segmentation" not in annotation
    assert "the keypoints of the labels are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"kpt_shape must be keypoints and numbers of each"):
        find_splits(yolo(tmp_path, "0 .5 .5 .4 .4\n", extra="kpt_shape: 17\n"))


def test_boxes_in_shares_of_the_image_are_refused(folder):
    path = coco(folder, {"bbox": [0.1, 0.2, 0.3, 0.4]}, {"bbox": [0.5, 0.5, 0.5, 0.5]})
    with pytest.raises(ValueError, match=r"2 of 2 boxes lie in 0 … 1, as shares of the image; COCO's are in pixels"):
        read_coco(path, folder, on_bad="skip", masks=False)
    with pytest.raises(ValueError, match=r"a\.xml is not Pascal VOC's: box .* is in shares of the image"):
        find_splits(voc(folder / "voc", ("cat", 0, (0.1, 0.1, 0.4, 0.6))))
    one = coco(folder, {"bbox": [0, 0, 1, 1]}, {"bbox": [10, 10, 40, 40]})  # a speck beside an object
    assert len(read_coco(one, folder, on_bad="skip", masks=False)["annotations"]) == 2


def test_boxes_that_are_not_their_masks_are_refused(folder):
    wide = {"bbox": [0, 0, 100, 80], "segmentation": [[1, 1, 11, 1, 11, 11, 1, 11]]}
    with pytest.raises(ValueError, match=r"3 of 3 boxes have next to nothing in common with their masks"):
        read_coco(coco(folder, wide, wide, wide), folder, on_bad="skip")
    fine = {"segmentation": [SQUARE]}
    assert len(read_coco(coco(folder, *[fine] * 19, wide), folder, on_bad="skip")["annotations"]) == 20


@pytest.mark.parametrize("turn", [3, 6])
def test_images_that_their_tag_turns_are_told(turn, folder, caplog):
    tag = Image.Exif()
    tag[0x0112] = turn
    Image.new("RGB", (100, 80)).save(folder / "a.jpg", exif=tag)
    upright = (80, 100) if turn == 3 else (100, 80)
    with caplog.at_level(logging.WARNING):
        read_coco(coco(folder, {}, size=upright), folder, on_bad="refuse", masks=False)
    assert "1 of 1 images that were looked up are turned by their EXIF tag, e.g. a.jpg" in caplog.text
    if turn == 6:
        with pytest.raises(ValueError, match="its EXIF tag turns it, and the file's boxes may be of the image before"):
            read_coco(coco(folder, {}), folder, on_bad="refuse", masks=False)


def test_pascal_voc_counts_pixels_from_one_and_its_names_have_no_blanks(tmp_path, capsys):
    root = voc(tmp_path, ("cat", 0, (1, 1, 40, 60)), (" cat ", 1, (11, 11, 20, 20)))
    document = find_splits(root).train.document()
    assert [category["name"] for category in document["categories"]] == ["cat"]
    first, hard = document["annotations"]
    assert (first["bbox"], first["iscrowd"]) == ([0, 0, 40, 60], 0)
    assert (hard["bbox"], hard["iscrowd"]) == ([10, 10, 10, 10], 1)
    assert "1 objects are marked difficult: not trained on" in capsys.readouterr().err


def test_two_images_of_one_label_are_refused_but_where_it_names_its_own(tmp_path):
    root = yolo(tmp_path / "yolo", "0 .5 .5 .4 .4\n")
    Image.new("L", (100, 80)).save(root / "images" / "a.png")
    with pytest.raises(ValueError, match=r"labels/a\.txt is the label of both .*a\.jpg and .*a\.png; leave one"):
        find_splits(root)
    for filename, name in (("", None), ("<filename>a.jpg</filename>", "a.jpg")):
        other = voc(tmp_path / "voc", ("cat", 0, (1, 1, 40, 60)), filename=filename)
        Image.new("L", (100, 80)).save(other / "a.png")
        if name is None:
            with pytest.raises(ValueError, match=r"a\.xml is the label of both"):
                find_splits(other)
        else:
            assert [image["file_name"] for image in find_splits(other).train.document()["images"]] == [name]


def test_a_copy_is_read_and_not_what_its_file_was_copied_from(tmp_path, capsys):
    old = yolo(tmp_path / "old", "0 .5 .5 .4 .4\n")
    new = yolo(tmp_path / "new", "0 .5 .5 .8 .8\n", extra=f"path: {old}\n")
    assert boxes(new)[0][2] == pytest.approx(80)
    (new / "data.yaml").write_text(f"train: images\nnames: [cat]\npath: {old}\n")
    (new / "images").rename(new / "elsewhere")
    assert boxes(new)[0][2] == pytest.approx(40)
    assert f"names {old}/images, outside {new}" in capsys.readouterr().err


def test_roboflows_dots_mean_the_folder_itself(tmp_path):
    inside = yolo(tmp_path / "set", "0 .5 .5 .8 .8\n")
    yolo(tmp_path, "0 .5 .5 .4 .4\n")
    (inside / "data.yaml").write_text("train: ../images\nnames: [cat]\n")
    assert boxes(inside)[0][2] == pytest.approx(80)


def test_of_several_files_of_a_split_one_must_be_named(folder):
    coco(folder, {}, name="val.json")
    coco(folder, {}, name="train.json")
    coco(folder, {}, {}, name="old_train.json")
    assert find_splits(folder).train.annotations.name == "train.json"
    (folder / "train.json").rename(folder / "new_train.json")
    with pytest.raises(ValueError, match=r"several annotation files for train \(new_train.json, old_train.json\)"):
        find_splits(folder)


def test_names_that_are_not_what_they_seem_are_refused(folder, tmp_path):
    twice = coco(folder, {}, {"category_id": 7}, categories=((1, "car"), (7, "car ")))
    with pytest.raises(ValueError, match=r"categories 1 and 7 are both called 'car ', and both have objects"):
        read_coco(twice, folder, on_bad="skip", masks=False)
    empty = coco(folder, {}, categories=((0, "cat"), (1, "cat")))  # Roboflow's first, without an object
    assert read_coco(empty, folder, on_bad="skip", masks=False)
    for names, seen in (("{0: no, 1: cat}", "False"), ("[cat, 1.5]", "1.5"), ("[cat, null]", "None")):
        with pytest.raises(ValueError, match=rf"YAML reads the name of a class as {seen}; put it in quotes"):
            find_splits(yolo(tmp_path / "yolo", "0 .5 .5 .4 .4\n", names=names))
    digits = find_splits(yolo(tmp_path / "yolo", "1 .5 .5 .4 .4\n", names="[0, 1]"))
    assert digits.train.document()["categories"][1] == {"id": 2, "name": "1"}
    root = yolo(tmp_path / "text", "2 .5 .5 .4 .4\n")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match=r"classes\.txt: line 2 is empty, and the names are numbered by line"):
        find_splits(root)


def test_a_scrap_of_an_outline_does_not_take_its_object_along(folder):
    scrap = {"segmentation": [SQUARE, [11, 11, 12, 12]]}
    (kept,) = read_coco(coco(folder, scrap), folder, on_bad="skip")["annotations"]
    assert kept["segmentation"] == [SQUARE]
    document = json.loads((folder / "a.json").read_text())
    assert len(for_counting(document)["annotations"]) == 1
    found = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}
    assert coco_metrics(document, [found], masks=False).box["AP"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no list of at least three x, y"):
        read_coco(coco(folder, scrap), folder, on_bad="refuse")


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong():
    cat = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
    crowd = {**cat, "id": 2, "bbox": [40, 0, 50, 70], "area": 3500, "iscrowd": 1}
    found = [
        {"image_id": 1, "category_id": kind, "bbox": box, "score": 0.9}
        for kind, box in ((1, [0, 0, 20, 20]), (1, [50, 10, 20, 20]), (2, [50, 10, 20, 20]), (1, [80, 60, 20, 20]))
    ]
    kept = outside_crowds(found, [cat], [crowd])
    assert [found.index(one) for one in kept] == [0, 2, 3]  # another class, and one that mostly lies beside
    kinds = [mistake.kind for mistake in judge([cat], kept, {1: "cat", 2: "dog"}).mistakes]
    assert kinds == ["background", "background"]
    document = {
        "images": [{"id": 1, "height": 80, "width": 100}], "annotations": [cat, crowd],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip
    told = count(document, found[:2], masks=False, counting=[outside_crowds(found[:2], [cat], [crowd])])
    assert told["confusion"].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert told["gap"] == pytest.approx(0.1)  # one of one is right, at a score of 0.9


def test_the_second_find_of_an_object_in_a_crowd_is_the_crowds():
    cat = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    crowd = {**cat, "id": 2, "bbox": [0, 0, 100, 80], "area": 8000, "iscrowd": 1}
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10 + n, 10, 20, 20], "score": score}
        for n, score in ((1, 0.6), (0, 0.9), (2, 0.7))
    ]
    assert outside_crowds(found, [cat], [crowd]) == [found[1]]


def test_areas_of_zero_throughout_are_none(folder):
    large = {"bbox": [1, 1, 90, 70], "area": 0}
    document = json.loads(coco(folder, large).read_text())
    assert for_counting(document, masks=False)["annotations"][0]["area"] == 6300
    mixed = json.loads(coco(folder, large, {"area": 1600}, {"area": 1600}).read_text())  # one file's own zero stays
    assert for_counting(mixed, masks=False)["annotations"][0]["area"] == 0


def test_objects_that_are_there_twice_are_told(folder, caplog):
    with caplog.at_level(logging.WARNING):
        read_coco(coco(folder, {}, {}, {"category_id": 2}), folder, on_bad="refuse", masks=False)
    assert "1 objects repeat the box of another of their image and class, e.g. in image 1" in caplog.text


def test_objects_that_vanish_at_the_image_size_are_told(folder):
    path = coco(folder, {"bbox": [10, 10, 3, 3]}, {})
    files = {
        f"{name}_{kind}": place
        for name in ("train", "val")
        for kind, place in (("annotations", path), ("images", folder))
    }
    data = DataConfig(**files)
    train = train_set(data, ImageSize(32, 32, square=True), masks=False)
    assert "warning: 1 of these objects are under 1 px after resizing" in "\n".join(told(train, train, most=100))
    assert "warning: 1 of these images have more than 1 objects, up to 2; at most 2 are found in one, " in "\n".join(
        told(train, train, most=2)
    )
    assert "--model.max_objects" not in "\n".join(told(train, train, most=4))


def test_pascal_vocs_val_list_is_never_trained_on(tmp_path):
    labels, images, lists = (tmp_path / name for name in ("Annotations", "JPEGImages", "ImageSets/Main"))
    for place in (labels, images, lists):
        place.mkdir(parents=True)
    for number in range(1, 5):
        voc(images, ("cat" if number < 4 else "dog", 0, (1, 1, 40, 60)), stem=f"img {number}")
        (images / f"img {number}.xml").rename(labels / f"img {number}.xml")

    def names(split):
        return [image["file_name"] for image in split.document()["images"]]

    (lists / "val.txt").write_text("img 1\n")
    found = find_splits(tmp_path)
    assert (names(found.train), names(found.val)) == ([f"img {n}.jpg" for n in (2, 3, 4)], ["img 1.jpg"])
    classes = [[c["name"] for c in split.document()["categories"]] for split in (found.train, found.val)]
    assert classes == [["cat", "dog"], ["cat", "dog"]]
    (lists / "trainval.txt").write_text("img 1\nimg 2\nimg 3\n")
    found = find_splits(tmp_path)
    assert (names(found.train), names(found.val)) == (["img 2.jpg", "img 3.jpg"], ["img 1.jpg"])
    (lists / "val.txt").write_text("img 1  1\nimg 2 -1\n")  # a list of one class
    found = find_splits(tmp_path)
    assert (names(found.train), names(found.val)) == (["img 3.jpg"], ["img 1.jpg", "img 2.jpg"])


def test_labels_without_an_image_and_hidden_copies_are_told_or_left_out(tmp_path, capsys):
    root = yolo(tmp_path, "0 .5 .5 .4 .4\n")
    (root / "labels" / "lost.txt").write_text("0 .5 .5 .4 .4\n")
    hidden = root / "images" / ".ipynb_checkpoints"
    hidden.mkdir()
    Image.new("RGB", (100, 80)).save(hidden / "a-checkpoint.jpg")
    assert len(find_splits(root).train.document()["images"]) == 1
    assert "1 label files belong to no image that is read, e.g." in capsys.readouterr().err
