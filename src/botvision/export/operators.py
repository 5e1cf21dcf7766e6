"""Operators of our graphs that torch's ONNX exporter does not know, as operators of ONNX."""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op

from botvision.maskrcnn.static import keep_best


def keep_best_in_onnx(boxes: Any, scores: Any, overlap: float) -> Any:
    """`keep_best`: ONNX's own NonMaxSuppression holds groups apart exactly, one group a batch entry.

    Args:
        boxes: (B, G, N, 4).
        scores: (B, G, N); a row with one below 0 holds nothing.
        overlap: as of `keep_best`.
    """
    count = op.Shape(scores, start=2, end=3)
    minus_one = op.Constant(value_ints=[-1])
    rows = op.Reshape(boxes, op.Concat(minus_one, count, op.Constant(value_ints=[4]), axis=0))  # B·G N 4
    flat = op.Reshape(scores, op.Concat(op.Constant(value_ints=[-1, 1]), count, axis=0))  # B·G 1 N
    limits = op.Constant(value_float=overlap), op.Constant(value_float=0.0)
    chosen = op.NonMaxSuppression(rows, flat, count, *limits)  # M 3: group, 0, row
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    none = op.ConstantOfShape(op.Shape(op.Squeeze(flat, op.Constant(value_ints=[1]))))
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(chosen, start=0, end=1))
    kept = op.Reshape(op.ScatterND(none, places, ones), op.Shape(scores))
    return op.Greater(kept, op.Constant(value_float=0.5))


def sort_in_onnx(x: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """`torch.sort(stable=True)`: of equal values ONNX's TopK gives the first one first."""
    return op.TopK(x, op.Shape(x, start=dim, end=dim + 1), axis=dim, largest=int(descending))


def larger_in_onnx(a: Any, b: Any) -> Any:
    """`torch.sym_max` of two sizes."""
    return op.Max(a, b)


def smaller_in_onnx(a: Any, b: Any) -> Any:
    """`torch.sym_min` of two sizes."""
    return op.Min(a, b)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.botvision.keep_best.default: keep_best_in_onnx,
    torch.ops.aten.sort.stable: sort_in_onnx,
    torch.sym_max: larger_in_onnx,
    torch.sym_min: smaller_in_onnx,
}
assert keep_best is not None  # importing it has registered the operator
