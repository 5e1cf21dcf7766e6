"""What is exported: a module for graphs, the model that judges it, inputs, what the file says."""

# B batch, H×W image, h×w map, K classes

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from botvision.backbone import create_model, from_pretrained
from botvision.classify.model import Classifier, is_fixed, load_classifier, normalisation
from botvision.deploy.classifier import normalised
from botvision.engine.checkpoint import KEY, owner, read_checkpoint
from botvision.files import sha256
from botvision.inputs import as_array, find_images, image_suffixes, is_hidden, is_video
from botvision.maskrcnn.checkpoint import Detector, load_detector
from botvision.maskrcnn.resize import MEAN, STD, image_size, padded
from botvision.maskrcnn.static import ImageDetector, StaticDetector

Array = NDArray[Any]
Feeds = dict[str, Array]
BATCH = 4
ROUNDING = 1e-6
OWN_IMAGES = 3  # of a user's, that a file is proved on
FREE = torch.export.Dim.DYNAMIC


@dataclass(frozen=True)
class Subject:
    """A model to export.

    Attributes:
        module: what is recorded; its inputs by name.
        eager: arrays by the inputs' names → arrays by the outputs' names, by the eager model.
        example: inputs to record it with.
        free: which sizes of each input stay free.
        outputs: their names.
        probes: inputs that the file is proved on, by what they are.
        about: what the file says of itself.
        rounded: makes of a seed the eager model with every layer off by about a rounding: what it finds otherwise than
            `eager` are ties; none of models that choose nothing.
    """

    module: nn.Module
    eager: Callable[[Mapping[str, Array]], dict[str, Array]]
    example: dict[str, Tensor]
    free: dict[str, dict[int, Any]]
    outputs: list[str]
    probes: dict[str, Feeds]
    about: dict[str, Any]
    rounded: Callable[[int], Callable[[Mapping[str, Array]], dict[str, Array]]] | None = None

    @property
    def task(self) -> str:
        """maskrcnn, classify or backbone."""
        return str(self.about["task"])


def subject_of(
    model: str,
    *,
    input: Literal["image", "tensor"],
    img_size: int | tuple[int, int] | None,
    features: bool,
    licence: str,
) -> Subject:
    """A checkpoint, a folder of `save_pretrained` or a backbone's name as what is exported.

    Raises:
        FileNotFoundError, ValueError: no such model, or options that do not fit it.
    """
    path = Path(model)
    about: dict[str, Any] = {"botvision": version("botvision"), "source": path.name, "licence": licence, "input": input}
    if path.suffix == ".ckpt" or path.is_file():
        if features:
            raise ValueError("features are of a backbone; leave --features out for a checkpoint")
        content = read_checkpoint(path, task=None)
        about["sha256"] = sha256(path, digits=64)
        if owner(content[KEY]) == "maskrcnn":
            return detector_subject(load_detector(path, content=content), about, img_size=img_size)
        return classifier_subject(load_classifier(path, content=content), about, size=one_size(img_size))
    size = one_size(img_size)
    options: dict[str, Any] = {"features_only": True} if features else {}
    network = from_pretrained(model, **options) if path.is_dir() else create_model(model, **options)
    return backbone_subject(network.eval(), about, name=model, size=size or 224, features=features)


def one_size(img_size: int | tuple[int, int] | None) -> int | None:
    """Px of a square image.

    Raises:
        ValueError: two numbers, which are a detector's, or too few px.
    """
    if isinstance(img_size, tuple):
        raise ValueError(f"img_size={img_size} is for detectors; give one number of px, e.g. 224")
    if img_size is not None and img_size < 32:
        raise ValueError(f"img_size={img_size} must be at least 32 px; e.g. 224")
    return img_size


def detector_subject(detector: Detector, about: dict[str, Any], *, img_size: int | tuple[int, int] | None) -> Subject:
    """Faster or Mask R-CNN, in float32."""
    model = detector.model.float()
    if img_size is not None:
        model.resize.rule = image_size(img_size)
    rule = model.resize.rule
    about |= {
        "task": "maskrcnn",
        "categories": [list(category) for category in detector.categories],
        "mean": list(MEAN),
        "std": list(STD),
        "rule": list(rule),
        "masks": model.masks,
    }
    outputs = ["boxes", "labels", "scores", "image", *(["masks"] if model.masks else [])]
    long, oblong = rule.longest, (round(rule.longest * 0.6), rule.longest + 37)
    shapes = {f"{side[0]}×{side[1]}": (1, *side) for side in ((long, long), oblong, (97, 333))}
    shapes[f"{BATCH} of {oblong[0]}×{oblong[1]}"] = (BATCH, *oblong)
    pictures = {name: drawn(*shape) for name, shape in shapes.items()}
    pictures["blank"] = np.zeros((1, long, long, 3), np.uint8)
    if about["input"] == "image":
        return Subject(
            ImageDetector(model),
            eager_of(detector),
            {"images": torch.from_numpy(drawn(2, rule.longest // 2 + 7, rule.longest + 5))},
            {"images": {0: FREE, 1: FREE, 2: FREE}},
            outputs,
            {name: {"images": images} for name, images in pictures.items()},
            about,
            rounded=lambda seed: eager_of(rounded(detector, seed=seed)),
        )
    static = StaticDetector(model)
    feeds = {name: on_canvas(detector, images) for name, images in pictures.items()}
    example = {name: torch.from_numpy(array) for name, array in on_canvas(detector, drawn(2, *oblong)).items()}
    if not rule.square:  # at one cell of stride 64 torch would take a side for fixed
        height, width = (max(0, 128 - side) for side in example["images"].shape[-2:])
        example["images"] = torch.nn.functional.pad(example["images"], (0, width, 0, height))
    own: dict[int, Any] = {0: FREE}
    if not rule.square:
        own |= {2: 64 * torch.export.Dim("rows", min=1, max=64), 3: 64 * torch.export.Dim("columns", min=1, max=64)}
    return Subject(
        static,
        static_of(static),
        example,
        {"images": own, "sizes": {0: FREE}},
        outputs,
        feeds,
        about,
        rounded=lambda seed: static_of(StaticDetector(rounded(detector, seed=seed).model)),
    )


def rounded(detector: Detector, *, seed: int) -> Detector:
    """A copy whose every layer is off by 1e-6 at each place, as float32's roundings in another order are.

    Noise of weights alone would leave places alike that tie, as those of a blank image and of padding do, and noise in
    proportion those at 0: which of them are taken is each engine's own choice.
    """
    copy = replace(detector, model=deepcopy(detector.model))

    def off(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))  # the same each time
        return output + ROUNDING * noise * (output.abs() + output.abs().mean())

    for layer in copy.model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(off)
    return copy


def eager_of(detector: Detector) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What a detector finds in images."""
    return lambda feeds: found_eagerly(detector, feeds["images"])


def static_of(module: StaticDetector) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What a graph finds in tensors."""
    return lambda feeds: as_arrays(module(*(torch.from_numpy(feeds[name]) for name in ("images", "sizes"))))


def with_images(subject: Subject, folder: Path) -> Subject:
    """A detector that takes images, proved on some of a user's too: on drawn ones it may find nothing."""
    if subject.task != "maskrcnn" or subject.about["input"] != "image":
        return subject
    own = {path.name: {"images": as_array(path)[None]} for path in images_below(folder)[:OWN_IMAGES]}
    return replace(subject, probes={**subject.probes, **own})


def images_below(source: Path) -> list[Path]:
    """Images of a folder and of those below it, without hidden ones; or of a glob.

    Raises:
        FileNotFoundError: there are none.
    """
    if source.is_dir():
        every = sorted(path for path in source.rglob("*") if path.suffix.lower() in image_suffixes())
        paths = [path for path in every if not is_hidden(path, source)]
    else:
        paths = [path for path in find_images(source) if not is_video(path)]
    if not paths:
        raise FileNotFoundError(f"no image in {source} or in a folder below it; give a folder of images")
    return paths


def on_canvas(detector: Detector, images: Array) -> Feeds:
    """Images of one size as the graph of tensors takes them."""
    batch = detector.model.resize([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    return {"images": batch.tensors.numpy(), "sizes": np.array(batch.image_sizes, np.int64)}


def found_eagerly(detector: Detector, images: Array) -> dict[str, Array]:
    """What the eager detector finds, as rows of all images."""
    with torch.no_grad():
        found = detector.model([torch.from_numpy(image).permute(2, 0, 1) for image in images]).detections
    names = {"boxes": "boxes", "labels": "labels", "scores": "scores", "mask_probs": "masks"}
    rows = {names[key]: torch.cat([own[key] for own in found]).numpy() for key in found[0]}
    return rows | {"image": np.repeat(np.arange(len(found)), [len(own["boxes"]) for own in found])}


class ImageClassifier(nn.Module):
    """Images (B, H, W, 3) of uint8, normalised in the graph, → logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Any:
        """Normalise, and run the model."""
        return self.model((images.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255 - self.mean) / self.std)


def classifier_subject(classifier: Classifier, about: dict[str, Any], *, size: int | None) -> Subject:
    """A trained classifier: centre crops → logits."""
    config = classifier.config
    size = size or config.img_size
    classifier.check_size(size)
    about |= {
        "task": "classify",
        "classes": classifier.classes,
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "img_size": size,
        "crop": classifier.crop,
        "model": config.name,
        "fixed": is_fixed(config.name),
    }
    return network_subject(classifier.model.float(), about, outputs=["logits"])


def backbone_subject(model: nn.Module, about: dict[str, Any], *, name: str, size: int, features: bool) -> Subject:
    """A bare model: logits, or the maps at all strides."""
    mean, std = (MEAN, STD) if features else normalisation(model)
    about |= {"task": "backbone", "model": name, "mean": list(mean), "std": list(std), "img_size": size}
    about["fixed"] = is_fixed(name)
    with torch.no_grad():
        found = model(torch.zeros(1, 3, size, size))
    outputs = [f"map{number}" for number in range(len(found))] if features else ["logits"]
    return network_subject(model.float(), about, outputs=outputs)


def network_subject(model: nn.Module, about: dict[str, Any], *, outputs: list[str]) -> Subject:
    """A network of images alone."""
    size, is_image, fixed = about["img_size"], about["input"] == "image", about["fixed"]
    module = ImageClassifier(model, tuple(about["mean"]), tuple(about["std"])).eval() if is_image else model
    sides = [(size, size)] if fixed else [(size, size), (size + 32, size), (padded(size) + 64, size + 13)]
    shapes = {f"{side[0]}×{side[1]}": (1, *side) for side in sides}
    shapes[f"{BATCH} of {sides[-1][0]}×{sides[-1][1]}"] = (BATCH, *sides[-1])
    pictures = {name: drawn(*shape) for name, shape in shapes.items()}
    pictures["blank"] = np.zeros((1, size, size, 3), np.uint8)
    if not is_image:
        pictures = {name: ready(images, about) for name, images in pictures.items()}
    example = drawn(2, size, size if fixed else size + 32)
    axes = (1, 2) if is_image else (2, 3)

    def eager(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = module(torch.from_numpy(feeds["images"]))
        return as_arrays(dict(zip(outputs, found if isinstance(found, list | tuple) else [found], strict=True)))

    return Subject(
        module,
        eager,
        {"images": torch.from_numpy(example if is_image else ready(example, about))},
        {"images": {0: FREE, **({} if fixed else dict.fromkeys(axes, FREE))}},
        outputs,
        {name: {"images": images} for name, images in pictures.items()},
        about,
    )


def ready(images: Array, about: Mapping[str, Any]) -> Array:
    """Images (B, H, W, 3) of uint8, normalised, (B, 3, H, W)."""
    return normalised(images, about["mean"], about["std"])


def as_arrays(found: Mapping[str, Tensor]) -> dict[str, Array]:
    """Tensors as arrays."""
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def drawn(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Pictures to prove a file on: bright shapes on dark noise, (B, H, W, 3)."""
    rng = np.random.default_rng(height * 10_000 + width)
    images = rng.integers(0, 60, (batch, height, width, 3), dtype=np.uint8)
    down, across = np.mgrid[:height, :width]
    for image in images:
        for number in range(8):
            y, x = rng.integers(height), rng.integers(width)
            radius = rng.integers(6, max(7, min(height, width) // 4))
            inside = (down - y) ** 2 + (across - x) ** 2 < radius**2
            if number % 2:
                inside = (abs(down - y) < radius) & (abs(across - x) < radius * 2 // 3)
            image[inside] = rng.integers(80, 256, 3)
    return images
