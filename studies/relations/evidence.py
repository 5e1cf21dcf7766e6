"""What is filed: counted results by task, variant and seed, and what untrained heads put on the keys."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from botvision.files import read_json
from studies.relations.protocol import COIN, CONTROLS, FORMS, SEEDS
from studies.starts.results import by_seed, read_results

Result = dict[str, Any]
AFTER = "after"  # beside the results: trials of studies/starts that were made when the registered ones were known
UNTRAINED = "untrained.json"  # beside the results: by a trial's file name, the weight of each head on the keys


class Evidence(NamedTuple):
    """Counted results, task → variant → seed, and the folder that they are in."""

    counted: dict[str, dict[str, dict[int, Result]]]
    results: Path
    form: str
    untrained: Mapping[str, list[float]]
    after: Mapping[tuple[str, str], Mapping[int, float]]

    def title(self, variant: str) -> str:
        """Of a variant, for tables."""
        return FORMS[self.form].variants[variant].title

    def of(self, world: str, variant: str) -> dict[int, Result]:
        """By seed."""
        return self.counted.get(world, {}).get(variant, {})

    def accuracy(self, world: str, variant: str) -> dict[int, float]:
        """Share given its own class, by seed."""
        return {seed: one["right"] for seed, one in self.of(world, variant).items()}

    def mean(self, world: str, variant: str) -> float | None:
        """Mean accuracy; none before all seeds are there."""
        found = self.accuracy(world, variant)
        return fmean(found.values()) if set(found) == set(SEEDS) else None

    def learnt(self, world: str, variant: str) -> bool:
        """Whether the mean of all seeds is above what chance gives."""
        return (self.mean(world, variant) or 0) > COIN

    def every(self) -> list[Result]:
        """All counted results."""
        return [one for variants in self.counted.values() for seeds in variants.values() for one in seeds.values()]

    def strongest(self, world: str) -> str | None:
        """The control with the highest mean; none before all controls have all seeds."""
        means = {name: self.mean(world, name) for name in CONTROLS}
        whole = {name: mean for name, mean in means.items() if mean is not None}
        return max(whole, key=lambda name: whole[name]) if len(whole) == len(CONTROLS) else None

    def apart(self, world: str, one: str, other: str) -> dict[int, float]:
        """Accuracy of one minus the other's, by the seeds of both."""
        ours, theirs = self.accuracy(world, one), self.accuracy(world, other)
        return {seed: ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))}


def collect(results: Path, form: str = "cpu") -> Evidence:
    """All counted results that are filed."""
    counted: dict[str, dict[str, dict[int, Result]]] = {}
    for path in sorted(results.glob("*_seed*.json")):
        one = read_json(path, what="result of a trial")
        counted.setdefault(one["world"], {}).setdefault(one["variant"], {})[one["seed"]] = one
    untrained = results / UNTRAINED
    before = read_json(untrained, what="weights of untrained heads") if untrained.is_file() else {}
    return Evidence(counted, results, form, before, by_seed(read_results(results / AFTER)))
