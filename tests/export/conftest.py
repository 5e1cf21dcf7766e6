"""Files that are exported once for all tests: they take seconds each."""

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def exported_detector(untrained, tmp_path_factory):
    """The untrained detector as .onnx, and what its export said; tests must not change it."""
    from botvision.export import export

    return export(str(untrained), out=tmp_path_factory.mktemp("exported") / "detector.onnx", licence="cc0-1.0")


@pytest.fixture(scope="session")
def classifier_checkpoint(tmp_path_factory):
    """A checkpoint of a small classifier with random weights."""
    from botvision.classify.config import ModelConfig
    from botvision.classify.model import build_model, describe

    torch.manual_seed(0)
    config = ModelConfig("botnet14", 64, options={"channels": [16, 32, 64, 128]})
    model = build_model(config, 3)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    about = describe(config, ["a", "b", "c"], model, crop=0.95)
    path = tmp_path_factory.mktemp("classifier") / "last.ckpt"
    torch.save({"state_dict": state, "botvision": about}, path)
    return path


@pytest.fixture(scope="session")
def exported_classifier(classifier_checkpoint, tmp_path_factory):
    """The classifier as .onnx."""
    from botvision.export import export

    return export(str(classifier_checkpoint), out=tmp_path_factory.mktemp("exported") / "classifier.onnx")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Class folders of two drawn pictures each, of several sizes."""
    from botvision.export.subject import drawn

    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate("abc"):
        (folder / name).mkdir()
        for side in (60, 97):
            Image.fromarray(drawn(1, side + 20 * number, side)[0]).save(folder / name / f"{side}.png")
    return folder
