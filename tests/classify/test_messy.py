"""A stranger's class folders: one too high, hidden ones, validation images that are trained on, numbered names."""

import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import timm
from PIL import Image

from botvision import create_model
from botvision.backbone.botnet import EXTRA
from botvision.classify.commands import train
from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from botvision.classify.data import Bad, ImageDataset, Split, check_classes, val_transform
from botvision.classify.sources import Part, open_source, read_class_names, real_places
from botvision.deploy.classifier import cropped
from botvision.draw.classes import draw_confusion, draw_predictions
from botvision.engine.config import EngineConfig
from botvision.inputs import without_ends
from botvision.optim import INSERTED, freeze

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def folders(root, *classes, count=4):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(root / name / f"{number}.png")
    return root


def trained(data, out):
    vit = {"depth": 1, "embed_dim": 48, "num_heads": 2, "patch_size": 8}
    return train(
        data, out, model=ModelConfig("vit_tiny_patch16_224", img_size=32, options=vit), optim=OptimConfig(epochs=1),
        engine=EngineConfig(accelerator="cpu", devices=1, progress=False, report=False),
    )  # fmt: skip


def test_a_folder_too_high_is_no_class(tmp_path):
    root = folders(tmp_path / "data" / "PetImages", "Cat", "Dog").parent
    with pytest.raises(ValueError, match=r"one class folder, PetImages, .*\(Cat, Dog\); give .*PetImages"):
        open_source(str(root), split="train")
    one = folders(tmp_path / "one", "only")
    with pytest.raises(ValueError, match="has one class, only; a classifier needs at least two"):
        trained(DataConfig(str(one), batch_size=2, workers=0), tmp_path / "out")


def test_hidden_folders_are_no_classes_and_hidden_copies_no_images(tmp_path):
    root = folders(tmp_path, "a", "b", ".ipynb_checkpoints", "a/.ipynb_checkpoints")
    source = open_source(str(root), split="train")
    assert (source.classes, len(source)) == (["a", "b"], 8)


def test_validation_images_that_are_trained_on_are_told(tmp_path, capsys):
    root = folders(tmp_path / "data", "a", "b")
    trained(DataConfig(str(root), str(root), batch_size=4, workers=0), tmp_path / "out")
    assert "warning: 8 of 8 validation images are trained on, e.g. " in capsys.readouterr().err
    trained(DataConfig(str(root), batch_size=4, workers=0), tmp_path / "part")
    assert "are trained on" not in capsys.readouterr().err
    trained(
        DataConfig("torch/image_folder", "torch/image_folder", root=str(root), batch_size=4, workers=0), tmp_path / "t"
    )
    assert "warning: 8 of 8 validation images are trained on" in capsys.readouterr().err


def test_names_are_numbered_by_line(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n\n")
    with pytest.raises(ValueError, match=r"names\.txt: line 2 is empty"):
        read_class_names(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("cat\ndog\n\n")
    assert read_class_names(tmp_path / "names.txt") == ["cat", "dog"]
    root = folders(tmp_path / "data", "ankle boot", "t-shirt")
    with pytest.raises(ValueError, match="numbers its classes in another order than"):
        open_source("torch/image_folder", split="train", root=str(root), classes=["t-shirt", "ankle boot"])
    assert open_source("torch/image_folder", split="train", root=str(root)).classes == ["ankle boot", "t-shirt"]


def test_a_dataset_of_timm_is_read_as_folders_are(tmp_path):
    root = folders(tmp_path, "a", "b", count=1)
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (100, 80)).save(root / "a" / "0.jpg", exif=tag)
    (root / "a" / "0.png").unlink()
    Image.fromarray(np.full((8, 8), 127 << 8, np.uint16)).save(root / "b" / "0.png")
    for source in (open_source(str(root), split="train"), open_source("torch/image_folder", split="t", root=str(root))):
        images = [source.open(number)[0] for number in range(2)]
        assert images[0].size == (80, 100)
        assert np.asarray(images[1]).max() == 127


def test_files_that_cannot_be_read_are_named_and_not_passed_over(tmp_path):
    """In class folders too, as `predict` names them: a telephone's .heic without its reader, JPEG XL, raw files."""
    root = folders(tmp_path, "a", "b")
    for name in ("x.jxl", "y.dng", "z.eps", "notes.txt"):
        (root / "a" / name).write_bytes(b"ftyp")
    source = open_source(str(root), split="train")
    assert len(source) == 8 + 3
    data = ImageDataset(source, val_transform(32, 0.95, (0.5,) * 3, (0.5,) * 3))
    reasons = [sample.reason for sample in map(data.__getitem__, range(len(data))) if isinstance(sample, Bad)]
    assert len(reasons) == 3
    assert "Pillow reads no JPEG XL; convert it" in reasons[0]


def test_names_of_one_file_are_on_one_side(tmp_path):
    """A rare class repeated by links, as the guide on imbalanced classes has it."""
    root = folders(tmp_path, "a", "b", count=5)
    for number in range(5):
        for time in range(3):
            (root / "b" / f"{number}-{time}.png").symlink_to(root / "b" / f"{number}.png")
    source = open_source(str(root), split="train")
    for seed in range(20):
        train, val = (Part(source, 0.2, seed=seed, kept=kept) for kept in (False, True))
        assert sorted([*train.numbers, *val.numbers]) == list(range(25))
        sides = [{os.path.realpath(path) for path, _ in part.samples} for part in (train, val)]
        assert not sides[0] & sides[1]
        assert len([label for _, label in val.samples if label == 1]) == 4
    one = folders(tmp_path / "one", "a", "b", count=1)
    for name in ("a", "b"):
        (one / name / "again.png").symlink_to(one / name / "0.png")
    with pytest.raises(ValueError, match="class a has 2 images that are links to one, and two splits need two"):
        Part(open_source(str(one), split="train"), 0.5, seed=0, kept=True)


def test_places_inside_a_tar_are_no_folders():
    assert list(real_places(["gone/a/1.png", "gone/a/2.png", "3.png"])) == [
        (os.path.realpath("gone/a"), "1.png"), (os.path.realpath("gone/a"), "2.png"), (os.path.realpath(""), "3.png")
    ]  # fmt: skip


def test_a_spawned_worker_gets_the_transform():
    transform = pickle.loads(pickle.dumps(val_transform(32, 0.95, (0.5,) * 3, (0.5,) * 3)))
    assert tuple(transform(Image.new("RGB", (64, 48))).shape) == (3, 32, 32)


def test_validation_images_that_link_to_training_images_are_told(tmp_path, capsys):
    root = folders(tmp_path / "train", "a", "b")
    for path in root.glob("*/*.png"):
        link = tmp_path / "val" / path.parent.name / f"copy-{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    trained(DataConfig(str(root), str(tmp_path / "val"), batch_size=4, workers=0), tmp_path / "out")
    assert "warning: 8 of 8 validation images are trained on, e.g. " in capsys.readouterr().err


def test_splits_that_number_their_classes_differently_are_refused(tmp_path):
    """torchvision numbers the folders that are there: without b, c would be b."""
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    whole, part = folders(tmp_path / "train", "a", "b", "c"), folders(tmp_path / "val", "a", "c")
    names = read_class_names(tmp_path / "names.txt")
    assert open_source("torch/image_folder", split="train", root=str(whole), classes=names).classes == names
    with pytest.raises(ValueError, match=r"data\.class_names has 3 names, torch/image_folder \(val\) has 2 classes: a"):
        open_source("torch/image_folder", split="val", root=str(part), classes=names)
    splits = []
    for folder in (whole, folders(tmp_path / "other", "a", "c", "d")):
        source = open_source("torch/image_folder", split="train", root=str(folder), classes=names)
        loader = SimpleNamespace(source=ImageDataset(source, None))
        splits.append(Split(loader, source.classes, 1, 12))
    with pytest.raises(ValueError, match=r"number their classes differently \(a, b, c … and a, c, d …\)"):
        check_classes(*splits, DataConfig("torch/x", "torch/x"))


def test_a_broken_image_of_timms_is_not_the_next_one_twice(tmp_path, monkeypatch):
    root = folders(tmp_path, "a", "b", count=2)
    (root / "a" / "1.png").write_bytes(b"no image")
    made = timm.data.create_dataset("", root=str(root))
    made.classes = ["a", "b"]
    monkeypatch.setattr("botvision.classify.sources.create_dataset", lambda *_, **__: made)
    data = ImageDataset(open_source("hfds/any", split="train", root=None), lambda image: image)
    read = [data[number] for number in range(4)]
    assert [sample if isinstance(sample, Bad) else sample[1] for sample in read][0::2] == [0, 1]
    assert "sample 1 of hfds/any cannot be read" in read[1].reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": {"crop": 95}}, r"data\.crop=95 must be above 0 and at most 1; e\.g\. 0\.95 for 95 %"),
        ({"data": {"augment": AugmentConfig(flip=50)}}, r"data\.augment\.flip=50 must lie in 0 … 1"),
        ({"data": {"augment": AugmentConfig(mixup=-1)}}, r"data\.augment\.mixup=-1 must be at least 0"),
        (
            {"data": {"augment": AugmentConfig(scale=(8, 100))}},
            r"data\.augment\.scale=\(8, 100\) must rise from ",
        ),
        ({"optim": {"milestones": (30, 60)}}, r"optim\.milestones \(30, 60\) must be rising fractions of the run"),
        ({"optim": {"milestones": (0.9, 0.6)}}, r"optim\.milestones \(0\.9, 0\.6\) must be rising fractions"),
        ({"model": {"options": {"num_classes": 5}}}, "model.options has num_classes, which is that of the data"),
        ({"model": {"options": {"in_chans": 1}}}, "model.options has in_chans, which is 3: images are read as RGB"),
        ({"model": {"drop_path": -1.0}}, r"model\.drop_path=-1 must be at least 0 and below 1"),
        ({"data": {"bad_limit": -1}}, r"data\.bad_limit=-1 must be at least 0"),
        ({"data": {"augment": AugmentConfig("foo")}}, r"data\.augment\.auto_augment='foo' is no policy of timm's"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_read(options, said, tmp_path):
    given = {name: options.get(name, {}) for name in ("data", "optim", "model")}
    with pytest.raises(ValueError, match=said):
        train(
            DataConfig("gone", **given["data"]), tmp_path / "out", model=ModelConfig("resnet18", **given["model"]),
            optim=OptimConfig(**given["optim"]), engine=EngineConfig(accelerator="cpu", devices=1),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1), (3, 2000)])
def test_a_long_thin_image_does_not_fill_the_memory(size, monkeypatch):
    """Resized whole by its shorter side, 1 × 40,000 px would be 8.8 GB."""
    image, resize, most = Image.new("RGB", size, (10, 200, 30)), Image.Image.resize, []

    def counted(self, to, *args, **options):
        most.append(to[0] * to[1])
        return resize(self, to, *args, **options) if most[-1] < 1e8 else pytest.fail("fills the memory")

    monkeypatch.setattr(Image.Image, "resize", counted)
    made = val_transform(224, 0.95, (0.0,) * 3, (1.0,) * 3)(image)
    bare = cropped(np.asarray(image), size=224, crop=0.95)
    assert len(most) == 2
    assert tuple(made.shape) == (3, 224, 224)
    assert bare.shape == (224, 224, 3)
    assert (bare == (10, 200, 30)).all()
    for own, ends in ((size, True), ((64, 1), False), ((65, 1), True)):
        assert (without_ends(Image.new("RGB", own)).size != own) is ends


def test_names_with_dollars_are_no_formulas(tmp_path):
    """A drawing that fails would end a whole training without its summary."""
    names = [r"a^$\q", "$", "b_{"]
    draw_confusion(np.eye(3, dtype=np.int64), names, tmp_path / "confusion.png", title="accuracy")
    draw_predictions([np.zeros((8, 8, 3), np.uint8)] * 3, [(name, None) for name in names], tmp_path / "a.jpg")


def test_an_inserted_block_of_any_kind_is_trained_where_the_rest_is_frozen():
    for options in ({"insert_block": "non_local"}, {}):
        model = create_model("botnet26", insert=("c4",), num_classes=3, **options)
        freeze(model)
        inserted = [one for name, one in model.named_parameters() if f".{EXTRA}." in name]
        assert inserted
        assert all(one.requires_grad for one in inserted)
        assert not model.layer1[0].conv1.weight.requires_grad
    assert INSERTED == EXTRA
