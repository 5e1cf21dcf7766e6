"""int8 by calibration on a user's images: onnxruntime or NNCF, with sensitive layers kept float."""

# B batch, H×W image

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from botvision.classify.config import DataConfig
from botvision.classify.evaluation import evaluate_at
from botvision.classify.model import load_classifier
from botvision.deploy.classifier import cropped
from botvision.export.formats import Write, quiet, write_onnx, xml_writer
from botvision.export.subject import Feeds, Subject, on_canvas, ready
from botvision.inputs import find_images, image_suffixes, open_image
from botvision.maskrcnn.checkpoint import load_detector
from botvision.maskrcnn.evaluation import evaluate_detector

IMAGES = 64  # that ranges are taken from
SENSITIVE = ("cls_score", "bbox_pred", "cls_logits", "mask_fcn_logits", "fc.weight", "head.fc")  # what decides


class Drop(NamedTuple):
    """Accuracy before and after.

    Attributes:
        before, after: AP of boxes, and of masks where there are some; or top-1.
    """

    before: dict[str, float]
    after: dict[str, float]

    @property
    def lost(self) -> float:
        """The largest loss."""
        return max(self.before[name] - self.after[name] for name in self.before)

    def __str__(self) -> str:
        return "int8: " + ", ".join(f"{name} {self.before[name]:.4f} → {self.after[name]:.4f}" for name in self.before)


@dataclass(frozen=True)
class Calibration:
    """The user's images for int8.

    Attributes:
        checkpoint: of the float model.
        images: that accuracy is measured on.
        annotations: COCO JSON of these, for a detector.
        source: folder or glob of images that ranges are taken from.
        max_drop: largest loss of AP or accuracy.
    """

    checkpoint: Path
    images: Path
    annotations: Path | None
    source: Path
    max_drop: float

    def check(self, subject: Subject) -> None:
        """Refuse what cannot be calibrated, before anything is recorded.

        Raises:
            ValueError: a bare backbone, a detector without annotations, or a limit that is no fraction.
        """
        if subject.task == "backbone":
            raise ValueError("int8 is for checkpoints, whose accuracy before and after can be measured")
        if subject.task == "maskrcnn" and self.annotations is None:
            raise ValueError("a detector's int8 is measured by AP; give --annotations FILE.json of --images")
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_ap_drop={self.max_drop} must lie in 0 … 1; e.g. 0.01")

    def feeds(self, subject: Subject) -> list[Feeds]:
        """Inputs of the graph, of images spread over the folder."""
        wanted = image_suffixes()
        if self.source.is_dir():
            paths = sorted(path for path in self.source.rglob("*") if path.suffix.lower() in wanted)
        else:
            paths = find_images(self.source)
        if not paths:
            raise FileNotFoundError(f"no image in {self.source} to take ranges from")
        step = max(1, len(paths) // IMAGES)
        arrays = [np.asarray(open_image(path)) for path in paths[::step][:IMAGES]]
        about = subject.about
        if subject.task == "maskrcnn":
            if about["input"] == "image":
                return [{"images": array[None]} for array in arrays]
            detector = load_detector(self.checkpoint)
            return [on_canvas(detector, array[None]) for array in arrays]
        crops = [cropped(array, size=about["img_size"], crop=about["crop"])[None] for array in arrays]
        return [{"images": crop if about["input"] == "image" else ready(crop, about)} for crop in crops]

    def drop(self, subject: Subject, path: Path) -> Drop:
        """Accuracy of the checkpoint and of the file."""
        return Drop(self.accuracy(subject, self.checkpoint), self.accuracy(subject, path))

    def accuracy(self, subject: Subject, path: Path) -> dict[str, float]:
        """AP on the COCO file, or top-1 on the class folders."""
        cpu = torch.device("cpu")
        if self.annotations is not None and subject.task == "maskrcnn":
            metrics, _ = evaluate_detector(
                load_detector(path), self.annotations, self.images, device=cpu, batch_size=1, workers=0, backend="auto"
            )
            return {"box AP": metrics.box["AP"]} | ({"mask AP": metrics.mask["AP"]} if metrics.mask else {})
        data = DataConfig(str(self.images), str(self.images), batch_size=16, workers=0)
        return {"top-1": evaluate_at(load_classifier(path, device=cpu), data, size=subject.about["img_size"]).top1}


def quantised_onnx(plain: Path, feeds: list[Feeds], folder: Path) -> Write:
    """A writer of the graph in int8 by onnxruntime: convolutions and layers with weights, but not what decides."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the inputs."""

        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> Feeds | None:
            """One more, or None."""
            return next(self.rest, None)

    ready_path, out = folder / "ready.onnx", folder / "int8.onnx"
    with quiet(), silent():
        quant_pre_process(str(plain), str(ready_path), skip_symbolic_shape=True, skip_onnx_shape=True)
        quantize_static(
            str(ready_path),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=sensitive_nodes(onnx.load(ready_path)),
        )
    model = onnx.load(out)

    def write(path: Path, about: Mapping[str, Any]) -> int:
        write_onnx(onnx, model, path, about)
        return len(model.graph.node)

    return write


def sensitive_nodes(model: Any) -> list[str]:
    """Names of layers that stay float: products of two activations, as attention's, and what gives classes and boxes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        own = [name for name in node.input if name in weights]
        if not own or any(part in name for name in own for part in SENSITIVE):
            kept.append(node.name)
    return kept


def quantised_xml(plain: Path, feeds: list[Feeds], folder: Path) -> Write:  # noqa: ARG001
    """A writer of the graph in int8 by NNCF, which keeps attention's products as its transformer scheme says."""
    import nncf
    import openvino

    model = openvino.Core().read_model(plain)
    names = [op.get_friendly_name() for op in model.get_ops()]
    kept = [name for name in names if any(part in name for part in SENSITIVE)]
    with quiet(), silent():
        made = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )
    return xml_writer(made)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the bars and lines that quantisers print."""
    with contextlib.redirect_stderr(io.StringIO()):
        logging.getLogger("nncf").setLevel(logging.ERROR)
        yield


