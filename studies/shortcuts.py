"""What tells the classes of *side* without attention: one rule, and trees that never see the key.

python benchmarks/side_shortcuts.py [--layouts 60000] [--seed 7] [--out side_shortcuts.json]
"""

import argparse
import collections
import json
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from botvision.bench.evidence.grid import read_grid
from botvision.scenes.relations import Thing, lay_out
from botvision.scenes.world import build_world

MOST = 3  # digits of an image besides its key


def layouts(count: int, seed: int) -> list[list[Thing]]:
    """Images of the grid's world *side*, as places and sizes."""
    grid = read_grid("cpu")
    options = {"clutter": 0, **grid.worlds["side"]}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    world = build_world(**given, size=grid.scenes["size"], seed=seed)
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


def main() -> None:
    """Count, fit, print and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    images = layouts(asked.layouts, asked.seed)
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
        "seed": asked.seed,
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
    print(text)
    if asked.out:
        asked.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
