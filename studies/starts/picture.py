"""Where a digit's heads look, before and after training, from the paper's start and the directional one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from botvision.attention import watch
from botvision.files import whole_file
from studies.starts.contenders import CONTENDERS
from studies.starts.reading import LOOKED_AT, SIZE, STEPS, Objects, Reader, open_world, trained

WORLD = "pair_far"
STARTS = ("paper", "directional")


def draw_picture(out: Path, *, scenes: Path, seed: int = 0, steps: int = STEPS) -> None:
    """Train from both starts and draw the heads of one digit.

    Args:
        out: the PNG.
        scenes: folder of the study's scenes.
        seed: of scenes, weights and order.
        steps: of training.
    """
    scenes.mkdir(parents=True, exist_ok=True)
    splits = open_world(WORLD, seed, scenes)
    maps = {}
    for name in STARTS:
        for when, many in (("before", 0), (f"after {steps} steps", steps)):
            reader = trained(CONTENDERS[name], splits, seed, steps=many).reader
            reader.train(many == 0)  # before training BatchNorm has no statistics but a batch's
            maps[f"{CONTENDERS[name].title}, {when}"] = looks(reader, splits[1])
    draw(splits[1], maps, out)


def looks(reader: Reader, val: Objects) -> Tensor:
    """Attention (M, H, W) of the first validation digit's place, in the last block."""
    images, _, centre, _ = val.of(torch.arange(LOOKED_AT))
    with torch.no_grad(), watch(reader) as watching:
        reader.body(images)
    (seen,) = watching
    height, width = seen.size
    column, row = (int(value) for value in centre[0] / SIZE * torch.tensor([width, height]))
    return seen.attention_row(row, column)


def draw(val: Objects, maps: dict[str, Tensor], path: Path) -> None:
    """A row a model, a column a head, over the image; each map on its own scale, its largest weight in its title."""
    from matplotlib.figure import Figure

    image, (x, y) = val.images[val.image[0]].numpy(), val.centre[0].tolist()
    heads = len(next(iter(maps.values())))
    figure = Figure(figsize=(2.1 * (heads + 1), 2.35 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), heads + 1)
    for line, (title, attention) in zip(axes, maps.items(), strict=True):
        for axis in line:
            axis.imshow(image, extent=(0, SIZE, SIZE, 0))
            axis.plot(x, y, "o", markersize=15, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.5)
            axis.set_axis_off()
        line[0].set_title(title.replace(", ", "\n", 2), fontsize=8)
        for number, (axis, weights) in enumerate(zip(line[1:], attention.numpy(), strict=True)):
            shade = np.asarray(weights / weights.max(), dtype=np.float32)
            axis.imshow(np.zeros((SIZE, SIZE, 3)), extent=(0, SIZE, SIZE, 0), alpha=0.35)
            axis.imshow(shade, extent=(0, SIZE, SIZE, 0), cmap="magma", alpha=0.75, vmin=0, vmax=1)
            axis.set_title(f"head {number}: largest weight {weights.max():.2f}", fontsize=8)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
