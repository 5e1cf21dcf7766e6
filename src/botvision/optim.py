"""Optimisers by timm's names, weight decay on weights only, learning-rate schedules."""

import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer


def check_optimizer(name: str) -> None:
    """Refuse what timm does not know.

    Raises:
        ValueError: an unknown name, with those that are near.
    """
    if name not in list_optimizers():
        near = ", ".join(get_close_matches(name, list_optimizers(), n=3)) or "momentum, adamw, lamb"
        raise ValueError(f"unknown optimizer {name!r}; timm knows {near} and others")


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    layer_decay: float | None = None,
) -> Optimizer:
    """An optimiser by timm's name; norms, biases and what `no_weight_decay()` names are not decayed.

    Args:
        model: any of its modules may name parameters of its own in `no_weight_decay()`, as timm's models and `MHSA2d`
            do.
        name: "momentum" (SGD, the paper's), "sgd" (with Nesterov), "adamw", "lamb", …
        lr: base rate.
        weight_decay: of the others.
        momentum: of those that take one.
        layer_decay: rate of each layer as a share of the next one's, for timm's models; none for one rate.

    Raises:
        ValueError: an unknown name.
    """
    check_optimizer(name)
    spared = list(names_without_decay(model))
    groups: list[dict[str, Any]]
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(model, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay)
    groups = [{**group, "lr": lr * group.get("lr_scale", 1.0)} for group in groups]
    return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.0, momentum=momentum)


def names_without_decay(model: nn.Module) -> Iterator[str]:
    """Full names of the parameters that some module of the model wants left alone."""
    for path, module in model.named_modules():
        if callable(named := getattr(module, "no_weight_decay", None)):
            yield from (f"{path}.{name}" if path else name for name in named())


def learning_rate_factor(
    step: int,
    *,
    total: int,
    schedule: Literal["steps", "cosine"],
    warmup_steps: int,
    warmup_from: float,
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """Factor on the base rate at an optimiser step.

    Args:
        step: 0 … total − 1.
        total: optimiser steps of the whole run.
        schedule: "steps" multiplies by 0.1 at each milestone, "cosine" falls to 0.
        warmup_steps: linear from `warmup_from` to 1 over so many steps, on top of the schedule.
        warmup_from: first factor, e.g. 0.0067 / 0.08.
        milestones: as fractions of `total`.
    """
    if schedule == "steps":
        factor = 0.1 ** sum(step >= share * total for share in milestones)
    else:
        progress = (step - warmup_steps) / max(1, total - warmup_steps)
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    if step < warmup_steps:
        factor *= warmup_from + (1 - warmup_from) * step / warmup_steps
    return factor
