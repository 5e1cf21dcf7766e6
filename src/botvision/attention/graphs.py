"""Whether torch.compile, torch.export, torch.jit.trace or torch.func follows this run."""

from contextlib import AbstractContextManager, nullcontext

import torch


def is_recorded() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records this run: a loop over a size would be fixed."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@torch.jit.ignore
def is_exported() -> bool:
    """Whether torch.export records this run: `is_exporting()` of torch 2.11 says so under torch.compile too."""
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else bool(flag)


@torch.jit.ignore
def is_traced_for_onnx() -> bool:
    """Whether torch's tracing ONNX exporter follows this run: opsets below 14 have no fused attention."""
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


@torch.jit.ignore
def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation transforms this run: they know torch's own formulas alone."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


@torch.jit.ignore
def autocast_off(device: torch.device) -> AbstractContextManager[None]:
    """Operators in the dtype of their inputs; a graph that is recorded stays as it would be."""
    if is_recorded() or device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@torch.jit.ignore
def is_batched(grad: torch.Tensor) -> bool:
    """Whether a gradient is many at once, as `torch.autograd.grad(…, is_grads_batched=True)` gives it."""
    return torch._C._functorch.is_legacy_batchedtensor(grad)


@torch.jit.ignore
def has_memory_formats() -> bool:
    """Whether a map may be laid out as channels_last in this run.

    Not under vmap, which has no memory formats, and not in an exported graph: of a convolution over such a map torch
    infers the batch that it was recorded at, where that is 1, and a file declares its outputs so. Nor, in torch 2.11,
    under torch.compile, which would make a graph for one size and then another for all.
    """
    return not (is_transformed() or torch.compiler.is_exporting())


@torch.jit.ignore
def is_followed() -> bool:
    """Whether anything records or transforms this run: sizes must stay free, without strides and hooks."""
    return is_recorded() or is_transformed()


def why_not_eager(backend: str, *, does: str) -> str | None:
    """Why a backend that `does` what no graph records, and has a backward of its own, cannot run now."""
    if is_recorded():
        return f"{backend} {does} in a compiled, exported or traced graph; use onehot"
    if is_transformed():
        return f"{backend} has a backward of its own, which torch.func cannot transform; use explicit"
    return None
