"""Means over seeds with their intervals, and differences between runs of the same seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over seeds and half the width of its 95 % t-interval; none from a single seed."""

    mean: float
    half: float | None
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.half is not None and abs(self.mean) > self.half

    def text(self, *, times: float = 100, sign: bool = False, digits: int = 1) -> str:
        """As tables print it: in per cent, `+` before a positive difference where `sign` is set."""
        mean = f"{times * self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {times * self.half:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's t-interval of the mean, for the few seeds that one has.

    Raises:
        ValueError: nothing to average.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Interval(mean, None, 1)
    from scipy.stats import t  # comes with scikit-learn, which draws the scenes

    quantile = float(t.ppf(0.5 + LEVEL / 2, count - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count), count)


def difference(ours: Mapping[int, float], twins: Mapping[int, float]) -> Interval | None:
    """Ours minus the twin's, seed by seed; none without a common seed."""
    common = sorted(set(ours) & set(twins))
    return interval([ours[seed] - twins[seed] for seed in common]) if common else None


def verdict(found: Interval | None) -> str:
    """A difference in words."""
    if found is None or found.half is None:
        return "too few seeds to tell"
    if not found.excludes_zero:
        return "no difference can be told"
    return "above the twin" if found.mean > 0 else "below the twin"
