"""Prove an exported file: the same inputs through it and through the eager model, compared."""

# N objects found

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from botvision.deploy.graph import Array, Run
from botvision.export.subject import Subject

LIMITS = {"boxes": 0.02, "scores": 1e-3, "masks": 5e-3}  # px of a 512 px image; fractions
RELATIVE = 1e-3  # of logits and maps, to their largest value
STRAY = 0.01  # share of objects that may miss their twin: ties, and overlaps that lie on NMS's threshold to a rounding
TIES = 2  # times as many may miss it as eager torch has beside itself, its layers off by a rounding
ROUNDINGS = 3  # that eager torch is tried with, where objects miss their twin
READINGS = 5


class Difference(NamedTuple):
    """A file beside the eager model on one input.

    Attributes:
        name: of the input.
        largest: difference of each output, of a detector's in pixels and fractions.
        objects: that both found.
        stray: that only one found.
        ties: that only one found of the eager model and itself with layers off by a rounding, the most of some tries,
            where that was asked.
    """

    name: str
    largest: dict[str, float]
    objects: int
    stray: int
    ties: int = 0

    def __str__(self) -> str:
        ties = f", torch beside itself {self.ties}" if self.ties else ""
        found = f"{self.objects} objects" + (f", {self.stray} in one alone{ties}" if self.stray else "")
        what = ", ".join(f"{name} {value:.1e}" for name, value in self.largest.items())
        return f"{self.name:<18} {what}" + (f"   ({found})" if self.objects or self.stray else "")


class Proof(NamedTuple):
    """All differences, and the time of one input.

    Attributes:
        differences: of each input.
        latency_ms: of the file, of the first input, median.
        eager_ms: of the eager model.
    """

    differences: list[Difference]
    latency_ms: float
    eager_ms: float

    @property
    def objects(self) -> int:
        """That were compared."""
        return sum(difference.objects for difference in self.differences)

    @property
    def largest(self) -> dict[str, float]:
        """The largest difference of each output."""
        names = self.differences[0].largest if self.differences else {}
        return {name: max(difference.largest[name] for difference in self.differences) for name in names}

    def mismatch(self) -> str:
        """What does not fit; nothing where all does."""
        for difference in self.differences:
            for name, value in difference.largest.items():
                if not value <= LIMITS.get(name, RELATIVE):
                    return f"{name} differ by {value:.2e} on {difference.name}, more than {LIMITS.get(name, RELATIVE)}"
        stray = sum(max(0, difference.stray - TIES * difference.ties) for difference in self.differences)
        if stray > STRAY * self.objects:
            return f"{stray} objects of {self.objects + stray} are found by one of the two alone"
        return ""

    @property
    def content(self) -> dict[str, Any]:
        """What the file keeps."""
        return {
            "differences": [difference._asdict() for difference in self.differences],
            "latency_ms": round(self.latency_ms, 3),
            "eager_ms": round(self.eager_ms, 3),
        }


def proved(subject: Subject, run: Run) -> Proof:
    """The file beside the eager model, on every probe.

    Where objects tie, as all places of a blank image do, the last bit decides which are kept: what is found by one
    alone is counted of eager torch beside itself too.
    """
    compare = compared_objects if subject.task == "maskrcnn" else compared_arrays
    differences: list[Difference] = []
    others: list[Run] = []
    for name, feeds in subject.probes.items():
        wanted = subject.eager(feeds)
        difference = compare(name, wanted, run(feeds))
        if subject.rounded is not None and is_astray(difference):
            others = others or [subject.rounded(seed) for seed in range(ROUNDINGS)]
            difference = difference._replace(ties=max(compare(name, wanted, other(feeds)).stray for other in others))
        differences.append(difference)
    first = next(iter(subject.probes.values()))
    return Proof(differences, median_ms(run, first), median_ms(subject.eager, first))


def is_astray(difference: Difference) -> bool:
    """Whether more objects miss their twin than may."""
    return difference.stray > STRAY * difference.objects


def median_ms(run: Callable[[Mapping[str, Array]], Any], feeds: Mapping[str, Array]) -> float:
    """Milliseconds of one run, after a first one."""
    run(feeds)
    seconds = []
    for _ in range(READINGS):
        start = time.perf_counter()
        run(feeds)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def compared_arrays(name: str, wanted: Mapping[str, Array], found: Mapping[str, Array]) -> Difference:
    """Logits or maps: the largest difference as a share of the largest value."""
    largest = {}
    for key, own in wanted.items():
        if own.shape != found[key].shape:
            largest[key] = float("inf")
            continue
        scale = max(float(np.abs(own).max(initial=0)), 1e-6)
        largest[key] = float(np.abs(own - found[key]).max(initial=0)) / scale
    return Difference(name, largest, 0, 0)


def compared_objects(name: str, wanted: Mapping[str, Array], found: Mapping[str, Array]) -> Difference:
    """Objects, each with its nearest of the same class in the same image.

    An object whose score lies at the threshold, or a tie, may be found by one of the two alone: it is counted as stray.
    """
    image, label = (wanted[key][:, None] == found[key][None] for key in ("image", "labels"))
    apart = np.abs(wanted["boxes"][:, None] - found["boxes"][None]).max(-1)  # N N'
    apart = np.where(image & label, apart + np.abs(wanted["scores"][:, None] - found["scores"][None]), np.inf)
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for row in range(len(apart)):
        for column in np.argsort(apart[row], kind="stable")[:8]:
            if int(column) not in taken and apart[row, column] < 0.5:
                taken.add(int(column))
                pairs.append((row, int(column)))
                break
    mine, theirs = [row for row, _ in pairs], [column for _, column in pairs]
    scale = max(1.0, float(np.abs(wanted["boxes"]).max(initial=0)) / 512)
    largest = {}
    for key in ("boxes", "scores", *(["masks"] if "masks" in wanted else [])):
        gap = float(np.abs(wanted[key][mine] - found[key][theirs]).max(initial=0))
        largest[key] = gap / scale if key == "boxes" else gap
    stray = len(wanted["boxes"]) + len(found["boxes"]) - 2 * len(pairs)
    return Difference(name, largest, len(pairs), stray)
