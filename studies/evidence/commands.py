"""Commands that make runs: as few as say which."""

import shlex
from collections.abc import Sequence

from studies.grid import Grid, Run


def commands(missing: Sequence[Run], grid: str, *, more: str = "") -> list[str]:
    """One command for each group of worlds that lack the same variants and seeds, with `more` flags."""
    lacking: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = {}
    for world in dict.fromkeys(run.world for run in missing):
        own = [run for run in missing if run.world == world]
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for variant in dict.fromkeys(run.variant for run in own):
            seeds = tuple(run.seed for run in own if run.variant == variant)
            by_seeds.setdefault(seeds, []).append(variant)
        for seeds, variants in by_seeds.items():
            lacking.setdefault((tuple(variants), seeds), []).append(world)
    whole = missing[0].grid
    return [command(whole, grid, worlds, variants, seeds) + more for (variants, seeds), worlds in lacking.items()]


def command(whole: Grid, grid: str, worlds: list[str], variants: tuple[str, ...], seeds: tuple[int, ...]) -> str:
    """The command of these runs; what is all of the grid's is left out."""
    words = ["python", "-m", "studies.evidence", "--grid", shlex.quote(grid)]
    for flag, some, every in (
        ("--worlds", worlds, list(whole.worlds)),
        ("--variants", variants, list(whole.variants)),
        ("--seeds", seeds, whole.seeds),
    ):
        if list(some) != every:
            words += [flag, *(shlex.quote(str(one)) for one in some)]
    return " ".join(words)
