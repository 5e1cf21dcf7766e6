"""Build a detector, load a trained one from its checkpoint, or begin from its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from botvision.backbone import LoadReport, check_offline
from botvision.backbone import load_weights as load_backbone
from botvision.deploy.graph import is_graph
from botvision.engine.checkpoint import KEY, described_by, load_weights, read_checkpoint
from botvision.engine.settings import built
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.config import ModelConfig
from botvision.maskrcnn.exported import ExportedDetector
from botvision.maskrcnn.model import MaskRCNN, build_mask_rcnn

BODY = "pyramid.body."
OF_CLASSES = {  # heads: rows a class, and whether a background comes first
    "roi_heads.box_predictor.cls_score.": (1, 1),
    "roi_heads.box_predictor.bbox_pred.": (4, 1),
    "roi_heads.mask_predictor.mask_fcn_logits.": (1, 1),
    "auxiliary.linear.": (1, 0),
}


@dataclass(frozen=True)
class Detector:
    """A trained model in eval mode, with the names of what it finds."""

    model: Any  # MaskRCNN, or an ExportedDetector
    categories: list[Category]

    @property
    def category_names(self) -> str:
        """The first names, for messages."""
        return ", ".join(c.name for c in self.categories[:5])


def build_model(config: ModelConfig, num_classes: int) -> MaskRCNN:
    """The model, freshly initialised; nothing is fetched.

    Raises:
        ValueError: what `build_mask_rcnn` refuses, or a backbone of a hub.
    """
    check_offline(config.backbone, config.backbone_options)
    return build_mask_rcnn(
        config.backbone,
        num_classes,
        preset=config.preset,
        img_size=config.img_size,
        backbone_options=config.backbone_options,
        auxiliary=config.auxiliary,
        masks=bool(config.masks),
        max_objects=config.max_objects,
    )


def describe(model: ModelConfig, categories: list[Category]) -> dict[str, Any]:
    """What a checkpoint says of itself, in plain types that load with `weights_only=True`."""
    return {"task": "maskrcnn", "model": asdict(model), "categories": [list(c) for c in categories]}


def load_detector(path: str | Path, *, content: dict[str, Any] | None = None) -> Detector:
    """Build a detector from a run's checkpoint, or open an exported one (.onnx, .xml).

    Args:
        path: of the file.
        content: of the checkpoint, where `read_checkpoint` has read it already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of ours, or one whose tensors do not fit its own description.
    """
    path = Path(path)
    if is_graph(path):
        exported = ExportedDetector(path)
        return Detector(exported, [Category(*c) for c in exported.categories])
    content = read_checkpoint(path, task="maskrcnn") if content is None else content
    with described_by(path):
        about = content[KEY]
        categories = [Category(int(number), str(name)) for number, name in about["categories"]]
        config = built(ModelConfig, about["model"], path)
    model = load_weights(lambda: build_model(config, len(categories)), content, path)
    return Detector(model, categories)


def carry_over(model: MaskRCNN, source: Path, *, classes: Sequence[str] | None = None) -> LoadReport:
    """Begin from another detector's weights, as the paper begins from a ResNet's (section 4.1).

    The backbone's are loaded by `botvision.load_weights`: a ResNet's leave a BoTNet's attention fresh, and nothing
    else. Of the rest, what has another shape (another preset) stays fresh and is named. Heads go class by class, by
    name: a class that the source does not know begins fresh.

    Args:
        model: to begin.
        source: a run's checkpoint.
        classes: the model's, by number; none takes the source's for the same, in the same order.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no checkpoint of a detector, or of a backbone that is neither this one nor its ResNet baseline.
    """
    content = read_checkpoint(source, task="maskrcnn")
    state = {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    report = load_backbone(model.pyramid.body, body)
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(BODY)}
    rest: dict[str, Tensor | None] = {name: tensor for name, tensor in state.items() if name in own}
    partly: list[str] = []
    if classes is not None:
        known = [str(name) for _, name in content[KEY].get("categories", ())]
        rest |= (heads := heads_by_class(own, state, classes, known))
        if new := [name for name in classes if name not in known]:
            partly = [f"{name} of {', '.join(new)}" for name, head in heads.items() if head is not None]
    fitting = {name: t for name, t in rest.items() if t is not None and own[name].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=[BODY + name for name in report.loaded] + list(fitting),
        fresh=[BODY + name for name in report.fresh] + [name for name in own if name not in fitting] + partly,
        unused=[BODY + name for name in report.unused]
        + [name for name in state if name not in fitting and not name.startswith(BODY)],
    )


def heads_by_class(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], classes: Sequence[str], known: Sequence[str]
) -> dict[str, Tensor | None]:
    """Heads of these classes from those of others: of each class that is known the rows that came, of others its own.

    Args:
        own, state: tensors by name, the model's and those that came: (rows · (classes + background), …).
        classes, known: names by number, without background.

    Returns:
        By name; none where no class is known, or what came has another form than its classes say.
    """
    found: dict[str, Tensor | None] = {}
    pairs = [(number, known.index(name)) for number, name in enumerate(classes) if name in known]
    for prefix, (rows, background) in OF_CLASSES.items():
        for name in [name for name in own if name.startswith(prefix) and name in state]:
            came, head = state[name], own[name].clone()
            found[name] = None
            sizes = [rows * (background + len(names)) for names in (classes, known)]
            if not pairs or head.shape[1:] != came.shape[1:] or [len(head), len(came)] != sizes:
                continue
            head[: rows * background] = came[: rows * background]
            for mine, theirs in pairs:
                to, source = rows * (background + mine), rows * (background + theirs)
                head[to : to + rows] = came[source : source + rows]
            found[name] = head
    return found
