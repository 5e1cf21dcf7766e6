"""The page: the paper's tables beside our counts, and our runs where there are any."""

import functools
import re
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from botvision.backbone import VARIANTS, create_model
from botvision.backbone.counts import Counts, count
from botvision.files import read_json, write_text
from studies.pages import NOT_RUN, render, table
from studies.paper.published import COCO, COUNTS, IMAGENET, Coco

WITHOUT_CLASSIFIER = 1024  # px from which the paper counts multiply-adds of the backbone alone


def paper(*, runs: Path | None = None, out: Path | None = None) -> str:
    """Print the paper's tables beside our parameter and multiply-add counts, and our metrics where they were run.

    Args:
        runs: folder of Mask R-CNN runs named like their recipes, e.g. runs/maskrcnn; their AP fills our columns.
        out: Markdown file for the tables.

    Returns:
        The page, as Markdown.

    Raises:
        FileNotFoundError: a runs folder that is not there.
    """
    if runs is not None and not runs.is_dir():
        raise FileNotFoundError(f"no folder of runs at {runs}; give one that `botvision maskrcnn train` wrote into")
    page = render(
        Path(__file__).with_name("page.md.jinja"),
        without_classifier=WITHOUT_CLASSIFIER,
        size=size_table(),
        imagenet=imagenet_table(),
        coco=coco_tables(runs),
    )
    if out is not None:
        write_text(out, page)
    return page


@functools.cache
def measure(name: str, px: int, options: tuple[tuple[str, Any], ...] = ()) -> Counts:
    """Count a model by its name."""
    given: dict[str, Any] = dict(options) | ({"img_size": px} if name in VARIANTS else {})
    with torch.device("meta"):
        model = create_model(name, **given)
    return count(model, (px, px), classifier=px < WITHOUT_CLASSIFIER)


def size_table() -> str:
    """Every model of the paper, its baselines, and what they count."""
    rows = []
    for row in tqdm(COUNTS, desc="counting", unit="model", disable=None):
        size, variant = measure(row.name, row.px), VARIANTS.get(row.name)
        blocks = ", ".join(map(str, variant.blocks)) if variant else ""
        published = f"{row.parameters} †" if row.secondary else row.parameters
        counts = [f"{size.parameters:,}", published, f"{size.madds / 1e9:.3f}G", row.madds]
        rows.append([f"`{row.name}`", blocks, str(row.px), *counts, row.about])
    head = ["model", "blocks", "px", "parameters, ours", "paper", "M.Adds, ours", "paper", ""]
    return table(head, rows)


def imagenet_table() -> str:
    """Top-1 and top-5 accuracy."""
    rows = []
    for row in IMAGENET:
        published = f"{row.top1} / {row.top5}" if row.top5 else f"{row.top1}"
        step = f"{row.step_ms} ms †" if row.step_ms else ""
        rows.append([row.training, f"`{row.name}`", str(row.px), published, NOT_RUN, step])
    return table(["training", "model", "px", "top-1 / top-5, paper", "ours", "TPU-v3 step, paper"], rows)


def coco_tables(runs: Path | None) -> dict[str, str]:
    """A table for each of the paper's comparisons, by its title."""
    tables = {}
    for title, rows in tqdm(COCO.items(), desc="counting", unit="table", disable=None):
        lines = []
        for row in rows:
            counts = ["", ""]
            if row.px is not None:
                size = measure(row.name, row.px, row.options)
                counts = [f"{size.parameters / 1e6:.2f}M", f"{size.madds / 1e9:.1f}G"]
            px = str(row.px or "not recovered")
            lines.append([row.what, model_call(row), px, f"{row.box} / {row.mask}", our_ap(row, runs), *counts])
        head = ["", "model", "px", "box / mask AP, paper", "ours", "parameters", "M.Adds"]
        tables[title] = table(head, lines)
    return tables


def model_call(row: Coco) -> str:
    """The model as one types it."""
    options = "".join(f", {name}={value!r}" for name, value in row.options)
    return f"`{row.name}{options}`"


def our_ap(row: Coco, runs: Path | None) -> str:
    """AP of our own run of the row's recipe, or the recipe that would give it.

    Raises:
        ValueError: a run in the recipe's folder that is not the recipe's.
    """
    if row.recipe is None:
        return NOT_RUN
    summary = runs / row.recipe / "summary.json" if runs else None
    if summary is None or not summary.is_file():
        return f"{NOT_RUN} (`--recipe {row.recipe}`)"
    run, epochs = read_json(summary, what="summary of a run"), int(re.findall(r"(\d+)ep", row.recipe)[0])
    if (run.get("model"), run.get("epochs")) != (row.name, epochs):
        raise ValueError(
            f"{summary} is of {run.get('model')} after {run.get('epochs')} epochs; recipe {row.recipe} trains "
            f"{row.name} for {epochs}; move that run elsewhere"
        )
    return f"{100 * run['box_ap']:.1f} / {100 * run['mask_ap']:.1f} (one run, seed {run['seed']})"
