"""What all tests share: fixed seeds, and a small world in COCO form made on the spot."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("MPLBACKEND", "Agg")

import json
import re
import shutil
import subprocess

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def few_digits():
    """scikit-learn has 448 digits, 336 of them to train on; a process that a test starts has them all."""
    from sklearn import datasets
    from sklearn.utils import Bunch

    every = datasets.load_digits()
    few = Bunch(images=every.images[:448], target=every.target[:448])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", lambda: few)
        yield


@pytest.fixture
def in_browser(tmp_path):
    """Opens a page from disk in headless Chromium, as narrow as a phone, and gives what a script left in its title."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium; the file is checked without it")

    def run(page, script):
        path = tmp_path / "in_browser.html"
        path.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        flags += ["--window-size=390,844", "--virtual-time-budget=8000", "--dump-dom", path.as_uri()]
        done = subprocess.run([chromium, *flags], capture_output=True, text=True, timeout=120, check=False)
        if not done.stdout.strip():
            pytest.skip(f"Chromium does not run here: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1])

    return run


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A folder of 16 + 6 scenes of 64 px; tests must not change it."""
    from botvision.scenes import make_scenes

    out = tmp_path_factory.mktemp("world") / "scenes"
    make_scenes(out, train=16, val=6, size=64, digits=(2, 4), scale=(0.25, 0.5))
    return out


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A checkpoint of a small detector with random weights, which finds much at 0.25; tests must not change it."""
    from botvision.maskrcnn.checkpoint import build_model, describe
    from botvision.maskrcnn.coco import Category
    from botvision.maskrcnn.config import ModelConfig

    torch.manual_seed(0)
    config = ModelConfig("botnet14", "nano", 64, backbone_options={"channels": [16, 32, 64, 128]})
    model = build_model(config, 3)
    about = describe(config, [Category(7, "cat"), Category(8, "dog"), Category(11, "cow")])
    path = tmp_path_factory.mktemp("untrained") / "last.ckpt"
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "botvision": about}, path)
    return path


@pytest.fixture
def coco(scenes, tmp_path):
    """A COCO document to spoil, and a function that saves it and gives (annotations, images)."""
    document = json.loads((scenes / "annotations" / "train.json").read_text())

    def save():
        path = tmp_path / "spoilt.json"
        path.write_text(json.dumps(document))
        return path, scenes / "train"

    return document, save
