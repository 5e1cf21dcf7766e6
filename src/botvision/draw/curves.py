"""Training curves of a run."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from botvision.files import whole_file

Row = Mapping[str, float]
LEGIBLE = 8  # lines of a legend


def draw_curves(rows: Sequence[Row], path: Path, *, panels: Mapping[str, Sequence[str]], along: str = "step") -> bool:
    """One panel a group of columns, over a common axis; whether there was one to draw.

    Args:
        rows: of the metrics; a row may lack any column.
        path: of the PNG.
        panels: panel title → columns drawn in it, by name or as a pattern (`val/*`); empty panels are left out. Columns
            of a layer's heads (`…head0`, `…head1`) share a colour and a line of the legend.
        along: column of the horizontal axis.
    """
    from matplotlib.figure import Figure

    known = list(dict.fromkeys(column for row in rows for column in row))
    filled = {
        title: [column for pattern in patterns for column in known if fnmatchcase(column, pattern)]
        for title, patterns in panels.items()
    }
    filled = {title: columns for title, columns in filled.items() if columns}
    if not filled:
        return False
    figure = Figure(figsize=(4.6 * len(filled), 3.4), layout="constrained")
    axes = figure.subplots(1, len(filled), squeeze=False)
    for axis, (title, columns) in zip(axes[0], filled.items(), strict=True):
        groups = list(dict.fromkeys(group_of(column) for column in columns))
        for number, group in enumerate(groups):
            members = [column for column in columns if group_of(column) == group]
            for member in members:
                points = [(r[along], r[member]) for r in rows if member in r]
                style = "-" if len(points) > 30 else ".-"
                label = None if member != members[0] else group.rsplit("/", 1)[-1] + "…" if len(members) > 1 else member
                axis.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, color=f"C{number}")
        axis.set_title(title)
        axis.set_xlabel(along)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8 if len(groups) <= LEGIBLE else 5, frameon=False, ncols=1 + len(groups) // (LEGIBLE + 1))
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=130)
    return True


def group_of(column: str) -> str:
    """A column's name; of a head without its number."""
    return re.sub(r"(?<=head)\d+$", "", column)
