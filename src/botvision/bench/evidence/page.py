"""The evidence as a page: tables and verdicts of the runs that are there, and what was not run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botvision.bench.evidence import words
from botvision.bench.evidence.grid import Grid, Run
from botvision.bench.evidence.numbers import Interval, difference, interval, verdict
from botvision.bench.evidence.pictures import draw_pictures
from botvision.bench.evidence.run import result_of
from botvision.bench.paper import NOT_RUN, table
from botvision.bench.published import COCO, Coco
from botvision.files import read_json, write_text

TABLES = ("Content and position, 36 epochs", "Inserted, not replaced (non-local comparison), 36 epochs")
CLAIMS = (  # better, worse, by the grid's variants; the paper's difference is that of their rows
    ("relative", "resnet"),
    ("relative", "resnet_alone"),
    ("content", "resnet"),
    ("relative", "content"),
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
        words.opening(evidence.grid.name, evidence.all()),
        "## What reproduces",
        words.CLAIMS,
        claims_table(evidence),
        *words.summary(sentences(evidence)),
        "## The worlds",
        *words.worlds(evidence.grid, evidence.found),
        "## Tables",
        words.tables(evidence.grid),
        *words.recipe(evidence.grid),
        *[part for world in evidence.grid.worlds for part in world_sections(evidence, world)],
        *(["## Curves", words.CURVES, "## What the twins find", words.FOUND] if evidence.found else []),
        "## The paper's own path: the ResNet first",
        *path_section(evidence),
        "## Effective receptive field",
        *words.field(read_json(field, what="receptive fields") if field.is_file() else None),
        "## What was not run",
        *words.not_run(evidence.grid, missing(evidence)),
        "## What settles it: COCO",
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


def claims_table(evidence: Evidence) -> str:
    """The paper's differences, and ours in every world that has runs."""
    worlds = [world for world in evidence.grid.worlds if evidence.found.get(world)]
    rows = []
    for better, worse in CLAIMS:
        if not {better, worse} <= set(evidence.grid.variants):
            continue
        theirs, base = published(evidence, better), published(evidence, worse)
        gain = (
            "" if theirs is None or base is None else f"{theirs.box - base.box:+.1f} / {theirs.mask - base.mask:+.1f}"
        )
        cells = [claim_cell(evidence, world, better, worse, is_papers=bool(gain)) for world in worlds]
        rows.append([f"{evidence.title(better)} − {evidence.title(worse)}", gain, *cells])
    return table(["difference", "paper, COCO", *(f"here, {world}" for world in worlds)], rows)


def claim_cell(evidence: Evidence, world: str, better: str, worse: str, *, is_papers: bool) -> str:
    """Our difference of box and mask AP, and what it says of the paper's, where that has one."""
    boxes, masks = (
        difference(evidence.values(world, better, pick), evidence.values(world, worse, pick)) for pick in (box, mask)
    )
    if boxes is None or masks is None:
        return NOT_RUN
    above, below = ("**reproduces**", "**the contrary**") if is_papers else ("above", "below")
    said = {"above the twin": above, "below the twin": below}
    return f"{boxes.text(sign=True)} / {masks.text(sign=True)}: {said.get(verdict(boxes), verdict(boxes))}"


def sentences(evidence: Evidence) -> list[str]:
    """Each variant against the twin in words."""
    said = []
    twin = evidence.grid.twin
    for world, variants in evidence.found.items():
        for variant in variants:
            apart = difference(evidence.values(world, variant, box), evidence.values(world, twin, box))
            if variant == twin or apart is None:
                continue
            ours, twins = (interval([*evidence.values(world, v, box).values()]) for v in (variant, twin))
            right = [interval([*evidence.values(world, v, named).values()] or [0.0]) for v in (variant, twin)]
            said.append(
                f"*{world}*, {evidence.title(variant)}: box AP {ours.text()}, the twin's {twins.text()}; difference "
                f"{apart.text(sign=True)}, {verdict(apart)}. Of the objects found, {right[0].text()} % bear the "
                f"right name, the twin's {right[1].text()} %."
            )
    return said


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
    twin = evidence.grid.twin
    steps = evidence.values(world, twin, lambda r: r["step_ms"])
    rows = []
    for variant in evidence.grid.variants:
        theirs = published(evidence, variant)
        row = [evidence.title(variant), f"{theirs.box} / {theirs.mask}" if theirs else ""]
        results = evidence.of(world, variant)
        if not results:
            rows.append([*row, *[NOT_RUN] * 2, *[""] * 7])
            continue
        row += [interval([*evidence.values(world, variant, pick).values()]).text() for pick in (box, mask)]
        for pick in (box, mask):
            apart = difference(evidence.values(world, variant, pick), evidence.values(world, twin, pick))
            row.append("" if variant == twin or apart is None else apart.text(sign=True))
        right = [*evidence.values(world, variant, named).values()]
        row.append(interval(right).text() if right else "")
        one = next(iter(results.values()))
        ours = evidence.values(world, variant, lambda r: r["step_ms"])
        common = [ours[seed] / steps[seed] for seed in sorted(set(ours) & set(steps))]
        slower = interval(common).text(times=1, digits=2) if common else ""
        row += [str(len(results)), f"{one['parameters'] / 1e6:.2f}M", f"{one['madds'] / 1e9:.3f}G", slower]
        rows.append(row)
    head = ["", "paper: box / mask", "box AP", "mask AP", "Δ box", "Δ mask", "named right, %", "seeds", "parameters",
            "M.Adds", "step, × twin"]  # fmt: skip
    return table(head, rows)


def split_section(evidence: Evidence, world: str, key: str, what: str) -> list[str]:
    """Box AP (mask AP), and right names, of parts of the objects: one row a variant."""
    variants = [v for v in evidence.grid.variants if any(r.get(key) for r in evidence.of(world, v).values())]
    if not variants:
        return []
    return [f"By {what}: box AP / mask AP / named right, %", split_table(evidence, world, key, variants)]


def split_table(evidence: Evidence, world: str, key: str, variants: Sequence[str]) -> str:
    """Parts as columns; their bounds are means over the seeds, whose scenes differ."""
    every = [r[key] for v in variants for r in evidence.of(world, v).values() if r.get(key)]
    count = min(map(len, every))
    bounds = [
        f"{sum(parts[n]['low'] for parts in every) / len(every):.0f} … "
        f"{sum(parts[n]['high'] for parts in every) / len(every):.0f}"
        for n in range(count)
    ]
    rows = []
    for variant in variants:
        cells = []
        for n in range(count):
            parts = [r[key][n] for r in evidence.of(world, variant).values()]
            kinds = [[part[name] for part in parts if part[name] is not None] for name in ("box", "mask", "named")]
            cells.append(" / ".join(interval(values).text() if values else "none" for values in kinds))
        rows.append([evidence.title(variant), *cells])
    return table(["", *bounds], rows)


def control(evidence: Evidence, world: str) -> list[str]:
    """What needs no partner: the key's own AP, which all variants should share."""
    cells = []
    for variant in evidence.grid.variants:
        own = evidence.values(world, variant, lambda r: (r.get("control") or {}).get("box"))
        if own:
            cells.append(f"{evidence.title(variant)} {interval([*own.values()]).text()}")
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
            ours, alone = evidence.values(world, name, box), evidence.values(world, scratch, box)
            if not ours:
                continue
            apart: Interval | None = difference(ours, alone)
            first = next(iter(evidence.of(world, name).values()))
            said.append(f"{evidence.title(name)}: {first.get('carried', '')}")
            rows.append([
                world, evidence.title(name), interval([*ours.values()]).text(), evidence.title(scratch),
                interval([*alone.values()]).text() if alone else NOT_RUN,
                apart.text(sign=True) if apart else "", verdict(apart).replace("the twin", "from scratch"),
            ])  # fmt: skip
    if not rows:
        names = ", ".join(later)
        return [words.PATH, f"{NOT_RUN.capitalize()}: variants {names}; the command is below."]
    head = ["world", "carried over", "box AP", "from scratch", "box AP", "Δ box", ""]
    carried = "What was carried over: " + "; ".join(dict.fromkeys(said)) + "."
    return [words.PATH, table(head, rows), carried]


def same_model(one: Any, other: Any) -> bool:
    """Whether two variants differ in how they begin alone."""
    return (one.backbone, one.options) == (other.backbone, other.options)
