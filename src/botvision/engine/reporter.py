"""What a task's report is made of: runs in groups, numbers of its head, shared sections."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch

from botvision.draw.charts import Line, line_chart
from botvision.draw.sections import NAMED, Cell, Section, confused, matrix, side_by_side, table
from botvision.engine.attention import PANELS
from botvision.engine.record import Record

Analysis = TypeVar("Analysis")


@dataclass(frozen=True)
class Entry(Generic[Analysis]):
    """A run, and what was found out about its model; none, with the reason, where that could not be done."""

    record: Record
    analysis: Analysis | None
    why_not: str = ""


class Group(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
        label: shown.
        entries: the runs; pictures are of the first.
        is_baseline: whether the others are compared with it.
    """

    label: str
    entries: Sequence[Entry[Any]]
    is_baseline: bool = False

    @property
    def first(self) -> Entry[Any]:
        """The run that is shown in detail."""
        return self.entries[0]

    @property
    def analysed(self) -> list[Any]:
        """What was found out, of the runs where that could be done."""
        return [entry.analysis for entry in self.entries if entry.analysis is not None]


class Headline(NamedTuple):
    """A number of the page's head.

    Attributes:
        name: short.
        words: what it says, for a person who does not know it.
        of: the number of a run; none where the run has none.
        per_cent: whether it is shown in per cent, not as a fraction.
    """

    name: str
    words: str
    of: Callable[[Entry[Any]], float | None]
    per_cent: bool = False

    def text(self, value: float) -> str:
        """As it is shown."""
        return f"{100 * value:.1f} %" if self.per_cent else f"{value:.3f}"


class Reporter(ABC, Generic[Analysis]):
    """What a task adds to the report of a run.

    Attributes:
        headlines: numbers of the page's head.
        kind: of model, in a word or two.
        table: file of the curves' numbers.
        along: its column that the curves are over.
        heads: columns of each attention head, by the title of their panel.
        looked_at: images that head entropies over training are of.
        panels: of the curves: metrics by the title of their panel.
    """

    headlines: ClassVar[Sequence[Headline]] = ()
    kind: ClassVar[str] = "model"
    table: ClassVar[str] = "metrics.csv"
    along: ClassVar[str] = "step"
    heads: ClassVar[Mapping[str, Sequence[str]]] = PANELS
    looked_at: ClassVar[str] = "on the first validation images of each evaluation"

    def __init__(self, panels: Mapping[str, Sequence[str]]) -> None:
        self.panels = panels

    def classes(self, checkpoint: Path) -> Sequence[str]:
        """Names of what its model tells apart."""
        return ()

    @abstractmethod
    def analyse(self, record: Record, checkpoint: Path, *, device: torch.device, seconds: float | None) -> Analysis:
        """What its model does on validation images.

        Args:
            record: the run.
            checkpoint: whose weights it reports.
            device: where the model runs.
            seconds: after which it looks at no more images; none for no limit.

        Raises:
            FileNotFoundError, ValueError: images or a checkpoint that are not there any more, or cannot be read.
        """

    def other_images(self, one: Analysis, other: Analysis) -> bool:
        """Whether two runs were evaluated on different images, so that their difference is not the models' alone."""
        return False

    @abstractmethod
    def sections(self, groups: Sequence[Group]) -> Iterator[Section]:
        """Between the curves and the configuration, of groups that have something analysed."""


class CurvesAlone(Reporter[None]):
    """The report of a task that adds nothing: curves, configuration, hardware, time."""

    def analyse(self, record: Record, checkpoint: Path, *, device: torch.device, seconds: float | None) -> None:
        """Nothing."""

    def sections(self, groups: Sequence[Group]) -> Iterator[Section]:
        """None."""
        return iter(())


def of_summary(name: str, column: str) -> Callable[[Entry[Any]], float | None]:
    """A number of the whole validation set: the summary's, or the last evaluation's of a run that has not ended."""

    def find(entry: Entry[Any]) -> float | None:
        value = entry.record.summary.get(name)
        number = float(value) if isinstance(value, int | float) else entry.record.last(column)
        return number if number is not None and 0 <= number < math.inf else None  # COCO's -1: there is no such object

    return find


def of_analysis(get: Callable[[Any], float | None]) -> Callable[[Entry[Any]], float | None]:
    """A number of the images that were looked at."""
    return lambda entry: None if entry.analysis is None else get(entry.analysis)


def mean_of(numbers: Sequence[float | None]) -> float | None:
    """Of those that are there."""
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


def calibration_section(
    lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    gaps: Mapping[str, float | None],
    bins: Sequence[tuple[float, int, float]],
    *,
    what: str,
) -> Section:
    """Share of what is right by how sure a model was.

    Args:
        lines: of each kind of run and each of its seeds, mean score and share of right ones of each bin.
        gaps: expected calibration error of each kind.
        bins: of the first run: mean score, count, share of right ones.
        what: is counted, in the plural.
    """
    drawn = [Line(label, points, number, number, dots=True) for number, (label, runs) in enumerate(lines.items())
             for points in runs]  # fmt: skip
    unit = (0.0, 1.0)
    chart = line_chart(
        drawn,
        title="Right ones by score",
        x="score",
        y="share that is right",
        x_range=unit,
        y_range=unit,
        diagonal=True,
    )
    counted: list[list[Cell]] = [[f"{score:.2f}", f"{count:,}", f"{right:.2f}"] for score, count, right in bins]
    means: list[list[Cell]] = [[label, "–" if gap is None else f"{gap:.3f}"] for label, gap in gaps.items()]
    about = (
        "On the dotted line a score is the chance of being right; below it the model is surer than it should be. The "
        f"gap between the two, a mean over the {what}, is the expected calibration error."
    )
    tables = f"<div>{table(['', 'gap'], means)}{table(['mean score', what, 'right'], counted)}</div>"
    return Section("Calibration", about, side_by_side([chart, tables]))


def confusion_section(
    groups: Sequence[Group], names: Callable[[Any], Sequence[str]], *, about: str, beyond: tuple[str, str] | None = None
) -> Section:
    """A matrix a kind of run, or of many classes what is confused most.

    Args:
        groups: kinds of run; each first analysis has a `confusion`, counts with the truth down.
        names: of the classes, of an analysis.
        about: what is counted.
        beyond: names of one more row and of one more column, where the counts have these.
    """
    parts = []
    for group in groups:
        one = group.analysed[0]
        caption, counts = group.label if len(groups) > 1 else "", one.confusion.tolist()
        truths, said = ([*names(one), *more] for more in ([beyond[:1], beyond[1:]] if beyond else [(), ()]))
        if len(names(one)) <= NAMED:
            parts.append(matrix(counts, truths, said, caption=caption, corner="truth ↓ said →"))
        else:
            parts.append(table(["truth", "said", "times"], confused(counts, truths, said), caption=caption))
    return Section("Confusion", about, "".join(parts))
