"""Training curves of a run."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from botvision.files import whole_file

Row = Mapping[str, float]


def draw_curves(rows: Sequence[Row], path: Path, *, panels: Mapping[str, Sequence[str]], along: str = "step") -> None:
    """One panel a group of columns, over a common axis.

    Args:
        rows: of the metrics; a row may lack any column.
        path: of the PNG.
        panels: panel title → columns drawn in it, by name or as a pattern (`val/*`); empty panels are left out.
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
        return
    figure = Figure(figsize=(4.6 * len(filled), 3.4), layout="constrained")
    axes = figure.subplots(1, len(filled), squeeze=False)
    for axis, (title, columns) in zip(axes[0], filled.items(), strict=True):
        for column in columns:
            points = [(r[along], r[column]) for r in rows if column in r]
            style = "-" if len(points) > 30 else ".-"
            axis.plot(*zip(*points, strict=True), style, label=column, linewidth=1.2)
        axis.set_title(title)
        axis.set_xlabel(along)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=130)
