"""A detector's mistakes in an image, by TIDE's kinds: missed, found twice, misplaced and so on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["missed", "twice", "class", "placed", "both", "background"]
RIGHT, TOUCHES = 0.5, 0.1  # IoU from which a box is on an object, and from which it is near one (TIDE's)
SHOWN = 0.5  # lowest score of a detection that counts
LISTED = 4  # names in a sentence


class Mistake(NamedTuple):
    """One mistake.

    Attributes:
        kind: missed object; found twice; wrong class at the right place; right class at a wrong place; both wrong; on
            background.
        said: the class that the detector named; none of a missed object.
        true: the class of the object; none on background.
        iou: of the box and the object.
    """

    kind: Kind
    said: str | None
    true: str | None
    iou: float = 0.0


class Verdict(NamedTuple):
    """How an image went.

    Attributes:
        objects: that are there.
        right: of these, found, named and placed.
        mistakes: the others, and what was found too much.
    """

    objects: int
    right: int
    mistakes: tuple[Mistake, ...]

    @property
    def f1(self) -> float:
        """2·right / (detections + objects); 1 of an image without objects in which nothing was found."""
        total = self.right + self.wrong + self.objects
        return 2 * self.right / total if total else 1.0

    @property
    def wrong(self) -> int:
        """Detections that are not right."""
        return sum(mistake.said is not None for mistake in self.mistakes)

    def __str__(self) -> str:
        return " ".join(sentences(self)) or "All is right: nothing is there, and nothing was found."


def judge(
    objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> Verdict:
    """Match detections to the objects of an image, the surest first, and name what is left.

    A detection takes the object of its own class that it overlaps most, from IoU 0.5 on. What takes none is the first
    of these that fits: twice, where it is on a taken object of its class; of a wrong class, on an object of another;
    poorly placed, near one of its class (IoU 0.1); both, near one of another; otherwise on background. Objects that no
    detection took or so came near are missed.

    Args:
        objects: COCO annotations with bbox and category_id, no crowds.
        found: COCO results with bbox, category_id and score; those under 0.5 are left out.
        names: of the classes, by category_id.
    """
    sure = sorted((one for one in found if one["score"] >= SHOWN), key=lambda one: -one["score"])
    overlaps = ious([one["bbox"] for one in sure], [one["bbox"] for one in objects])
    classes = [one["category_id"] for one in objects]
    owner = owners(sure, overlaps, classes)
    mistakes, excused = [], set(owner)
    for number, one in enumerate(sure):
        if number in owner.values():
            continue
        mistake, at = blame(overlaps[number], one["category_id"], classes, excused, set(owner), names)
        mistakes.append(mistake)
        if at is not None:
            excused.add(at)
    missed = [Mistake("missed", None, names[classes[at]]) for at in range(len(objects)) if at not in excused]
    return Verdict(len(objects), len(owner), (*missed, *mistakes))


def owners(sure: Sequence[Mapping[str, Any]], overlaps: NDArray[np.float64], classes: Sequence[int]) -> dict[int, int]:
    """Object → detection that takes it; detections with the surest first."""
    owner: dict[int, int] = {}
    for number, one in enumerate(sure):
        free = [at for at, kind in enumerate(classes) if kind == one["category_id"] and at not in owner]
        best = max(free, key=lambda at: overlaps[number, at], default=None)
        if best is not None and overlaps[number, best] >= RIGHT:
            owner[best] = number
    return owner


def outside_crowds(
    found: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], crowds: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """Detections of an image but those that are neither right nor wrong, as in AP: at least half in a crowd.

    Args:
        found: COCO results with bbox and category_id.
        objects: the image's annotations, without crowds; the surest that is on one of its class counts.
        crowds: its crowds.
    """
    order = sorted(range(len(found)), key=lambda number: -found[number]["score"])
    boxes = [found[number]["bbox"] for number in order]
    onto = ious(boxes, [one["bbox"] for one in objects])
    taking = owners([found[number] for number in order], onto, [one["category_id"] for one in objects])
    inside = ious(boxes, [crowd["bbox"] for crowd in crowds], crowds=True)
    dropped = {
        number
        for place, number in enumerate(order)
        if place not in taking.values()
        and any(
            inside[place, at] >= RIGHT
            for at, crowd in enumerate(crowds)
            if crowd["category_id"] == found[number]["category_id"]
        )
    }
    return [one for number, one in enumerate(found) if number not in dropped]


def blame(
    overlaps: NDArray[np.float64],
    kind: int,
    classes: Sequence[int],
    excused: set[int],
    taken: set[int],
    names: Mapping[int, str],
) -> tuple[Mistake, int | None]:
    """The mistake of a detection that took no object, and the object that it spoilt, where it spoilt one."""
    said = names[kind]
    near = [at for at in range(len(classes)) if overlaps[at] >= TOUCHES]
    same = max((at for at in near if classes[at] == kind), key=lambda at: overlaps[at], default=None)
    other = max((at for at in near if classes[at] != kind), key=lambda at: overlaps[at], default=None)
    if same is not None and overlaps[same] >= RIGHT:
        return Mistake("twice", said, said, float(overlaps[same])), None
    if other is not None and overlaps[other] >= RIGHT:
        found = Mistake("class", said, names[classes[other]], float(overlaps[other]))
        return found, None if other in excused else other
    if same is not None:
        return Mistake("placed", said, said, float(overlaps[same])), None if same in taken | excused else same
    if other is not None:
        found = Mistake("both", said, names[classes[other]], float(overlaps[other]))
        return found, None if other in excused else other
    return Mistake("background", said, None), None


def ious(
    ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]], *, crowds: bool = False
) -> NDArray[np.float64]:
    """(D, G) IoU of boxes x, y, width, height; with `crowds` the share of each of ours that lies in the other."""
    if not ours or not others:
        return np.zeros((len(ours), len(others)))
    from pycocotools import mask

    pairs: NDArray[np.float64] = mask.iou(np.array(ours, float), np.array(others, float), [crowds] * len(others))
    return pairs


def sentences(verdict: Verdict) -> list[str]:
    """What is wrong with an image, in words."""
    by_kind: dict[Kind, list[Mistake]] = {}
    for mistake in verdict.mistakes:
        by_kind.setdefault(mistake.kind, []).append(mistake)
    told = []
    if "missed" in by_kind:
        told.append(f"Missed {listed([str(m.true) for m in by_kind['missed']])}.")
    if "twice" in by_kind:
        told.append(f"Found twice: {listed([str(m.said) for m in by_kind['twice']])}.")
    if "class" in by_kind:
        told.append(f"Wrong class: {listed([f'{m.said} for {m.true}' for m in by_kind['class']])}.")
    if "placed" in by_kind:
        told.append(f"Poorly placed: {listed([f'{m.said} (IoU {m.iou:.2f})' for m in by_kind['placed']])}.")
    if "both" in by_kind:
        wrong = [f"{m.said} for {m.true} (IoU {m.iou:.2f})" for m in by_kind["both"]]
        told.append(f"Wrong class and poorly placed: {listed(wrong)}.")
    if "background" in by_kind:
        told.append(f"On background: {listed([str(m.said) for m in by_kind['background']])}.")
    if verdict.right and not told:
        return [f"All {verdict.right} found, named and placed." if verdict.right > 1 else "Found, named and placed."]
    return told + ([f"{verdict.right} right."] if verdict.right else [])


def listed(names: Sequence[str]) -> str:
    """Names with their counts, the commonest first."""
    counts = Counter(names).most_common()
    told = [f"{name} × {count}" if count > 1 else name for name, count in counts[:LISTED]]
    return ", ".join([*told, *([f"and {len(counts) - LISTED} more"] if len(counts) > LISTED else [])])
