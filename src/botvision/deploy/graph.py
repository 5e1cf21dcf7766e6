"""Open an exported file and run it: ONNX on onnxruntime, OpenVINO's .xml on OpenVINO."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from botvision.files import sha256

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]
KEY = "botvision"  # of what a file says of itself
WEIGHTS = "weights_sha256"  # in it, of the .bin that an .xml was written with
SUFFIXES = (".onnx", ".xml")


class Graph(NamedTuple):
    """An exported model.

    Attributes:
        run: arrays by the inputs' names → arrays by the outputs' names.
        about: what the file says of itself: task, classes, normalisation, image size, licence, hash, proof.
        path: of the file.
    """

    run: Run
    about: dict[str, Any]
    path: Path

    def check_task(self, task: str) -> None:
        """Refuse a file of another task.

        Raises:
            ValueError: it is.
        """
        if self.about.get("task") != task:
            own = self.about.get("task")
            cure = CURES.get(str(own), "give another")
            raise ValueError(f"{self.path} is a graph of task {own!r}, not {task!r}; {cure}")


CURES = {  # what opens a graph of each task
    "maskrcnn": "botvision maskrcnn predict and botvision.deploy.Predictor open it",
    "classify": "botvision classify predict and botvision.deploy.Classifier open it",
    "backbone": "botvision.deploy.open_graph opens it; for names of classes export the .ckpt of a trained run",
}


def is_graph(path: str | Path) -> bool:
    """Whether its name is that of an exported file."""
    return Path(path).suffix.lower() in SUFFIXES


def open_graph(path: str | Path, *, threads: int | None = None, precision: str | None = None) -> Graph:
    """An exported file, ready to run.

    Args:
        path: an .onnx, or an .xml with its .bin beside it.
        threads: that it computes with; none leaves the choice to the engine.
        precision: float32 or bfloat16, of OpenVINO; none is what the file was exported for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, one that is damaged, or one that `botvision export` has not written.
    """
    path = Path(path)
    if not is_graph(path):
        raise ValueError(f"{path} is no exported graph; give an .onnx or .xml of `botvision export`")
    if not path.is_file():
        raise FileNotFoundError(f"no exported graph at {path}; make one by `botvision export`")
    if path.suffix.lower() == ".onnx":
        return open_onnx(path, threads=threads)
    return open_xml(path, threads=threads, precision=precision)


def open_onnx(path: Path, *, threads: int | None = None) -> Graph:
    """An .onnx on onnxruntime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions share no class but this
        raise ValueError(f"{path} is not a whole ONNX file: {first_line(error)}; export it again") from error
    about = described(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(feeds)
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return Graph(run, about, path)


def open_xml(path: Path, *, threads: int | None = None, precision: str | None = None) -> Graph:
    """An .xml on OpenVINO's CPU plugin, in float32 unless it was exported for another precision.

    OpenVINO by itself computes in bfloat16 where the hardware has it, whatever the file says.
    """
    import openvino

    core = openvino.Core()
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; keep an .xml and its .bin together")
    try:
        model = core.read_model(path)
        about = described(model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None, path)
        if (own := about.get(WEIGHTS)) is not None and sha256(weights) != own:
            raise ValueError(f"{weights} holds other weights than {path.name} was exported with; export it again")
        hint = "bf16" if (precision or about.get("precision")) == "bfloat16" else "f32"
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a whole OpenVINO file: {first_line(error)}; export it again") from error
    lock, request = threading.Lock(), compiled.create_infer_request()

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(feeds)
        with lock:  # a request holds one answer, until it is copied
            found = request.infer(dict(feeds))
            return {port.get_any_name(): np.array(found[port]) for port in compiled.outputs}

    return Graph(run, about, path)


def check_feeds(feeds: Mapping[str, Array]) -> None:
    """Refuse empty inputs, after which OpenVINO gives its last answer again and again.

    Raises:
        ValueError: one without an image, or images without a pixel.
    """
    for name, array in feeds.items():
        if 0 in array.shape:
            raise ValueError(f"{name} is empty, {array.shape}; give at least one image")


def described(said: str | None, path: Path) -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        ValueError: nothing of ours.
    """
    if not said:
        raise ValueError(f"{path} was not written by `botvision export`: it says nothing of itself; give one that was")
    try:
        about: dict[str, Any] = json.loads(said)
        if not {"task", "input"} <= about.keys():
            raise ValueError
    except (ValueError, AttributeError):
        raise ValueError(
            f"{path} was not written by `botvision export`: what it says of itself is not ours; give one that was"
        ) from None
    return about


def first_line(error: BaseException) -> str:
    """The first line of what an engine says, cut short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160].rstrip(".")
