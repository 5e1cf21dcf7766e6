"""Images of the page: losses over the steps, and where a trained model's heads look in three scenes."""

# M heads, S side

from pathlib import Path

import numpy as np
import torch

from botvision.engine.intervals import interval
from botvision.files import whole_file
from botvision.scenes.material import Pixels
from studies.charts import Point, draw_intervals
from studies.relations.evidence import Evidence
from studies.relations.probes import Seen, as_they_are, attention_maps, scenes
from studies.relations.protocol import FORMS, SEEDS, VARIANTS, WORLDS, Draw
from studies.starts.reading import STEPS, open_world, trained

EVERY = 25  # steps that a point of a filed curve is the mean of
COUNT = 3  # scenes
VARIANT, WORLD = "directional", "pair_far"


def draw_curves(evidence: Evidence, path: Path) -> None:
    """Training loss by step, a panel a world, means over the seeds with their intervals; nothing without results."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for world in WORLDS:
        lines = {}
        for name in VARIANTS:
            curves = [one["curve"] for one in evidence.of(world, name).values()]
            if curves:
                points = [interval(values)[:2] for values in zip(*curves, strict=True)]
                lines[evidence.title(name)] = [Point(EVERY * (n + 1), *point) for n, point in enumerate(points)]
        if lines:
            panels[f"{world}: training loss"] = lines
    draw_intervals(panels, path, along="step", within=(0.0, 5.0))


def draw_attention(draw: Draw, path: Path, *, folder: Path, steps: int = STEPS, form: str = "cpu") -> None:
    """Train the directional variant with a draw and draw its last block's heads, seen from a digit of each scene.

    Args:
        draw: the recipe.
        path: of the PNG.
        folder: of the study's scenes.
        steps: of training.
        form: that it is trained in.
    """
    torch.set_num_threads(1)  # as a trial has
    setting = FORMS[form].setting
    folder.mkdir(parents=True, exist_ok=True)
    splits = open_world(WORLD, SEEDS[0], folder, setting)
    contender = draw.contender(VARIANT, form)
    reader = trained(contender, splits, SEEDS[0], steps=steps, recipe=draw.recipe, setting=setting).reader.eval()
    whole, things = scenes(WORLD, SEEDS[0], as_they_are, size=setting.size, count=COUNT)
    firsts = {one.scene: one for one in reversed(list(attention_maps(reader, whole, things)))}
    draw_rows([(whole.images[n].numpy(), firsts[n]) for n in sorted(firsts)], path, size=setting.size)


def draw_rows(rows: list[tuple[Pixels, Seen]], path: Path, *, size: int) -> None:
    """A row a scene: the image, then each head's map over it; the digit is circled, its keys are framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    heads = len(rows[0][1].weights)
    figure = Figure(figsize=(2.1 * (heads + 1), 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), heads + 1, squeeze=False)
    for line, (image, seen) in zip(axes, rows, strict=True):
        for axis in line:
            axis.imshow(image, extent=(0, size, size, 0))
            axis.plot(seen.digit.x, seen.digit.y, "o", markersize=15, markerfacecolor="none", markeredgecolor="white")
            for key in seen.keys:
                corner = (key.x - key.side / 2, key.y - key.side / 2)
                axis.add_patch(Rectangle(corner, key.side, key.side, fill=False, edgecolor="cyan", linewidth=1.2))
            axis.set_axis_off()
        line[0].set_title(seen.digit.category, fontsize=8)
        for number, (axis, weights) in enumerate(zip(line[1:], seen.weights, strict=True)):
            axis.imshow(np.zeros((size, size, 3)), extent=(0, size, size, 0), alpha=0.35)
            shade = np.asarray(weights / weights.max(), dtype=np.float32)
            axis.imshow(shade, extent=(0, size, size, 0), cmap="magma", alpha=0.75, vmin=0, vmax=1)
            share = float((torch.as_tensor(weights) * seen.mask).sum())
            axis.set_title(f"head {number}: {100 * share:.0f} % on the keys", fontsize=8)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
