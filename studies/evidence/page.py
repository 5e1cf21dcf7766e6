"""The evidence as a page: numbers and tables of the runs there are, for the words of `page.md.jinja`."""

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from botvision.engine.intervals import difference, interval, verdict
from botvision.files import read_json, write_text
from studies.evidence.commands import commands
from studies.evidence.images import draw_images, page_name
from studies.evidence.runs import result_of
from studies.grid import Grid, read_grid
from studies.pages import NOT_RUN, render, table
from studies.paper.published import COCO, Coco

TABLES = ("Content and position, 36 epochs", "Inserted, not replaced (non-local comparison), 36 epochs")
DIFFERENCES = (  # one, other, by the grid's variants; the paper's difference is that of their rows
    ("relative", "resnet"),
    ("relative", "resnet_alone"),
    ("relative", "se"),
    ("relative", "deep"),
    ("se", "resnet"),
    ("deep", "resnet"),
    ("content", "resnet"),
    ("relative", "content"),
    ("carried", "relative"),
    ("relative", "relative_only"),
    ("relative", "absolute"),
    ("non_local", "resnet"),
    ("insert_c4", "non_local"),
    ("insert_c4_c5", "relative"),
    ("directional", "paper"),
    ("directional", "resnet"),
    ("directional", "se"),
    ("directional", "deep"),
    ("directional", "dilated"),
    ("directional_farther", "directional"),
    ("paper_auxiliary", "paper"),
    ("directional_auxiliary", "directional"),
    ("directional_auxiliary", "paper_auxiliary"),
    ("directional_auxiliary", "deep_auxiliary"),
    ("directional_auxiliary", "dilated_auxiliary"),
)
Result = dict[str, Any]


class Evidence(NamedTuple):
    """Results of a grid: world → variant → seed → a run's JSON."""

    grid: Grid
    found: dict[str, dict[str, dict[int, Result]]]

    def of(self, world: str, variant: str) -> dict[int, Result]:
        """By seed; empty where there is none."""
        return self.found.get(world, {}).get(variant, {})

    def values(self, world: str, variant: str, pick: Callable[[Result], float | None]) -> dict[int, float]:
        """A number of each seed's run, where it has it."""
        picked = {seed: pick(result) for seed, result in self.of(world, variant).items()}
        return {seed: value for seed, value in picked.items() if value is not None}

    def all(self) -> list[Result]:
        """Every run's JSON."""
        return [r for variants in self.found.values() for seeds in variants.values() for r in seeds.values()]

    def title(self, variant: str) -> str:
        """Of a variant, for tables."""
        return self.grid.variants[variant].title


def collect(grid: Grid, results: Path) -> Evidence:
    """All results of a grid that are there."""
    found: dict[str, dict[str, dict[int, Result]]] = {}
    for run in grid.runs():
        result = result_of(run, results)
        if result is not None:
            found.setdefault(run.world, {}).setdefault(run.variant, {})[run.seed] = result
    return Evidence(grid, found)


def write_page(grid: Grid, results: Path, page: Path, *, place: Path) -> None:
    """The page, and its images in `images` beside it; those of a training only where the training is at hand."""
    evidence = collect(grid, results)
    field = results / "field.json"
    draw_images(evidence.grid, evidence.found, page.parent / "images", place=place, field=field)
    write_text(page, build_page(evidence, field))


def build_page(evidence: Evidence, field: Path) -> str:
    """The page's Markdown: of the results alone, so that the same results always give the same page."""
    grid = evidence.grid
    return render(
        Path(__file__).with_name("page.md.jinja"),
        grid=grid,
        stem=page_name(grid),
        is_found=any(grid.baseline in variants and len(variants) > 1 for variants in evidence.found.values()),
        large=read_grid("gpu"),
        ran=what_ran(evidence.all()),
        differences=differences_table(evidence),
        comparisons=comparisons(evidence),
        tasks=grid.relations(),
        is_again=any(
            len({variant for variant, _ in rows}) < len(rows) for rows in (rows_of(evidence, w) for w in grid.worlds)
        ),
        worlds=[world_context(evidence, world) for world in grid.worlds],
        path=path(evidence),
        field=read_json(field, what="receptive fields") if field.is_file() else {},
        missing=missing(evidence),
    )


def what_ran(results: Sequence[Result]) -> dict[str, Any]:
    """How many runs, on what, when, how long."""
    if not results:
        return {}
    days = sorted({r["date"] for r in results})
    return {
        "count": len(results),
        "places": sorted({r["hardware"] for r in results}),
        "days": days if len(days) < 2 else [days[0], days[-1]],
        "hours": f"{sum(r['seconds'] for r in results) / 3600:.1f}",
    }


def whole(name: str) -> Callable[[Result], float | None]:
    """Of a run, over the objects whose class is in question: box or mask AP, or the share of right names."""
    return lambda result: result["whole"][name]


box, mask, named = map(whole, ("box", "mask", "named"))


def published(evidence: Evidence, variant: str) -> Coco | None:
    """The paper's row that a variant is the counterpart of."""
    what = evidence.grid.variants[variant].paper if variant in evidence.grid.variants else None
    rows = [row for title in TABLES for row in COCO[title] if row.what == what]
    return rows[0] if rows else None


def differences_table(evidence: Evidence) -> str:
    """The paper's differences, and ours in every world that has runs; where the paper has none, of accuracy too."""
    worlds = [world for world in evidence.grid.worlds if evidence.found.get(world)]
    rows = []
    for one, other in DIFFERENCES:
        if not {one, other} <= set(evidence.grid.variants):
            continue
        theirs, base = published(evidence, one), published(evidence, other)
        gain = (
            "" if theirs is None or base is None else f"{theirs.box - base.box:+.1f} / {theirs.mask - base.mask:+.1f}"
        )
        title = f"{evidence.title(one)} − {evidence.title(other)}"
        cells = [difference_cell(evidence, world, one, other) for world in worlds]
        if evidence.grid.has_paper:
            rows.append([title, gain, *cells])
            continue
        named_right = [named_cell(evidence, world, one, other) for world in worlds]
        rows.append([title, *chain.from_iterable(zip(cells, named_right, strict=True))])
    if evidence.grid.has_paper:
        return table(["difference", "paper, COCO", *(f"here, {world}" for world in worlds)], rows)
    heads = [(f"{world}: box / mask AP", f"{world}: classified right, points") for world in worlds]
    return table(["difference", *chain.from_iterable(heads)], rows)


def difference_cell(evidence: Evidence, world: str, one: str, other: str) -> str:
    """Our difference of box and mask AP over the seeds that both have, and where their intervals lie."""
    boxes, masks = (
        difference(evidence.values(world, one, pick), evidence.values(world, other, pick)) for pick in (box, mask)
    )
    if boxes is None or masks is None:
        return NOT_RUN
    said = [verdict(boxes), verdict(masks)]
    where = said[0] if said[0] == said[1] else f"box {said[0]}, mask {said[1]}"
    return f"{boxes.text(sign=True)} / {masks.text(sign=True)} (n = {boxes.seeds}): {where}"


def named_cell(evidence: Evidence, world: str, one: str, other: str) -> str:
    """Our difference of the share of found objects that bear the right class."""
    apart = difference(evidence.values(world, one, named), evidence.values(world, other, named))
    return NOT_RUN if apart is None else f"{apart.text(sign=True)} (n = {apart.seeds}): {verdict(apart)}"


def comparisons(evidence: Evidence) -> list[dict[str, Any]]:
    """Each variant beside the baseline, both over the seeds that both have."""
    found = []
    base = evidence.grid.baseline
    for world, variants in evidence.found.items():
        for variant in variants:
            common = sorted(set(evidence.of(world, variant)) & set(evidence.of(world, base)))
            if variant == base or not common:
                continue
            apart = difference(evidence.values(world, variant, box), evidence.values(world, base, box))
            found.append({
                "world": world,
                "label": evidence.grid.label(variant, common),
                "box": [mean(evidence, world, v, box, common) for v in (variant, base)],
                "named": [mean(evidence, world, v, named, common) for v in (variant, base)],
                "apart": apart.text(sign=True) if apart else "",
                "verdict": verdict(apart),
            })  # fmt: skip
    return found


def mean(
    evidence: Evidence, world: str, variant: str, pick: Callable[[Result], float | None], seeds: Collection[int]
) -> str:
    """A number of some seeds' runs, as tables print it."""
    values = evidence.values(world, variant, pick)
    own = [values[seed] for seed in sorted(seeds) if seed in values]
    return interval(own).text() if own else "none"


def rows_of(evidence: Evidence, world: str) -> list[tuple[str, list[int]]]:
    """Variants with their seeds; before those that lack some of the baseline's, the baseline over theirs alone."""
    base = evidence.grid.baseline
    rows: list[tuple[str, list[int]]] = []
    shorter: dict[tuple[int, ...], list[str]] = {}
    for variant in evidence.grid.variants:
        seeds = sorted(evidence.of(world, variant))
        if seeds and set(seeds) < set(evidence.of(world, base)):
            shorter.setdefault(tuple(seeds), []).append(variant)
        else:
            rows.append((variant, seeds))
    for some, variants in shorter.items():
        rows += [(variant, list(some)) for variant in (base, *variants)]
    return rows


def world_context(evidence: Evidence, world: str) -> dict[str, Any]:
    """A world's scenes, and its tables: overall in the shape of the paper's, by distance, by size."""
    options = evidence.grid.worlds[world]
    context = {"name": world, "task": options.get("task", "plain"), "drawn": {}}
    seeds = {seed: result for by_seed in evidence.found.get(world, {}).values() for seed, result in by_seed.items()}
    if not seeds:
        return context
    return {
        **context,
        "scenes": {**evidence.grid.scenes, **options},
        "drawn": what_is_drawn(evidence.grid, [seeds[seed] for seed in sorted(seeds)]),
        "remark": evidence.grid.remarks.get(world, "").strip(),
        "overall": overall(evidence, world),
        "by_distance": split_table(evidence, world, "by_distance"),
        "by_size": split_table(evidence, world, "by_size"),
        "control": control(evidence, world),
    }


def what_is_drawn(grid: Grid, results: Sequence[Result]) -> dict[str, Any]:
    """A world's training scenes in numbers, all seeds together."""
    drawn = [result["drawn"] for result in results]
    objects = {name: sum(one["objects"][name] for one in drawn) for name in drawn[0]["objects"]}
    shares = [one["first_by_x"] for one in drawn if "first_by_x" in one]
    distances = [one["distances"] for one in drawn if "distances" in one]
    return {
        "seeds": len(results),
        "objects": [f"{name} {number}" for name, number in objects.items()],
        "per_image": f"{sum(objects.values()) / (len(results) * grid.scenes['train']):.1f}",
        "first": next(iter(objects)),
        "shares": [f"{sum(column) / len(shares):.2f}" for column in zip(*shares, strict=True)],
        "distances": [f"{sum(column) / len(distances):.0f}" for column in zip(*distances, strict=True)],
    }


def overall(evidence: Evidence, world: str) -> str:
    """One row a variant, the paper's figures beside ours."""
    base = evidence.grid.baseline
    steps = evidence.values(world, base, lambda r: r["step_ms"])
    rows = []
    for variant, seeds in rows_of(evidence, world):
        theirs = published(evidence, variant)
        paper = [f"{theirs.box} / {theirs.mask}" if theirs else ""] if evidence.grid.has_paper else []
        if not seeds:
            rows.append([evidence.title(variant), *paper, *[NOT_RUN] * 2, *[""] * 7])
            continue
        row = [evidence.grid.label(variant, seeds), *paper]
        row += [mean(evidence, world, variant, pick, seeds) for pick in (box, mask)]
        for pick in (box, mask):
            apart = difference(evidence.values(world, variant, pick), evidence.values(world, base, pick))
            fewer = f" (n = {apart.seeds})" if apart and apart.seeds != len(seeds) else ""
            row.append("" if variant == base or apart is None else apart.text(sign=True) + fewer)
        row.append(mean(evidence, world, variant, named, seeds))
        one = evidence.of(world, variant)[seeds[0]]
        ours = evidence.values(world, variant, lambda r: r["step_ms"])
        common = [ours[seed] / steps[seed] for seed in seeds if seed in ours and seed in steps]
        slower = interval(common).text(times=1, digits=2) if common else ""
        row += [str(len(seeds)), f"{one['parameters'] / 1e6:.2f}M", f"{one['madds'] / 1e9:.3f}G", slower]
        rows.append(row)
    head = ["box AP", "mask AP", "Δ box", "Δ mask", "classified right, %", "seeds", "parameters", "M.Adds",
            "step, × baseline"]  # fmt: skip
    return table(["", *(["paper: box / mask"] if evidence.grid.has_paper else []), *head], rows)


def split_table(evidence: Evidence, world: str, key: str) -> str:
    """Box AP (mask AP), and right names, of parts of the objects: a row a variant; empty where no run has parts.

    The parts' bounds are means over the seeds, whose scenes differ.
    """

    def parted(variant: str) -> list[list[Result]]:
        return [result[key] for result in evidence.of(world, variant).values() if result.get(key)]

    chosen = [(variant, seeds) for variant, seeds in rows_of(evidence, world) if parted(variant)]
    if not chosen:
        return ""
    every = [parts for variant in dict(chosen) for parts in parted(variant)]
    count = min(map(len, every))
    bounds = [
        f"{sum(parts[n]['low'] for parts in every) / len(every):.0f} … "
        f"{sum(parts[n]['high'] for parts in every) / len(every):.0f}"
        for n in range(count)
    ]
    rows = []
    for variant, seeds in chosen:
        cells = []
        for n in range(count):
            parts = [evidence.of(world, variant)[seed][key][n] for seed in seeds]
            kinds = [[part[name] for part in parts if part[name] is not None] for name in ("box", "mask", "named")]
            cells.append(" / ".join(interval(values).text() if values else "none" for values in kinds))
        rows.append([evidence.grid.label(variant, seeds), *cells])
    return table(["", *bounds], rows)


def control(evidence: Evidence, world: str) -> list[str]:
    """What needs no partner: the key's own AP, which all variants should share."""
    cells = []
    for variant, seeds in rows_of(evidence, world):
        own = mean(evidence, world, variant, lambda r: (r.get("control") or {}).get("box"), seeds)
        if own != "none":
            cells.append(f"{evidence.grid.label(variant, seeds)} {own}")
    return cells


def path(evidence: Evidence) -> dict[str, Any]:
    """Variants that begin from another's weights, beside the same model from scratch."""
    grid = evidence.grid
    carried, rows = [], []
    for name, variant in grid.variants.items():
        if variant.first is None:
            continue
        model = (variant.backbone, variant.options)
        alike = (n for n, v in grid.variants.items() if v.first is None and (v.backbone, v.options) == model)
        scratch = next(alike, grid.baseline)
        for world in grid.worlds:
            seeds = sorted(evidence.of(world, name))
            if not seeds:
                continue
            first = evidence.of(world, name)[seeds[0]]
            carried.append(f"{evidence.title(name)}: {first.get('carried', '')}")
            same = [seed for seed in seeds if seed in evidence.of(world, scratch)]
            aps = [
                f"{mean(evidence, world, v, box, own)} / {mean(evidence, world, v, mask, own)}"
                for v, own in ((name, seeds), (scratch, same))
            ]
            rows.append([
                world, grid.label(name, seeds), aps[0], evidence.title(scratch), aps[1] if same else NOT_RUN,
                difference_cell(evidence, world, name, scratch),
            ])  # fmt: skip
    head = ["world", "carried over", "box / mask AP", "from scratch", "over the same seeds", "Δ box / Δ mask"]
    return {"table": table(head, rows), "carried": list(dict.fromkeys(carried))} if rows else {}


def missing(evidence: Evidence) -> dict[str, Any]:
    """Runs without a result: by world, with the seeds where a variant has some, and the commands that make them."""
    grid = evidence.grid
    runs = [run for run in grid.runs() if run.seed not in evidence.of(run.world, run.variant)]
    if not runs:
        return {}
    said = {}
    for world in dict.fromkeys(run.world for run in runs):
        lacking: dict[str, list[int]] = {}
        for run in runs:
            if run.world == world:
                lacking.setdefault(run.variant, []).append(run.seed)
        names = [v if seeds == grid.seeds else f"{v} seed {' '.join(map(str, seeds))}" for v, seeds in lacking.items()]
        said[world] = "all" if names == list(grid.variants) else ", ".join(names)
    return {
        "count": len(runs),
        "worlds": [f"{world} ({names})" for world, names in said.items()],
        "commands": commands(runs, grid.name),
        "useless": [world for world in said if world in grid.remarks],
    }
