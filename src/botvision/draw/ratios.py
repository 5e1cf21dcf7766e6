"""Bar plot of ratios to a baseline, a panel for each comparison."""

from collections.abc import Mapping
from pathlib import Path

from botvision.files import whole_file


def draw_ratios(panels: Mapping[str, Mapping[str, float]], path: Path, *, title: str) -> None:
    """One panel a comparison: a bar for each name, the baseline's length as a line.

    Args:
        panels: panel title → name → ratio; 1 is the baseline's.
        path: of the PNG.
        title: over all of them.
    """
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    longest = max(map(len, panels.values()))
    figure = Figure(figsize=(5.4 * columns, (0.34 * longest + 0.9) * lines + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (heading, ratios) in zip(axes, panels.items(), strict=False):
        bars = axis.barh(list(ratios), list(ratios.values()), color="#4c78a8", height=0.7)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xlim(0, 1.15 * max(ratios.values()))
        axis.set_title(heading, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
