"""Means with their intervals along an axis, a line a name, a panel a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botvision.files import whole_file

BAND = 12  # points from which an interval is a band instead of bars
SEEDS = ", n = "  # before a name's number of seeds
LETTER, KEY = 0.07, 0.6  # inches of the legend's letters and of a line's sample
APART = 0.008  # of the axis, by which neighbouring lines' bars are set apart


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
    within: tuple[float, float],
    levels: Mapping[str, float] | None = None,
) -> None:
    """One panel a comparison, the same colour for a name in all of them, one legend below.

    Args:
        panels: panel title → name → points in order; a panel without points is left out. A name may end in its number
            of seeds, ", n = 3", which makes no other colour.
        path: of the PNG.
        along: what the horizontal axis is.
        within: what values can be; wider intervals are cut off there.
        levels: panel title → a value to mark by a line, e.g. what chance gives.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    filled = {title: lines for title, lines in panels.items() if any(lines.values())}
    if not filled:
        return
    known = dict.fromkeys(name for lines in filled.values() for name in lines)
    titles = list(dict.fromkeys(name.partition(SEEDS)[0] for name in known))
    palette = colormaps["tab10" if len(titles) <= 10 else "tab20"]
    colours = {name: palette(titles.index(name.partition(SEEDS)[0])) for name in known}
    columns = min(len(filled), 3)
    lines_of_panels = -(-len(filled) // columns)
    in_a_row = max(1, int(4.8 * columns / (LETTER * max(map(len, known)) + KEY)))
    legend_rows = -(-len(colours) // in_a_row)
    height = 3.5 * lines_of_panels + 0.2 * legend_rows
    figure = Figure(figsize=(4.8 * columns, height), layout="constrained")
    axes = figure.subplots(lines_of_panels, columns, squeeze=False).flatten()
    for axis, (title, lines) in zip(axes, filled.items(), strict=False):
        places = [p.at for points in lines.values() for p in points]
        apart = APART * (max(places) - min(places))
        for name, points in lines.items():
            at, means = [p.at for p in points], [p.mean for p in points]
            halves = [p.half or 0.0 for p in points]
            if len(points) > BAND:
                axis.plot(at, means, label=name, color=colours[name], linewidth=1.2)
                edges = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
                axis.fill_between(at, *edges, color=colours[name], alpha=0.15, linewidth=0)
            else:
                shift = apart * (list(colours).index(name) - (len(colours) - 1) / 2)
                at = [place + shift for place in at]
                axis.errorbar(at, means, halves, label=name, color=colours[name], fmt=".-", capsize=3, linewidth=1.2)
        if levels and title in levels:
            axis.axhline(levels[title], color="black", linewidth=0.8, linestyle=":")
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, within[0]), min(high, within[1]))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(along)
        axis.grid(alpha=0.3)
    named: dict[str, Any] = {}
    for axis in axes[: len(filled)]:
        handles, names = axis.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    figure.legend(named.values(), named, loc="outside lower center", ncols=in_a_row, fontsize=8, frameon=False)
    for axis in axes[len(filled) :]:
        axis.set_visible(False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
