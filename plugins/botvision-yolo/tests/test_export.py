"""Exports are run, not only written: ONNX at three sizes, TorchScript, OpenVINO, ultralytics' benchmark."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import ultralytics

from botvision.attention import MHSA2d
from botvision_yolo import YOLO
from botvision_yolo.variants import VARIANTS

SIZES = [(64, 64), (96, 160), (320, 224)]
ROUNDING = 32  # times float32 torch's own error, itself one draw: 0.5 to 12 are seen; without positions over 100


def outputs(model, size, batch=1):
    """Random images and what a model says of them: boxes and class scores."""
    image = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        out = model(image.to(next(model.parameters()).dtype))[0]
    return image, (out[0] if isinstance(out, tuple) else out).double().numpy()


def error(model, size, theirs):
    """How far outputs are from float64's, as a multiple of how far float32 torch is: the larger of boxes and scores."""
    exact, ours = (outputs(net, size, len(theirs))[1] for net in (copy.deepcopy(model).double(), model))
    parts = [slice(0, 4), slice(4, None)]
    floor = [1e-6 * np.ptp(exact[:, part]) for part in parts]
    return max(
        np.abs(theirs[:, part] - exact[:, part]).max() / (np.abs(ours[:, part] - exact[:, part]).max() + least)
        for part, least in zip(parts, floor, strict=True)
    )


def without_positions(model):
    """A copy whose attention lacks its tables: what a graph that loses them would compute."""
    other = copy.deepcopy(model)
    for layer in other.modules():
        if isinstance(layer, MHSA2d):
            layer.rel_h.data.zero_()
            layer.rel_w.data.zero_()
    return other


@pytest.fixture
def model(trained, calibrated, tmp_path, monkeypatch):
    def make(name):
        monkeypatch.chdir(tmp_path)
        found = trained(name)
        for layer in found.model.modules():
            if isinstance(layer, MHSA2d):
                layer.qkv.weight.data.normal_(std=0.1)  # so that positions matter
        for branch in found.model.model[-1].cv3:
            branch[-1].bias.data.zero_()
        lost = without_positions(calibrated(found.model))
        assert error(found.model, SIZES[0], outputs(lost, SIZES[0])[1]) > 100  # a graph that loses positions is seen
        return found

    return make


@pytest.mark.parametrize(
    ("variant", "opset", "simplify"),
    [("botnet", 11, False), ("insert", 14, True), ("mhsa", None, True), ("c2bot", 20, False)],
)
def test_one_onnx_graph_equals_torch_at_every_batch_and_size(variant, opset, simplify, model):
    onnxruntime = pytest.importorskip("onnxruntime")
    yolo = model(f"yolo11n-{variant}.yaml")
    path = yolo.export(format="onnx", dynamic=True, imgsz=64, opset=opset, simplify=simplify, device="cpu")
    session = onnxruntime.InferenceSession(path)  # traced at one image
    for batch, size in zip((2, 1, 3), SIZES, strict=True):
        image, _ = outputs(yolo.model.eval(), size, batch)
        [found] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        assert error(yolo.model, size, found) < ROUNDING, (batch, size)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_for_every_batch_and_size_says_so(variant, trained, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    path = trained(f"yolo11n-{variant}.yaml").export(format="onnx", dynamic=True, imgsz=64, device="cpu")
    graph = onnx.load(path).graph
    declared = [[side.dim_param for side in part.type.tensor_type.shape.dim] for part in (*graph.input, *graph.output)]
    assert [part[0] for part in declared] == ["batch", "batch"]
    assert declared[0][2:] == ["height", "width"]
    assert declared[1][2]  # boxes of every size


@pytest.mark.skipif(ultralytics.__version__ < "8.4", reason="exports by torch.export, which fixes the batch of its NMS")
def test_a_file_with_nms_finds_in_a_batch_what_it_finds_one_by_one(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = model("yolo11n-mhsa.yaml").export(format="onnx", dynamic=True, nms=True, batch=4, imgsz=64, device="cpu")
    session = onnxruntime.InferenceSession(path)
    images = np.random.default_rng(0).random((2, 3, 96, 64), np.float32)
    name = session.get_inputs()[0].name
    [both], singly = (
        session.run(None, {name: images}),
        [session.run(None, {name: image[None]})[0][0] for image in images],
    )
    assert (both[..., 4] > 0).sum() > 10
    assert np.abs(both - np.stack(singly)).max() < 1e-3 * np.abs(both).max()


def test_an_onnx_graph_of_one_size_and_a_segmentation_models(model):
    onnxruntime = pytest.importorskip("onnxruntime")
    yolo = model("yolo11n-botnet-seg.yaml")
    session = onnxruntime.InferenceSession(yolo.export(format="onnx", imgsz=(96, 160), device="cpu"))
    image, _ = outputs(yolo.model.eval(), (96, 160))
    theirs = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    assert error(yolo.model, (96, 160), theirs) < ROUNDING


def test_torchscript(model):
    yolo = model("yolo11n-botnet.yaml")
    graph = torch.jit.load(yolo.export(format="torchscript", imgsz=64, device="cpu"))
    image, _ = outputs(yolo.model.eval(), (64, 64))
    assert error(yolo.model, (64, 64), graph(image).detach().numpy()) < ROUNDING


def test_openvino(model):
    openvino = pytest.importorskip("openvino")
    yolo = model("yolo11n-botnet.yaml")
    folder = yolo.export(format="openvino", imgsz=64, device="cpu")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # otherwise bfloat16, where the CPU has it
    graph = openvino.Core().compile_model(next(Path(folder).glob("*.xml")), "CPU", exact)
    image, _ = outputs(yolo.model.eval(), (64, 64))
    assert error(yolo.model, (64, 64), graph(image.numpy())[0]) < 20


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
