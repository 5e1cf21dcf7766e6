"""Means over seeds with their intervals, and differences between runs of the same seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95
LEAST = 3  # seeds that an interval needs; fewer are printed one by one


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95 % t-interval; none from fewer than three seeds."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, *, times: float = 100, sign: bool = False, digits: int = 1) -> str:
        """As tables print it: in per cent, `+` before a positive difference where `sign` is set."""
        form = f"{'+' if sign else ''}.{digits}f"
        if self.half is None:
            return ", ".join(f"{times * value:{form}}" for value in self.values)
        return f"{times * self.mean:{form}} ± {times * self.half:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's t-interval of the mean, for the few seeds that one has.

    Raises:
        ValueError: nothing to average.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    count, mean = len(values), statistics.fmean(values)
    if count < LEAST:
        return Interval(mean, None, tuple(values))
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + LEVEL / 2, count - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count), tuple(values))


def difference(ours: Mapping[int, float], others: Mapping[int, float]) -> Interval | None:
    """Ours minus the other's, seed by seed; none without a common seed."""
    common = sorted(set(ours) & set(others))
    return interval([ours[seed] - others[seed] for seed in common]) if common else None


def verdict(found: Interval | None) -> str:
    """A difference in words."""
    if found is None or found.half is None:
        return "too few seeds to tell"
    if not found.excludes_zero:
        return "no difference can be told"
    return "above" if found.mean > 0 else "below"
