"""Optimiser groups and learning-rate schedules, in plain torch."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

Schedule = Literal["steps", "cosine"]


def build_optimizer(
    model: nn.Module, kind: Literal["sgd", "adamw"], *, lr: float, weight_decay: float, momentum: float = 0.9
) -> Optimizer:
    """SGD with momentum (the paper's) or AdamW (beta1 = momentum), with decay on weights only."""
    groups = parameter_groups(model, weight_decay=weight_decay)
    if kind == "sgd":
        return SGD(groups, lr=lr, momentum=momentum)
    return AdamW(groups, lr=lr, betas=(momentum, 0.999))


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: decayed, and not (norms, biases, what `no_weight_decay()` names).

    Any module may name parameters of its own in `no_weight_decay()`, as timm's models and `MHSA2d` do.
    """
    spared = set(names_without_decay(model))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim > 1 and name not in spared]
    kept = [p for name, p in trained if p.ndim <= 1 or name in spared]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def names_without_decay(model: nn.Module) -> Iterator[str]:
    """Full names of the parameters that some module of the model wants left alone."""
    for path, module in model.named_modules():
        if callable(named := getattr(module, "no_weight_decay", None)):
            yield from (f"{path}.{name}" if path else name for name in named())


def learning_rate_factor(
    step: int,
    *,
    total: int,
    schedule: Schedule,
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
