"""int8 by onnxruntime or NNCF, with sensitive layers kept float."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from botvision.export.formats import Write, quiet, write_onnx, xml_writer
from botvision.export.subject import Feeds

SENSITIVE = ("cls_score", "bbox_pred", "cls_logits", "mask_fcn_logits", "fc.weight", "head.fc")  # what decides


def quantised_onnx(plain: Path, feeds: list[Feeds], folder: Path) -> Write:
    """A writer of the graph in int8 by onnxruntime: convolutions and layers with weights, but not what decides."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the inputs."""

        def __init__(self) -> None:
            self.rest = iter(feeds)

        def get_next(self) -> Feeds | None:
            """One more, or None."""
            return next(self.rest, None)

    ready_path, out = folder / "ready.onnx", folder / "int8.onnx"
    with quiet(), silent():
        # what quant_pre_process does, which up to onnxruntime 1.24 at least loses its file without shape inference
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(ready_path)
        onnxruntime.InferenceSession(
            str(plain), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
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
    """Names of layers that stay float: products of two activations, and what gives classes, boxes and masks."""
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
