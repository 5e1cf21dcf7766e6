"""COCO files read right, jittered exactly, and refused by name where they are wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from botvision.engine.loader import EpochPosition, Share
from botvision.maskrcnn import masks
from botvision.maskrcnn.coco import read_coco
from botvision.maskrcnn.config import DataConfig
from botvision.maskrcnn.data import CocoInstances, Frame, Jitter, build_loader, train_set, val_set
from botvision.maskrcnn.resize import image_size
from botvision.maskrcnn.targets import crop, masks_in_boxes


def test_a_sample_is_image_boxes_labels_and_cropped_masks(scenes):
    data = CocoInstances(scenes / "annotations" / "train.json", scenes / "train", on_bad="skip")
    image, target = data[3]
    entry, annotations = data.record(3)
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, 64, 64)
    assert target["image_id"] == entry["id"]
    for box, label, mask, truth in zip(target["boxes"], target["labels"], target["masks"], annotations, strict=True):
        x, y, w, h = truth["bbox"]
        assert box.tolist() == [x, y, x + w, y + h]
        assert label == truth["category_id"]
        back = masks.paste(mask.float(), box, height=64, width=64)
        dense = rle.decode(truth["segmentation"])
        assert (back & dense).sum() / (back | dense).sum() > 0.9


@pytest.mark.parametrize("img_size", [96, (48, 96)])
@pytest.mark.parametrize("zoom", [(0.1, 0.5), (0.8, 1.25), (1.5, 2.0)])
def test_jitter_moves_boxes_and_masks_with_the_pixels(tmp_path, img_size, zoom):
    """A white L on black: wherever jitter takes it, box and mask must cover exactly the bright pixels."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[8:44, 20:32] = pixels[32:44, 20:64] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    outline = [20, 8, 32, 8, 32, 32, 64, 32, 64, 44, 20, 44]
    dense = rle.encode(np.asfortranarray((pixels[..., 0] > 0).astype(np.uint8)))
    forms = [[outline], {"size": dense["size"], "counts": dense["counts"].decode()}]
    document = {
        "images": [{"id": 7, "file_name": "a.png", "height": 60, "width": 90}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 5, "bbox": [20, 8, 44, 36], "segmentation": form, "iscrowd": 0}
            for i, form in enumerate(forms)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    data = CocoInstances(tmp_path / "a.json", tmp_path, jitter=Jitter(image_size(img_size), zoom=zoom, flip=True))
    seen = set()
    for _ in range(16):
        image, target = data[0]
        side = (96, 96) if isinstance(img_size, int) else (48, 72)
        assert tuple(image.shape[1:]) == side
        bright = (image.min(0).values > 128).numpy()  # padding is mid-grey at most
        if bright.sum() < 60:  # cropped away, or too small to compare
            continue
        assert len(target["boxes"]) == 2
        for box, inside in zip(target["boxes"], target["masks"], strict=True):
            mask = masks.paste(inside.float(), box, height=side[0], width=side[1]).astype(bool)
            assert (mask & bright).sum() / (mask | bright).sum() > 0.75
        left, right = np.array_split(target["masks"][0].numpy(), 2, axis=1)
        seen.add(bool(left.sum() > right.sum()))
    if zoom == (0.8, 1.25):  # the whole L in view: it must have stood both ways
        assert seen == {True, False}


def frame_of(side, width):
    inside = np.zeros((side, side), np.uint8)
    inside[:width] = inside[-width:] = inside[:, :width] = inside[:, -width:] = 1
    return inside


def diagonal(side, width):
    y, x = np.mgrid[:side, :side]
    return (np.abs(x - y) < width / 2**0.5).astype(np.uint8)


def ring(side, width):
    y, x = np.mgrid[:side, :side] + 0.5
    radius = np.hypot(x - side / 2, y - side / 2)
    return ((radius < side / 2) & (radius > side / 2 - width)).astype(np.uint8)


@pytest.mark.parametrize("draw", [frame_of, diagonal, ring])
@pytest.mark.parametrize(("side", "width"), [(300, 1), (640, 2), (1000, 3), (2000, 3), (2000, 12)])
def test_thin_objects_keep_their_box_and_as_much_mask_as_their_area(draw, side, width):
    """Cracks, wires and outlines: no place of 112 × 112 is covered by half, and once they were background."""
    image = np.zeros((side + 10, side + 7), np.uint8)
    image[5 : 5 + side, 3 : 3 + side] = draw(side, width)
    box = (3.0, 5.0, 3.0 + side, 5.0 + side)
    found = crop(masks.encode(image), box, height=side + 10, width=side + 7)
    share = image.sum() / side**2 * 112**2
    assert share / 2 < found.sum() < 4 * share  # places of the same share go together
    [public] = masks_in_boxes(torch.from_numpy(image)[None], torch.tensor([box]))
    assert torch.equal(public, torch.from_numpy(found))


@pytest.mark.parametrize("width", [1, 4, 6])
def test_thin_polygons_are_objects_too(width, tmp_path):
    low, high = 20, 980
    outline = [low, low, low + width, low, low + width, high - width, high, high - width, high, high, low, high]
    Image.new("RGB", (1000, 1000)).save(tmp_path / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 1000, "width": 1000}],
        "categories": [{"id": 1, "name": "wire"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 960, 960], "segmentation": [outline]}
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    for zoom in ((1, 1), (0.5, 0.9)):  # all of it in view
        data = CocoInstances(tmp_path / "a.json", tmp_path, jitter=Jitter(image_size(256), zoom=zoom, flip=True))
        for _ in range(8):
            _, target = data[0]
            assert len(target["boxes"]) == 1
            assert target["masks"].sum() > 2 * 112 * width / 960 * 112 / 2 * 0.9


def test_a_box_whose_mask_lies_elsewhere_is_none():
    image = np.zeros((100, 100), np.uint8)
    image[:, 10:12] = 1
    outline = [10, 0, 12, 0, 12, 100, 10, 100]
    for form in (masks.encode(image), [outline]):
        assert not crop(form, (12.2, 0.0, 90.0, 100.0), height=100, width=100).any()
        assert not crop(form, (40.0, 0.0, 90.0, 100.0), height=100, width=100).any()


def test_frame_forward_and_back_are_inverse():
    for frame in (Frame(0.5, 2.0, 3.0, -4.0), Frame(-1.5, 1.5, 90.0, 5.0)):
        box = (10.0, 20.0, 30.0, 60.0)
        assert frame.back(frame.forward(box)) == pytest.approx(box)
    assert Frame(-1, 1, 90, 0).forward((20, 0, 50, 1)) == (40, 0, 70, 1)


def test_polygon_rle_and_uncompressed_rle_give_one_mask():
    polygon = [[2, 3, 12, 3, 12, 9, 2, 9]]
    compressed = rle.merge(rle.frPyObjects(polygon, 16, 20))
    dense = rle.decode(compressed)
    column_by_column = dense.T.ravel().astype(int)
    counts = np.diff(np.flatnonzero(np.diff(np.r_[-1, column_by_column, -1]))).tolist()
    for form in (polygon, compressed, {"size": [16, 20], "counts": counts}, masks.encode(dense)):
        assert np.array_equal(masks.decode(form, height=16, width=20), dense)


def test_crowds_are_left_out_of_training(coco):
    document, save = coco
    document["annotations"][0]["iscrowd"] = 1
    data = CocoInstances(*save(), on_bad="skip")
    assert sum(len(data.record(i)[1]) for i in range(len(data))) == len(document["annotations"]) - 1


def test_pasting_equals_a_dense_reference():
    probabilities = torch.rand(28, 28)
    box = torch.tensor([3.3, 4.6, 17.9, 12.2])
    got = masks.paste(probabilities, box, height=16, width=20)
    for y in range(16):
        for x in range(20):
            u, v = (x + 0.5 - 3.3) / 14.6 * 28 - 0.5, (y + 0.5 - 4.6) / 7.6 * 28 - 0.5
            value = 0.0
            for i, j in ((int(np.floor(v)) + a, int(np.floor(u)) + b) for a in (0, 1) for b in (0, 1)):
                if 0 <= i < 28 and 0 <= j < 28:
                    value += float(probabilities[i, j]) * (1 - abs(v - i)) * (1 - abs(u - j))
            inside = 3 <= x < 18 and 4 <= y < 13
            if abs(value - 0.5) > 1e-4:
                assert got[y, x] == (value >= 0.5 and inside)


def spoil(document, what):
    annotation = document["annotations"][2]
    if what == "dangling":
        annotation["image_id"] = 999
    elif what == "category":
        annotation["category_id"] = 77
    elif what == "no mask":
        del annotation["segmentation"]
    elif what == "empty mask":
        annotation["segmentation"] = []
    elif what == "zero area":
        annotation["bbox"][2] = 0
    elif what == "outside":
        annotation["bbox"][0] = 64
    elif what == "empty polygon":
        annotation["segmentation"] = [[1, 2, 3, 4]]
    elif what == "no RLE":
        annotation["segmentation"] = "abc"
    elif what == "RLE size":
        annotation["segmentation"]["size"] = [9, 9]
    elif what == "image twice":
        document["images"][1]["id"] = 1
    elif what == "no annotation":
        document["annotations"].clear()
    elif what == "nameless":
        document["categories"][1]["name"] = " "
    elif what == "no category":
        document["categories"].clear()
    elif what == "twice":
        document["categories"][1]["id"] = 1
    elif what == "empty category":
        document["categories"].append({"id": 11, "name": "ten"})
    elif what == "no list":
        del document["images"]
    elif what == "size":
        del document["images"][0]["height"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("dangling", r"annotation 3 names image_id 999, which is not among its 16 images; remove"),
        ("category", r"annotation 3 has category_id 77, which is not in its list of 10 categories; add"),
        ("no mask", r"annotation 3 has no segmentation, and Mask R-CNN needs polygons or RLE.*; .*--data.on_bad skip"),
        (
            "empty mask",
            r"annotation 3 has no segmentation, and Mask R-CNN needs polygons or RLE.*; .*--data.on_bad skip",
        ),
        ("zero area", r"annotation 3 has a box without area, .*--data.on_bad skip"),
        ("outside", r"annotation 3 has a box outside its image of 64×64, .*--data.on_bad skip"),
        ("no annotation", r"has no annotation; nothing can be learnt or evaluated from it"),
        ("empty polygon", r"annotation 3 has a polygon that is no list of at least three x, y"),
        ("no RLE", r"annotation 3 has a segmentation that is neither polygons nor RLE"),
        ("RLE size", r"annotation 3 has an RLE of size \[9, 9\] on an image of height 64, width 64"),
        ("image twice", r"image id 1 occurs twice"),
        ("nameless", r"needs a whole-number id and a name"),
        ("no category", r"lists no category"),
        ("twice", r"category id 1 occurs twice"),
        ("no list", r"is no COCO file: it needs the lists images, annotations and categories"),
        ("size", r"needs id and file_name, and height and width or neither"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(coco, what, message):
    document, save = coco
    seen = {a["category_id"] for a in document["annotations"]}
    document["categories"] = [c for c in document["categories"] if c["id"] in seen]
    if what == "category":
        message = message.replace("10", str(len(seen)))
    spoil(document, what)
    with pytest.raises(ValueError, match=message):
        read_coco(*save(), on_bad="refuse")


@pytest.mark.parametrize("what", ["zero area", "outside", "empty polygon", "no mask", "empty mask"])
def test_skip_leaves_bad_ones_out_with_a_line(coco, caplog, what):
    document, save = coco
    before = len(document["annotations"])
    spoil(document, what)
    assert len(read_coco(*save(), on_bad="skip")["annotations"]) == before - 1
    assert "left out 1 annotations; the first, 3, has" in caplog.text
    data = CocoInstances(*save(), on_bad="skip")
    assert sum(len(data[i][1]["boxes"]) for i in range(len(data))) == before - 1


def test_sizes_that_a_file_lacks_are_read_from_its_images(coco):
    document, save = coco
    whole = CocoInstances(*save(), on_bad="skip")
    for entry in document["images"][::2]:
        del entry["height"], entry["width"]
    path, images = save()
    data = CocoInstances(path, images, on_bad="skip")
    assert [data.record(i) for i in range(len(data))] == [whole.record(i) for i in range(len(whole))]
    assert data.truth() == {**whole.truth(), "images": data.truth()["images"]}
    assert {(e["height"], e["width"]) for e in data.truth()["images"]} == {(64, 64)}
    document["images"].append({"id": 999, "file_name": "broken.jpg"})
    path, _ = save()
    with pytest.raises(FileNotFoundError, match=r"names image broken\.jpg, which is not in"):
        CocoInstances(path, images)
    (images / "broken.jpg").write_bytes(b"no image")
    try:
        with pytest.raises(ValueError, match=r"has no size of image broken\.jpg, which cannot be read either; replace"):
            CocoInstances(path, images)
    finally:
        (images / "broken.jpg").unlink()


@pytest.mark.parametrize("on_bad", ["skip", "refuse"])
def test_an_empty_category_is_no_fault_of_a_file(coco, on_bad):
    """Roboflow exports one, before all others; a training leaves it out (tests/maskrcnn/test_own_data.py)."""
    document, save = coco
    seen = {a["category_id"] for a in document["annotations"]}
    document["categories"] = [c for c in document["categories"] if c["id"] in seen]
    document["categories"].insert(0, {"id": 0, "name": "digits", "supercategory": "none"})
    assert len(read_coco(*save(), on_bad=on_bad)["annotations"]) == len(document["annotations"])


def test_nothing_left_after_skipping_is_refused(coco):
    document, save = coco
    for annotation in document["annotations"]:
        annotation["segmentation"] = []
    message = "has no annotation that can be used: annotation 1 has no segmentation, and Mask R-CNN needs polygons"
    with pytest.raises(ValueError, match=message):
        read_coco(*save(), on_bad="skip")


def test_missing_images_and_folders_are_named(coco, tmp_path):
    document, save = coco
    document["images"][4]["file_name"] = "gone.jpg"
    with pytest.raises(FileNotFoundError, match=r"names image gone\.jpg, which is not in"):
        read_coco(*save(), on_bad="skip")
    with pytest.raises(FileNotFoundError, match="no image folder at"):
        read_coco(save()[0], tmp_path / "nowhere", on_bad="skip")


def test_a_image_of_another_size_than_its_entry_is_named(coco):
    document, save = coco
    document["images"][0]["width"] = 99
    with pytest.raises(ValueError, match=r"is 64×64, but .* says 99×64; correct the file's entry"):
        CocoInstances(*save(), on_bad="skip")[0]


def test_every_process_has_batches_of_its_own(scenes):
    """Sixteen images, batch 4, two processes: each its half; batch 9 on two would leave both with nothing."""
    data = DataConfig(scenes / "annotations" / "train.json", scenes / "train", scenes / "annotations" / "val.json",
                      scenes / "val", batch_size=4, workers=0, on_bad="skip")  # fmt: skip
    shares = [Share(4, True, EpochPosition(), 0, rank, 2) for rank in (0, 1)]
    training, evaluating = train_set(data, image_size(64), masks=True), val_set(data, masks=True)
    ids = [[int(t["image_id"]) for batch in build_loader(training, data, s) for t in batch.targets] for s in shares]
    assert sorted(ids[0] + ids[1]) == list(range(1, 17))
    assert len(ids[0]) == len(ids[1])
    evaluated = [
        [int(t["image_id"]) for b in build_loader(evaluating, data, s._replace(train=False)) for t in b.targets]
        for s in shares
    ]
    assert sorted(evaluated[0] + evaluated[1]) == list(range(1, 7))
    with pytest.raises(ValueError, match=r"has 16 images, fewer than batch_size=9 × 2 devices; lower --data\.batch"):
        build_loader(training, data, Share(9, True, EpochPosition(), 0, 0, 2))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "segmentation",
            [["a", "b", "c", "d", "e", "f"]],
            "has a polygon that is no list of at least three x, y in finite",
        ),
        (
            "segmentation",
            {"size": [64, 64], "counts": [-5, 10]},
            "has an RLE whose counts are not whole numbers that add",
        ),
        ("segmentation", {"size": [64, 64], "counts": [1, 2, 3]}, "that add up to 64 × 64"),
        ("segmentation", {"size": [64, 64], "counts": 7}, "counts are neither text nor whole numbers"),
        ("bbox", ["1", "2", "3", "4"], r"not \[x, y, width, height\] in finite numbers"),
        ("bbox", [1, None, 3, 4], r"not \[x, y, width, height\] in finite numbers"),
        ("bbox", [1, float("nan"), 3, 4], r"not \[x, y, width, height\] in finite numbers"),
    ],
)
def test_numbers_that_are_none_are_refused_before_training(coco, part, value, message):
    document, save = coco
    document["annotations"][0][part] = value
    with pytest.raises(ValueError, match=message):
        CocoInstances(*save())


def test_an_entry_that_is_no_dictionary_is_refused(coco):
    document, save = coco
    document["images"].append("x.jpg")
    with pytest.raises(ValueError, match=r"images must be a list of dictionaries; got 'x\.jpg'"):
        CocoInstances(*save())
