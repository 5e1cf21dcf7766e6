"""Build a classifier, and load a trained one from its checkpoint."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

from botvision.backbone import VARIANTS, check_offline, create_model
from botvision.classify.config import ModelConfig
from botvision.classify.exported import ExportedClassifier
from botvision.deploy.graph import is_graph
from botvision.engine.checkpoint import KEY, described_by, load_weights, read_checkpoint
from botvision.engine.settings import built

SMALLEST = 32  # px


def build_model(config: ModelConfig, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """The model, freshly initialised unless `pretrained`; nothing else is fetched.

    Raises:
        ValueError: too small images, an unknown name or option, or a model of a hub.
    """
    check_offline(config.name, config.options)
    if config.img_size < SMALLEST:
        raise ValueError(f"model.img_size={config.img_size} must be at least {SMALLEST} px; e.g. 224")
    drops = {"drop_rate": config.drop, "drop_path_rate": config.drop_path}  # not every model takes them
    options: dict[str, Any] = {name: rate for name, rate in drops.items() if rate} | (config.options or {})
    if config.name in VARIANTS or is_fixed(config.name):  # BoTNets: position tables with a row for every offset
        options.setdefault("img_size", config.img_size)
    try:
        return create_model(config.name, pretrained=pretrained, num_classes=num_classes, **options)
    except RuntimeError as error:
        if pretrained and "pretrained" in str(error).lower():
            raise ValueError(
                f"no weights of {config.name} to download: {error}; leave --model.pretrained out"
            ) from error
        raise


@dataclass(frozen=True)
class Classifier:
    """A trained model in eval mode.

    Attributes:
        model: (B, 3, H, W) normalised → (B, K) logits.
        classes: names of the K classes.
        config: what it was built from.
        mean, std: of the normalised images.
        crop: share of the shorter side that it was evaluated on.
    """

    model: nn.Module
    classes: list[str]
    config: ModelConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float

    def check_size(self, size: int) -> None:
        """Refuse images that the model cannot take.

        Raises:
            ValueError: too small, or another size than a fixed one.
        """
        if size < SMALLEST:
            raise ValueError(f"img_size={size} must be at least {SMALLEST} px; e.g. 224")
        if size != self.config.img_size and is_fixed(self.config.name):
            raise ValueError(
                f"{self.config.name} takes images of {self.config.img_size} px alone, as it was built; got {size}; "
                "leave img_size out"
            )


def is_fixed(name: str) -> bool:
    """Whether a timm model takes the one image size that it is built for."""
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(known is not None and known.fixed_input_size)


def describe(config: ModelConfig, classes: list[str], model: nn.Module, *, crop: float) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain types that load with `weights_only=True`."""
    mean, std = normalisation(model)
    about = {"task": "classify", "model": {**asdict(config), "pretrained": False}, "classes": classes}
    return {**about, "mean": list(mean), "std": list(std), "crop": crop}


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that the model's images are normalised with."""
    wanted: dict[str, Any] = cast("Any", model).pretrained_cfg
    return tuple(wanted["mean"]), tuple(wanted["std"])


def load_classifier(
    path: str | Path, *, device: torch.device | None = None, content: dict[str, Any] | None = None
) -> Classifier:
    """Build a classifier from a run's checkpoint, or open an exported one (.onnx, .xml).

    Args:
        path: of the file.
        device: where it computes.
        content: of the checkpoint, where `read_checkpoint` has read it already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a classifier's checkpoint, or one whose tensors do not fit its own description.
    """
    path = Path(path)
    if is_graph(path):
        return open_exported(path)
    content = read_checkpoint(path, task="classify") if content is None else content
    with described_by(path):
        about = content[KEY]
        config = built(ModelConfig, about["model"], path)
        classes = [str(name) for name in about["classes"]]
        mean, std = (tuple(map(float, about[name])) for name in ("mean", "std"))
        crop = float(about["crop"])
    model = load_weights(lambda: build_model(config, len(classes)), content, path)
    if device is not None:
        model = model.to(device)
    return Classifier(model, classes, config, mean, std, crop)


def open_exported(path: Path) -> Classifier:
    """An exported classifier, which computes on the CPU by its own engine."""
    model = ExportedClassifier(path)
    about = model.graph.about
    config = ModelConfig(about["model"], about["img_size"])
    return Classifier(model, about["classes"], config, tuple(about["mean"]), tuple(about["std"]), about["crop"])
