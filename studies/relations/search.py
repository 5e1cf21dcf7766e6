"""The search: the same number of draws for each variant on scenes that no counted run sees, and the choice."""

from pathlib import Path
from typing import Any

from botvision.files import read_json
from studies.relations.protocol import COIN, SEARCH_SEED, SEARCH_WORLD, SECOND_WORLD, Draw, draws
from studies.relations.trials import Trial

Result = dict[str, Any]


def search(variant: str, world: str) -> list[Trial]:
    """A variant's trials in one of the two worlds of the search."""
    return [Trial(world, variant, SEARCH_SEED, draw.number) for draw in draws(variant)]


def found(trials: list[Trial], results: Path) -> list[Result]:
    """The results of those that are filed."""
    files = [one.file(results) for one in trials]
    return [read_json(path, what="result of a trial") for path in files if path.is_file()]


def wanted(variant: str, results: Path) -> list[Trial]:
    """What the search of a variant still takes: its draws far, then near where none of them learnt anything far."""
    for world in (SEARCH_WORLD, SECOND_WORLD):
        trials = search(variant, world)
        missing = [one for one in trials if not one.file(results).is_file()]
        if missing or best(found(trials, results))["right"] > COIN:
            return missing
    return []


def best(results: list[Result]) -> Result:
    """The one that names most right; of equals the first drawn."""
    return max(results, key=lambda one: (one["right"], -one["draw"]))


def choice(variant: str, results: Path) -> tuple[Draw, str] | None:
    """The draw that a variant goes into the counted runs with, and the world that chose it; none before the search."""
    if wanted(variant, results):
        return None
    for world in (SEARCH_WORLD, SECOND_WORLD):
        winner = best(found(search(variant, world), results))
        if winner["right"] > COIN or world == SECOND_WORLD:
            break
    return draws(variant)[winner["draw"]], world
