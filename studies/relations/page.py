"""The page on relations: its words are in page.md.jinja, its numbers in the result files."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

from botvision.engine.intervals import Interval, difference, interval, verdict
from studies.pages import listed, render, table
from studies.relations.evidence import Evidence
from studies.relations.protocol import (
    COIN,
    CONTROLS,
    DRAWS,
    FORMS,
    POINTS,
    RATES,
    SEARCH_SEED,
    SEARCH_WORLD,
    SECOND_WORLD,
    SEEDS,
    SHORT,
    VARIANTS,
    WORLDS,
    Draw,
    draws,
)
from studies.relations.search import choice, found, search
from studies.relations.trials import Trial
from studies.relations.verdicts import (
    DECISIVE,
    Compared,
    Row,
    comparisons,
    percent,
    points,
    predictions,
    refutations,
)
from studies.starts.contenders import CONTENDERS
from studies.starts.page import counted
from studies.starts.reading import SCENES

ENOUGH = 0.95  # accuracy that the cost is asked for
CHANCE = {"plain": 10}  # per cent; 50 in the others


def page_text(evidence: Evidence, *, picture: bool = False) -> str:
    """The page: of the results alone, so that the same results always give the same page.

    `picture` shows where trained heads look, `images/relations_attention.png` beside the page.
    """
    searched = [one for variant in VARIANTS for world in (SEARCH_WORLD, SECOND_WORLD) for one in
                found(search(variant, world), evidence.results)]  # fmt: skip
    every, compared = [*evidence.every(), *searched], comparisons(evidence)
    form = FORMS[evidence.form]
    return render(
        Path(__file__).with_name("page.md.jinja"),
        form=evidence.form,
        setting=form.setting,
        steps=form.steps,
        px={name: [round(form.setting.size * share) for share in one["distance"]]
            for name, one in SCENES.items() if "distance" in one},
        variants=[(evidence.title(name), POINTS[name]) for name in VARIANTS],
        headlines=[headline(evidence, world, compared) for world in DECISIVE] if compared else [],
        is_above=any(one.is_above for one in compared),
        learnt={world: any(evidence.learnt(world, name) for name in SHORT["variants"]) for world in DECISIVE},
        accuracies=accuracy_table(evidence),
        by_seed=by_seed_table(evidence),
        compared=compared_table(evidence, compared),
        refutations=row_table("registered sentence", refutations(evidence)),
        predictions=row_table("prediction", predictions(evidence)),
        lottery=lottery(evidence) if compared else [],
        after=after_table(evidence),
        again=again(evidence),
        searched=search_table(evidence) if searched else "",
        rates={"all": RATES, "never": [rate for rate in RATES if all(d.recipe.rate != rate for d in draws("resnet"))]},
        distances=distance_tables(evidence),
        probes=probe_table(evidence),
        picture=picture,
        cost=cost_table(evidence),
        cheapest=[cheapest(evidence, world) for world in ("pair_near", "pair_far") if evidence.counted.get(world)],
        missing=missing(evidence),
        counted=len(evidence.every()),
        draws=len(searched),
        hardware=sorted({one["hardware"] for one in every}),
        commits=sorted({one["commit"] for one in every}),
        hours=f"{sum(one['steps'] * one['step_ms'] for one in every) / 3.6e6:.1f}",
        search={"coin": round(100 * COIN), "draws": DRAWS, "seed": SEARCH_SEED, "seeds": SEEDS},
    )  # fmt: skip


def headline(evidence: Evidence, world: str, compared: list[Compared]) -> dict[str, Any]:
    """What a decisive task says: the variants above the strongest control, and all means in a sentence."""
    own = [one for one in compared if one.world == world]
    control = own[0].control
    sentences = [
        f"{evidence.title(one.variant)}: {percent(evidence.mean(world, one.variant))}, {points(one.found)} points, "
        f"{one.found.verdict()}."
        for one in own
    ]
    return {
        "world": world,
        "above": listed([evidence.title(one.variant) for one in own if one.is_above] or [""]),
        "learnt": any(evidence.learnt(world, name) for name in SHORT["variants"]),
        "told": f"The strongest control, {evidence.title(control)}, has {percent(evidence.mean(world, control))}. "
        + " ".join(sentences),
    }


def accuracy_table(evidence: Evidence) -> str:
    """Variants × tasks: accuracy in per cent."""
    worlds = [world for world in WORLDS if evidence.counted.get(world)]
    rows = [
        [evidence.title(name), *(told(evidence.accuracy(world, name)) for world in worlds)]
        for name in VARIANTS
        if any(evidence.of(world, name) for world in worlds)
    ]
    return table(["", *(f"*{world}*" for world in worlds)], rows) if worlds else ""


def told(accuracies: Mapping[int, float]) -> str:
    """A mean with its interval, or each seed's figure."""
    return counted(interval([accuracies[seed] for seed in sorted(accuracies)]) if accuracies else None)


def by_seed_table(evidence: Evidence) -> str:
    """Each run: a mean hides that some learn and some do not."""
    rows = [
        [
            evidence.title(name),
            f"*{world}*",
            f"{sum(share > COIN for share in own.values())} of {len(own)}",
            ", ".join(f"{100 * own[seed]:.1f}" for seed in sorted(own)),
        ]
        for world in SHORT["worlds"]
        for name in VARIANTS
        if (own := evidence.accuracy(world, name))
    ]
    return table(["", "", f"learnt (above {100 * COIN:.0f} %)", "accuracy by seed, %"], rows) if rows else ""


def compared_table(evidence: Evidence, compared: list[Compared]) -> str:
    """The registered comparisons."""
    rows = [
        [
            f"*{one.world}*: {evidence.title(one.variant)} minus {evidence.title(one.control)}",
            ", ".join(f"{100 * value:+.1f}" for value in one.apart.values()),
            points(one.found),
            f"{one.found.p:.3g}",
            f"{one.found.level:.3g}",
            one.found.verdict(),
        ]
        for one in compared
    ]
    return table(["difference, points", "by seed", "mean, interval", "p", "level", ""], rows) if rows else ""


def lottery(evidence: Evidence) -> list[str]:
    """Of *pair_far*: in how many runs each control and directional learnt, and the accuracy of those that did."""
    told_all = []
    for name in (*CONTROLS, "directional"):
        own = evidence.accuracy("pair_far", name)
        learnt = [share for share in own.values() if share > COIN]
        mean = f", {percent(fmean(learnt))} in these" if learnt else ""
        told_all.append(f"{evidence.title(name)} in {len(learnt)} of {len(own)}{mean}")
    return told_all


def after_table(evidence: Evidence) -> str:
    """The untuned recipe of studies/starts on the counted seeds, run when the registered results were known."""
    rows = [
        [CONTENDERS[name].title, f"*{world}*", told(own), ", ".join(f"{100 * own[seed]:.1f}" for seed in sorted(own))]
        for (name, world), own in evidence.after.items()
    ]
    apart = recipe_alike(evidence)
    if apart is not None:
        rows.append(["directional minus deeper, points", "*pair_far*", apart.text(sign=True), verdict(apart)])
    return table(["", "", "accuracy, %", "by seed"], rows) if rows else ""


def recipe_alike(evidence: Evidence) -> Interval | None:
    """Directional minus the deeper ResNet in *pair_far*, by the same untuned recipe on the same seeds."""
    ours, others = (evidence.after.get((name, "pair_far"), {}) for name in ("directional", "deep"))
    return difference(ours, others)


def again(evidence: Evidence) -> str:
    """That difference in words; empty where it was not run."""
    apart = recipe_alike(evidence)
    return "" if apart is None else f"{apart.text(sign=True)} points: {verdict(apart)}"


def row_table(head: str, rows: list[Row]) -> str:
    """Registered sentences and what came of them."""
    return table([head, "what came", ""], [[row.sentence, row.came, f"**{row.verdict}**"] for row in rows])


def search_table(evidence: Evidence) -> str:
    """Every trial of the search: its options, and its accuracy far and near; the chosen one in bold."""
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
            rows.append([evidence.title(variant), *options(draw), *cells])
    head = ["", "lr", "decay", "last gamma", "own options", f"*{SEARCH_WORLD}*", f"*{SECOND_WORLD}*"]
    return table(head, rows)


def options(draw: Draw) -> list[str]:
    """A trial's options as cells."""
    own = [f"`{name}` {value:.3g}" for name, value in draw.options.items() if name != "zero_init_last"]
    gamma = "0" if draw.options["zero_init_last"] else "1"
    return [f"{draw.recipe.rate:g}", f"{draw.recipe.decay:g}", gamma, ", ".join(own)]


def distance_tables(evidence: Evidence) -> list[tuple[str, str]]:
    """Accuracy by distance to the partner, a table a task."""
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
    """What answers rest on: pairs swapped, keys taken away, weight on the keys before and after training."""
    rows = []
    for world in ("pair_near", "pair_far"):
        for name in VARIANTS:
            probes = [one["probe"] for one in evidence.of(world, name).values()]
            if not probes:
                continue
            cells = [interval([p[what] for p in probes]).text() for what in ("right", "turned", "without_keys")]
            weights = [max(p["attention"]) for p in probes if "attention" in p]
            before = [
                max(heads)
                for one in evidence.of(world, name).values()
                if (heads := evidence.untrained.get(trial_name(one))) is not None
            ]
            attention = [interval(values).text() if values else "" for values in (before, weights)]
            even = f"{100 * probes[0]['even']:.1f}" if weights else ""
            rows.append([evidence.title(name), f"*{world}*", *cells, *attention, even])
    head = ["", "", "accuracy, %", "answers that turn with the keys, %", "accuracy without keys, %",
            "weight on the keys before training, %", "after, %", "spread evenly, %"]  # fmt: skip
    return table(head, rows) if rows else ""


def trial_name(one: Mapping[str, Any]) -> str:
    """The file name of a result, without its ending."""
    return Trial(one["world"], one["variant"], one["seed"], one["draw"]).file(Path()).stem


def cost_table(evidence: Evidence) -> str:
    """Parameters, multiply-adds, time of a step to the baseline's of the same seed and task."""
    rows = []
    for name in VARIANTS:
        own = [one for world in evidence.counted for one in evidence.of(world, name).values()]
        if not own:
            continue
        ratios = [
            one["step_ms"] / base["step_ms"]
            for one in own
            if (base := evidence.of(one["world"], "resnet").get(one["seed"])) is not None
            and one.get("commit") == base.get("commit")  # another day's runs had other work beside them
        ]
        slower = f"{median(ratios):.1f}" if ratios else "not timed"
        rows.append(
            [evidence.title(name), f"{own[0]['parameters'] / 1e6:.2f}M", f"{own[0]['madds'] / 1e9:.3f}G", slower]
        )
    return table(["", "parameters", "multiply-adds", "step, × baseline"], rows) if rows else ""


def cheapest(evidence: Evidence, world: str) -> tuple[str, list[str]]:
    """Variants whose mean reaches what is asked, the fewest multiply-adds first."""
    reached = []
    for name in VARIANTS:
        accuracies = evidence.accuracy(world, name)
        if accuracies and fmean(accuracies.values()) >= ENOUGH:
            one = next(iter(evidence.of(world, name).values()))
            reached.append(
                (one["madds"], f"{evidence.title(name)} ({one['madds'] / 1e9:.3f}G, {one['parameters'] / 1e6:.2f}M)")
            )
    return world, [text for _, text in sorted(reached)]


def missing(evidence: Evidence) -> dict[str, list[str]]:
    """What has no result, by task: of the short form, and of the long one."""
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
            whole = titles == [evidence.title(name) for name in VARIANTS]
            if titles:
                lacking[form].append(f"*{world}*: {'all variants' if whole else ', '.join(titles)}")
    return lacking
