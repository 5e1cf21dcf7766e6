"""What is done without torch, beside what torch does."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from botvision.classify.data import val_transform
from botvision.deploy.classifier import cropped, normalised
from botvision.deploy.masks import paste
from botvision.inputs import as_array

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def sampled(probabilities, box, *, height, width):
    """A mask as torch's `grid_sample` reads it at the pixels' centres."""
    x1, y1, x2, y2 = box.tolist()
    across = (torch.arange(width) + 0.5 - x1) / max(x2 - x1, 1e-3) * 2 - 1
    down = (torch.arange(height) + 0.5 - y1) / max(y2 - y1, 1e-3) * 2 - 1
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)[None]
    dense = torch.nn.functional.grid_sample(probabilities[None, None], grid, align_corners=False)[0, 0] >= 0.5
    inside = (torch.arange(height) >= int(y1))[:, None] & (torch.arange(width) >= int(x1))
    return (
        dense & inside & (torch.arange(height) < np.ceil(y2))[:, None] & (torch.arange(width) < np.ceil(x2))
    ).numpy()


def test_masks_are_pasted_as_torch_samples_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x1, y1 = rng.uniform(-5, 60, 2)
        box = np.array([x1, y1, x1 + rng.uniform(1, 60), y1 + rng.uniform(1, 60)], np.float32)
        probabilities = rng.random((28, 28), np.float32)
        wanted = sampled(torch.from_numpy(probabilities), box, height=50, width=80)
        found = paste(probabilities, box, height=50, width=80)
        assert (found != wanted).sum() <= 1  # a pixel on one half to a rounding


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 333), (333, 97), (40, 30), (67, 67)])
@pytest.mark.parametrize("crop", [0.95, 1.0])
def test_classifiers_see_what_training_evaluates(height, width, crop):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = val_transform(64, crop, MEAN, STD)(Image.fromarray(image))
    found = normalised(cropped(image, size=64, crop=crop)[None], MEAN, STD)[0]
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def bomb(path, side=60_000):
    """A PNG of a few bytes that says that it is side × side."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_images_that_would_take_all_memory_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bomb\.png: it has more than 178,956,970 pixels"):
        as_array(bomb(tmp_path / "bomb.png"))
    with pytest.raises(ValueError, match="60000×60000 has more than 178,956,970 pixels"):
        as_array(np.broadcast_to(np.uint8(0), (60_000, 60_000, 3)))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"must be \(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"must be \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "must be of uint8"),
    ],
)
def test_arrays_of_another_form_are_refused(image, said):
    with pytest.raises(ValueError, match=said):
        as_array(image)


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="got int"):
        as_array(3)


def test_grey_arrays_and_images_become_rgb():
    assert as_array(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    assert as_array(Image.new("L", (5, 4))).shape == (4, 5, 3)
