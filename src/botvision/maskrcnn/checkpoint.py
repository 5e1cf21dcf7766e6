"""A trained detector as a file: tensors and plain numbers, enough to build it again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from botvision.engine.checkpoint import KEY, load_weights, read_checkpoint
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.model import MaskRCNN, build_mask_rcnn


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
    content = read_checkpoint(path, house="maskrcnn")
    about = content[KEY]
    categories = [Category(*c) for c in about["categories"]]
    model = load_weights(ModelConfig(**about["model"]).build(len(categories)), content, path)
    return Detector(cast("MaskRCNN", model), categories)
