"""Draw attention for papers: where a place looks, by layer and head, and position tables as maps."""

# M heads, H×W map, h×w picture

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from botvision.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Maps = Mapping[str, NDArray[np.float64]]  # layer → (M, H, W)
FRAME = 120  # milliseconds that an image of a GIF is shown


def attention_figure(picture: NDArray[np.uint8], maps: Maps, place: tuple[float, float]) -> "Figure":
    """The picture with the place marked, and a row of maps for each layer, a head each.

    Args:
        picture: (h, w, 3).
        maps: layer → (M, H, W) weights; each map has its own scale.
        place: (down, right) that is looked from, as shares of the picture's sides.
    """
    from matplotlib.figure import Figure

    heads = max(len(weights) for weights in maps.values())
    figure = Figure(figsize=(1.9 * (heads + 1), 2.1 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), heads + 1, squeeze=False)
    height, width = picture.shape[:2]
    for row, (layer, weights) in zip(axes, maps.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        row[0].imshow(picture)
        mark(row[0], place, (height, width))
        row[0].set_title(f"{layer}, {weights.shape[1]} × {weights.shape[2]}", fontsize=8)
        rows, columns = weights.shape[1:]
        square: Any = {"aspect": height * columns / (width * rows)}  # cells as high and wide as on the picture
        for head, (axis, one) in enumerate(zip(row[1:], weights, strict=False), 1):
            axis.imshow(picture, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5), **square)
            axis.imshow(one, cmap="viridis", vmin=0, alpha=0.75, **square)
            mark(axis, place, one.shape)
            axis.set_title(f"head {head}: up to {100 * one.max():.3g} %", fontsize=8)
    return figure


def mark(axis: "Axes", place: tuple[float, float], size: tuple[int, ...]) -> None:
    """A white circle in a black one, at shares of the sides."""
    across, down = place[1] * size[1] - 0.5, place[0] * size[0] - 0.5
    for width, colour in ((3.0, "black"), (1.3, "white")):
        edge: Any = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": width}
        axis.plot(across, down, "o", markersize=8, **edge)


def draw_attention(picture: NDArray[np.uint8], frames: Iterable[tuple[tuple[float, float], Maps]], path: Path) -> None:
    """Where places look: one as PNG, SVG or PDF, several one after another as a GIF.

    Args:
        picture: (h, w, 3), as the model sees it.
        frames: a place (down, right), as shares of the sides, and its maps.
        path: its suffix says what is written.
    """
    shown = [attention_figure(picture, maps, place) for place, maps in frames]
    with whole_file(path) as unfinished:
        if path.suffix.lower() != ".gif":
            shown[0].savefig(unfinished, dpi=130)
            return
        images = [rendered(figure) for figure in shown]
        images[0].save(unfinished, save_all=True, append_images=images[1:], duration=FRAME, loop=0)


def rendered(figure: "Figure") -> Image.Image:
    """A figure's pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def draw_tables(tables: Maps, path: Path, *, absolute: bool = False) -> None:
    """Position logits of each head's mean query, by the offset from query to key, or by place.

    Args:
        tables: layer → (M, rows, columns); a layer's maps share a scale.
        path: of the PNG, SVG or PDF.
        absolute: whether they are by place.
    """
    from matplotlib.figure import Figure

    heads = max(len(maps) for maps in tables.values())
    figure = Figure(figsize=(2.1 * heads + 0.6, 2.3 * len(tables)), layout="constrained")
    axes = figure.subplots(len(tables), heads, squeeze=False)
    for row, (layer, maps) in zip(axes, tables.items(), strict=True):
        for axis in row[len(maps) :]:
            axis.set_axis_off()
        for head, (axis, one) in enumerate(zip(row, maps, strict=False), 1):
            first = [0.0 if absolute else (1 - n) / 2 for n in one.shape]  # what row and column 0 stand for
            (top, bottom), (left, right) = ((at - 0.5, at + n - 0.5) for at, n in zip(first, one.shape, strict=True))
            extent = (left, right, bottom, top)
            shown = axis.imshow(one, cmap="viridis", vmin=maps.min(), vmax=maps.max(), extent=extent)
            axis.set_title(f"{layer}, head {head}", fontsize=8)
            axis.tick_params(labelsize=7)
        figure.colorbar(shown, ax=row.tolist(), shrink=0.8).ax.tick_params(labelsize=7)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=130)
