"""Stage 0, seconds: what is there, what is missing, and what follows from it."""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_GPU, FAILED = 3, 1  # exit codes
NEEDED = {  # module → what follows where it is missing
    "torch": "nothing runs",
    "torchvision": "stages 3 and 5 are skipped",
    "timm": "stages 3, 4, 5 and 6 are skipped, stage 2 runs without timm's layer",
    "triton": "tiled, FlexAttention and everything compiled are left out",
    "numpy": "stages 2 to 6 fail",
    "PIL": "stages 3, 5 and 6 fail",
    "tqdm": "stages 2 to 6 fail",
    "safetensors": "stages 3 to 6 fail",
    "huggingface_hub": "stages 3 to 6 fail",
    "sklearn": "stage 6 is skipped",
    "scipy": "stage 6 fails",
    "onnx": "stage 5 runs without ONNX Runtime and TensorRT",
    "onnxruntime": "stage 5 runs without ONNX Runtime and TensorRT",
    "torch_tensorrt": "stage 5 runs without torch_tensorrt",
}
STAGES = {  # stage → modules of ours that it imports, those that it imports late too
    1: ("benchmarks.gpu.exactness",),
    2: ("benchmarks.gpu.attention",),
    3: ("benchmarks.gpu.detector", "botvision.bench.detector"),
    4: ("benchmarks.gpu.family", "botvision.bench.classify"),
    5: ("benchmarks.gpu.prediction", "botvision.bench.detector"),
    6: ("benchmarks.gpu.evidence", "studies.relations.sweep"),
}
LEAST = {"torch": (2, 11), "torchvision": (0, 26), "timm": (1, 0)}
PACKAGE = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}  # where it is not the module's name


def look(out: Path, *, toy: bool) -> int:
    """Print and file what is there.

    Returns:
        The exit code: 3 where there is no GPU and this is no toy run, 1 where torch cannot be imported.
    """
    versions = {module: version(module) for module in NEEDED}
    missing = {module: follows for module, follows in NEEDED.items() if versions[module] is None}
    old = {module: versions[module] for module, least in LEAST.items() if is_older(versions[module], least)}
    found: dict[str, Any] = {"python": sys.version.partition(" ")[0], "system": platform.platform(), "toy": toy}
    found |= {"versions": versions, "missing": missing, "too_old": old}
    try:
        found["device"] = device(toy=toy)
        code = 0 if toy or found["device"] else NO_GPU
    except Exception as error:
        found["device"] = f"{type(error).__name__}: {error}"
        code = FAILED
    found["broken"] = broken()
    print(json.dumps(found, indent=1))
    write(out / "0_look.json", found)
    for module, follows in missing.items():
        print(f"{module} is missing: {follows}")
    for module, has in old.items():
        print(f"{module} {has} is older than {'.'.join(map(str, LEAST[module]))}: stages may fail")
    for stage, why in found["broken"].items():
        print(f"stage {stage} will fail: {why}")
    print(told(found, code))
    return code


def broken() -> dict[int, str]:
    """Stages whose modules cannot be imported here, and why."""
    found = {}
    for stage, modules in STAGES.items():
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:
                found[stage] = f"{module}: {type(error).__name__}: {error}"
                break
    return found


def version(module: str) -> str | None:
    """A module's version, empty where it does not say; none where it is not installed."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(PACKAGE.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_older(has: str | None, least: tuple[int, int]) -> bool:
    """Whether a version such as 2.11.0+cu130 is below the least."""
    if not has:
        return False
    major, minor = (int(part) for part in has.split(".")[:2])
    return (major, minor) < least


def told(found: dict[str, Any], code: int) -> str:
    """The line that the hour's table takes."""
    if code == NO_GPU:
        return "torch sees no NVIDIA GPU here; use --toy to try the script on the CPU"
    if code == FAILED:
        return str(found["device"])
    missing = ", ".join(found["missing"]) or "nothing"
    stages = f"; stages that will fail: {', '.join(map(str, found['broken']))}" if found["broken"] else ""
    return f"{found['device'].get('name', 'CPU')}, torch {found['versions']['torch']}; missing: {missing}{stages}"


def device(*, toy: bool) -> dict[str, Any]:
    """The GPU, its free memory, and how fast it copies and multiplies: no version of ours runs faster than that."""
    import torch

    if not toy and not torch.cuda.is_available():
        return {}
    where, side, numbers = ("cpu", 128, 2**16) if toy else ("cuda", 8192, 2**28)
    about: dict[str, Any] = {}
    if not toy:
        about["name"] = torch.cuda.get_device_name()
        about["capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
        about["cuda"] = torch.version.cuda
        free, total = torch.cuda.mem_get_info()
        about |= {"free_gib": free / 2**30, "total_gib": total / 2**30}
    source = torch.randn(numbers, device=where)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=where).bfloat16() for _ in range(2))
    about["copy_gb_per_s"] = 2 * source.nbytes / 1e9 / seconds(lambda: target.copy_(source), where)
    about["bfloat16_product_tflops"] = 2 * side**3 / 1e12 / seconds(lambda: a @ b, where)
    return about


def seconds(step: Callable[[], Any], where: str, *, times: int = 10) -> float:
    """The mean of some, after a warm one."""
    import torch

    for warm in (True, False):
        begun = time.perf_counter()
        for _ in range(1 if warm else times):
            step()
        if where == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times


def write(path: Path, found: dict[str, Any]) -> None:
    """A whole file or none, by nothing but the standard library."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(look(Path(sys.argv[1]), toy="--toy" in sys.argv[2:]))
