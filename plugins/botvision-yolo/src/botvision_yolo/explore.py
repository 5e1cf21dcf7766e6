"""Open a YOLO's checkpoint for `botvision explore`: its attention or receptive field, and objects."""

# h×w picture: the image resized and padded

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from botvision.explore import Found, Seen, Subject
from botvision_yolo.model import YOLO

GREY = 114  # ultralytics' padding
STRIDE = 32


def open_subject(path: Path, *, img_size: int | None, threshold: float) -> Subject:
    """A model of ultralytics', with our blocks or without.

    Args:
        path: a `.pt` file.
        img_size: px of the longer side; none is what it was trained at, 640 where it does not tell.
        threshold: lowest score of an object.

    Raises:
        ValueError: a file that cannot be opened, or too small an image size.
    """
    if img_size is not None and img_size < STRIDE:
        raise ValueError(f"img_size={img_size} must be at least {STRIDE} px; e.g. 640")
    yolo = opened(path)
    model = yolo.model.float().eval()
    size = img_size or int(yolo.overrides.get("imgsz") or 640)
    names = tuple(yolo.names[number] for number in sorted(yolo.names))

    def look(image: Image.Image) -> Seen:
        options = {"imgsz": size, "conf": threshold, "device": "cpu", "verbose": False}
        [result] = yolo.predict(np.asarray(image)[..., ::-1], **options)
        picture, _, scale = padded(image, size)
        batch = batch_of(picture)
        with torch.inference_mode():  # after `predict`, whose own padding is another: what is watched is this
            yolo.model.float()(batch)
        found = []
        for number, box in enumerate(result.boxes or ()):
            outline = None if result.masks is None else result.masks.xy[number] * scale
            x1, y1, x2, y2 = (box.xyxy[0] * scale).tolist()
            mask = None if outline is None else filled(outline, picture.shape[:2])
            found.append(Found(result.names[int(box.cls)], float(box.conf), (x1, y1, x2, y2), mask))
        frame = (0.0, 0.0, picture.shape[1] / scale, picture.shape[0] / scale)
        return Seen(batch, picture, frame, found)

    name = f"{path.parents[1].name}/{path.stem}" if path.parent.name == "weights" else path.stem
    return Subject(name, f"YOLO, {size} px, {len(names)} classes", model, look, coarsest_map(model), names)


def opened(path: Path) -> YOLO:
    """A checkpoint's model.

    Raises:
        ValueError: the file cannot be opened.
    """
    try:
        return YOLO(str(path))
    except ValueError:  # ours, e.g. of a fork's checkpoint: it says what to do
        raise
    except Exception as error:  # whatever pickle says of a torn file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be opened: {reason}; give a whole .pt of a training") from error


def padded(image: Image.Image, size: int) -> tuple[np.ndarray, tuple[int, int], float]:
    """The image with its longer side `size`, padded right and below to the stride; (h, w) within; its enlargement."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    shape = tuple(-(-side // STRIDE) * STRIDE for side in (height, width))
    picture = np.full((*shape, 3), GREY, np.uint8)
    picture[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return picture, (height, width), scale


def batch_of(picture: np.ndarray) -> Tensor:
    """(1, 3, h, w), what a YOLO is given of a picture."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def filled(outline: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask (h, w) of what an outline (N, 2) encloses."""
    mask = Image.new("L", (size[1], size[0]))
    if len(outline) > 2:
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    return np.asarray(mask)


def coarsest_map(model: Any) -> Callable[[Tensor], Tensor]:
    """A function (1, 3, h, w) → (1, C, h', w'): what the head is given at the coarsest scale, e.g. P5."""
    head = model.model[-1]

    def last_map(x: Tensor) -> Tensor:
        head.forward = lambda given, *_: given
        try:
            maps = model(x)
        finally:
            del head.forward
        return min(maps, key=lambda one: one.shape[-1]) if isinstance(maps, list) else maps

    return last_map
