"""What the plug-in's tests share: settings of their own, no network, small scenes, a model to start from."""

import os
import shutil
import tempfile

os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp(prefix="botvision-yolo-")
os.environ["YOLO_OFFLINE"] = "true"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from torch import nn


def pytest_collection_modifyitems(items):
    for item in items:
        if "botvision-yolo" in str(item.path):  # warnings of ultralytics and of the exporters are theirs
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def pytest_unconfigure():
    shutil.rmtree(os.environ["YOLO_CONFIG_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data.yaml of 16 + 8 scenes of 64 px; tests must not change them."""
    from botvision_yolo.scenes import scenes

    out = tmp_path_factory.mktemp("scenes") / "yolo"
    scenes(out, train=16, val=8, size=64)
    return out / "data.yaml"


@pytest.fixture(scope="session")
def small():
    """Options of a run that takes seconds."""
    return {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "plots": False, "verbose": False}


@pytest.fixture
def trained():
    """A function that makes a model with BatchNorms that do something, as trained ones do."""

    def make(name="yolo11n.yaml", **options):
        from botvision_yolo import YOLO

        model = YOLO(name, **options)
        for norm in model.model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(std=0.1)
                norm.running_var.uniform_(0.5, 1.5)
        model.model.names = {i: f"thing {i}" for i in range(len(model.model.names))}
        model.model.eval()
        return model

    return make


@pytest.fixture
def calibrated():
    """A function that gives every BatchNorm the statistics of random images, so that features vary."""

    def calibrate(model, size=(160, 192)):
        norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            if not norm.weight.any():
                nn.init.ones_(norm.weight)  # a block that starts as identity would hide what is in it
        with torch.no_grad():
            model.train()(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3)))
        for norm in norms:
            norm.momentum = 0.03
        return model.eval()

    return calibrate
