"""Benchmark of ways to run one model: eager torch, fused, compiled, onnxruntime, OpenVINO; int8."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from botvision.backbone import create_model, fuse
from botvision.bench.race import Engine, Report, Row, Setting, race
from botvision.deploy.graph import open_graph
from botvision.export.formats import writer, xml_writer
from botvision.export.int8 import quantised_onnx, quantised_xml
from botvision.export.subject import Subject, backbone_subject, detector_subject, drawn, ready
from botvision.maskrcnn.checkpoint import Detector, load_detector
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.model import MaskRCNN, build_mask_rcnn
from botvision.maskrcnn.resize import image_size

CLASSES = 10
RANGES = 8  # pictures that int8 takes its ranges from: for speed alone
EAGER, LAST, FUSED, COMPILED = "eager", "channels_last", "fused", "compiled"
ORT, OV, BF16 = "onnxruntime", "OpenVINO", "OpenVINO bf16"
ORT_INT8, OV_INT8, EAGER_BF16 = "onnxruntime int8", "OpenVINO int8", "channels_last bf16"
WAYS = (EAGER, LAST, FUSED, COMPILED, EAGER_BF16, ORT, OV, BF16, ORT_INT8, OV_INT8)


def race_deploy(
    models: tuple[str, ...], *, ways: tuple[str, ...], batch: int, preset: str, rounds: int, engine: Engine
) -> Report:
    """The races of `botvision bench deploy`, which says what its arguments are."""
    if not models:
        raise ValueError("bench deploy needs at least one model; e.g. resnet50@224 botnet50@224")
    if unknown := [way for way in ways if way not in WAYS]:
        raise ValueError(f"way {unknown[0]!r} is unknown; use {', '.join(WAYS)}")
    if EAGER not in ways[:1]:
        ways = (EAGER, *(way for way in ways if way != EAGER))
    if engine.precision != "float32" or engine.compile:
        raise ValueError(
            "bench deploy has precision and compile among its ways; e.g. --ways 'channels_last bf16' compiled"
        )
    if engine.accelerator not in ("auto", "cpu"):
        raise ValueError(f"bench deploy runs on the CPU; got accelerator={engine.accelerator!r}; leave it out")
    engine = replace(engine, accelerator="cpu")
    rows: list[Row] = []
    for model in models:
        name, _, size = model.rpartition("@")
        if not name or not size.isdecimal():
            raise ValueError(f"{model!r} must say its image size, e.g. botnet50@224, or detector:botnet26@512")
        setting = Setting(int(size), batch, False, engine)
        with TemporaryDirectory() as folder:
            build = partial(built, model=name, preset=preset, folder=Path(folder))
            rows += race(build, ways, setting, what=name, rounds=rounds)
    note = (
        f"Every way of a model in turn, in random order each round; the baseline is eager torch. Random weights and "
        f"{CLASSES} classes where no checkpoint is named, detectors with preset {preset}; uint8 images in, int8 by "
        f"{RANGES} drawn pictures."
    )
    return Report("Deployment", note, str(engine), rows)


def subject_for(model: str, size: int, *, preset: str) -> tuple[Subject, nn.Module]:
    """A classifier's name, `detector:` and a backbone's name, or a detector's checkpoint: for graphs, and eager."""
    about: dict[str, Any] = {"source": model, "input": "image"}
    if model.endswith(".ckpt"):
        detector = load_detector(Path(model))
        detector.model.resize.rule = image_size(size)
        return detector_subject(detector, about, img_size=size), detector.model
    if model.startswith("detector:"):
        network = build_mask_rcnn(model.removeprefix("detector:"), CLASSES, preset=preset, img_size=size).eval()
        categories = [Category(number, f"class {number}") for number in range(1, CLASSES + 1)]
        return detector_subject(Detector(network, categories), about, img_size=size), network
    classifier = create_model(model, num_classes=CLASSES).eval()
    return backbone_subject(classifier, about, name=model, size=size, features=False), classifier


def built(way: str, setting: Setting, *, model: str, preset: str, folder: Path) -> Callable[[], Any]:
    """One way's step on drawn pictures."""
    with torch.inference_mode(False):  # what is recorded under it refuses other inputs
        return step_of(way, setting, model=model, preset=preset, folder=folder)


def step_of(way: str, setting: Setting, *, model: str, preset: str, folder: Path) -> Callable[[], Any]:
    """The same, outside of inference mode."""
    subject, network = subject_for(model, setting.size, preset=preset)
    images = drawn(setting.batch, setting.size, setting.size)
    if way in (ORT, OV, BF16, ORT_INT8, OV_INT8):
        path = written(way, subject, folder, setting.size)
        precision = "bfloat16" if way == BF16 else "float32"
        graph = open_graph(path, threads=torch.get_num_threads(), precision=precision)
        return lambda: graph.run({"images": images})
    if way == FUSED:
        network = fuse(network)
    if way != EAGER:
        network = network.to(memory_format=torch.channels_last)
    called = compiled(network) if way == COMPILED else network
    given: Any
    if subject.task == "maskrcnn":
        given = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    else:
        given = torch.from_numpy(ready(images, subject.about))
        given = given if way == EAGER else given.to(memory_format=torch.channels_last)

    def step() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == EAGER_BF16):
            return called(given)

    return step


def compiled(network: nn.Module) -> Callable[[Any], Any]:
    """By torch.compile: a classifier whole, of a detector the pyramid with its backbone."""
    if isinstance(network, MaskRCNN):
        network.pyramid.compile()
        return network
    function: Callable[[Tensor], Tensor] = torch.compile(network)
    return function


def written(way: str, subject: Subject, folder: Path, size: int) -> Path:
    """The file of a way; what several need is written once."""
    plain = folder / "plain.onnx"
    if not plain.is_file():
        writer(subject, ".onnx", folder, opset=18)(plain, subject.about)
    if way == ORT:
        return plain
    xml = folder / "plain.xml"
    if not xml.is_file():
        xml_writer(plain)(xml, subject.about)
    if way in (OV, BF16):
        return xml
    feeds = [{"images": drawn(1, size + number, size)} for number in range(RANGES)]
    path = folder / ("int8.onnx" if way == ORT_INT8 else "int8.xml")
    make = quantised_onnx if way == ORT_INT8 else quantised_xml
    make(plain if way == ORT_INT8 else xml, feeds, folder)(path, subject.about)
    return path
