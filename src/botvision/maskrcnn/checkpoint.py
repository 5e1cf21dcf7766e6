"""A trained detector as a file: tensors and plain numbers, enough to build it again."""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.model import MaskRCNN, build_mask_rcnn

KEY = "botvision"


@dataclass(frozen=True)
class ModelConfig:
    """The detector to build.

    Args:
        backbone: a BoTNet or any timm name with a feature pyramid.
        preset: sizes behind the backbone: paper, torchvision_v2 or tiny.
        canvas: side of the square canvas in pixels, or [shortest, longest] for free sizes.
        backbone_options: more for the backbone, e.g. {position: absolute}.
    """

    backbone: str = "botnet50"
    preset: str = "paper"
    canvas: int | tuple[int, int] = 1024
    backbone_options: dict[str, Any] | None = None

    def build(self, num_classes: int) -> MaskRCNN:
        """The model, freshly initialised."""
        return build_mask_rcnn(
            self.backbone,
            num_classes,
            preset=self.preset,
            canvas=self.canvas,
            backbone_options=self.backbone_options,
        )


@dataclass(frozen=True)
class Detector:
    """A trained model in eval mode, with the names of what it finds."""

    model: MaskRCNN
    categories: list[Category]

    @property
    def category_names(self) -> str:
        """The first names, for messages."""
        return ", ".join(c.name for c in self.categories[:5])


def describe(model: ModelConfig, categories: list[Category]) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain types that load with `weights_only=True`."""
    return {"house": "maskrcnn", "model": asdict(model), "categories": [list(c) for c in categories]}


def load_detector(path: Path) -> Detector:
    """Build a detector from a run's checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of ours, or one whose tensors do not fit its own description.
    """
    content = read_checkpoint(path)
    about = content[KEY]
    categories = [Category(*c) for c in about["categories"]]
    model = ModelConfig(**about["model"]).build(len(categories))
    state = {k.removeprefix("model."): v for k, v in content["state_dict"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the model that it describes: {first}; is the file mixed up?") from error
    return Detector(model.eval(), categories)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors on the CPU; nothing in it is executed."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}; give a file such as runs/maskrcnn/demo/checkpoints/best.ckpt"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a whole checkpoint of tensors; give a .ckpt that a run has written") from error
    about = content.get(KEY) if isinstance(content, dict) else None
    if about is None or about.get("house") != "maskrcnn":
        raise ValueError(f"{path} is not a BoTVision Mask R-CNN checkpoint; give one from runs/maskrcnn/…/checkpoints")
    return dict(content)


def pick_device(device: str) -> torch.device:
    """The device by its name; "auto" is the GPU where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; use auto, cpu or cuda") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} is not there: torch sees no GPU; use auto or cpu")
    return place
