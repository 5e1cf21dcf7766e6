"""Line charts as inline SVG, which follow a page's theme and width, and are read without colours."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 36  # px around the plot
COLOURS = 6  # of the style sheet: --c0 … --c5
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MOST = 400  # points of a line
TICKS = 5


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        label: in the legend, once for all lines of the same label; none where empty.
        points: (x, y) from left to right.
        colour: number of the colour; lines that share a label share it.
        dash: number of the dashes, which tell lines apart without colours.
        dots: a dot at each point.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dash: int = 0
    dots: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> str:
    """A figure with its legend; empty where no line has a point.

    Args:
        lines: what is drawn; values that are not finite are left out.
        title: above it.
        x, y: what the axes are; y may be empty, where the title says it.
        x_range, y_range: of the axes; none is that of the points.
        diagonal: draw y = x, thin.
    """
    kept = [line._replace(points=thinned(line.points)) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return ""
    xs, ys = zip(*(point for line in kept for point in line.points), strict=True)
    across, down = x_range or reach(xs), y_range or reach(ys)
    shapes = [*axes(across, down, x=x, y=y)]
    if diagonal:
        shapes.append(
            f'<path class="diagonal" d="{path([(across[0], across[0]), (across[1], across[1])], across, down)}"/>'
        )
    shapes += [drawn(line, across, down) for line in kept]
    names = ", ".join(dict.fromkeys(line.label for line in kept if line.label))
    described = html.escape(f"{title}: {y or title} over {x}" + (f"; {names}" if names else ""))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">{"".join(shapes)}</svg>'
    return f'<figure class="chart"><h3>{html.escape(title)}</h3>{svg}{legend(kept)}</figure>'


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most so many of the finite points, evenly spread, the last among them."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    step = -(-len(finite) // MOST)
    return finite if step <= 1 else finite[:-1:step] + finite[-1:]


def reach(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within, about five."""
    rough = (high - low) / TICKS
    size = 10 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def placed(point: tuple[float, float], across: tuple[float, float], down: tuple[float, float]) -> tuple[float, float]:
    """Px of a point; beyond the axes at their ends."""
    shares = [(value - low) / (high - low) for value, (low, high) in zip(point, (across, down), strict=True)]
    right, up = (min(max(share, 0.0), 1.0) for share in shares)
    return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def path(points: Sequence[tuple[float, float]], across: tuple[float, float], down: tuple[float, float]) -> str:
    """SVG's commands of a line through points."""
    places = (placed(point, across, down) for point in points)
    return "M" + "L".join(f"{right:.1f} {below:.1f}" for right, below in places)


def axes(across: tuple[float, float], down: tuple[float, float], *, x: str, y: str) -> list[str]:
    """Grid, numbers and names."""
    shapes = []
    for value in ticks(*down):
        _, below = placed((across[0], value), across, down)
        shapes.append(f'<path class="grid" d="M{LEFT} {below:.1f}H{WIDTH - RIGHT}"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{below + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in ticks(*across):
        right, _ = placed((value, down[0]), across, down)
        shapes.append(f'<text x="{right:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:.4g}</text>')
    shapes.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    shapes.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 11 {height})"'
    return (
        [*shapes, f'<text x="11" y="{height}" text-anchor="middle" {turned}>{html.escape(y)}</text>'] if y else shapes
    )


def style(line: Line) -> str:
    """Colour and dashes as an attribute."""
    dash = DASHES[line.dash % len(DASHES)]
    return f'style="--stroke:var(--c{line.colour % COLOURS})"' + (f' stroke-dasharray="{dash}"' if dash else "")


def drawn(line: Line, across: tuple[float, float], down: tuple[float, float]) -> str:
    """A line, which a browser names under the mouse, and its dots."""
    few = line.dots or len(line.points) == 1
    places = [placed(point, across, down) for point in line.points] if few else []
    dots = "".join(f'<circle cx="{right:.1f}" cy="{below:.1f}" r="3"/>' for right, below in places)
    named = f"<title>{html.escape(line.label)}</title>" if line.label else ""
    return f'<g class="line" {style(line)}>{named}<path d="{path(line.points, across, down)}"/>{dots}</g>'


def legend(lines: Sequence[Line]) -> str:
    """A sample of each label's line beside it; nothing for a single one."""
    labels = {line.label: line for line in reversed(lines) if line.label}
    if len(labels) < 2:
        return ""
    entries = [
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path class="sample" d="M0 4H28" {style(line)}/></svg>'
        f"{html.escape(label)}</li>"
        for label, line in reversed(labels.items())
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'
