"""The page on the directional start: its words are in page.md.jinja, its numbers in the result files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from botvision.engine.intervals import Interval, difference, interval, verdict
from botvision.files import write_text
from studies.grid import read_grid
from studies.pages import NOT_RUN, listed, render, table
from studies.starts.contenders import CONTENDERS
from studies.starts.reading import BATCH, SIZE, STEPS, TRAIN, VAL, WARMUP, WORLDS, Recipe
from studies.starts.results import by_seed, read_results
from studies.starts.summary import BASELINES, Task, linear_tasks, recipe_tasks, summary_table

GRID = "starts"
STRONG = ("se", "deep")  # baselines that any claim over a ResNet is held against
DETECTORS = "evidence_starts"  # folder of the grid's run files, beside the trials'
COIN = 0.55  # a share up to which nothing was learnt, of two classes
Shares = Mapping[tuple[str, str], Mapping[int, float]]  # (contender, world) → seed → share named right


def write_page(results: Path, page: Path) -> None:
    """The Markdown of all trials that are filed."""
    write_text(page, build_page(results))


def build_page(results: Path) -> str:
    """The page's text: of the results alone, so that the same results always give the same page."""
    found = read_results(results)
    shares = by_seed(found)
    worlds = [world for world in WORLDS if any(key[1] == world for key in shares)]
    detectors = read_detectors(results.parent / DETECTORS)
    detected, by_recipe = detector_tasks(detectors), recipe_tasks(results.parent)
    near = detected.get("pair_near")
    tasks = [*linear_tasks(shares, worlds), *detected.values(), *by_recipe]
    return render(
        Path(__file__).with_name("page.md.jinja"),
        summary=summary_table(tasks),
        by_recipe={task.key: task for task in by_recipe if task.key},
        shares=share_table(shares, worlds, found),
        differences=difference_table(shares, worlds),
        heads=head_table(found, worlds),
        by_seed=by_seed_table(shares, "pair_far"),
        by_seed_near=by_seed_table(shares, "pair_near"),
        trials=len(found),
        seeds=sorted({one["seed"] for one in found}),
        hardware=sorted({one["hardware"] for one in found}),
        missing=missing(shares),
        detector=detector_table(detectors),
        near_box=counted(near.to_paper if near else None, sign=True),
        commits=sorted({one["commit"] for one in found}),
        setting={
            "size": SIZE,
            "steps": STEPS,
            "batch": BATCH,
            "rate": Recipe().rate,
            "train": TRAIN,
            "val": VAL,
            "warmup": WARMUP,
        },
    )


def share_table(shares: Shares, worlds: Sequence[str], found: Sequence[dict[str, Any]]) -> str:
    """Contenders × worlds: % named right."""
    sizes = {one["contender"]: f"{one['parameters'] / 1e6:.2f}M" for one in found}
    rows = [
        [one.title, sizes[name], *(counted(over_seeds(shares, name, world)) for world in worlds)]
        for name, one in CONTENDERS.items()
        if name in sizes
    ]
    return table(["", "parameters", *(f"*{world}*" for world in worlds)], rows)


def difference_table(shares: Shares, worlds: Sequence[str]) -> str:
    """Paired differences of the directional start, and what they say."""
    rows = []
    for world in worlds:
        strongest = max(STRONG, key=lambda name: means(over_seeds(shares, name, world)))
        for other in ("paper", "resnet", strongest):
            found = difference(shares.get(("directional", world), {}), shares.get((other, world), {}))
            what = f"*{world}*: directional − {CONTENDERS[other].title}"
            rows.append([what, counted(found, sign=True), verdict(found)])
    return table(["difference of accuracy, in points", "mean ± 95 %", ""], rows)


def over_seeds(shares: Shares, contender: str, world: str) -> Interval | None:
    """A contender's share over its seeds; none without a trial."""
    values = list(shares.get((contender, world), {}).values())
    return interval(values) if values else None


def means(found: Interval | None) -> float:
    """The mean; below all others where there is none."""
    return -math.inf if found is None else found.mean


def counted(found: Interval | None, *, sign: bool = False) -> str:
    """An interval in per cent with its number of seeds, or each seed's figure where there is no interval."""
    if found is None:
        return NOT_RUN
    return found.text(sign=sign) + (f" (n = {found.seeds})" if found.half is not None else "")


def by_seed_table(shares: Shares, world: str) -> str:
    """Each start's runs in a world, one by one: a mean hides that some learn and some do not."""
    rows = []
    for name, one in CONTENDERS.items():
        own = shares.get((name, world), {})
        if own and one.backbone.startswith("botnet"):
            learnt = sum(share > COIN for share in own.values())
            each = ", ".join(f"{100 * own[seed]:.1f}" for seed in sorted(own))
            rows.append([one.title, f"{learnt} of {len(own)}", each])
    return table(["", f"learnt (above {100 * COIN:.0f} %)", "accuracy by seed, %"], rows)


def head_table(found: Sequence[dict[str, Any]], worlds: Sequence[str]) -> str:
    """Entropy / log N and mean distance of the heads, before and after training: mean over heads and seeds."""
    rows = []
    for name, one in CONTENDERS.items():
        for world in worlds:
            own = [each for each in found if (each["contender"], each["world"]) == (name, world) and each["before"]]
            if own:
                cells = [
                    f"{fmean(head[column] for each in own for head in each[when]):.{digits}f}"
                    for when in ("before", "after")
                    for column, digits in ((0, 3), (1, 1))
                ]
                rows.append([one.title, f"*{world}*", *cells])
    return table(
        ["", "", "entropy / log N before", "distance before, cells", "entropy / log N after", "distance after, cells"],
        rows,
    )


Detectors = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]  # (variant, world) → seed → figures


def read_detectors(folder: Path) -> Detectors:
    """What the grid `starts` found over the objects whose class is in question."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for one in read_results(folder):
        found.setdefault((one["variant"], one["world"]), {})[one["seed"]] = one["whole"]
    return found


def detector_table(found: Detectors) -> str:
    """Variants × worlds: box AP, and the share of the found objects that bear the right class, run by run."""
    grid = read_grid(GRID)
    worlds = [world for world in grid.worlds if any(key[1] == world for key in found)]
    rows = []
    for name, variant in grid.variants.items():
        cells = []
        for world in worlds:
            runs = found.get((name, world), {})
            each = ", ".join(f"{100 * runs[seed]['named']:.1f}" for seed in sorted(runs))
            boxes = interval([run["box"] for run in runs.values()]).text() if runs else NOT_RUN
            cells += [boxes, each]
        if any(cell not in ("", NOT_RUN) for cell in cells):
            rows.append([variant.title, *cells])
    head = [name for world in worlds for name in (f"*{world}*, box AP", "classified right by seed, %")]
    return table(["", *head], rows) if rows else NOT_RUN


def detector_tasks(found: Detectors) -> dict[str, Task]:
    """The worlds in which both starts were trained without the auxiliary classifier."""
    grid, tasks = read_grid(GRID), {}
    for world in grid.worlds:
        boxes = {n: {seed: run["box"] for seed, run in found.get((n, world), {}).items()} for n in grid.variants}
        if boxes["paper"] and boxes["directional"]:
            without = {grid.variants[name].title: boxes[name] for name in BASELINES if boxes[name]}
            title = f"*{world}*, Mask R-CNN"
            tasks[world] = Task(title, "box AP", boxes["paper"], boxes["directional"], without)
    return tasks


def missing(shares: Shares) -> list[str]:
    """Contenders with the worlds in which they have no trial yet."""
    lacking = {one.title: [w for w in WORLDS if (name, w) not in shares] for name, one in CONTENDERS.items()}
    return [
        title if len(worlds) == len(WORLDS) else f"{title} in {listed([f'*{world}*' for world in worlds])}"
        for title, worlds in lacking.items()
        if worlds
    ]
