"""The evidence as a page: tables and differences of the runs there are, and what was not run."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botvision.bench.evidence import words
from botvision.bench.evidence.grid import Grid, Run
from botvision.bench.evidence.numbers import difference, interval, verdict
from botvision.bench.evidence.pictures import draw_pictures
from botvision.bench.evidence.run import result_of
from botvision.bench.paper import NOT_RUN, table
from botvision.bench.published import COCO, Coco
from botvision.files import read_json, write_text

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
    """The page, and its pictures in `images` beside it; those of a training only where the training is at hand."""
    evidence = collect(grid, results)
    field = results / "field.json"
    draw_pictures(evidence.grid, evidence.found, page.parent / "images", place=place, field=field)
    write_text(page, build_page(evidence, field))


def build_page(evidence: Evidence, field: Path) -> str:
    """The page's Markdown: of the results alone, so that the same results always give the same page."""
    sections = [
        words.TITLE,
        words.opening(evidence.grid, evidence.all()),
        "## Differences",
        words.DIFFERENCES,
        differences_table(evidence),
        *words.summary(sentences(evidence)),
        "## The worlds",
        *words.worlds(evidence.grid, evidence.found),
        "## Tables",
        words.tables(evidence.grid),
        *words.recipe(evidence.grid),
        *[part for world in evidence.grid.worlds for part in world_sections(evidence, world)],
        *(["## Curves", words.CURVES, "## What the models find", words.FOUND] if evidence.found else []),
        "## The paper's own path: the ResNet first",
        *path_section(evidence),
        "## Effective receptive field",
        *words.field(read_json(field, what="receptive fields") if field.is_file() else None),
        "## What was not run",
        *words.not_run(evidence.grid, missing(evidence)),
        "## What would settle it: COCO",
        words.COCO_NEXT,
        "## Run it again",
        words.again(evidence.grid.name),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def missing(evidence: Evidence) -> list[Run]:
    """Runs of the grid without a result."""
    return [run for run in evidence.grid.runs() if run.seed not in evidence.of(run.world, run.variant)]


def box(result: Result) -> float:
    """Box AP over the objects whose class is in question."""
    return float(result["whole"]["box"])


def mask(result: Result) -> float:
    """Mask AP over the objects whose class is in question."""
    return float(result["whole"]["mask"])


def named(result: Result) -> float | None:
    """Share of the found objects that bear the right name."""
    share = result["whole"]["named"]
    return None if share is None else float(share)


def published(evidence: Evidence, variant: str) -> Coco | None:
    """The paper's row that a variant is the counterpart of."""
    what = evidence.grid.variants[variant].paper if variant in evidence.grid.variants else None
    rows = [row for title in TABLES for row in COCO[title] if row.what == what]
    return rows[0] if rows else None


def differences_table(evidence: Evidence) -> str:
    """The paper's differences, and ours in every world that has runs."""
    worlds = [world for world in evidence.grid.worlds if evidence.found.get(world)]
    rows = []
    for one, other in DIFFERENCES:
        if not {one, other} <= set(evidence.grid.variants):
            continue
        theirs, base = published(evidence, one), published(evidence, other)
        gain = (
            "" if theirs is None or base is None else f"{theirs.box - base.box:+.1f} / {theirs.mask - base.mask:+.1f}"
        )
        cells = [difference_cell(evidence, world, one, other) for world in worlds]
        rows.append([f"{evidence.title(one)} − {evidence.title(other)}", gain, *cells])
    return table(["difference", "paper, COCO", *(f"here, {world}" for world in worlds)], rows)


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


def sentences(evidence: Evidence) -> list[str]:
    """Each variant beside the baseline in words, both over the seeds that both have."""
    said = []
    base = evidence.grid.twin
    for world, variants in evidence.found.items():
        for variant in variants:
            common = sorted(set(evidence.of(world, variant)) & set(evidence.of(world, base)))
            if variant == base or not common:
                continue
            apart = difference(evidence.values(world, variant, box), evidence.values(world, base, box))
            ours, bases = (mean(evidence, world, v, box, common) for v in (variant, base))
            right = [mean(evidence, world, v, named, common) for v in (variant, base)]
            said.append(
                f"*{world}*, {evidence.grid.label(variant, common)}: box AP {ours}, the baseline's over the same seeds "
                f"{bases}; difference {apart.text(sign=True) if apart else ''}, {verdict(apart)}. Of the objects "
                f"found, {right[0]} % bear the right name, the baseline's {right[1]} %."
            )
    return said


def mean(
    evidence: Evidence, world: str, variant: str, pick: Callable[[Result], float | None], seeds: Collection[int]
) -> str:
    """A number of some seeds' runs, as tables print it."""
    values = evidence.values(world, variant, pick)
    own = [values[seed] for seed in sorted(seeds) if seed in values]
    return interval(own).text() if own else "none"


def rows_of(evidence: Evidence, world: str) -> list[tuple[str, list[int]]]:
    """Variants with their seeds; before those that lack some of the baseline's, the baseline over theirs alone."""
    base = evidence.grid.twin
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


def world_sections(evidence: Evidence, world: str) -> list[str]:
    """A world's tables: overall in the shape of the paper's, by distance, by size."""
    if not evidence.found.get(world):
        return [f"### {world}", f"{NOT_RUN.capitalize()}."]
    return [
        f"### {world}",
        overall(evidence, world),
        *split_section(evidence, world, "by_distance", "distance to the partner, px"),
        *split_section(evidence, world, "by_size", "side of the object, px"),
        *control(evidence, world),
    ]


def overall(evidence: Evidence, world: str) -> str:
    """One row a variant, the paper's figures beside ours."""
    base = evidence.grid.twin
    steps = evidence.values(world, base, lambda r: r["step_ms"])
    rows = []
    for variant, seeds in rows_of(evidence, world):
        theirs = published(evidence, variant)
        paper = f"{theirs.box} / {theirs.mask}" if theirs else ""
        if not seeds:
            rows.append([evidence.title(variant), paper, *[NOT_RUN] * 2, *[""] * 7])
            continue
        row = [evidence.grid.label(variant, seeds), paper]
        row += [mean(evidence, world, variant, pick, seeds) for pick in (box, mask)]
        for pick in (box, mask):
            apart = difference(evidence.values(world, variant, pick), evidence.values(world, base, pick))
            row.append("" if variant == base or apart is None else apart.text(sign=True))
        row.append(mean(evidence, world, variant, named, seeds))
        one = evidence.of(world, variant)[seeds[0]]
        ours = evidence.values(world, variant, lambda r: r["step_ms"])
        common = [ours[seed] / steps[seed] for seed in seeds if seed in ours and seed in steps]
        slower = interval(common).text(times=1, digits=2) if common else ""
        row += [str(len(seeds)), f"{one['parameters'] / 1e6:.2f}M", f"{one['madds'] / 1e9:.3f}G", slower]
        rows.append(row)
    head = ["", "paper: box / mask", "box AP", "mask AP", "Δ box", "Δ mask", "named right, %", "seeds", "parameters",
            "M.Adds", "step, × baseline"]  # fmt: skip
    return table(head, rows)


def split_section(evidence: Evidence, world: str, key: str, what: str) -> list[str]:
    """Box AP (mask AP), and right names, of parts of the objects: one row a variant."""
    rows = [(v, seeds) for v, seeds in rows_of(evidence, world) if any(r.get(key) for r in some(evidence, world, v))]
    if not rows:
        return []
    return [f"By {what}: box AP / mask AP / named right, %", split_table(evidence, world, key, rows)]


def some(evidence: Evidence, world: str, variant: str) -> list[Result]:
    """A variant's results, whatever their seeds."""
    return list(evidence.of(world, variant).values())


def split_table(evidence: Evidence, world: str, key: str, chosen: Sequence[tuple[str, list[int]]]) -> str:
    """Parts as columns; their bounds are means over the seeds, whose scenes differ."""
    every = [r[key] for v in dict(chosen) for r in some(evidence, world, v) if r.get(key)]
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
    return [f"Control, the key, which is told from its own pixels: box AP {'; '.join(cells)}."] if cells else []


def path_section(evidence: Evidence) -> list[str]:
    """Variants that begin from another's weights, beside the same model from scratch."""
    grid = evidence.grid
    later = {name: variant for name, variant in grid.variants.items() if variant.first is not None}
    if not later:
        return [f"{NOT_RUN.capitalize()}: this grid has no such variant."]
    said, rows = [], []
    for name, variant in later.items():
        scratch = next((n for n, v in grid.variants.items() if v.first is None and same_model(v, variant)), grid.twin)
        for world in grid.worlds:
            seeds = sorted(evidence.of(world, name))
            if not seeds:
                continue
            first = evidence.of(world, name)[seeds[0]]
            said.append(f"{evidence.title(name)}: {first.get('carried', '')}")
            same = [seed for seed in seeds if seed in evidence.of(world, scratch)]
            aps = [
                f"{mean(evidence, world, v, box, own)} / {mean(evidence, world, v, mask, own)}"
                for v, own in ((name, seeds), (scratch, same))
            ]
            rows.append([
                world, grid.label(name, seeds), aps[0], evidence.title(scratch), aps[1] if same else NOT_RUN,
                difference_cell(evidence, world, name, scratch),
            ])  # fmt: skip
    if not rows:
        names = ", ".join(later)
        return [words.PATH, f"{NOT_RUN.capitalize()}: variants {names}; the command is below."]
    head = ["world", "carried over", "box / mask AP", "from scratch", "over the same seeds", "Δ box / Δ mask"]
    carried = "What was carried over: " + "; ".join(dict.fromkeys(said)) + "."
    return [words.PATH, table(head, rows), carried]


def same_model(one: Any, other: Any) -> bool:
    """Whether two variants differ in how they begin alone."""
    return (one.backbone, one.options) == (other.backbone, other.options)
