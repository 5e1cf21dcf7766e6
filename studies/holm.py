"""Paired differences corrected together by Holm's rule, with the intervals that go with it."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t

ALPHA = 0.05


class Corrected(NamedTuple):
    """A mean difference, its interval, the level that Holm's rule gives it, and its uncorrected p-value.

    Whether intervals exclude zero holds for all of them together at `alpha`; their widths do not hold together.
    """

    mean: float
    low: float
    high: float
    p: float
    level: float

    def verdict(self) -> str:
        """Where the interval lies."""
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "no difference can be told"


def holm(differences: Sequence[Sequence[float]], alpha: float = ALPHA) -> list[Corrected]:
    """Two-sided paired t-tests of several differences (Holm 1979).

    The comparison with the smallest p of k gets the level alpha / k, the next alpha / (k − 1), and so on; after the
    first that is not rejected, all further ones get that one's level, so that none excludes zero that the rule keeps.

    Args:
        differences: seed by seed, of each comparison, at least two.
        alpha: that any true null hypothesis is rejected.

    Raises:
        ValueError: a comparison with fewer than two differences.
    """
    if any(len(values) < 2 for values in differences):
        raise ValueError("each comparison needs at least two paired differences")
    tests = [p_value(values) for values in differences]
    order = sorted(range(len(tests)), key=lambda n: tests[n])
    found: list[Corrected | None] = [None] * len(tests)
    kept = None
    for place, n in enumerate(order):
        level = kept or alpha / (len(tests) - place)
        if kept is None and tests[n] > level:
            kept = level
        values = differences[n]
        error = stdev(values) / math.sqrt(len(values))
        reach = float(t.ppf(1 - level / 2, len(values) - 1)) * error
        mean = fmean(values)
        found[n] = Corrected(mean, mean - reach, mean + reach, tests[n], level)
    return [one for one in found if one is not None]


def p_value(values: Sequence[float]) -> float:
    """Two-sided, that the mean is zero; 0 or 1 where all differences are equal."""
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    if error == 0:
        return float(mean == 0)
    return float(2 * t.sf(abs(mean) / error, len(values) - 1))
