"""Stage 1: every backend in every dtype against the float64 reference, forward and all gradients."""

import itertools
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import InexactError, main, restart
from botvision.attention import attend
from botvision.bench.config import Engine

BACKENDS = ("explicit", "onehot", "auto", "tiled")  # last the one that may leave the device unusable
TOLERANCE = {  # dtype → of the output and of the gradients; what people train in comes first
    torch.bfloat16: (4e-2, 4e-2), torch.float16: (5e-3, 1e-2), torch.float32: (1e-5, 1e-4),
}  # fmt: skip
SHAPES = (  # batch, heads, height, width, channels of a head
    (2, 2, 1, 1, 8), (1, 2, 1, 17, 12), (2, 1, 19, 1, 16), (1, 4, 14, 14, 128), (1, 2, 9, 40, 33), (1, 1, 32, 64, 128),
)  # fmt: skip
LARGE = (8, 4, 64, 64, 128)  # as it is raced
TOY = ((1, 2, 3, 5, 8), (2, 1, 4, 4, 8))
MOST = 2**31  # numbers that the reference may hold, N×N×D of them; beyond, explicit in float64 judges

Shape = tuple[int, int, int, int, int]


def exactness(out: Path, toy: bool) -> str:
    """Measure how far each backend is from the reference.

    Raises:
        InexactError: one is farther than its dtype allows, or failed.
    """
    results = Results(out / "1_exactness.json", "Exactness", toy=toy)
    device = torch.device("cpu" if toy else "cuda")
    for dtype, backend, shape in itertools.product(TOLERANCE, BACKENDS, TOY if toy else (*SHAPES, LARGE)):
        case = {"backend": backend, "dtype": str(dtype).removeprefix("torch."), "shape": shape}
        if results.has(**case):
            continue
        if backend in results.left_out:
            results.add({**case, "exact": False, "why_not": results.left_out[backend]})
            continue
        try:
            results.add({**case, **deviation(backend, shape, dtype, device)})
        except ValueError as refused:
            results.add({**case, "exact": False, "why_not": str(refused)})
        except Exception as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            results.add({**case, "exact": False, "why_not": said, "failed": True})
            if not Engine(accelerator=device.type).is_usable():
                results.left_out[backend] = said
                results.save()
                restart()
    return summary(results.rows)


def summary(rows: list[dict[str, Any]]) -> str:
    """One line.

    Raises:
        InexactError: a backend is not exact, or failed.
    """
    for row in rows:
        print(*(f"{name}={value}" for name, value in row.items()))
    exact = [row for row in rows if row["exact"]]
    wrong = [row for row in rows if not row["exact"] and ("forward" in row or "failed" in row)]
    moving = sum(not row["repeatable"] for row in exact)
    line = (
        f"{len(exact)} of {len(rows)} cases exact, {len(rows) - len(exact) - len(wrong)} refused; "
        f"{moving} differ from run to run"
    )
    if wrong:
        raise InexactError(f"{line}; {len(wrong)} wrong, the first: {wrong[0]['backend']} {wrong[0]['dtype']}")
    return line


def deviation(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """How far a backend is from the reference in float64 on the same inputs.

    Returns:
        forward: largest difference.
        gradients: largest difference of each of the five gradients' as a share of its largest entry, or of 1.
        exact: whether both are within the dtype's tolerance.
        repeatable: whether a second run gives the same bits; a kernel that races does not.
    """
    torch.manual_seed(0)
    low, seed_gradient = inputs(shape, dtype, device)
    got = outcome(backend, low, seed_gradient)
    again = outcome(backend, low, seed_gradient)
    exact = [t.detach().double().requires_grad_() for t in low]
    batch, heads, height, width, dim = shape
    fits = batch * heads * (height * width) ** 2 * dim < MOST
    wanted = outcome("reference" if fits else "explicit", exact, seed_gradient.double())
    largest = [1.0, *(max(float(t.abs().max()), 1.0) for t in wanted[1:])]
    forward, *gradients = (
        float((a.double() - b).abs().max()) / most for a, b, most in zip(got, wanted, largest, strict=True)
    )
    limit = TOLERANCE[dtype]
    return {
        "forward": forward,
        "gradients": gradients,
        "exact": forward <= limit[0] and all(gradient <= limit[1] for gradient in gradients),
        "repeatable": all(torch.equal(a, b) for a, b in zip(got, again, strict=True)),
    }


def inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """q, k, v, rel_h, rel_w as a layer hands them over, heads strided; and the output's gradient."""
    batch, heads, height, width, dim = shape
    n = height * width
    low = [
        torch.randn(batch, n, heads, side, device=device).to(dtype).transpose(1, 2).requires_grad_()
        for side in (dim, dim, dim, height, width)
    ]
    return low, torch.randn(batch, heads, n, dim, device=device).to(dtype)


def outcome(backend: str, tensors: list[Tensor], seed_gradient: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients."""
    out = attend(*tensors, scale=tensors[0].shape[-1] ** -0.5, backend=backend)  # a layer's scale
    return out.detach(), *torch.autograd.grad(out, tensors, seed_gradient)


if __name__ == "__main__":
    sys.exit(main(exactness))
