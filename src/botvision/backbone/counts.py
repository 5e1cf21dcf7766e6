"""Parameters and multiply-adds (M.Adds, FLOPs) of a model, as the paper counts them."""

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from botvision.attention import MHSA2d


class Counts(NamedTuple):
    """Parameters, and multiply-adds of one image."""

    parameters: int
    madds: float


def count(model: nn.Module, img_size: tuple[int, int], *, classifier: bool = True) -> Counts:
    """Count a model by torch's own counter, on tensors without storage: nothing is computed.

    Attention is counted in the explicit form, position logits factored, as in the paper's Table 1.

    Args:
        model: of timm's kind, with `in_chans`; on any device.
        img_size: (height, width).
        classifier: whether its multiply-adds count; its parameters do.
    """
    parameters = sum(p.numel() for p in model.parameters())
    weightless: Any = copy.deepcopy(model).to("meta", torch.float32).eval()
    for layer in weightless.modules():
        if isinstance(layer, MHSA2d):
            layer.backend = "explicit"
    for parent in list(weightless.modules()):
        for name, part in parent.named_children():
            if type(part) is nn.BatchNorm2d:  # no multiply-adds are counted of it, and following it takes half the time
                setattr(parent, name, nn.Identity())
    if not classifier:
        weightless.reset_classifier(0)
    image = torch.empty(1, getattr(model, "in_chans", 3), *img_size, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        weightless(image)
    return Counts(parameters, counter.get_total_flops() / 2)
