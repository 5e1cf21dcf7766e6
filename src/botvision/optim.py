"""Optimisers by timm's names, weight decay on weights only, learning-rate schedules."""

import math
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer

from botvision.attention import MHSA2d

SECOND_ORDER = ("adahessian",)
# within a name; Goyal et al. 2017; others: Malladi et al. 2022
IN_PROPORTION = ("sgd", "momentum", "nesterov", "lars", "larc")


def check_optimizer(name: str) -> None:
    """Refuse what timm does not know, or cannot build here.

    Raises:
        ValueError: an unknown name, with those that are near; one whose package is missing.
    """
    if name not in list_optimizers():
        near = ", ".join(get_close_matches(name, list_optimizers(), n=3)) or "momentum, adamw, lamb"
        raise ValueError(f"unknown optimizer {name!r}; timm knows {near} and others")
    if name in SECOND_ORDER:
        raise ValueError(f"optimizer {name!r} needs second derivatives, which training does not keep; e.g. adamw")
    try:
        create_optimizer_v2(nn.Linear(2, 2), opt=name, lr=1e-3)
    except Exception as error:  # an assertion or an import, each package's own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"optimizer {name!r} cannot be built here: {reason}; e.g. momentum, adamw or lamb") from error


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    layer_decay: float | None = None,
    slow: Collection[nn.Parameter] = (),
    slow_lr: float | None = None,
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
        slow: parameters with a base rate of their own, such as a trained backbone's.
        slow_lr: that rate; none for `lr`.

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
    if slow_lr is not None:
        groups = with_rate(groups, set(slow), ratio=slow_lr / lr)
    return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.0, momentum=momentum)


def with_rate(groups: list[dict[str, Any]], chosen: set[nn.Parameter], *, ratio: float) -> list[dict[str, Any]]:
    """Parameter groups in which the chosen ones have `ratio` times their group's rate."""
    split = []
    for group in groups:
        for inside, factor in ((True, ratio), (False, 1.0)):
            part = [p for p in group["params"] if (p in chosen) is inside]
            if part:
                split.append({**group, "params": part, "lr": factor * group["lr"]})
    return split


def rate_for(lr: float, name: str, *, batch: int, meant_for: int | None) -> float:
    """A rate that was given for another batch: in proportion for SGD, by the root for adaptive optimisers.

    Args:
        lr: the rate.
        name: of the optimiser.
        batch: images a step, all devices together.
        meant_for: the batch that `lr` was given for; none leaves it.
    """
    if meant_for is None:
        return lr
    ratio = batch / meant_for
    return lr * (ratio if any(kind in name.lower() for kind in IN_PROPORTION) else ratio**0.5)


INSERTED = "extra"  # name of a block that a ResNet does not have (botvision.backbone.botnet)


def freeze(backbone: nn.Module) -> None:
    """Keep a backbone as it is, but its blocks with attention; BatchNorm keeps its running statistics too."""
    for module in without_attention(backbone):
        module.eval()
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def without_attention(backbone: nn.Module) -> list[nn.Module]:
    """The modules with parameters that are in no block with attention and none inserted: what a ResNet has trained."""
    inserted = {id(module) for path, module in backbone.named_modules() if path.rpartition(".")[2] == INSERTED}
    spared = {
        id(inner)
        for block in backbone.modules()
        if any(isinstance(child, MHSA2d) for child in block.children()) or id(block) in inserted
        for inner in block.modules()
    }
    return [m for m in backbone.modules() if list(m.parameters(recurse=False)) and id(m) not in spared]


def trained_before(backbone: nn.Module) -> set[nn.Parameter]:
    """Parameters of `without_attention`."""
    return {parameter for module in without_attention(backbone) for parameter in module.parameters(recurse=False)}


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
