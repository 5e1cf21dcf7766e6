"""The page on relations: its words are in page.md.jinja, its numbers in the result files."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from botvision.engine.intervals import difference, interval, verdict
from botvision.files import read_json
from studies.holm import Corrected, holm
from studies.pages import render, table
from studies.relations.protocol import (
    ATTENTION,
    COIN,
    CONTROLS,
    DRAWS,
    FORMS,
    POINTS,
    SEARCH_SEED,
    SEARCH_WORLD,
    SECOND_WORLD,
    SEEDS,
    SHORT,
    VARIANTS,
    WORLDS,
    draws,
)
from studies.relations.search import choice, found, search
from studies.starts.page import counted

Result = dict[str, Any]
ENOUGH = 0.95  # share named right that the cost is asked for


class Evidence(NamedTuple):
    """Counted results, world → variant → seed, and the folder that they are in."""

    counted: dict[str, dict[str, dict[int, Result]]]
    results: Path
    form: str = "cpu"

    def title(self, variant: str) -> str:
        """Of a variant, for tables."""
        return FORMS[self.form].variants[variant].title

    def shares(self, world: str, variant: str) -> dict[int, float]:
        """Share named right by seed."""
        return {seed: one["right"] for seed, one in self.of(world, variant).items()}

    def of(self, world: str, variant: str) -> dict[int, Result]:
        """By seed."""
        return self.counted.get(world, {}).get(variant, {})

    def every(self) -> list[Result]:
        """All counted results."""
        return [one for variants in self.counted.values() for seeds in variants.values() for one in seeds.values()]

    def strongest(self, world: str) -> str | None:
        """The control with the highest mean of those that have all seeds; none before all controls have them."""
        whole = [name for name in CONTROLS if set(self.of(world, name)) == set(SEEDS)]
        if len(whole) < len(CONTROLS):
            return None
        return max(whole, key=lambda name: fmean(self.shares(world, name).values()))


def collect(results: Path, form: str = "cpu") -> Evidence:
    """All counted results that are filed."""
    counted: dict[str, dict[str, dict[int, Result]]] = {}
    for path in sorted(results.glob("*_seed*.json")):
        one = read_json(path, what="result of a trial")
        counted.setdefault(one["world"], {}).setdefault(one["variant"], {})[one["seed"]] = one
    return Evidence(counted, results, form)


def page_text(evidence: Evidence) -> str:
    """The page: of the results alone, so that the same results always give the same page."""
    searched = [one for variant in VARIANTS for world in (SEARCH_WORLD, SECOND_WORLD) for one in
                found(search(variant, world), evidence.results)]  # fmt: skip
    every = [*evidence.every(), *searched]
    return render(
        Path(__file__).with_name("page.md.jinja"),
        variants=[(evidence.title(name), POINTS[name]) for name in VARIANTS],
        shares=share_table(evidence),
        verdicts=verdicts(evidence),
        searched=search_table(evidence) if searched else "",
        distances=distance_tables(evidence),
        probes=probe_table(evidence),
        looks="directional" in evidence.counted.get("pair_far", {}),
        cost=cost_table(evidence),
        cheapest=[cheapest(evidence, world) for world in ("pair_near", "pair_far") if evidence.counted.get(world)],
        missing=missing(evidence),
        counted=len(evidence.every()),
        draws=len(searched),
        hardware=sorted({one["hardware"] for one in every}),
        commits=sorted({one["commit"] for one in every}),
        hours=f"{sum(one['steps'] * one['step_ms'] for one in every) / 3.6e6:.1f}",
        setting={"coin": round(100 * COIN), "draws": DRAWS, "seed": SEARCH_SEED, "seeds": SEEDS},
    )


def share_table(evidence: Evidence) -> str:
    """Variants × worlds: % named right."""
    worlds = [world for world in WORLDS if evidence.counted.get(world)]
    rows = [
        [evidence.title(name), *(told(evidence.shares(world, name)) for world in worlds)]
        for name in VARIANTS
        if any(evidence.of(world, name) for world in worlds)
    ]
    return table(["", *(f"*{world}*" for world in worlds)], rows) if worlds else ""


def told(shares: Mapping[int, float]) -> str:
    """A mean with its interval, or each seed's figure."""
    return counted(interval([shares[seed] for seed in sorted(shares)]) if shares else None)


def verdicts(evidence: Evidence) -> dict[str, Any]:
    """The registered comparisons, corrected together, and what they refute; empty before all have their seeds."""
    asked = [(world, one) for world in ("pair_far", "match") for one in ATTENTION]
    controls = {world: evidence.strongest(world) for world in ("pair_far", "match")}
    whole = all(set(evidence.of(world, one)) == set(SEEDS) for world, one in asked)
    if not whole or None in controls.values():
        return {}
    strongest = {world: str(name) for world, name in controls.items()}
    apart = [
        [evidence.shares(world, one)[seed] - evidence.shares(world, strongest[world])[seed] for seed in SEEDS]
        for world, one in asked
    ]
    corrected = holm(apart)
    rows = [
        [f"*{world}*: {evidence.title(one)} − {evidence.title(strongest[world])}", percent(found), found.verdict()]
        for (world, one), found in zip(asked, corrected, strict=True)
    ]
    above = {world: any(f.low > 0 for (w, _), f in zip(asked, corrected, strict=True) if w == world)
             for world in strongest}  # fmt: skip
    return {
        "table": table(["difference, points", "mean and Holm-corrected 95 % interval", ""], rows),
        "above": above,
        "distance": by_distance_or_trainability(evidence),
    }


def percent(found: Corrected) -> str:
    """A corrected difference as the table prints it."""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def by_distance_or_trainability(evidence: Evidence) -> dict[str, str]:
    """Whether directional's difference to the strongest control is larger far than near; empty before both are run."""
    apart: dict[str, dict[int, float]] = {}
    for world in ("pair_far", "pair_near"):
        control = evidence.strongest(world)
        ours = evidence.shares(world, "directional")
        if control is None or set(ours) != set(SEEDS):
            return {}
        apart[world] = {seed: ours[seed] - evidence.shares(world, control)[seed] for seed in SEEDS}
    more = difference(apart["pair_far"], apart["pair_near"])
    return {"text": more.text(sign=True) if more else "", "verdict": verdict(more)}


def search_table(evidence: Evidence) -> str:
    """Every draw: what it was and what it named right, far and near; the chosen one in bold."""
    rows, results = [], evidence.results
    for variant in VARIANTS:
        right = {
            world: {one["draw"]: one["right"] for one in found(search(variant, world), results)}
            for world in (SEARCH_WORLD, SECOND_WORLD)
        }
        if not any(right.values()):
            continue
        chosen = choice(variant, results)
        for draw in draws(variant):
            cells = [f"{100 * r[draw.number]:.1f}" if draw.number in r else "" for r in right.values()]
            if chosen is not None and chosen[0].number == draw.number:
                place = list(right).index(chosen[1])
                cells[place] = f"**{cells[place]}**"
            rows.append([evidence.title(variant), str(draw.number), str(draw), *cells])
    return table(["", "draw", "", f"*{SEARCH_WORLD}*", f"*{SECOND_WORLD}*"], rows)


def distance_tables(evidence: Evidence) -> list[tuple[str, str]]:
    """% named right by distance to the partner, a table a world."""
    tables = []
    for world in WORLDS:
        parts = [one["by_distance"] for variant in evidence.counted.get(world, {}).values() for one in variant.values()]
        if not any(parts):
            continue
        count = min(map(len, parts))
        head = [f"{parts[0][n]['low']:.0f} … {parts[0][n]['high']:.0f} px" for n in range(count)]
        rows = [
            [
                evidence.title(name),
                *(told({seed: one["by_distance"][n]["right"] for seed, one in seeds.items()}) for n in range(count)),
            ]
            for name in VARIANTS
            if (seeds := evidence.of(world, name))
        ]
        tables.append((world, table(["", *head], rows)))
    return tables


def probe_table(evidence: Evidence) -> str:
    """What answers rest on: pairs swapped, keys taken away, weight on the keys."""
    rows = []
    for world in ("pair_near", "pair_far"):
        for name in VARIANTS:
            probes = [one["probe"] for one in evidence.of(world, name).values()]
            if not probes:
                continue
            cells = [interval([p[what] for p in probes]).text() for what in ("right", "turned", "without_keys")]
            weights = [max(p["attention"]) for p in probes if "attention" in p]
            weight = f"{interval(weights).text()}, even: {100 * probes[0]['even']:.1f}" if weights else "no attention"
            rows.append([evidence.title(name), f"*{world}*", *cells, weight])
    head = ["", "", "named right, %", "turn with the keys, %", "named right without keys, %",
            "weight of one head on the keys, %"]  # fmt: skip
    return table(head, rows) if rows else ""


def cost_table(evidence: Evidence) -> str:
    """Parameters, multiply-adds, time of a step to the baseline's of the same seed and world."""
    rows = []
    for name in VARIANTS:
        own = [one for world in evidence.counted for one in evidence.of(world, name).values()]
        if not own:
            continue
        ratios = [
            one["step_ms"] / base["step_ms"]
            for one in own
            if (base := evidence.of(one["world"], "resnet").get(one["seed"])) is not None
        ]
        slower = f"{fmean(ratios):.2f}" if ratios else ""
        rows.append(
            [evidence.title(name), f"{own[0]['parameters'] / 1e6:.2f}M", f"{own[0]['madds'] / 1e9:.3f}G", slower]
        )
    return table(["", "parameters", "multiply-adds", "step, × baseline"], rows) if rows else ""


def cheapest(evidence: Evidence, world: str) -> tuple[str, list[str]]:
    """Variants whose mean reaches what is asked, the fewest multiply-adds first."""
    reached = []
    for name in VARIANTS:
        shares = evidence.shares(world, name)
        if shares and fmean(shares.values()) >= ENOUGH:
            one = next(iter(evidence.of(world, name).values()))
            reached.append(
                (one["madds"], f"{evidence.title(name)} ({one['madds'] / 1e9:.3f}G, {one['parameters'] / 1e6:.2f}M)")
            )
    return world, [text for _, text in sorted(reached)]


def missing(evidence: Evidence) -> dict[str, list[str]]:
    """What has no result, by world: of the short form, and of the long one."""
    lacking: dict[str, list[str]] = {"short": [], "long": []}
    for world in WORLDS:
        for form in lacking:
            asked = [n for n in VARIANTS if (form == "short") == (world in SHORT["worlds"] and n in SHORT["variants"])]
            lacks = {name: [seed for seed in SEEDS if seed not in evidence.of(world, name)] for name in asked}
            titles = [
                evidence.title(name) + ("" if len(seeds) == len(SEEDS) else f" (seeds {', '.join(map(str, seeds))})")
                for name, seeds in lacks.items()
                if seeds
            ]
            whole = titles == [evidence.title(name) for name in asked]
            if titles:
                lacking[form].append(f"*{world}*: {'all' if whole else ', '.join(titles)}")
    return lacking
