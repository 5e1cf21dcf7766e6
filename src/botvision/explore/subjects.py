"""Models that can be looked into: a checkpoint of ours, a plug-in's, or a backbone by its name."""

# H×W image, h×w picture: the image as the model sees it, resized and padded

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from botvision.backbone import VARIANTS, check_offline, create_model
from botvision.classify.data import val_transform
from botvision.classify.evaluation import to_image
from botvision.classify.model import SMALLEST, load_classifier, normalisation
from botvision.deploy.masks import paste
from botvision.engine.checkpoint import KEY, owner, read_checkpoint
from botvision.inputs import pixels

PLUGINS = "botvision.explore"  # entry points: a file's suffix without its dot → function(path, *, img_size, threshold)


class Found(NamedTuple):
    """An object that a detector has found.

    Attributes:
        label: its class.
        score: how sure the detector is.
        box: x1, y1, x2, y2 in the picture's pixels.
        mask: (h, w) of the picture, 1 where the object is; none of a detector without masks.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.uint8] | None = None


class Seen(NamedTuple):
    """An image as a model has seen it.

    Attributes:
        batch: (1, 3, h, w), what the backbone was given.
        picture: (h, w, 3) uint8, the same to look at.
        frame: x1, y1, x2, y2 of the picture in the image's pixels; what is padded lies outside the image.
        found: objects, the surest first.
        says: what the model says of the whole image, e.g. its classes; empty for none.
    """

    batch: Tensor
    picture: NDArray[np.uint8]
    frame: tuple[float, float, float, float]
    found: Sequence[Found] = ()
    says: str = ""


@dataclass(frozen=True)
class Subject:
    """A model that can be looked into.

    Attributes:
        name: shown above it.
        note: what it is, in a line.
        model: whose attention layers are watched.
        look: runs it on an image.
        last_map: (1, 3, h, w) → its last map (1, C, h', w'), for the receptive field.
        classes: names of what it tells apart; of a backbone alone there are none.
    """

    name: str
    note: str
    model: nn.Module
    look: Callable[[Image.Image], Seen]
    last_map: Callable[[Tensor], Tensor]
    classes: tuple[str, ...] = ()


def open_subject(
    name: str, images: Sequence[Image.Image], *, img_size: int | None, threshold: float, options: dict[str, Any] | None
) -> Subject:
    """What a word names: a checkpoint's file, or a backbone with random weights.

    Args:
        name: a path, or the name of a BoTNet or timm model.
        images: that it will look at, from which a model with random weights takes its BatchNorms' statistics.
        img_size: px; none is what it was trained or is meant for.
        threshold: lowest score of an object.
        options: of a backbone by its name.

    Raises:
        FileNotFoundError, ValueError: neither; a file of another kind; options of a checkpoint.
    """
    path = Path(name)
    if not (path.suffix or path.is_file()) or name in VARIANTS:
        return open_backbone(name, images, img_size=img_size, options=options or {})
    if options:
        raise ValueError(
            f"options={options} are of a backbone by its name; {path} says itself what it is: leave them out"
        )
    if path.suffix != ".ckpt" and (found := plugin(path)) is not None:
        return found(path, img_size=img_size, threshold=threshold)
    content = read_checkpoint(path, task=None)
    if owner(content[KEY]) == "classify":
        return open_classifier(path, content, img_size=img_size)
    return open_detector(path, content, img_size=img_size, threshold=threshold)


def plugin(path: Path) -> Callable[..., Subject] | None:
    """What an installed plug-in opens files of this suffix with.

    Raises:
        FileNotFoundError, ValueError: no such file; a YOLO's, whose plug-in is not installed.
    """
    offered = {point.name: point for point in entry_points(group=PLUGINS)}
    suffix = path.suffix.removeprefix(".")
    if not path.is_file() or (suffix not in offered and suffix != "pt"):
        return None
    if suffix not in offered:
        raise ValueError(
            f"{path} looks like a YOLO's; to open it, install plugins/botvision-yolo of this project, or give a .ckpt"
        )
    return cast("Callable[..., Subject]", offered[suffix].load())


def open_detector(path: Path, content: dict[str, Any], *, img_size: int | None, threshold: float) -> Subject:
    """A Mask R-CNN from a run's checkpoint."""
    from botvision.maskrcnn.checkpoint import load_detector
    from botvision.maskrcnn.resize import image_size, move_boxes, padded

    detector = load_detector(path, content=content)
    model = detector.model
    if img_size is not None:
        model.resize.rule = image_size(img_size)
    names = tuple(category.name for category in detector.categories)

    @torch.inference_mode()
    def look(image: Image.Image) -> Seen:
        given = pixels(image)
        batch = model.resize([given])
        size, own = batch.image_sizes[0], (image.height, image.width)
        [detections] = model([given]).detections
        boxes = move_boxes(detections["boxes"], source=own, target=size)
        height, width = batch.tensors.shape[-2:]
        found = []
        for number in (detections["scores"] >= threshold).nonzero()[:, 0].tolist():
            box, shares = boxes[number], detections.get("mask_probs")
            mask = None if shares is None else paste(shares[number], box, height=height, width=width)
            label = names[int(detections["labels"][number]) - 1]
            x1, y1, x2, y2 = box.tolist()
            found.append(Found(label, float(detections["scores"][number]), (x1, y1, x2, y2), mask))
        mean, std = (values.flatten().tolist() for values in (model.resize.mean, model.resize.std))
        picture = to_image(batch.tensors[0], mean=mean, std=std)
        picture[size[0] :], picture[:, size[1] :] = 128, 128  # the padding, which is zero behind the normalisation
        frame = (0.0, 0.0, width * own[1] / size[1], height * own[0] / size[0])
        return Seen(batch.tensors, picture, frame, found)

    about = f"trained detector, {padded(model.resize.rule.longest)} px, of the classes {', '.join(names[:5])}"
    return Subject(run_name(path), about, model, look, lambda x: model.pyramid.body(x)[-1], names)


def open_classifier(path: Path, content: dict[str, Any], *, img_size: int | None) -> Subject:
    """A classifier from a run's checkpoint."""
    classifier = load_classifier(path, content=content)
    size = classifier.config.img_size if img_size is None else img_size
    classifier.check_size(size)
    see = cropped(size, classifier.crop, classifier.mean, classifier.std)

    @torch.inference_mode()
    def look(image: Image.Image) -> Seen:
        seen = see(image)
        shares = classifier.model(seen.batch)[0].float().softmax(0)
        best = shares.topk(min(3, len(shares)))
        told = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return seen._replace(says=", ".join(f"{classifier.classes[number]} {share:.2f}" for number, share in told))

    about = f"trained classifier {classifier.config.name}, {size} px, {len(classifier.classes)} classes"
    return Subject(
        run_name(path), about, classifier.model, look, features_of(classifier.model), tuple(classifier.classes)
    )


def open_backbone(
    name: str, images: Sequence[Image.Image], *, img_size: int | None, options: dict[str, Any]
) -> Subject:
    """A backbone with random weights, its BatchNorms' statistics taken from the images.

    Raises:
        ValueError: an unknown name or option, or too small an image size.
    """
    check_offline(name, options)
    if img_size is not None and img_size < SMALLEST:
        raise ValueError(f"img_size={img_size} must be at least {SMALLEST} px; e.g. 224")
    given = {**options, "img_size": img_size} if img_size and name in VARIANTS else options
    model = create_model(name, num_classes=0, **given)
    size = img_size or cast("Any", model).pretrained_cfg["input_size"][-1]
    see = cropped(size, 1.0, *normalisation(model))
    settle(model, torch.cat([see(image).batch for image in images]))

    @torch.inference_mode()
    def look(image: Image.Image) -> Seen:
        seen = see(image)
        model(seen.batch)
        return seen

    about = f"random weights, {size} px; BatchNorm's statistics are those of the images shown, zero gammas are 1"
    return Subject(name, about, model, look, features_of(model))


def settle(model: nn.Module, batch: Tensor) -> None:
    """Make a new model one to look at, in eval mode: BatchNorms have a batch's statistics, and no gamma is zero.

    Without statistics they do not normalise, and a block that ends with zero gammas adds nothing.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            if not module.weight.any():
                nn.init.ones_(module.weight)
            module.reset_running_stats()
            module.momentum = None  # the plain average of what comes
    with torch.no_grad():
        model.train()(batch)
    model.eval()


def features_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A timm model's last map, for one of convolutions."""
    return lambda x: cast("Tensor", cast("Any", model).forward_features(x))


def cropped(size: int, crop: float, mean: Sequence[float], std: Sequence[float]) -> Callable[[Image.Image], Seen]:
    """How a classifier sees an image: its shorter side resized, the centre square of `size` px."""
    transform = val_transform(size, crop, mean, std)

    def see(image: Image.Image) -> Seen:
        batch: Tensor = transform(image)[None]
        half = size / 2 * min(image.size) / (size / crop)  # px of the image
        x, y = image.width / 2, image.height / 2
        picture = to_image(batch[0], mean=mean, std=std)
        return Seen(batch, picture, (x - half, y - half, x + half, y + half))

    return see


def run_name(path: Path) -> str:
    """A run's folder and the file, e.g. demo/best; the file alone where it is in no run."""
    return f"{path.parent.parent.name}/{path.stem}" if path.parent.name == "checkpoints" else path.stem
