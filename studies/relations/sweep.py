"""`python -m studies.relations`: the search, then the counted runs, as far as they are not there yet; and the page."""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from botvision.files import read_json, write_json, write_text
from studies.pool import each
from studies.relations.evidence import UNTRAINED, collect
from studies.relations.probes import before_training
from studies.relations.protocol import FORMS, SEEDS, SHORT, VARIANTS, WORLDS
from studies.relations.search import choice, wanted
from studies.relations.trials import Trial, carry_out
from studies.starts.reading import open_world

OUT = Path("runs/relations")


class Relations(NamedTuple):
    """What `relations` did: trials that are filed, those that are not, and what failed."""

    filed: int
    missing: list[str]
    failed: list[str]

    def __str__(self) -> str:
        lines = [f"{self.filed} trials are filed"]
        lines += [f"failed: {line}" for line in self.failed]
        return "\n".join([*lines, *([f"not run: {', '.join(self.missing)}"] if self.missing else [])])


def relations(
    *,
    variants: tuple[str, ...] = SHORT["variants"],
    worlds: tuple[str, ...] = SHORT["worlds"],
    seeds: tuple[int, ...] = SEEDS,
    form: Literal["cpu", "gpu", "toy"] = "cpu",
    limit: int | None = None,
    jobs: int = 1,
    out: Path = OUT,
    results: Path | None = None,
    report: Path | None = None,
    picture: bool = False,
) -> Relations:
    """Search each variant's recipe with as many draws as the others', then train it on fresh seeds; see PROTOCOL.md.

    A trial whose result is there is skipped. A variant is trained on fresh seeds when its search is whole.

    Args:
        variants, worlds: by name; the short form's unless given.
        seeds: of the counted runs: of scenes, weights and order alike.
        form: "cpu" is the protocol's; "gpu" has BoT50, ResNet-50 and their kin at 384 px on a GPU, "toy" the same in
            small; their results are in a folder of their own.
        limit: most trials to make now; none for all, 0 only reports.
        jobs: trials at a time, one thread each.
        out: folder for scenes and results.
        results: folder of the result files instead of the one under `out`.
        report: Markdown file to write of all that are filed, with its charts in `images` beside it.
        picture: draw where the directional variant's heads look as well; trains it.

    Raises:
        ValueError: a name that there is not, or a number below its least.
    """
    for what, asked, known in (("variant", variants, VARIANTS), ("world", worlds, WORLDS)):
        for one in asked:
            if one not in known:
                raise ValueError(f"no {what} {one!r}; there are {', '.join(known)}")
    if jobs < 1 or (limit or 0) < 0:
        raise ValueError(f"jobs={jobs} must be at least 1 and limit={limit} at least 0; e.g. 2 and 6")
    if strange := set(seeds) - set(SEEDS):
        raise ValueError(f"seed {min(strange)} is not registered; the seeds are {', '.join(map(str, SEEDS))}")
    place = out if form == "cpu" else out / form
    if results is not None and limit == 0 and not results.is_dir():
        raise FileNotFoundError(f"results={results} is no folder; give that of the result files")
    filed, scenes = (place / "results" if results is None else results), place / "scenes"
    failed: list[str] = []
    left = limit
    while left is None or left > 0:
        trials = next_trials(variants, worlds, seeds, filed)[:left]
        if not trials:
            break
        for folder in (filed, scenes):
            folder.mkdir(parents=True, exist_ok=True)
        for world, seed in dict.fromkeys((one.world, one.seed) for one in trials):
            open_world(world, seed, scenes, FORMS[form].setting)  # made once, before several ask for it
        failed = each(partial(carry_out, results=filed, scenes=scenes, jobs=jobs, form=form), trials, jobs=jobs)
        left = None if left is None else left - len(trials)
        if failed:
            break
    if limit != 0:
        look_before_training(filed, form)
    if report is not None:
        # these need what a machine that only trains may lack
        from studies.relations.images import draw_attention, draw_curves
        from studies.relations.page import page_text

        evidence = collect(filed, form)
        image, tuned = report.parent / "images" / "relations_attention.png", choice("directional", filed)
        if picture and tuned is not None:
            draw_attention(tuned[0], image, folder=scenes, form=form)
        draw_curves(evidence, image.with_name("relations_curves.png"))
        write_text(report, page_text(evidence, picture=image.is_file()))
    every = [read_json(path, what="result of a trial") for path in filed.glob("*_*.json")]
    missing = [one.file(Path()).stem for one in next_trials(variants, worlds, seeds, filed)]
    return Relations(len(every), missing, failed)


def look_before_training(results: Path, form: str) -> None:
    """File what untrained heads put on the keys, of each counted trial that says it of the trained ones."""
    evidence = collect(results, form)
    known = dict(evidence.untrained)
    for one in evidence.every():
        trial = Trial(one["world"], one["variant"], one["seed"], one["draw"])
        name = trial.file(results).stem
        if name not in known and "attention" in one.get("probe", {}):
            known[name] = before_training(*trial, form=form)
    if known != evidence.untrained:
        write_json(results / UNTRAINED, dict(sorted(known.items())), indent=1)


def next_trials(
    variants: tuple[str, ...], worlds: tuple[str, ...], seeds: tuple[int, ...], results: Path
) -> list[Trial]:
    """The search's trials that are missing; when there are none, those of fresh seeds, each seed's together."""
    tuned = {variant: choice(variant, results) for variant in variants}
    searched = [one for variant in variants for one in wanted(variant, results)]
    if searched:
        return searched
    counted = [
        Trial(world, variant, seed, chosen[0].number)
        for seed in seeds
        for world in worlds
        for variant, chosen in tuned.items()
        if chosen is not None
    ]
    return [one for one in counted if not one.file(results).is_file()]
