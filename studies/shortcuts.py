"""What tells the classes of *side* without attention: one rule, and trees that never see the key."""

import collections
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from botvision.files import write_text
from botvision.scenes.relations import Thing, lay_out
from botvision.scenes.world import build_world
from studies.cli import run
from studies.grid import as_pairs, read_grid

MOST = 3  # digits of an image besides its key


def draw_layouts(count: int, seed: int) -> list[list[Thing]]:
    """Images of the grid's world *side*, as places and sizes."""
    grid = read_grid("cpu")
    world = build_world(**{"clutter": 0, **as_pairs(grid.worlds["side"])}, size=grid.scenes["size"], seed=seed)
    rng = np.random.default_rng(seed)
    return [lay_out(world, rng) for _ in range(count)]


def box(thing: Thing) -> list[float]:
    """A square's place and side."""
    return [thing.x, thing.y, thing.side]


def features(layout: list[Thing]) -> list[list[float]]:
    """One row a digit: its own box, the number of digits, then the other digits' boxes, left to right; no key."""
    rows = []
    for number, thing in enumerate(layout[1:], 1):
        others = sorted(box(other) for n, other in enumerate(layout) if n not in {0, number})
        flat = [value for other in others for value in other]
        rows.append([*box(thing), len(layout), *flat, *[float("nan")] * (3 * (MOST - 1) - len(flat))])
    return rows


def shortcuts(*, layouts: int = 60_000, seed: int = 7, out: Path | None = None) -> str:
    """Count what tells the classes of the grid cpu's world *side* without a look at the key.

    Args:
        layouts: images to draw, as places and sizes alone.
        seed: of the layouts.
        out: JSON file for the counts.
    """
    images = draw_layouts(layouts, seed)
    middle = read_grid("cpu").scenes["size"] / 2
    digits = [(layout, thing) for layout in images for thing in layout[1:]]
    right = sum((layout[0].x > middle) == (thing.category == "left") for layout, thing in digits)
    alike = sum(len({thing.category for thing in layout[1:]}) == 1 for layout in images)
    counts = collections.Counter(map(len, images))
    rows = np.array([row for layout in images for row in features(layout)])
    is_left = np.array([thing.category == "left" for _, thing in digits])
    owner = np.repeat(np.arange(len(images)), [len(layout) - 1 for layout in images])
    train = owner < 0.7 * len(images)  # whole images are held out
    named = {}
    for what, columns in (("own box and number of digits", 4), ("and the other digits' boxes", rows.shape[1])):
        trees = HistGradientBoostingClassifier(max_iter=300, random_state=0)
        trees.fit(rows[train, :columns], is_left[train])
        named[what] = round(trees.score(rows[~train, :columns], is_left[~train]), 4)
    found = {
        "layouts": len(images),
        "seed": seed,
        "digits besides the key": len(digits),
        "rightly named by: key in the right half of the image, so left": right,
        "images whose digits all have one class": alike,
        "images by number of digits, the key counted": {
            n: round(c / len(images), 4) for n, c in sorted(counts.items())
        },
        "named by boosted trees, the key never seen": named,
        "held out": int((~train).sum()),
    }
    text = json.dumps(found, indent=1)
    if out is not None:
        write_text(out, f"{text}\n")
    return text


if __name__ == "__main__":
    sys.exit(run(shortcuts))
