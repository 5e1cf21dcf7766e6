"""Result files of trials, and intervals over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from studies.pages import NOT_RUN


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All that are filed."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]


def by_seed(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[int, float]]:
    """(contender, world) → seed → % named right."""
    shares: dict[tuple[str, str], dict[int, float]] = {}
    for one in sorted(found, key=lambda each: each["seed"]):
        shares.setdefault((one["contender"], one["world"]), {})[one["seed"]] = 100 * one["right"]
    return shares


def half_interval(values: Sequence[float]) -> float:
    """Half of a 95 % t-interval of the mean."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def mean_interval(values: Sequence[float]) -> str:
    """Mean ± half a 95 % t-interval, or each value where there are fewer than three."""
    if len(values) < 3:
        return ", ".join(f"{value:.1f}" for value in values) or NOT_RUN
    return f"{sum(values) / len(values):.1f} ± {half_interval(values):.1f} (n = {len(values)})"
