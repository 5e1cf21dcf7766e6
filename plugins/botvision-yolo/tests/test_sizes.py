"""Any image size: what a fixed grid breaks at."""

import numpy as np
import pytest
import torch

from botvision_yolo import YOLO

SIZES = [(320, 320), (640, 640), (480, 640), (96, 1280), (1280, 1280)]


@pytest.mark.parametrize("variant", ["botnet", "insert", "mhsa", "c2bot"])
def test_one_model_takes_every_size(variant):
    model = YOLO(f"yolo11n-{variant}.yaml").model.eval()
    for height, width in SIZES:
        with torch.inference_mode():
            out = model(torch.rand(1, 3, height, width))[0]
        assert out.shape == (1, 84, height * width * (1 / 64 + 1 / 256 + 1 / 1024))
        assert out.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"augment": True}, {"rect": False}], ids=str)
def test_predictions_at_sizes_of_their_own(options, trained):
    model = trained("yolo11n-mhsa.yaml")
    images = [np.random.default_rng(0).integers(0, 255, size, np.uint8) for size in ((200, 320, 3), (90, 50, 3))]
    for size in (320, 416):
        assert len(model.predict(images, imgsz=size, verbose=False, device="cpu", **options)) == 2
