"""Write what is exported as ONNX, OpenVINO, torch.export or TorchScript, and run it again."""

import contextlib
import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxscript.optimizer import remove_unused_nodes

from botvision.deploy.graph import KEY, Array, Run, open_graph
from botvision.export.operators import TRANSLATIONS
from botvision.export.subject import Subject

EXTRA = f"{KEY}.json"  # what a .pt2 or .pt says of itself
Write = Callable[[Path, Mapping[str, Any]], int]  # a file with what it says of itself; gives the number of its nodes


def recorded(subject: Subject) -> torch.export.ExportedProgram:
    """The module as one graph whose sizes are free.

    Raises:
        ValueError: torch cannot record it.
    """
    with torch.no_grad(), quiet():
        try:
            return torch.export.export(
                subject.module,
                tuple(subject.example.values()),
                dynamic_shapes=tuple(subject.free.values()),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            cause = str(error).strip().partition("\n")[0][:200]
            raise ValueError(f"torch cannot record {subject.about['source']} at free sizes: {cause}") from error


def onnx_writer(subject: Subject, *, opset: int) -> Write:
    """Of an .onnx."""
    import onnx

    with quiet():
        program: Any = torch.onnx.export(
            recorded(subject),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            input_names=list(subject.example),
            output_names=subject.outputs,
            verbose=False,
        )
    model = program.model_proto
    narrow_values(onnx, model)

    def write(path: Path, about: Mapping[str, Any]) -> int:
        write_onnx(onnx, model, path, about)
        return len(model.graph.node)

    return write


def narrow_values(onnx: Any, model: Any) -> None:
    """Multiply attention by its values as they are.

    torch's fused attention wants them padded to the width of its keys, which carry positions, and cuts the sum again;
    as two products of matrices that is up to half of the second one for nothing.
    """
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    rows = [tensor for tensor in graph.initializer if len(tensor.dims) == 1]
    numbers = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in rows}
    widths = {info.name: info.type.tensor_type.shape.dim[-1].dim_value for info in graph.value_info if rank(info)}
    for cut in [node for node in graph.node if node.op_type == "Slice"]:
        product = made.get(cut.input[0])
        if product is None or product.op_type != "MatMul" or uses[product.output[0]] > 1:
            continue
        filled = made.get(product.input[1])
        if filled is None or filled.op_type != "Pad" or len(filled.input) > 3:
            continue
        joined = made.get(filled.input[1])  # of free sizes: seven zeros and a sum, in place of eight numbers
        parts: list[Any] = [[number] for number in numbers.get(filled.input[1], [])]
        if not parts and joined is not None and joined.op_type == "Concat":
            parts = [numbers.get(name) for name in joined.input]
        own = [[0], [widths.get(filled.input[0])], [len(parts) // 2 - 1], [1]]  # from, to, axis, step
        if [numbers.get(name) for name in cut.input[1:]] != own or any(part != [0] for part in parts[:-1]):
            continue
        product.input[1], product.output[0] = filled.input[0], cut.output[0]
        graph.node.remove(cut)
    remove_unused_nodes(model)


def rank(info: Any) -> int:
    """Dimensions of a value, as far as a graph says them."""
    return len(info.type.tensor_type.shape.dim)


def write_onnx(onnx: Any, model: Any, path: Path, about: Mapping[str, Any]) -> None:
    """A graph of ONNX with what it says of itself."""
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    onnx.save(model, path)


def xml_writer(source: Path | Any) -> Write:
    """Of an .xml and its .bin, made of an .onnx or of OpenVINO's own model."""
    import openvino

    model = resized_as_torch(openvino.convert_model(source)) if isinstance(source, Path) else source

    def write(path: Path, about: Mapping[str, Any]) -> int:
        model.set_rt_info(json.dumps(about), [KEY])
        openvino.save_model(model, path, compress_to_fp16=False)
        return len(model.get_ops())

    return write


def resized_as_torch(model: Any) -> Any:
    """OpenVINO's model with antialiased resizing: its CPU plugin leaves `antialias` of ONNX's Resize out, silently.

    Its mode bilinear_pillow is what torch and ONNX compute.
    """
    from openvino import opset11

    for node in model.get_ops():
        if node.get_type_name() != "Interpolate" or not node.get_attributes()["antialias"]:
            continue
        image, size = node.input_value(0), node.input_value(1)
        axes = opset11.constant(np.array([2, 3]))
        sides = opset11.gather(size, axes, opset11.constant(np.array(0)))
        made = opset11.interpolate(
            image,
            sides,
            mode="bilinear_pillow",
            shape_calculation_mode="sizes",
            pads_begin=[0] * 4,
            pads_end=[0] * 4,
            axes=axes,
        )
        made.set_friendly_name(node.get_friendly_name())
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(made.output(0))
    model.validate_nodes_and_infer_types()
    return model


def pt2_writer(subject: Subject) -> Write:
    """Of torch.export's archive."""
    program = recorded(subject)

    def write(path: Path, about: Mapping[str, Any]) -> int:
        with quiet():
            torch.export.save(program, path, extra_files={EXTRA: json.dumps(about)})
        return len(program.graph.nodes)

    return write


def pt_writer(subject: Subject) -> Write:
    """Of TorchScript.

    Raises:
        ValueError: a detector, or a model that TorchScript cannot compile.
    """
    if subject.task == "maskrcnn":
        raise ValueError(".pt is TorchScript, for classifiers and backbones; a detector goes to .onnx, .xml or .pt2")
    with quiet():
        try:
            script = torch.jit.script(subject.module)
        except (RuntimeError, torch.jit.frontend.NotSupportedError) as error:
            cause = str(error).strip().partition("\n")[0][:200]
            raise ValueError(f"TorchScript cannot compile {subject.about['source']}: {cause}; use .onnx") from error

    def write(path: Path, about: Mapping[str, Any]) -> int:
        with quiet():
            torch.jit.save(script, path, _extra_files={EXTRA: json.dumps(about)})
        return len(list(script.inlined_graph.nodes()))

    return write


def writer(subject: Subject, suffix: str, folder: Path, *, opset: int) -> Write:
    """Of the file that the ending says."""
    if suffix == ".pt2":
        return pt2_writer(subject)
    if suffix == ".pt":
        return pt_writer(subject)
    write = onnx_writer(subject, opset=opset)
    if suffix == ".onnx":
        return write
    between = folder / "between.onnx"
    write(between, subject.about)
    return xml_writer(between)


def runner(path: Path, outputs: list[str], *, precision: str) -> Run:
    """The file, opened as its users open it: arrays → arrays."""
    if path.suffix in (".onnx", ".xml"):
        return open_graph(path, precision="bfloat16" if precision == "bfloat16" else None).run
    module: Any
    with quiet():
        module = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(array) for array in feeds.values()))
        values = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else [found]
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return run


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and lines of exporters, which nobody can act on."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
