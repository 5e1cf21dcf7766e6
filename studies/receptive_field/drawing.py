"""Receptive fields side by side, on a logarithmic scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from botvision.files import whole_file

FLOOR = 1e-6  # of the largest; what lies below is drawn as if it lay there


def draw_fields(fields: Mapping[str, tuple[Sequence[Sequence[float]], float]], path: Path) -> None:
    """One map a model.

    Args:
        fields: name → energy in cells, the largest 1, and the share of the picture that holds 95 % of it.
        path: of the PNG.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    columns = min(len(fields), 4)
    lines = -(-len(fields) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.8, 3.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, (name, (energy, share)) in zip(axes, fields.items(), strict=False):
        floored = [[max(value, FLOOR) for value in row] for row in energy]
        drawn = axis.imshow(floored, cmap="magma", norm=LogNorm(FLOOR, 1))
        axis.set_title(f"{name}\n95 % in {100 * share:.1f} % of the picture", fontsize=9)
        axis.set_axis_off()
    for axis in axes[len(fields) :]:
        axis.set_visible(False)
    figure.colorbar(drawn, ax=axes.tolist(), shrink=0.7, label="gradient energy, largest = 1")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
