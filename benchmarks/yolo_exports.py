"""ONNX files of YOLO variants beside torch: every task, batch, size and opset, and how far they differ.

Each file is made by ultralytics' exporter with free batch and sizes, traced at one image of 64 × 64 px (with `nms`, at
eight), then run by onnxruntime at batches 1, 2, 3 and 8 of three sizes and compared with the very module that was
exported. The plain model's own differences stand beside the variants'. A cell that is done is not repeated; a table is
written after each.

    python benchmarks/yolo_exports.py benchmarks/results/yolo_exports_2-core-cpu_2026-11-29 --minutes 30
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("YOLO_OFFLINE", "true")

import onnxruntime
import torch
import ultralytics
from torch import Tensor, nn
from ultralytics.utils import LOGGER

from botvision.attention import MHSA2d
from botvision_yolo import YOLO
from botvision_yolo.variants import VARIANTS

BATCHES = (1, 2, 3, 8)
SIZES = ((64, 64), (96, 160), (320, 224))
TASKS = ("", "-seg", "-cls", "-pose", "-obb")
OPSETS = (18, 11, 20, 13, 14, 12, 15, 16, 17, 19)  # torch's tracing exporter ends at 20
SPREAD = 8.0  # of the classes' random scores
Diffs = tuple[float, float, float]


class Cell(NamedTuple):
    """One file: of which model and task, and how it is exported."""

    model: str
    task: str
    opset: int
    simplify: bool
    nms: bool


def main() -> None:
    """Fill the grid as far as the time allows, the telling cells first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="files to write, without suffix: .json and .md")
    parser.add_argument("--base", default="yolo11n")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    LOGGER.setLevel("ERROR")
    end, found = time.monotonic() + 60 * options.minutes, read(options.out.with_suffix(".json"))
    for cell in cells(options.base):
        if str(tuple(cell)) in found:
            continue
        if time.monotonic() > end:
            break
        found[str(tuple(cell))] = {**cell._asdict(), **measured(cell)}
        options.out.with_suffix(".json").write_text(json.dumps(list(found.values()), indent=0) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(table(list(found.values())), encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Cells that are done."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return {str(tuple(row[name] for name in Cell._fields)): row for row in rows}


def cells(base: str) -> Iterator[Cell]:
    """The grid: every opset, even ones simplified and odd ones not, without NMS and with it; then the other halves."""
    models = [base, *(f"{base}-{variant}" for variant in VARIANTS)]
    ways = [
        (opset, (opset % 2 == 0) ^ half, nms) for half in (False, True) for nms in (False, True) for opset in OPSETS
    ]
    for opset, simplify, nms in ways:
        for task in TASKS:
            for model in models:
                if not (nms and task == "-cls"):
                    yield Cell(model, task, opset, simplify, nms)


def measured(cell: Cell) -> dict[str, Any]:
    """The largest difference of a cell, absolute and as a share of the output's largest; or why there is none."""
    model = prepared(cell)
    exported: list[nn.Module] = []
    write = torch.onnx.export

    def keep(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        exported.append(module)
        return write(module, *arguments, **named)

    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        torch.onnx.export = keep  # type: ignore[assignment]
        try:
            path = model.export(
                format="onnx", dynamic=True, imgsz=64, device="cpu", opset=cell.opset, simplify=cell.simplify,
                nms=cell.nms, batch=max(BATCHES) if cell.nms else 1,
            )  # fmt: skip
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(path, options)
            for part in exported[-1].eval().modules():  # torch's exporter restores what mode the outermost had
                if hasattr(part, "export"):
                    part.export = True  # type: ignore[assignment]
            diffs = [compared(session, exported[-1], batch, size, cell.nms) for batch in BATCHES for size in SIZES]
        except Exception as error:  # a cell that fails is a finding
            return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        finally:
            torch.onnx.export = write
            os.chdir(before)
    return {name: max(d[n] for d in diffs) for n, name in enumerate(("absolute", "relative", "lost"))}


def prepared(cell: Cell) -> YOLO:
    """A model whose BatchNorms do something, whose attention is not flat, and that finds something."""
    torch.manual_seed(0)
    model = YOLO(f"{cell.model}{cell.task}.yaml")
    for module in model.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if not module.weight.any():
                nn.init.ones_(module.weight)  # a block that starts as identity would hide what is in it
        elif isinstance(module, MHSA2d):
            nn.init.normal_(module.qkv.weight, std=0.1)
    for branch in getattr(model.model.model[-1], "cv3", []):
        branch[-1].weight.data.mul_(SPREAD)
        branch[-1].bias.data.fill_(-1.0)
    return model


def compared(session: Any, module: nn.Module, batch: int, size: tuple[int, int], nms: bool) -> Diffs:
    """How far a file's outputs are from torch's on random images: the largest of all outputs, and what is not found."""
    images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        ours = module(images)
    ours = ours if isinstance(ours, tuple | list) else [ours]
    theirs = [torch.from_numpy(out) for out in session.run(None, {session.get_inputs()[0].name: images.numpy()})]
    if (came := [tuple(b.shape) for b in theirs]) != (wanted := [tuple(a.shape) for a in ours]):
        raise ValueError(f"shapes {wanted} became {came}, batch {batch}")
    peaks = [max(float(a.abs().max()), 1e-12) if a.numel() else 1.0 for a in ours]
    absolute = [float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(ours, theirs, strict=True)]
    lost = 0.0
    if nms:
        absolute[0], lost = unordered(ours[0], theirs[0], far=1e-4 * peaks[0])
    return max(absolute), max(d / peak for d, peak in zip(absolute, peaks, strict=True)), lost


def unordered(ours: Tensor, theirs: Tensor, *, far: float) -> tuple[float, float]:
    """How far detections (B, N, …) are from their like on the other side, in any order; and which share has none."""
    distances = torch.cdist(ours.double(), theirs.double(), p=torch.inf)  # B N N
    nearest = torch.cat([distances.amin(2)[ours[..., 4] > 0], distances.amin(1)[theirs[..., 4] > 0]])
    found = nearest[nearest < far]
    return float(found.max()) if len(found) else 0.0, 1 - len(found) / max(len(nearest), 1)


def table(rows: list[dict[str, Any]]) -> str:
    """Largest differences by task and way to export; a column a model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways = sorted({(row["nms"], row["task"], row["opset"], not row["simplify"]) for row in rows})
    lines = [f"| task | nms | opset | simplify | {' | '.join(models)} |", "|---" * (4 + len(models)) + "|"]
    for nms, task, opset, plain in ways:
        found = {
            row["model"]: row
            for row in rows
            if (row["nms"], row["task"], row["opset"], not row["simplify"]) == (nms, task, opset, plain)
        }
        shown = " | ".join(entry(found.get(model)) for model in models)
        lines.append(
            f"| {task[1:] or 'detect'} | {'yes' if nms else ''} | {opset} | {'' if plain else 'yes'} | {shown} |"
        )
    failed = sorted(
        {f"- {row['model']}{row['task']}, opset {row['opset']}: {row['failed']}" for row in rows if "failed" in row}
    )
    sizes = ", ".join(f"{height}×{width}" for height, width in SIZES)
    note = (
        f"Largest |ONNX − torch| over batches {', '.join(map(str, BATCHES))} of {sizes} px, absolute, and in brackets "
        "as a share of the output's largest number; batch and sizes free in one file. With NMS: of each detection to "
        "its like on the other side, in any order, and the largest share of a batch's detections that have none; these "
        "models are random, their scores nearly equal, and rounding decides what NMS keeps, the plain model's too. "
        f"`python benchmarks/yolo_exports.py`, {len(rows)} files; ultralytics {ultralytics.__version__}, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, CPU, one thread."
    )
    return "\n".join([*lines, "", note, *(["", "Failed:", "", *failed] if failed else []), ""])


def entry(row: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if row is None:
        return "not run"
    if "failed" in row:
        return "failed"
    lost = f", {row['lost']:.1%} without" if row.get("lost") else ""
    return f"{row['absolute']:.1e} ({row['relative']:.0e}){lost}"


if __name__ == "__main__":
    main()
