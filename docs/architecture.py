"""Writes the drawing and the file map of docs/architecture.md: python docs/architecture.py."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PAGE, DRAWING = ROOT / "docs" / "architecture.md", ROOT / "docs" / "images" / "architecture.svg"
BEGIN, END = "<!-- file map: begin -->\n", "<!-- file map: end -->\n"
LEFT_OUT = {"lazy"}  # what `__init__.py` files import by
WIDTH, HEIGHT, BOX, GAP = 860, 74, (118, 34), 20


def layers() -> list[list[str]]:
    """Packages and modules of botvision from top to bottom, as the import contract in pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(c for c in settings["contracts"] if c["id"] == "floors")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def arrows() -> set[tuple[str, str]]:
    """Which package or module imports which, over all files; what another import implies is left out."""
    graph = grimp.build_graph("botvision", cache_dir=None)
    found = set()
    for name in graph.modules:
        for imported in graph.find_modules_directly_imported_by(name):
            both = [module.split(".")[1:2] for module in (name, imported)]
            if all(both) and both[0] != both[1]:
                found.add((both[0][0], both[1][0]))
    opened = re.findall(r'"botvision\.(\w+)', (ROOT / "src" / "botvision" / "cli.py").read_text())  # commands, by name
    found = {(a, b) for a, b in found | {("cli", name) for name in opened} if a != b and b not in LEFT_OUT}
    return {(a, b) for a, b in found if not any((a, c) in found and (c, b) in found for c in {x for x, _ in found})}


def drawing() -> str:
    """The layers as rows of boxes, the imports between them as lines, in SVG."""
    rows = [[name for name in layer if name not in LEFT_OUT] for layer in layers()]
    places = {}
    for row, names in enumerate(rows):
        left = (WIDTH - len(names) * BOX[0] - (len(names) - 1) * GAP) / 2
        for column, name in enumerate(names):
            places[name] = (left + column * (BOX[0] + GAP) + BOX[0] / 2, 20 + row * HEIGHT)
    height = 20 + (len(rows) - 1) * HEIGHT + BOX[1] + 20
    style = "font: 15px system-ui, sans-serif; fill: #1b2733; text-anchor: middle"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">']
    lines += [f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    for above, below in sorted(arrows()):
        (x1, y1), (x2, y2) = places[above], places[below]
        y1, bend = y1 + BOX[1], HEIGHT * 0.45
        path = f"M {x1:.0f} {y1:.0f} C {x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
        lines.append(f'<path d="{path}" fill="none" stroke="#8fa3b5" stroke-width="1.4"/>')
    for name, (x, y) in places.items():
        box = f'x="{x - BOX[0] / 2:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="7"'
        lines.append(f'<rect {box} fill="#e8f1fa" stroke="#4d7ea8"/>')
        lines.append(f'<text x="{x:.0f}" y="{y + 22:.0f}" style="{style}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


def rows_of_map() -> Iterator[str]:
    """Each file of the package with the first sentence of its docstring, from the top layer down."""
    for name in (name for layer in layers() for name in layer):
        place = ROOT / "src" / "botvision" / name
        files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            shown = f"{name}/" if file.name == "__init__.py" else str(file.relative_to(ROOT / "src" / "botvision"))
            sentence = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
            yield f"| `{shown}` | {sentence} |"


def page() -> str:
    """The page with the file map as the files are now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table = "\n".join(["| `src/botvision/` | |", "|---|---|", *rows_of_map(), ""])
    return before + BEGIN + table + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
    DRAWING.write_text(drawing())
