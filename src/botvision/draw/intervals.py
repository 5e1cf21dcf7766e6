"""Means with their intervals along an axis, a line a name, a panel a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from botvision.files import whole_file

BAND = 12  # points from which an interval is a band instead of bars


class Point(NamedTuple):
    """A mean at a place; half its interval, where there is one."""

    at: float
    mean: float
    half: float | None = None


def draw_intervals(
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    path: Path,
    *,
    along: str,
    level: float | None = None,
) -> None:
    """One panel a comparison, the same colour for a name in all of them.

    Args:
        panels: panel title → name → points in order; a panel without points is left out.
        path: of the PNG.
        along: what the horizontal axis is.
        level: a value to mark by a line, e.g. what a coin gives.
    """
    from matplotlib.figure import Figure

    filled = {title: lines for title, lines in panels.items() if any(lines.values())}
    if not filled:
        return
    colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(n for lines in filled.values() for n in lines))}
    columns = min(len(filled), 3)
    lines_of_panels = -(-len(filled) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.5 * lines_of_panels), layout="constrained")
    axes = figure.subplots(lines_of_panels, columns, squeeze=False).flatten()
    for axis, (title, lines) in zip(axes, filled.items(), strict=False):
        for name, points in lines.items():
            at, means = [p.at for p in points], [p.mean for p in points]
            halves = [p.half or 0.0 for p in points]
            if len(points) > BAND:
                axis.plot(at, means, label=name, color=colours[name], linewidth=1.2)
                low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
                axis.fill_between(at, low, high, color=colours[name], alpha=0.15, linewidth=0)
            else:
                axis.errorbar(at, means, halves, label=name, color=colours[name], fmt=".-", capsize=3, linewidth=1.2)
        if level is not None:
            axis.axhline(level, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(along)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    for axis in axes[len(filled) :]:
        axis.set_visible(False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
