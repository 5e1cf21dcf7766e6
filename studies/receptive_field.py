"""Effective receptive field: where in an image the centre of a backbone's last map looks."""

# B images, S side, h×w last map, M side of the map that is filed

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from botvision.backbone import VARIANTS, create_model
from botvision.files import whole_file, write_json
from botvision.maskrcnn.checkpoint import load_detector
from botvision.maskrcnn.resize import MEAN, STD, image_size, padded
from botvision.scenes.make import draw_scene
from botvision.scenes.material import load_material
from botvision.scenes.world import build_world
from studies.cli import run
from studies.grid import read_grid
from studies.hardware import hardware

ENERGY = 0.95
MAP = 32  # side of the map that is kept for the drawing
FLOOR = 1e-6  # of the largest; what lies below is drawn as if it lay there


class Field(NamedTuple):
    """One backbone's.

    Attributes:
        name: of the model, or of the run that trained it.
        size: px of the images.
        share: smallest share of the pixels that holds 95 % of the gradient's energy.
        side: of the square with that area, px.
        map: energy in M × M cells, the largest 1.
    """

    name: str
    size: int
    share: float
    side: float
    map: list[list[float]]


class Fields(NamedTuple):
    """All that were looked at, and how."""

    note: str
    fields: list[Field]

    def __str__(self) -> str:
        rows = [f"{f.name:<32} {f.size:>4} px {100 * f.share:>6.1f} % = {f.side:.0f}² px" for f in self.fields]
        return "\n".join([self.note, *rows])


def receptive_field(
    *,
    models: tuple[str, ...] = ("resnet50", "botnet50"),
    size: int = 512,
    grid: str | None = None,
    checkpoints: tuple[Path, ...] = (),
    images: int = 8,
    seeds: int = 3,
    out: Path | None = None,
) -> Fields:
    """Effective receptive fields (Luo et al. 2016, arXiv 1701.04128) of the last map's centre, in scenes.

    Energy is the squared gradient of the centre (its channels in random proportions) by the input, summed over
    channels, averaged over images and seeds. Random weights: BatchNorm's statistics are taken from the images, and
    the gamma that a block ends with, zero at the start so that it begins as its shortcut, is set to one.

    Args:
        models: backbones by name, with random weights.
        size: px of their images.
        grid: an evidence grid whose variants are looked at too, at its size, with random weights.
        checkpoints: trained detectors, looked at as they are, at their size.
        images: images to average over.
        seeds: random weights to average over.
        out: JSON file for the numbers and maps; a drawing goes beside it.

    Raises:
        ValueError: nothing to look at, or a number below its least.
    """
    if min(images, seeds) < 1 or size < 64:
        raise ValueError(f"images={images} and seeds={seeds} must be at least 1, size={size} at least 64")
    contenders: list[tuple[str, str, dict[str, Any], int]] = [(name, name, {}, size) for name in models]
    if grid is not None:
        whole = read_grid(grid)
        px = padded(image_size(whole.train["model"]["img_size"]).longest)
        alone = [variant for variant in whole.variants.values() if variant.first is None]
        contenders += [(f"{v.title}, grid {whole.name}", v.backbone, v.options, px) for v in alone]
    if not contenders and not checkpoints:
        raise ValueError("receptive_field needs at least one model, grid or checkpoint; e.g. --models resnet50")
    fields = []
    with tqdm(total=len(contenders) + len(checkpoints), desc="fields", unit="model", disable=None) as bar:
        for title, name, options, px in contenders:
            maps = [random_field(name, options, seed, scene_images(px, images)) for seed in range(seeds)]
            fields.append(summed_up(title, px, np.mean(maps, 0)))
            bar.update()
        for path in checkpoints:
            detector = load_detector(path).model
            px = padded(detector.resize.rule.longest)
            energy = energy_of(detector.pyramid.body, scene_images(px, images), seed=0)
            fields.append(summed_up(f"trained: {path.parent.parent.name}", px, energy))
            bar.update()
    note = f"{images} images, {seeds} seeds of random weights; {hardware()}, {datetime.now(UTC):%Y-%m-%d}"
    found = Fields(note, fields)
    if out is not None:
        write_json(out, {"note": note, "fields": [f._asdict() for f in fields]})
        draw_fields({f.name: (f.map, f.share) for f in fields}, out.with_suffix(".png"))
    return found


def scene_images(size: int, count: int) -> Tensor:
    """Plain scenes (B, 3, S, S), normalised."""
    world = build_world("plain", size=size, seed=0, clutter=0)
    material, rng = load_material("val"), np.random.default_rng(0)
    images = [torch.from_numpy(draw_scene(material, world, rng)[0]) for _ in range(count)]
    batch = torch.stack(images).permute(0, 3, 1, 2).float() / 255  # B 3 S S
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (batch - mean) / std


def random_field(name: str, options: dict[str, Any], seed: int, batch: Tensor) -> np.ndarray:
    """Energy (S, S) of a backbone with random weights."""
    torch.manual_seed(seed)
    given = dict(options) | ({"img_size": batch.shape[-1]} if name in VARIANTS else {})
    body = create_model(name, features_only=True, out_indices=(-1,), **given)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.reset_running_stats()
            module.momentum = None  # the plain average of what comes
    with torch.no_grad():
        body.train()(batch)
    return energy_of(body, batch, seed=seed)


def energy_of(body: nn.Module, batch: Tensor, *, seed: int) -> np.ndarray:
    """Squared gradient (S, S) of the last map's centre by the input, a mean over images."""
    body.eval()
    total = torch.zeros(batch.shape[-2:], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for one in batch:
        image = one[None].clone().requires_grad_()
        last = cast("Sequence[Tensor]", body(image))[-1]  # 1 C h w
        centre = last[0, :, last.shape[2] // 2, last.shape[3] // 2]
        mixed = centre @ torch.randn(len(centre), generator=generator)
        (gradient,) = torch.autograd.grad(mixed, image)
        energy = gradient[0].double().square().sum(0)
        total += energy / energy.sum()
    return (total / len(batch)).numpy()


def summed_up(name: str, size: int, energy: np.ndarray) -> Field:
    """The number, and a small map."""
    share = share_holding(energy, ENERGY)
    edges = np.linspace(0, size, MAP + 1).round().astype(int)[:-1]
    cells = np.add.reduceat(np.add.reduceat(energy, edges, 0), edges, 1)  # M M
    small = [[float(f"{value:.2e}") for value in row] for row in cells / cells.max()]
    return Field(name, size, round(share, 4), round(size * share**0.5, 1), small)


def share_holding(energy: np.ndarray, part: float) -> float:
    """Smallest share of the pixels that holds this part of the energy."""
    falling = np.sort(energy, axis=None)[::-1].cumsum()
    return float((np.searchsorted(falling, part * falling[-1]) + 1) / energy.size)


def draw_fields(fields: Mapping[str, tuple[Sequence[Sequence[float]], float]], path: Path) -> None:
    """One map a model.

    Args:
        fields: name → energy in cells, the largest 1, and the share of the image that holds 95 % of it.
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
        axis.set_title(f"{name}\n95 % in {100 * share:.1f} % of the image", fontsize=9)
        axis.set_axis_off()
    for axis in axes[len(fields) :]:
        axis.set_visible(False)
    figure.colorbar(drawn, ax=axes.tolist(), shrink=0.7, label="gradient energy, largest = 1")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120)


if __name__ == "__main__":
    sys.exit(run(receptive_field))
