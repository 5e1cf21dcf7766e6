"""A detector's part of the report: AP by class and size, errors, examples, attention."""

# M heads, H×W map, N = H·W tokens, Q queries

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import supervision as sv
import torch

from botvision.attention import MHSA2d, attention_weights, entropy_share, watch
from botvision.draw.charts import Line, line_chart
from botvision.draw.instances import draw_instances
from botvision.draw.overlay import overlay
from botvision.draw.page import as_url, small
from botvision.draw.sections import (
    Bar,
    Cell,
    Section,
    card,
    note,
    picture,
    side_by_side,
    table,
)
from botvision.engine.attention import short
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
from botvision.maskrcnn.diagnosis import SIZES, Diagnosis, diagnose
from botvision.maskrcnn.mistakes import SHOWN
from botvision.maskrcnn.resize import move_boxes
from botvision.maskrcnn.results import to_supervision

WORST, BEST, SUREST = 6, 3, 3  # images shown
SIDE = 400  # px of a picture's longer side
TEXT = 1.6  # size of labels: pictures are shown at 200 to 320 px
ERRORS = {
    "Cls": "right place, wrong class",
    "Loc": "right class, poorly placed",
    "Both": "wrong class and poorly placed",
    "Dupe": "found twice",
    "Bkg": "on background",
    "Miss": "missed",
}


class DetectorReporter(Reporter[Diagnosis]):
    """What the report of a detector shows."""

    kind = "detector"
    headlines = (
        Headline(
            "box AP",
            "COCO's average precision of boxes, a mean over overlaps from 0.50 to 0.95; 1 is perfect.",
            of_summary("box_ap", "val/box_ap"),
        ),
        Headline("mask AP", "The same by masks instead of boxes.", of_summary("mask_ap", "val/mask_ap")),
        Headline(
            "box AP50",
            "Of the images looked at, where an overlap of 0.5 is enough: found and named, however loosely placed.",
            of_analysis(lambda one: one.box.ap(overlap=0.5)),
        ),
        Headline(
            "found",
            "Share of the objects that are found, named and placed (IoU 0.5) at score 0.5.",
            of_analysis(lambda one: one.recall),
            per_cent=True,
        ),
        Headline(
            "right",
            "Share of what it shows at score 0.5 that is right; the rest is named wrong, doubled or not there.",
            of_analysis(lambda one: one.precision),
            per_cent=True,
        ),
    )

    def classes(self, checkpoint: Path) -> Sequence[str]:
        """Names of the categories."""
        return [str(name) for _, name in read_checkpoint(checkpoint, task="maskrcnn")[KEY]["categories"]]

    def analyse(self, record: Record, checkpoint: Path, *, device: torch.device, seconds: float | None) -> Diagnosis:
        """At most 256 validation images."""
        return diagnose(record, checkpoint, device=device, seconds=seconds)

    def other_images(self, one: Diagnosis, other: Diagnosis) -> bool:
        """One may have looked at more of the same."""
        own, theirs = ({told_by(which, at) for at in range(len(which.chosen))} for which in (one, other))
        return not (own <= theirs or own >= theirs)

    def sections(self, groups: Sequence[Group]) -> Iterator[Section]:
        """All but curves, head entropies and configuration."""
        if not groups:
            return
        yield by_class(groups)
        yield precision_recall(groups)
        yield confusion(groups)
        yield errors(groups)
        yield calibration(groups)
        yield examples(groups)
        yield attention(groups)


def number(value: float | None, colour: int = 0) -> Cell:
    """An AP with its bar."""
    return "–" if value is None else Bar(f"{value:.3f}", value, colour)


def by_class(groups: Sequence[Group]) -> Section:
    """AP of each class and of each size; of several seeds the mean."""
    first: Diagnosis = groups[0].first.analysis or groups[0].analysed[0]
    counts = {name: sum(one["category_id"] == category.id for own in first.objects for one in own)
              for name, category in zip(first.names, first.data.categories, strict=True)}  # fmt: skip
    kinds = ["box", *(["mask"] if all(one.mask for group in groups for one in group.analysed) else [])]
    head = ["class", "objects", *(title(group, kind, groups) for kind in kinds for group in groups)]
    rows: list[list[Cell]] = []
    for place, (name, objects) in enumerate(counts.items()):
        row: list[Cell] = [name, str(objects)]
        for kind in kinds:
            for colour, group in enumerate(groups):
                row.append(number(mean_of([getattr(one, kind).ap(kind=place) for one in group.analysed]), colour))
        rows.append(row)
    sizes: list[list[Cell]] = []
    for place, name in enumerate(SIZES):
        row = [name]
        for kind in kinds:
            for colour, group in enumerate(groups):
                row.append(number(mean_of([getattr(one, kind).ap(size=place) for one in group.analysed]), colour))
        sizes.append(row)
    about = "Average precision by class, and by size: small is under 32² px of area, medium under 96² px."
    body = table(head, rows) + table(["size", *head[2:]], sizes)
    return Section("AP by class and size", about, body)


def title(group: Group, kind: str, groups: Sequence[Group]) -> str:
    """Of a column."""
    return f"{group.label} {kind} AP" if len(groups) > 1 else f"{kind} AP"


def precision_recall(groups: Sequence[Group]) -> Section:
    """Curves of boxes and masks at two overlaps."""
    charts = []
    for kind, name in (("box", "Boxes"), ("mask", "Masks")):
        lines = []
        for colour, group in enumerate(groups):
            for dash, overlap in enumerate((0.5, 0.75)):
                for one in group.analysed:
                    if (figures := getattr(one, kind)) is not None:
                        label = f"{group.label}, IoU {overlap}" if len(groups) > 1 else f"IoU {overlap}"
                        lines.append(Line(label, figures.curve(overlap), colour if len(groups) > 1 else dash, dash))
        unit = (0.0, 1.0)
        charts.append(line_chart(lines, title=name, x="recall", y="precision", x_range=unit, y_range=unit))
    about = (
        "From left to right the detector is allowed to be less sure: it finds more of the objects (recall), and less "
        "of what it says is right (precision). A mean over the classes."
    )
    return Section("Precision and recall", about, side_by_side(charts))


def confusion(groups: Sequence[Group]) -> Section:
    """Truth and detection, with what was missed and what was found on background."""
    about = (
        "Boxes from score 0.5 on, matched to objects at IoU 0.5 whatever their class. The last column counts objects "
        "that no box was on, the last row boxes on no object, doubles among them."
    )
    return confusion_section(groups, lambda one: one.names, about=about, beyond=("background", "missed"))


def errors(groups: Sequence[Group]) -> Section:
    """TIDE's: the AP50 that each kind costs."""
    rows: list[list[Cell]] = []
    every = [one.errors for group in groups for one in group.analysed if one.errors]
    worst = max((found[key] for found in every for key in ERRORS), default=0.0) or 1.0
    for key, words in ERRORS.items():
        row: list[Cell] = [words]
        for colour, group in enumerate(groups):
            value = mean_of([one.errors[key] for one in group.analysed if one.errors])
            row.append("–" if value is None else Bar(f"{value:.3f}", value / worst, colour))
        rows.append(row)
    about = (
        "How much higher box AP50 would be without one kind of error (TIDE, arXiv 2008.08115). The kinds overlap, so "
        "they do not add up."
    )
    if not every:
        return Section("What costs AP", about, note("Nothing was found, so all that is lost is what was missed."))
    return Section("What costs AP", about, table(["kind of error", *(group.label for group in groups)], rows))


def calibration(groups: Sequence[Group]) -> Section:
    """Share of right detections by their score, at IoU 0.5."""
    filled = {g.label: [[b for b in one.calibration if b["count"]] for one in g.analysed] for g in groups}
    lines = {
        label: [[(b["avg_confidence"], b["avg_accuracy"]) for b in bins] for bins in runs]
        for label, runs in filled.items()
    }
    gaps = {group.label: mean_of([one.gap for one in group.analysed]) for group in groups}
    first = filled[groups[0].label][0]
    bins = [(b["avg_confidence"], int(b["count"]), b["avg_accuracy"]) for b in first]
    return calibration_section(lines, gaps, bins, what="detections")


def examples(groups: Sequence[Group]) -> Section:
    """The worst and the best images: truth, prediction, and what the others say of the same image."""
    first: Diagnosis = groups[0].analysed[0]
    verdicts = first.verdicts
    order = sorted(range(len(verdicts)), key=lambda at: (verdicts[at].f1, -len(verdicts[at].mistakes), at))
    worst = [at for at in order if verdicts[at].mistakes][:WORST]
    best = [at for at in reversed(order) if verdicts[at].right and at not in worst][:BEST]
    parts = []
    for heading, chosen in (("Worst", worst), ("Best", best)):
        for at in chosen:
            entry, _ = first.data.record(first.chosen[at])
            pictures = [truth_picture(first, at)]
            for group in groups:
                one: Diagnosis = group.analysed[0]
                if (there := same_image(one, first, at)) is not None:
                    told = f"{group.label}: {one.verdicts[there]}" if len(groups) > 1 else "prediction"
                    pictures.append(found_picture(one, there, told))
            parts.append(card(f"{heading}: {entry['file_name']}", str(verdicts[at]), pictures))
    about = (
        f"Detections from score {SHOWN} on. An image is the worse, the lower the share of right ones among its objects "
        "and detections (F1). On an object is IoU 0.5, near one IoU 0.1."
    )
    body = (
        f'<div class="cards">{"".join(parts)}</div>'
        if parts
        else note("There is nothing to show: no object was there.")
    )
    return Section("Worst and best images", about, body)


def same_image(one: Diagnosis, first: Diagnosis, at: int) -> int | None:
    """Where another run has looked at the same image: of one name and size, with as many objects."""
    wanted = told_by(first, at)
    return next((there for there in range(len(one.chosen)) if told_by(one, there) == wanted), None)


def told_by(one: Diagnosis, at: int) -> tuple[Any, ...]:
    """What tells an image from others, wherever its data set lies now."""
    entry, objects = one.data.record(one.chosen[at])
    return entry["id"], entry["file_name"], entry.get("width"), entry.get("height"), len(objects)


def truth_picture(one: Diagnosis, at: int) -> str:
    """The objects that are there."""
    results = [{**thing, "score": 1.0} for thing in one.objects[at]]
    return drawn(one, at, results, "truth", scores=False)


def found_picture(one: Diagnosis, at: int, caption: str) -> str:
    """What was found."""
    return drawn(one, at, [result for result in one.found[at] if result["score"] >= SHOWN], caption)


def drawn(one: Diagnosis, at: int, results: Sequence[Any], caption: str, *, scores: bool = True) -> str:
    """An image with objects on it."""
    image = one.data.read(one.chosen[at]).permute(1, 2, 0).numpy()
    detections: sv.Detections = to_supervision(
        results, one.data.categories, size=image.shape[:2], with_masks=one.data.masks
    )
    if not scores:
        detections.confidence = None
    return picture(as_url(small(draw_instances(image, detections, one.names, text=TEXT), SIDE)), caption)


def attention(groups: Sequence[Group]) -> Section:
    """Where the places of the surest detections look, by layer."""
    parts: list[str] = []
    for group in groups:
        one: Diagnosis = group.analysed[0]
        if not any(isinstance(module, MHSA2d) for module in one.model.modules()):
            parts.append(note(f"{group.label} has no attention layer of BoTNet's to show."))
            continue
        label = group.label if len(groups) > 1 else ""
        cards = [attended(one, at, label) for at in surest(one)]
        parts += cards or [note(f"{group.label} is sure of nothing: no detection has a score of {SHOWN} or more.")]
    about = (
        "The mean over heads and over the places of the framed object, of each attention layer; yellow is where it "
        "looks most, each picture by its own scale. botvision explore shows every head and place."
    )
    return Section("Attention of the surest detections", about, f'<div class="small">{"".join(parts)}</div>')


def surest(one: Diagnosis) -> list[int]:
    """Images with the surest detections."""
    scored = [(max((result["score"] for result in own), default=0.0), at) for at, own in enumerate(one.found)]
    return [at for score, at in sorted(scored, key=lambda pair: (-pair[0], pair[1])) if score >= SHOWN][:SUREST]


@torch.inference_mode()
def attended(one: Diagnosis, at: int, label: str) -> str:
    """The attention of an image's surest detection, a picture a layer."""
    image = one.data.read(one.chosen[at])
    with watch(one.model) as watching:
        size, padded = one.look(image)
    best = max(one.found[at], key=lambda result: result["score"])
    x, y, width, height = best["bbox"]
    own = (image.shape[-2], image.shape[-1])
    box = move_boxes(torch.tensor([[x, y, x + width, y + height]]), source=own, target=size)[0].tolist()
    pixels = small(image.permute(1, 2, 0).numpy(), 240)
    scale = pixels.shape[1] / own[1]
    frame = (x * scale, y * scale, (x + width) * scale, (y + height) * scale)
    pictures = []
    for seen in watching:
        cells = cells_of(box, padded, seen.size)
        weights = attention_weights(seen.layer, seen.input(0), cells.to(seen.x.device))[0].float()  # M Q N
        shown = weights.mean((0, 1)).unflatten(-1, seen.size)  # H W
        rows, columns = (max(1, round(s / p * n)) for s, p, n in zip(size, padded, seen.size, strict=True))
        told = f"{short(seen.name)}, entropy {float(entropy_share(weights).mean()):.2f}"
        pictures.append(picture(as_url(overlay(pixels, shown[:rows, :columns].cpu().numpy(), frame)), told))
    name = next(category.name for category in one.data.categories if category.id == best["category_id"])
    heading = f"{name} {best['score']:.2f} in {one.data.record(one.chosen[at])[0]['file_name']}"
    return card(heading, label, pictures)


def cells_of(box: Sequence[float], padded: Sequence[int], size: tuple[int, int]) -> torch.Tensor:
    """(Q,) numbers of the map's cells whose middle lies in the box, or of the one that its centre lies in."""
    height, width = size
    down = (torch.arange(height) + 0.5) * padded[0] / height
    right = (torch.arange(width) + 0.5) * padded[1] / width
    inside = ((down >= box[1]) & (down < box[3]))[:, None] & ((right >= box[0]) & (right < box[2]))
    if inside.any():
        return inside.flatten().nonzero()[:, 0]
    y = min(height - 1, int((box[1] + box[3]) / 2 * height / padded[0]))
    x = min(width - 1, int((box[0] + box[2]) / 2 * width / padded[1]))
    return torch.tensor([y * width + x])
