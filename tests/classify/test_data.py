"""Images of every kind become the same batch; what cannot be read is named; classes must agree."""

import io
import tarfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from timm.data.auto_augment import RandAugment

import botvision
from botvision.backbone.weights import other_normalisation
from botvision.classify.config import AugmentConfig, DataConfig, check_augment
from botvision.classify.data import (
    Bad,
    ImageDataset,
    build_split,
    check_classes,
    collate,
    train_transform,
    val_transform,
)
from botvision.classify.model import normalisation
from botvision.classify.shards import Shard, ShardBatches, find_shards, read_shard
from botvision.classify.sources import Folders, open_source, read_class_names
from botvision.cli import recipe_path
from botvision.digits import make_digits
from botvision.engine.loader import EpochPosition, Share

MEAN = STD = (0.5, 0.5, 0.5)
AS_IS = val_transform(32, 1.0, MEAN, STD)


def share(*, train=False, batch_size=4):
    return Share(batch_size, train, EpochPosition())


def config(where, **options):
    return DataConfig(str(where), str(where), **({"batch_size": 4, "workers": 0} | options))


def load(where, *, train=False, transform=AS_IS, **options):
    data = config(where, **options)
    return build_split(str(where), data, transform, share(train=train))


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "images"
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 50), colour).save(root / name / f"{number}.png")
    return root


def test_class_folders_as_imagenets(folders):
    loader = load(folders)
    assert (loader.classes, loader.steps, loader.samples) == (["cat", "dog"], 2, 6)
    first, second = loader.batches
    assert (first.images.shape, second.images.shape) == ((4, 3, 32, 32), (2, 3, 32, 32))
    assert [*first.labels.tolist(), *second.labels.tolist()] == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(first.images[0].mean((1, 2)), torch.tensor([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("kind", ["CMYK", "palette", "alpha", "grey", "16-bit", "EXIF"])
def test_images_of_every_kind_are_read_right(folders, kind):
    left_white = np.zeros((40, 40, 3), np.uint8)
    left_white[:, :20] = 255
    image, options, ending = Image.fromarray(left_white), {}, "png"
    if kind == "CMYK":
        image, ending = image.convert("CMYK"), "jpg"
    elif kind == "palette":
        image = image.convert("P")
    elif kind == "alpha":
        image = image.convert("RGBA")
    elif kind == "grey":
        image = image.convert("L")
    elif kind == "16-bit":
        image = Image.fromarray(left_white[..., 0].astype(np.uint16) * 257)
    elif kind == "EXIF":
        exif = Image.Exif()
        exif[0x0112] = 8  # shown turned by 90° against the clock
        image, options, ending = image.rotate(-90), {"exif": exif}, "jpg"
    path = folders / "cat" / f"a.{ending}"
    image.save(path, **options)
    source = Folders(folders)
    pixels = np.asarray(source.open(source.samples.index((str(path), 0)))[0]).astype(int)
    assert pixels.shape == (40, 40, 3)
    assert pixels[:, :16].min() > 230
    assert pixels[:, 24:].max() < 25


def test_an_unreadable_image_is_set_aside_with_its_name(folders):
    (folders / "cat" / "1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folders / "dog" / "float.tif")
    batches = list(load(folders).batches)
    assert sum(len(batch.labels) for batch in batches) == 5
    reasons = [reason for batch in batches for reason in batch.bad]
    assert len(reasons) == 2
    assert "1.png" in reasons[0]
    assert "mode F has no known range of brightness" in reasons[1]


def test_a_batch_of_unreadable_images_alone_is_empty():
    batch = collate([Bad("a"), Bad("b")])
    assert (len(batch.images), len(batch.labels), batch.bad) == (0, 0, ["a", "b"])


def test_class_folders_that_are_none_are_refused(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder at gone; give a folder of class folders"):
        open_source("gone", split="train")
    (folders / "emu").mkdir()
    (folders / "emu" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"class folders without an image: emu \(1 of them\); fill them, or remove"):
        Folders(folders)
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (9, 9)).save(flat / "a.png")
    with pytest.raises(ValueError, match="has no class folders; its images must lie in a folder for each class"):
        Folders(flat)


def test_splits_of_different_classes_are_refused(folders, tmp_path):
    other = tmp_path / "val" / "cat"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "a.png")
    data = DataConfig(str(folders), str(tmp_path / "val"))
    with pytest.raises(ValueError, match=r"have different classes: dog only in .*images; use the same class folders"):
        check_classes(load(folders), load(tmp_path / "val"), data)


def test_too_few_images_for_a_step_are_refused(folders):
    with pytest.raises(
        ValueError, match=r"has 6 images, fewer than batch_size=7 × 1 devices; lower --data\.batch_size"
    ):
        build_split(str(folders), config(folders), AS_IS, share(train=True, batch_size=7))


def test_digits_hold_out_every_fourth():
    train, val = (load("digits", train=is_train) for is_train in (True, False))
    assert (train.samples, val.samples, len(val.classes)) == (1347, 450, 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_same_images_as_folders(tmp_path, workers):
    make_digits(tmp_path / "folders", size=32)
    make_digits(tmp_path / "shards", size=32, shards=3)
    names = tmp_path / "shards" / "classes.txt"
    streamed = load(tmp_path / "shards" / "train.json", class_names=names, workers=workers)
    listed = load(tmp_path / "folders" / "train")
    assert (streamed.samples, streamed.classes, streamed.steps) == (listed.samples, listed.classes, listed.steps)

    def sums(loader):
        pairs = [(label, round(float(image.sum()), 2)) for batch in loader.batches
                 for image, label in zip(batch.images, batch.labels.tolist(), strict=True)]  # fmt: skip
        return sorted(pairs)

    assert sums(streamed) == sums(listed)


def test_shards_need_class_names_and_labels_among_them(tmp_path):
    make_digits(tmp_path / "d", size=8, shards=1)
    index = tmp_path / "d" / "val.json"
    with pytest.raises(
        ValueError, match=r"shards hold class numbers alone; give a file of names as --data\.class_names"
    ):
        load(index)
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"is of class [2-9], but there are 2 class names from 0"):
        list(load(index, class_names=tmp_path / "few.txt").batches)
    with pytest.raises(FileNotFoundError, match=r"no class names at gone\.txt"):
        read_class_names(Path("gone.txt"))


def test_a_shard_with_a_broken_image_or_label(tmp_path):
    (tmp_path / "names.txt").write_text("a\n")

    def write(label):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name, content in (("1.png", b"broken"), ("1.cls", label)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))

    write(b"0")
    (batch,) = load(tmp_path / "x.tar", class_names=tmp_path / "names.txt").batches
    assert len(batch.labels) == 0
    assert "x.tar/1" in batch.bad[0]
    write(b"cat")
    with pytest.raises(ValueError, match=r"x\.tar/1\.cls must hold a class number from 0; got b'cat'"):
        list(load(tmp_path / "x.tar", class_names=tmp_path / "names.txt").batches)


def test_timms_datasets_are_read_by_number(tmp_path):
    make_digits(tmp_path / "d", size=32)
    root = str(tmp_path / "d")
    source = open_source("torch/image_folder", split="val", root=root, classes=[str(n) for n in range(10)])
    assert len(source) == 450
    assert source.open(0)[1] == 0
    with pytest.raises(
        ValueError, match=r"class_names has 2 names, torch/image_folder \(val\) has 10 classes: 0, 1, 2"
    ):
        open_source("torch/image_folder", split="val", root=root, classes=["a", "b"])
    few = SimpleNamespace(classes=["a", "b"], open=lambda _: (Image.new("RGB", (8, 8)), 9))
    with pytest.raises(ValueError, match=r"sample 449 is of class 9, but there are 2 class names from 0"):
        ImageDataset(few, AS_IS)[449]
    with pytest.raises(ValueError, match=r"timm cannot open torch/nothing"):
        open_source("torch/nothing", split="val", root=root, classes=["a"])


def test_timms_streams_are_refused(monkeypatch):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ()

    monkeypatch.setattr("botvision.classify.sources.create_dataset", lambda *_, **__: Stream())
    with pytest.raises(ValueError, match=r"tfds/digits can only be streamed; give its tar shards to --data\.train"):
        open_source("tfds/digits", split="train", classes=["a"])


def test_augmentation_is_timms_and_leaves_the_size():
    augment = AugmentConfig(auto_augment="rand-m10-n2", erase=1.0, flip=1.0)
    transform = train_transform(DataConfig("a", "b", augment=augment), 48, MEAN, STD)
    assert "RandAugment" in str(transform)
    assert "RandomErasing" in str(transform)
    assert transform(Image.new("RGB", (90, 60), "red")).shape == (3, 48, 48)


def test_magnitudes_of_randaugment_are_those_that_are_asked_for():
    """timm stops at 10 without a word, unless mmax raises it, and applies every other operation."""
    with pytest.raises(ValueError, match=r"timm stops at magnitude 10, unless mmax raises it; e.g. rand-m15-n2-mmax30"):
        check_augment(AugmentConfig(auto_augment="rand-m15-n2"))
    for name, magnitude in (("imagenet-200ep", 10), *((f"imagenet-350ep-s1-t{number}", 15) for number in range(3, 8))):
        recipe = yaml.safe_load(recipe_path(name, "botvision.classify.recipes").read_text())
        augment = AugmentConfig(auto_augment=recipe["data"]["augment"]["auto_augment"])
        check_augment(augment)
        [policy] = [
            part
            for part in train_transform(DataConfig("a", "b", augment=augment), 48, MEAN, STD).transforms
            if isinstance(part, RandAugment)
        ]
        assert policy.num_layers == 2
        assert {(op.magnitude, op.prob) for op in policy.ops} == {(magnitude, 1.0)}
        assert all((op.magnitude_max or 10) >= magnitude for op in policy.ops)


@pytest.mark.parametrize("world", [1, 2])
def test_samples_that_are_left_over_are_others_each_epoch(world):
    """Of a single shard the same last ones once were never trained on."""
    begun = set()
    for epoch in range(40):
        position = EpochPosition()
        position.begin(epoch, 0)
        parts = [
            ShardBatches([Shard("a.tar", 23)], Share(4, True, position, 0, rank, world)).interval_of_rank()
            for rank in range(world)
        ]
        assert all(end - begin == 20 // world // 4 * 4 for begin, end in parts)
        assert parts == sorted(parts)
        assert all(before[1] == after[0] for before, after in pairwise(parts))
        assert 0 <= parts[0][0] <= parts[-1][1] <= 23
        begun.add(parts[0][0])
    assert begun == set(range(23 - 16 * (world == 2) - 20 * (world == 1) + 1))


def test_shards_are_counted_as_they_are_read(tmp_path):
    """Upper-case endings count; copies that a Mac leaves, and names that end at their first dot, do not."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    files = {"a.PNG": image.getvalue(), "a.CLS": b"1", "._a.cls": b"1", "b.v1.cls": b"0", "c.png": image.getvalue()}
    files["c.cls"] = b"0"
    with tarfile.open(tmp_path / "one.tar", "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (shard,) = find_shards(str(tmp_path / "one.tar"))
    assert shard.samples == 2
    assert [raw.label for raw in read_shard(shard)] == [1, 0]


def test_a_folder_of_splits_is_answered_with_its_training_split(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.png")
    with pytest.raises(ValueError, match=r"not classes; give each by itself, e\.g\. --data\.train .*/train$"):
        Folders(tmp_path)


def test_a_class_folder_of_hidden_images_alone_is_named(tmp_path):
    for name in ("a/1.png", "b/._1.png", ".ipynb_checkpoints/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"class folders without an image: b \(1 of them\)"):
        Folders(tmp_path)


def test_weights_that_were_normalised_otherwise_are_told():
    own = normalisation(botvision.create_model("botnet50"))
    assert other_normalisation("resnet50.a1_in1k", *own) == ""
    assert "std (0.5, 0.5, 0.5)" in other_normalisation("resnet50d.ra4_e3600_r224_in1k", *own)
    assert other_normalisation("mine.pth", *own) == ""
