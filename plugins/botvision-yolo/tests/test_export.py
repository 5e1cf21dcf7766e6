"""Exports are run, not only written: ONNX at three sizes, TorchScript, OpenVINO, ultralytics' benchmark."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from botvision.attention import MHSA2d
from botvision_yolo import YOLO

SIZES = [(64, 64), (96, 160), (320, 224)]


def outputs(model, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return image, model(image)[0]


def close(ours, theirs, tolerance=1e-3):
    """Boxes and scores apart, each to its own spread: boxes in pixels would drown the scores."""
    parts = [(ours[:, :4], theirs[:, :4]), (ours[:, 4:], theirs[:, 4:])]
    return all(float(np.abs(a - b).max()) < tolerance * float(np.ptp(a)) for a, b in parts)


def without_positions(model):
    """A copy whose attention lacks its tables: what a graph that loses them would compute."""
    other = copy.deepcopy(model)
    for layer in other.modules():
        if isinstance(layer, MHSA2d):
            layer.rel_h.data.zero_()
            layer.rel_w.data.zero_()
    return other


@pytest.fixture
def model(trained, tmp_path, monkeypatch):
    def make(name):
        monkeypatch.chdir(tmp_path)
        found = trained(name)
        for part in found.model.modules():  # so that a graph which loses attention, or its positions, is seen to
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.data.uniform_(0.8, 1.6)
            if isinstance(part, MHSA2d):
                part.qkv.weight.data.normal_(std=0.5)
                part.rel_h.data.normal_(std=2.0)
                part.rel_w.data.normal_(std=2.0)
        for branch in found.model.model[-1].cv3:
            branch[-1].weight.data.normal_(std=0.3)
            branch[-1].bias.data.zero_()
        _, ours = outputs(found.model.eval(), SIZES[1])
        _, lost = outputs(without_positions(found.model), SIZES[1])
        ours, lost = (out[0] if isinstance(out, tuple) else out for out in (ours, lost))
        assert not close(ours.numpy(), lost.numpy(), 5e-3)
        return found

    return make


@pytest.mark.parametrize("variant", ["botnet", "mhsa", "c2bot"])
def test_one_onnx_graph_equals_torch_at_three_sizes(variant, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    yolo = model(f"yolo11n-{variant}.yaml")
    session = onnxruntime.InferenceSession(yolo.export(format="onnx", dynamic=True, imgsz=64, device="cpu"))
    for size in SIZES:
        image, ours = outputs(yolo.model.eval(), size)
        assert close(ours.numpy(), session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]), size


def test_an_onnx_graph_of_one_size_and_a_segmentation_models(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    yolo = model("yolo11n-botnet-seg.yaml")
    session = onnxruntime.InferenceSession(yolo.export(format="onnx", imgsz=(96, 160), device="cpu"))
    image, ours = outputs(yolo.model.eval(), (96, 160))
    theirs = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    assert close((ours[0] if isinstance(ours, tuple) else ours).numpy(), theirs)


def test_torchscript(model):
    yolo = model("yolo11n-botnet.yaml")
    graph = torch.jit.load(yolo.export(format="torchscript", imgsz=64, device="cpu"))
    image, ours = outputs(yolo.model.eval(), (64, 64))
    assert close(ours.numpy(), graph(image).detach().numpy())


def test_openvino(model):
    openvino = pytest.importorskip("openvino")
    yolo = model("yolo11n-botnet.yaml")
    folder = yolo.export(format="openvino", imgsz=64, device="cpu")
    graph = openvino.Core().compile_model(next(Path(folder).glob("*.xml")), "CPU")
    image, ours = outputs(yolo.model.eval(), (64, 64))
    theirs = graph(image.numpy())[0]
    assert close(ours.numpy(), theirs, 5e-3)


def test_an_exported_model_predicts_and_scores_through_ultralytics(model, data, tmp_path):
    pytest.importorskip("onnxruntime")
    path = model("yolo11n-mhsa.yaml").export(format="onnx", imgsz=64, device="cpu")
    opened = YOLO(path)
    assert len(opened.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False, device="cpu")) == 1


@pytest.mark.slow
def test_ultralytics_benchmark(model, data):
    yolo = model("yolo11n-botnet.yaml")
    yolo.save("yolo11n-botnet.pt")
    table = YOLO("yolo11n-botnet.pt").benchmark(data=str(data), imgsz=64, device="cpu", format="onnx")
    assert "ONNX" in str(table)
