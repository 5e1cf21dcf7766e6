"""Stage 5: predictions a second, eager, half, fused, compiled, by ONNX Runtime and TensorRT where they are there."""

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import can_compile, is_there, main, needs, time_to_compile
from botvision.bench.config import Engine
from botvision.bench.race import Setting

ROUNDS = 7
NOTE = "Random weights and images, channels_last; the baseline is the ResNet in float32. BatchNorms folded where fused."
EAGER = ("float32", "bfloat16 autocast", "float16 weights", "float16 weights, fused")
COMPILED = "float16 weights, fused, compiled"
EXPORTED = {  # way → execution provider of ONNX Runtime, for a GPU
    "float16, ONNX Runtime": "CUDAExecutionProvider",
    "float16, ONNX Runtime with TensorRT": "TensorrtExecutionProvider",
}
TENSORRT = "float16 weights, fused, torch_tensorrt"
DETECTOR = ("float32", "bfloat16", "float16")


def prediction(out: Path, toy: bool) -> str:
    """Race ways to run a classifier's and a detector's forward pass.

    Raises:
        SkippedError: timm or torchvision is missing.
    """
    needs("timm", "torchvision")
    results = Results(out / "5_prediction.json", "Prediction", toy=toy, note=NOTE)
    return run_heats(results, heats(toy=toy), rounds=1 if toy else ROUNDS)


def heats(*, toy: bool) -> Iterator[Heat]:
    """What needs no compiler first."""
    engine = Engine(accelerator="cpu" if toy else "cuda")
    pair = ("botnet14",) if toy else ("resnet50", "botnet50")
    small, large = ((64, 2), (64, 1)) if toy else ((224, 64), (1024, 8))
    baseline = f"{pair[0]}, float32"
    eager = [f"{model}, {how}" for how in EAGER for model in pair]
    others = [f"{model}, {how}" for how in (COMPILED, *EXPORTED, TENSORRT) for model in pair]
    if not can_compile(toy=toy):
        print("nothing compiled: torch.compile needs triton, which is not installed")
        others = [name for name in others if not name.endswith((COMPILED, TENSORRT))]
    detectors = [f"{model}, {how}" for how in DETECTOR for model in pair]
    detect = partial(build_detector, preset="nano" if toy else "paper")
    torch.backends.cudnn.benchmark = True  # the fastest of its convolutions
    yield Heat("classifier", build, eager, Setting(*small, False, engine))
    torch.backends.cudnn.benchmark = False  # the number of boxes changes
    yield Heat("Mask R-CNN", detect, detectors, Setting(*large, False, engine))
    torch.backends.cudnn.benchmark = True
    if not toy:
        yield Heat("classifier", build, eager, Setting(*large, False, engine))
    if not time_to_compile():
        print("nothing compiled or exported: the bound is too short for it")
        return
    yield Heat("classifier, compiled and exported", build, [baseline, *others], Setting(*small, False, engine))
    if not toy:
        yield Heat("classifier, compiled and exported", build, [baseline, *others], Setting(*large, False, engine))


def build(name: str, setting: Setting) -> Callable[[], Any]:
    """A classifier's forward pass, by its model and the way it is run."""
    from botvision.backbone import VARIANTS, create_model, fuse

    model_name, _, how = name.partition(", ")
    device, size = setting.engine.device, setting.size
    options: dict[str, Any] = {"img_size": size} if model_name in VARIANTS else {}
    model = create_model(model_name, **options).eval()
    model = fuse(model) if "fused" in how or how in EXPORTED else model
    model = model.to(device).to(memory_format=torch.channels_last)
    images = torch.randn(setting.batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    if how == "bfloat16 autocast":
        return lambda: autocast(model, images)
    if how != "float32":
        model, images = model.half(), images.half()
    if how in EXPORTED:
        return exported(model, images, EXPORTED[how] if device.type == "cuda" else "CPUExecutionProvider")
    if how == TENSORRT:
        if not is_there("torch_tensorrt"):
            raise ValueError("torch_tensorrt is not installed")
        return partial(torch.compile(model, backend="torch_tensorrt"), images)
    return partial(torch.compile(model) if how == COMPILED else model, images)


def autocast(model: nn.Module, images: Tensor) -> Any:
    """A forward pass with float32 weights, products in bfloat16."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return model(images)


def exported(model: nn.Module, images: Tensor, provider: str) -> Callable[[], Any]:
    """A forward pass by ONNX Runtime, from and to torch's memory.

    Raises:
        ValueError: it, or the provider that is asked for, is not there.
    """
    missing = [module for module in ("onnx", "onnxruntime") if not is_there(module)]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed")
    onnxruntime = importlib.import_module("onnxruntime")
    there = onnxruntime.get_available_providers()
    if provider not in there:
        raise ValueError(f"onnxruntime has no {provider} here; it has {', '.join(there)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        images = images.contiguous()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a tracer, at every size that it takes for fixed
            torch.onnx.export(model, (images,), str(path), dynamo=False, opset_version=17)
            shape = model(images).shape
        options = {"trt_fp16_enable": True} if provider.startswith("Tensorrt") else {}
        session = onnxruntime.InferenceSession(str(path), providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise ValueError(f"onnxruntime could not load {provider}; it fell back to {session.get_providers()[0]}")
    out = torch.empty(shape, device=images.device, dtype=images.dtype)
    binding = session.io_binding()
    for bind, node, tensor in (
        (binding.bind_input, session.get_inputs()[0], images),
        (binding.bind_output, session.get_outputs()[0], out),
    ):
        kind = str(tensor.dtype).removeprefix("torch.")
        bind(node.name, tensor.device.type, tensor.device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())

    def run() -> Tensor:
        session.run_with_iobinding(binding)
        assert images.numel()  # what the binding reads must live as long as this function
        return out

    return run


def build_detector(name: str, setting: Setting, *, preset: str) -> Callable[[], Any]:
    """A detector's prediction, by its backbone and precision."""
    from botvision.bench.detector import build as build_step

    model, _, precision = name.partition(", ")
    engine = Engine(accelerator=setting.engine.accelerator, precision=precision)  # type: ignore[arg-type]
    return build_step(model, setting._replace(engine=engine), preset=preset)


if __name__ == "__main__":
    sys.exit(main(prediction))
