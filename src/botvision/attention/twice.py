"""Second derivatives of attention: by explicit logits, or refused with a cure."""

# B batch, M heads, N = H·W tokens, D head dim

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from botvision.attention import explicit
from botvision.attention.graphs import is_followed


def differentiable_gradients(
    inputs: Sequence[Tensor], grad: Tensor, *, scale: float, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of attention that can be differentiated once more, for a backward that is run with `create_graph`.

    Args:
        inputs: q, k, v, rel_h, rel_w, (B, M, N, …) each, as they were given to the forward.
        grad: (B, M, N, D), of the output.
        scale: of q·k.
        needed: which inputs want theirs.

    Raises:
        ValueError: N×N logits would not fit.
    """
    dtype = torch.promote_types(grad.dtype, torch.float32)
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        # names of their own: rel_h comes from q, and that way is not ours to follow
        own = [t.to(dtype).view_as(t) for t in inputs]
        q, _, _, rel_h, rel_w = own
        if reason := explicit.why_not(q, rel_h, rel_w):
            raise ValueError(f"second derivatives of attention need its logits: {reason.partition('; use')[0]}")
        out = explicit.attend_explicit(*own, scale=scale)
        wanted = [t for t, want in zip(own, needed, strict=True) if want]
        found = iter(torch.autograd.grad(out, wanted, grad.to(dtype), create_graph=True))
    return tuple(next(found).to(t.dtype) if want else None for t, want in zip(inputs, needed, strict=True))


def once(q: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The inputs of torch's fused attention, which end a second derivative with a cure rather than in torch's words."""
    inputs = (q, *others)
    if is_followed() or not torch.is_grad_enabled():
        return inputs
    if q.is_cuda and q.dtype == torch.float64:  # no fused kernel takes it, and the other form has one
        return inputs
    return tuple(hooked(t) if t is not None and t.requires_grad else t for t in inputs)


def hooked(tensor: Tensor) -> Tensor:
    """An alias whose gradient, where a graph of it is kept, is not to be differentiated."""
    alias = tensor.view_as(tensor)
    alias.register_hook(lambda grad: _Refused.apply(grad) if torch.is_grad_enabled() else None)
    return alias


class _Refused(torch.autograd.Function):
    """A gradient, whose own gradient is refused."""

    @staticmethod
    def forward(_: Any, grad: Tensor) -> Tensor:
        """As it is."""
        return grad.view_as(grad)

    @staticmethod
    def backward(*_: Any) -> None:
        """Never."""
        raise ValueError(
            "torch's fused attention has no second derivative; give backend='explicit' to attend, or set it on the "
            "MHSA2d layers, which has one"
        )
