"""A stranger's class folders: one too high, hidden ones, validation images that are trained on, numbered names."""

import numpy as np
import pytest
from PIL import Image

from botvision.classify.commands import train
from botvision.classify.config import DataConfig, ModelConfig, OptimConfig
from botvision.classify.sources import open_source, read_class_names
from botvision.engine.config import EngineConfig

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
