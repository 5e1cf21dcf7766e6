"""A classifier's part of the report: accuracy by class, confusion, calibration, examples."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from botvision.classify.diagnosis import Diagnosis, diagnose
from botvision.draw.page import as_url
from botvision.draw.sections import Bar, Cell, Section, card, picture, table
from botvision.engine.checkpoint import KEY, read_checkpoint
from botvision.engine.record import Record
from botvision.engine.reporter import (
    Group,
    Headline,
    Reporter,
    calibration_section,
    confusion_section,
    mean_of,
    of_analysis,
    of_summary,
)

WORST, BEST = 12, 6  # images shown
ENOUGH = 20  # images of a class, to call it the worst
CLASSES = 60  # rows of the table, the worst ones of more


class ClassifierReporter(Reporter[Diagnosis]):
    """What the report of a classifier shows."""

    kind = "classifier"
    headlines = (
        Headline(
            "top-1",
            "Share of the images whose class is the first answer.",
            of_summary("top1", "val/top1"),
            per_cent=True,
        ),
        Headline(
            "top-5", "Share whose class is among the first five answers.", of_summary("top5", "val/top5"), per_cent=True
        ),
        Headline(
            "worst class",
            f"Top-1 of the class that fares worst; of a part of the images, among classes with {ENOUGH} or more.",
            of_analysis(lambda one: worst_class(one)),
            per_cent=True,
        ),
        Headline(
            "calibration gap",
            "How far its probabilities are from the share that is right, on average; 0 is perfect.",
            of_analysis(lambda one: one.gap),
        ),
    )

    def classes(self, checkpoint: Path) -> Sequence[str]:
        """Names of the classes."""
        return [str(name) for name in read_checkpoint(checkpoint, task="classify")[KEY]["classes"]]

    def analyse(self, record: Record, checkpoint: Path, *, device: torch.device, seconds: float | None) -> Diagnosis:
        """At most 1,024 validation images."""
        return diagnose(record, checkpoint, device=device, seconds=seconds)

    def other_images(self, one: Diagnosis, other: Diagnosis) -> bool:
        """By their names, or their true classes in order; one may have looked at more of the same."""
        if one.names and other.names:
            return not (one.names <= other.names or one.names >= other.names)
        least = min(len(one.labels), len(other.labels))
        return not np.array_equal(one.labels[:least], other.labels[:least])

    def sections(self, groups: Sequence[Group]) -> Iterator[Section]:
        """All but curves, head entropies and configuration."""
        if not groups:
            return
        yield accuracies(groups)
        yield confusion(groups)
        lines = {group.label: [[(s, r) for s, r, _ in one.bins()] for one in group.analysed] for group in groups}
        gaps = {group.label: mean_of([one.gap for one in group.analysed]) for group in groups}
        bins = [(sure, count, right) for sure, right, count in groups[0].analysed[0].bins()]
        yield calibration_section(lines, gaps, bins, what="images")
        yield examples(groups)


def worst_class(one: Diagnosis) -> float | None:
    """Its top-1. Of a draw, only classes count that have enough images: the least of many is low by chance."""
    is_all = len(one.labels) + one.skipped >= one.every
    return min((top1 for _, top1, count in by_class(one) if is_all or count >= ENOUGH), default=None)


def by_class(one: Diagnosis) -> list[tuple[int, float, int]]:
    """Number, top-1 and images of each class that has images."""
    counts = one.confusion
    totals = counts.sum(1)
    return [(at, float(counts[at, at] / totals[at]), int(totals[at])) for at in np.flatnonzero(totals).tolist()]


def accuracies(groups: Sequence[Group]) -> Section:
    """Top-1 of each class, the worst first; of several seeds the mean."""
    one: Diagnosis = groups[0].analysed[0]
    first = by_class(one)
    known = [[{at: accuracy for at, accuracy, _ in by_class(one)} for one in group.analysed] for group in groups]
    rows: list[list[Cell]] = []
    for at, _, count in sorted(first, key=lambda entry: (entry[1], one.classes[entry[0]]))[:CLASSES]:
        row: list[Cell] = [one.classes[at], f"{count:,}"]
        for colour, runs in enumerate(known):
            value = mean_of([run.get(at) for run in runs])
            row.append("–" if value is None else Bar(f"{100 * value:.1f} %", value, colour))
        rows.append(row)
    about = "Share of each class's images whose first answer is right, the worst class first."
    if len(first) > CLASSES:
        about += f" {CLASSES} of {len(first)} classes."
    head = ["class", "images", *(group.label if len(groups) > 1 else "top-1" for group in groups)]
    return Section("Accuracy by class", about, table(head, rows))


def confusion(groups: Sequence[Group]) -> Section:
    """Truth and first answer."""
    return confusion_section(groups, lambda one: one.classes, about="Images by their class and by the first answer.")


def examples(groups: Sequence[Group]) -> Section:
    """The surest wrong answers, and the surest right ones."""
    parts = []
    for group in groups:
        one: Diagnosis = group.analysed[0]
        order = np.argsort(-one.sure, kind="stable").tolist()
        worst, best = ([at for at in order if one.right[at] == right] for right in (False, True))
        named = f"{group.label}: " if len(groups) > 1 else ""
        for heading, chosen in (("Surest wrong answers", worst[:WORST]), ("Surest right answers", best[:BEST])):
            shown = [picture(as_url(one.pictures[at]), in_words(one, at)) for at in chosen]
            parts.append(card(named + heading, "" if chosen else "None.", shown))
    return Section(
        "Worst and best images",
        "As the model sees them: resized and cropped.",
        f'<div class="small">{"".join(parts)}</div>',
    )


def in_words(one: Diagnosis, at: int) -> str:
    """What an image is, what was said, and how near the truth was."""
    truth, said = one.classes[one.labels[at]], one.classes[one.answers[at, 0]]
    if one.right[at]:
        return f"{truth}, {one.sure[at]:.2f}"
    places = np.flatnonzero(one.answers[at] == one.labels[at])
    near = f"the truth is answer {places[0] + 1}" if len(places) else "the truth is not among the first five"
    return f"{said} {one.sure[at]:.2f}, is {truth}: {near if one.answers.shape[1] > 2 else 'wrong class'}"
