"""Folders as people have them: COCO, Roboflow, one file, YOLO and Pascal VOC, beside what they were made of."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.layouts import Split, drawn, find_splits, split_by_image


def digits_of(document, image):
    return [a for a in document["annotations"] if a["image_id"] == image["id"]]


def outline(annotation):
    """The box's corners as a polygon: scenes have RLE, which YOLO cannot hold."""
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def as_coco(root, name, document, source):
    shutil.copytree(source, root / "images" / f"{name}2017")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"captions_{name}2017.json").write_text("{}")
    (root / "annotations" / f"instances_{name}2017.json").write_text(json.dumps(document))


def as_roboflow(root, name, document, source):
    folder = root / {"val": "valid"}.get(name, name)
    shutil.copytree(source, folder)
    (folder / "_annotations.coco.json").write_text(json.dumps(document))


def as_yolo(root, name, document, source, *, polygons=True):
    shutil.copytree(source, root / name / "images")  # Roboflow's way round, and `..` in its file
    (root / name / "labels").mkdir()
    for image in document["images"]:
        scale = [image["width"], image["height"]]
        lines = []
        for annotation in digits_of(document, image):
            x, y, w, h = annotation["bbox"]
            numbers = outline(annotation) if polygons else [x + w / 2, y + h / 2, w, h]
            shares = [f"{value / scale[place % 2]:.8f}" for place, value in enumerate(numbers)]
            lines.append(" ".join([str(annotation["category_id"] - 1), *shares]))
        (root / name / "labels" / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines) + "\n")
    names = [c["name"] for c in document["categories"]]
    (root / "data.yaml").write_text(f"train: ../train/images\nval: ../val/images\nnc: {len(names)}\nnames: {names}\n")


def as_yolo_boxes(root, name, document, source):
    as_yolo(root, name, document, source, polygons=False)


def as_voc(root, name, document, source):
    """Whole pixels, counted from 1, both ends inside."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = {c["id"]: c["name"] for c in document["categories"]}
    stems = []
    for image in document["images"]:
        stem = f"{name}_{Path(image['file_name']).stem}"
        stems.append(stem)
        shutil.copy(source / image["file_name"], root / "JPEGImages" / f"{stem}{Path(image['file_name']).suffix}")
        objects = ""
        for annotation in digits_of(document, image):
            x, y, w, h = (round(value) for value in annotation["bbox"])
            places = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in places)
            objects += f"<object><name>{names[annotation['category_id']]}</name><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{image['file_name']}</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))


def as_voc_beside(root, name, document, source):
    """Roboflow's export of Pascal VOC; each split finds its classes in an order of its own."""
    folder = root / {"val": "valid"}.get(name, name)
    as_voc(folder, name, document, source)
    for path in [*(folder / "Annotations").iterdir(), *(folder / "JPEGImages").iterdir()]:
        path.rename(folder / path.name)
    for gone in ("Annotations", "JPEGImages", "ImageSets"):
        shutil.rmtree(folder / gone)


COCO = '{"annotations": [], "categories": [], "images": [%s]}'
LAYOUTS = {
    "COCO": as_coco,
    "Roboflow's COCO export": as_roboflow,
    "YOLO (data.yaml)": as_yolo,
    "Pascal VOC": as_voc,
    "Pascal VOC, files side by side": as_voc_beside,
}


def read(split, tmp_path):
    """Its dataset, and by image size and class name the boxes of each image."""
    path = split.annotations
    if not isinstance(path, Path):
        path = tmp_path / f"{split.images.name}.json"
        path.write_text(json.dumps(split.annotations))
    return CocoInstances(path, split.images, on_bad="skip", masks=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_boxes_and_names(layout, scenes, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("train", "val"):
        document = json.loads((scenes / "annotations" / f"{name}.json").read_text())
        LAYOUTS[layout](root, name, document, scenes / name)
    found = find_splits(root)
    assert found.layout == layout
    for name, split in (("train", found.train), ("val", found.val)):
        ours = read(split, tmp_path)
        truth = CocoInstances(scenes / "annotations" / f"{name}.json", scenes / name, on_bad="skip", masks=False)
        assert len(ours) == len(truth)
        by_name = [{Path(d.record(i)[0]["file_name"]).stem.split("_")[-1]: d[i][1] for i in range(len(d))}
                   for d in (ours, truth)]  # fmt: skip
        for stem, target in by_name[1].items():
            names = [[d.categories[int(n) - 1].name for n in t["labels"]]
                     for d, t in zip((ours, truth), (by_name[0][stem], target), strict=True)]  # fmt: skip
            assert names[0] == names[1]
            slack = 0.51 if layout.startswith("Pascal VOC") else 1e-4  # whole pixels
            assert np.allclose(by_name[0][stem]["boxes"], target["boxes"], atol=slack)


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")  # supervision's
def test_yolo_boxes_are_what_supervision_reads(scenes, tmp_path):
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    as_yolo_boxes(tmp_path, "train", document, scenes / "train")
    folder = tmp_path / "train"
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text().replace("val: ../val/images\n", ""))
    theirs = sv.DetectionDataset.from_yolo(str(folder / "images"), str(folder / "labels"), str(tmp_path / "data.yaml"))
    ours = find_splits(tmp_path)
    assert ours.val is None
    for image in ours.train.annotations["images"]:
        boxes = np.array([a["bbox"] for a in digits_of(ours.train.annotations, image)])
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, theirs.annotations[str(tmp_path / image["file_name"])].xyxy, atol=1e-3)


def test_polygons_keep_their_corners(scenes, tmp_path):
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    as_yolo(tmp_path, "train", document, scenes / "train")
    (tmp_path / "data.yaml").write_text("train: train/images\nnames: {0: '0', 1: '1'}\n")
    with pytest.raises(ValueError, match=r"\.txt, line \d+: class \d+ has no name among 2; correct either"):
        find_splits(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: train/images\nnames: {[str(n) for n in range(10)]}\n")
    read_back = find_splits(tmp_path).train.annotations
    for ours, theirs in zip(read_back["images"], document["images"], strict=True):
        for a, b in zip(digits_of(read_back, ours), digits_of(document, theirs), strict=True):
            assert np.allclose(a["segmentation"][0], outline(b), atol=1e-4)
            assert a["area"] == pytest.approx(b["bbox"][2] * b["bbox"][3], rel=1e-4)


def test_one_file_is_split_by_image_and_by_the_seed(scenes, tmp_path):
    shutil.copytree(scenes / "train", tmp_path / "images")
    shutil.copy(scenes / "annotations" / "train.json", tmp_path / "labels.json")
    (tmp_path / "annotations").mkdir()  # as a run into this very folder leaves it
    for name in ("train-0123abcd.json", "val-0123abcd.json"):
        shutil.copy(tmp_path / "labels.json", tmp_path / "annotations" / name)
    found = find_splits(tmp_path)
    assert (found.layout, found.val) == ("one COCO file", None)
    parts = [split_by_image(found.train, fraction=0.25, seed=seed) for seed in (0, 0, 1)]
    ids = [[{i["id"] for i in split.document()["images"]} for split in part] for part in parts]
    assert ids[0] == ids[1] != ids[2]
    assert not ids[0][0] & ids[0][1]
    assert [len(part) for part in ids[0]] == [12, 4]
    for part, own in zip(parts[0], ids[0], strict=True):
        assert {a["image_id"] for a in part.document()["annotations"]} == own
    for fraction in (0.001, 0.999):  # neither split is ever without an image
        assert all(split.document()["images"] for split in split_by_image(found.train, fraction=fraction, seed=0))
    with pytest.raises(ValueError, match=r"data\.val_fraction=1\.5 must lie between 0 and 1"):
        split_by_image(found.train, fraction=1.5, seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_every_class_that_two_images_have_is_in_both_splits(seed):
    classes = {number: {"common"} for number in range(18)} | {18: {"common", "rare"}, 19: {"rare"}, 20: {"once"}}
    chosen = drawn(classes, 4, seed=seed)
    assert len(chosen) == 4
    for name in ("common", "rare"):
        assert any(name in classes[image] for image in chosen)
        assert any(name in own for image, own in classes.items() if image not in chosen)
    assert 20 not in chosen  # what one image has is trained on
    assert chosen == drawn(classes, 4, seed=seed)
    assert len(drawn({0: {"a"}, 1: {"b"}}, 1, seed=seed)) == 1


def test_a_test_split_of_pascal_voc_is_left_alone(scenes, tmp_path):
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    as_voc(tmp_path, "train", document, scenes / "train")
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    stems = sorted(path.stem for path in (tmp_path / "JPEGImages").iterdir())
    lists = tmp_path / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    (lists / "trainval.txt").write_text("\n".join(f"{stem}  1" for stem in stems[:10]))
    (lists / "test.txt").write_text("\n".join(stems[10:]))
    found = find_splits(tmp_path)
    assert found.val is None
    assert sorted(Path(i["file_name"]).stem for i in found.train.annotations["images"]) == stems[:10]


@pytest.mark.parametrize(
    ("names", "read"),
    [("{1: b, 0: a}", ["a", "b"]), ("{0: a, 2: c}", ["a", "c"]), ("{'0': a}", ["a"])],
)
def test_yolo_names_go_by_their_numbers(names, read, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "x.JPG")
    (tmp_path / "images" / "x.txt").write_text("0 0.5 0.5 0.2 0.2")  # beside the image, as some tools write it
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images\nnames: {names}")
    (tmp_path / "mkdocs.yml").write_text("a: !!python/name:x.y")  # of something else
    document = find_splits(tmp_path).train.annotations
    assert [category["name"] for category in document["categories"]] == read
    assert len(document["annotations"]) == 1


def test_a_yolo_label_of_a_number_without_a_name_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "x.png")
    (tmp_path / "images" / "x.txt").write_text("2 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text("train: images\nnames: {0: a, 2: c}")
    with pytest.raises(ValueError, match=r"x\.txt, line 2: class 1 has no name among 2"):
        find_splits(tmp_path)
    (tmp_path / "images" / "x.txt").write_text("2 0.5 0.5 0.2 0.2\n")
    document = find_splits(tmp_path).train.annotations
    assert document["categories"][document["annotations"][0]["category_id"] - 1]["name"] == "c"


def test_images_without_labels_and_labels_without_images_are_told(scenes, tmp_path, capsys):
    document = json.loads((scenes / "annotations" / "train.json").read_text())
    for layout, labels in (("YOLO (data.yaml)", "train/labels/*.txt"), ("Pascal VOC", "Annotations/*.xml")):
        root = tmp_path / layout
        root.mkdir()
        LAYOUTS[layout](root, "train", document, scenes / "train")
        if "YOLO" in layout:
            (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("val: ../val/images\n", ""))
        capsys.readouterr()
        find_splits(root)
        assert "data:" not in capsys.readouterr().err
        sorted(root.glob(labels))[0].unlink()
        find_splits(root)
        assert re.search(r"data: 1 of 16 images have no (XML|label) file and count as", capsys.readouterr().err)
    next((root / "JPEGImages").iterdir()).unlink()
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    find_splits(root)
    assert re.search(r"data: 1 of 15 images are left out, for they are not in .*JPEGImages", capsys.readouterr().err)


def test_pascal_voc_labels_of_another_image_are_refused(tmp_path):
    """A label of an image that was resized since, or turned; tools that write zeros or nothing say nothing."""
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    box = "".join(f"<{name}>{value}</{name}>" for name, value in (("xmin", 1), ("ymin", 1), ("xmax", 9), ("ymax", 9)))
    object_ = f"<object><name>x</name><bndbox>{box}</bndbox></object>"
    for size, fits in (("", True), ("0 0", True), ("40 20", True), ("20 40", False), ("80 40", False)):
        sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("width", "height"), size.split(), strict=False))
        (tmp_path / "a.xml").write_text(f"<annotation><size>{sides}</size>{object_}</annotation>")
        if fits:
            assert find_splits(tmp_path).train.annotations["annotations"][0]["bbox"] == [0, 0, 9, 9]
        else:
            said = rf"a\.xml is of an image of {size.replace(' ', '×')} px, but .*a\.png has 40×20: its boxes would lie"
            with pytest.raises(ValueError, match=said):
                find_splits(tmp_path)


def test_images_that_lie_on_their_side_are_read_upright(tmp_path):
    """A camera's tag turns 40×20 into 20×40, and boxes are told in what people see."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.jpg", exif=tag)
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.25 0.9\n")
    (tmp_path / "classes.txt").write_text("thing\n")
    document = find_splits(tmp_path).train.annotations
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (20, 40)
    assert document["annotations"][0]["bbox"] == [5.0, 15.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("files", "error", "match"),
    [
        ({}, FileNotFoundError, r"holds no annotations in a layout that is known: COCO .*Roboflow .*YOLO .*Pascal VOC"),
        ({"a.json": COCO % "", "b.json": COCO % ""}, ValueError, r"several annotation files \(a\.json, b\.json\)"),
        ({"a.json": "[]"}, ValueError, r"a\.json is no COCO file: it needs the lists images, annotations and cat"),
        ({"a.json": COCO % ""}, ValueError, r"a\.json is no COCO file: it needs a list of images with a file_name"),
        ({"a.json": COCO % "3"}, ValueError, r"a\.json: images must be a list of dictionaries; got 3 in it"),
        ({"a.json": COCO % '{"file_name": "x.jpg"}'}, FileNotFoundError, r"x\.jpg, which is in none of"),
        ({"data.yaml": "train: [a"}, ValueError, r"data\.yaml is not YAML: .*; correct or remove it"),
        ({"data.yaml": "train: a\nnames: 3"}, ValueError, r"names must be a list of classes, or numbers.*; got 3"),
        ({"data.yaml": "train: there\nnames: [a]"}, FileNotFoundError, r"names there, which is not there; correct"),
        ({"data.yaml": "train: a\nnames: {a: 0}"}, ValueError, r"names must be numbered from 0"),
        ({"images/x.png": None, "classes.txt": "a", "labels/y.txt": ""}, FileNotFoundError,
         r"none of 1 images has a label: the last one's was looked for at .*labels/x\.txt"),
        ({"images/x.png": None, "classes.txt": "a", "labels/x.txt": b"\xff"}, ValueError,
         r"x\.txt is not text in UTF-8"),
        ({"images/x.png": None, "classes.txt": "a", "labels/x.txt": "0 0.64 0.71 0.95 0.71"}, ValueError,
         r"x\.txt, line 1 has a box that reaches out of the image, as a line of two corners would"),
        ({"a.xml": "<annotation>"}, FileNotFoundError, r"holds no image of the files in"),
        ({"a.xml": "<annotation>", "a.png": None}, ValueError, r"a\.xml is not Pascal VOC's: .*; correct it"),
        ({"a.xml": "<annotation><object><name>a</name></object></annotation>", "a.png": None}, ValueError,
         r"a\.xml is not Pascal VOC's"),
        ({"images/x.png": None, "classes.txt": "a", "labels/x.txt": "0 12 14 3 5"}, ValueError,
         r"x\.txt, line 1 has numbers beyond the image; they are shares of it"),
        ({"images/x.png": None, "classes.txt": "a", "labels/x.txt": "0 0.1 0.2 0.3"}, ValueError,
         r"x\.txt, line 1 is neither `class x y w h` nor a class and a polygon"),
        ({"images/x.png": "no image", "classes.txt": "a", "labels/x.txt": ""}, ValueError,
         r"cannot read image .*x\.png"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_read_say_why(files, error, match, tmp_path):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(text, bytes):
            path.write_bytes(text)
        elif text is None:
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text(text)
    with pytest.raises(error, match=match):
        find_splits(tmp_path)


def test_a_test_split_of_coco_is_left_alone(tmp_path):
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{name}.json").write_text(json.dumps(document))
    found = find_splits(tmp_path)
    assert (found.train.annotations, found.val) == (tmp_path / "annotations" / "instances_train.json", None)
    (tmp_path / "annotations" / "instances_train.json").unlink()
    (tmp_path / "annotations" / "settings.json").write_text("{}")
    assert find_splits(tmp_path).train.images == tmp_path / "test"  # the only one is what is meant


@pytest.mark.parametrize("useless", [{"iscrowd": 1}, {"bbox": [10, 10, 0, 5]}])
def test_each_part_of_a_split_has_an_object_that_counts(useless):
    own = {"category_id": 1, "bbox": [1, 1, 9, 9]}
    document = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(6)],
        "annotations": [{"image_id": number, **own, **(useless if number % 2 else {})} for number in range(6)],
        "categories": [{"id": 1, "name": "x"}],
    }
    for seed in range(20):
        for part in split_by_image(Split(document, Path()), fraction=0.2, seed=seed):
            images = {image["id"] for image in part.document()["images"]}
            assert any(number % 2 == 0 for number in images)


def test_copies_that_a_mac_leaves_are_no_images(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    (tmp_path / "a.xml").write_text(
        f"<annotation><filename>a.jpg</filename>{size}<object><name>cat</name>{box}</object></annotation>"
    )
    for name in ("._a.jpg", "._a.xml"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    (image,) = find_splits(tmp_path).train.document()["images"]
    assert image["file_name"] == "a.jpg"
