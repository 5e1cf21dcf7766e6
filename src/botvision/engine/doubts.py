"""Signs that a run did not learn, each with its cure."""

from collections.abc import Mapping, Sequence
from statistics import fmean

Row = Mapping[str, float]
LEAST = 6  # rows of losses from which their course is told


def slow_start(*, warmup_steps: int, total: int) -> str:
    """A warning where the learning rate never reaches its base; empty where it does."""
    if warmup_steps < total:
        return ""
    return (
        f"warning: the warm-up of {warmup_steps} steps is longer than the run of {total}: the learning rate never "
        "reaches its base; shorten it, e.g. --optim.warmup 0.05, a share of the run, or train for more epochs"
    )


def nothing_found(rows: Sequence[Row], *, metric: str, name: str) -> str:
    """A warning where every evaluation gave zero; empty where one did not."""
    found = [row[metric] for row in rows if metric in row]
    if not found or max(found) > 0.001:
        return ""
    return (
        f"warning: {name} is {max(found):.3f} after {len(found)} evaluations: the model finds nothing yet; look at the "
        "labels in samples.jpg, train for more epochs, begin from trained weights by --backbone_weights, or raise the "
        "learning rate"
    )


def flat_loss(rows: Sequence[Row]) -> str:
    """A warning where the training loss is at the end what it was at the beginning; empty where it fell."""
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    if len(losses) < LEAST:
        return ""
    third = len(losses) // 3
    first, last = fmean(losses[:third]), fmean(losses[-third:])
    if last < 0.97 * first:
        return ""
    return (
        f"warning: the training loss did not fall ({first:.3g} in the first third of the run, {last:.3g} in the last); "
        "look at the labels in samples.jpg, and try another learning rate, e.g. a third of it or three times as much"
    )
