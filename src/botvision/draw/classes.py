"""Draw classifications: images with their predicted class, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from botvision.files import whole_file

MOST = 60  # classes that a confusion matrix can still name


def draw_predictions(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[tuple[str, bool | None]], path: Path
) -> None:
    """Images (H, W, 3) in rows, each under its predicted class: green where right, red where wrong, else black."""
    from matplotlib.figure import Figure

    columns = min(4, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.7 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, image, (text, is_right) in zip(axes, images, labels, strict=False):
        axis.imshow(image)
        colour = "black" if is_right is None else "green" if is_right else "crimson"
        axis.set_title(text, fontsize=9, color=colour, parse_math=False)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str], path: Path, *, title: str) -> None:
    """Plot a confusion matrix: truth down, predicted across, each row's shares as shades.

    Args:
        counts: (K, K).
        names: of the K classes.
        path: of the PNG.
        title: above it.
    """
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(names) <= MOST
    side = min(4 + 0.28 * len(names), 16) if named else 10
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="predicted", ylabel="truth")
    if named:
        axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 12 else 0, fontsize=8, parse_math=False)
        axis.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    if len(names) <= 20:
        for (row, column), number in np.ndenumerate(counts):
            if number:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(number), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="share of the row")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
