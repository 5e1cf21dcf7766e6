"""What is wrong with a COCO annotation: its box, its mask; boxes that are two corners."""

import reprlib
from collections.abc import Iterable, Sequence
from operator import mul
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from botvision.maskrcnn import masks
from botvision.maskrcnn.masks import Box

NO_MASK = "has no segmentation, and Mask R-CNN needs polygons or RLE"
LARGEST = 1e9  # a number beyond it is no place in an image
FLAT = 1e-3  # px² or px: a polygon of less has no area
MOSTLY = 0.5  # of a mask's extent must lie in its box
FITS = 0.8  # IoU from which a box fits its mask's extent
FEW = 0.1  # of a file's boxes may look like two corners by chance, or be of another form
SMALL = 8  # px of an image's side, up to which a box may lie in 0 … 1

Size = tuple[int, int]  # height, width
Annotation = dict[str, Any]


def shown(value: object) -> str:
    """A value in a message: short, on one line, however deep or long it is."""
    return reprlib.repr(value)


def is_finite(value: object) -> bool:
    """Whether it is a number that a place can have."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # type: ignore[operator]


def corners(bbox: Sequence[float]) -> Box:
    """COCO's x, y, width, height → x1, y1, x2, y2."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


def clip(box: Box, height: int, width: int) -> Box:
    """The part of a box inside the image."""
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return x1, y1, x2, y2


def is_box(bbox: object) -> TypeGuard[list[float]]:
    """Whether it is a list of four numbers."""
    return isinstance(bbox, list) and len(bbox) == 4 and all(map(is_finite, bbox))


def bad_box(annotation: Annotation, height: int, width: int) -> str:
    """What is wrong with an annotation's box, or nothing."""
    bbox = annotation.get("bbox")
    if not is_box(bbox):
        return f"has bbox {shown(bbox)}, not [x, y, width, height] in finite numbers"
    if bbox[2] <= 0 or bbox[3] <= 0:
        return f"has a box without area, {bbox}"
    x1, y1, x2, y2 = clip(corners(bbox), height, width)
    if x2 <= x1 or y2 <= y1:
        return f"has a box outside its image of {width}×{height}, {bbox}"
    return f"has a box far outside its image of {width}×{height}, {bbox}" if far(corners(bbox), height, width) else ""


def far(box: Box, height: int, width: int) -> bool:
    """Whether a box reaches farther out of its image than the image is long."""
    longest = max(height, width)
    return min(box[:2]) < -longest or max(box[2:]) > 2 * longest


def has_mask(annotation: Annotation) -> bool:
    """Whether an annotation has polygons or RLE, of whatever form; a list of empty polygons is none."""
    form = annotation.get("segmentation")
    return any(form) if isinstance(form, list) else bool(form)


def bad_mask(annotation: Annotation, height: int, width: int) -> str:
    """What is wrong with the polygons or RLE of an annotation whose box is right, or nothing."""
    form = annotation.get("segmentation")
    if not has_mask(annotation):
        return NO_MASK
    if wrong := bad_form(form, height, width):
        return wrong
    extent = extent_of(form)
    if extent is None:
        return "has a mask without area"
    if far(extent, height, width):
        return f"has a polygon far outside its image of {width}×{height}"
    if not area(clip(extent, height, width)):
        return f"has a mask outside its image of {width}×{height}"
    x1, y1, x2, y2 = corners(annotation["bbox"])
    if shared(extent, (x1 - 1, y1 - 1, x2 + 1, y2 + 1)) < MOSTLY * area(extent):  # whole pixels lie up to one beside
        return f"has a mask that lies outside its box, {annotation['bbox']}"
    if fits_as_corners(annotation["bbox"], extent):
        return f"has a box that fits its mask as two corners alone, {annotation['bbox']}"
    return ""


def without_scraps(annotation: Annotation) -> Annotation:
    """The same without polygons of one or two corners, which have no area, where others are beside them."""
    form = annotation.get("segmentation")
    if not isinstance(form, list) or not all(isinstance(part, list) for part in form):
        return annotation
    whole = [part for part in form if len(part) not in (0, 2, 4)]
    return {**annotation, "segmentation": whole} if whole and len(whole) < len(form) else annotation


def bad_form(form: Any, height: int, width: int) -> str:
    """What is wrong with the form of polygons or RLE, or nothing."""
    if isinstance(form, list):
        fine = all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_finite, p)) for p in form)
        return "" if fine else "has a polygon that is no list of at least three x, y in finite numbers"
    if not isinstance(form, dict) or not {"size", "counts"} <= set(form):
        return "has a segmentation that is neither polygons nor RLE with size and counts"
    if form["size"] != [height, width]:
        return f"has an RLE of size {shown(form['size'])} on an image of height {height}, width {width}"
    counts = form["counts"]
    if isinstance(counts, list):
        fine = all(type(count) is int and count >= 0 for count in counts) and sum(counts) == height * width
        return "" if fine else f"has an RLE whose counts are not whole numbers that add up to {height} × {width}"
    if not isinstance(counts, str):
        return "has an RLE whose counts are neither text nor whole numbers"
    runs = runs_of(counts)
    fine = runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == height * width
    return "" if fine else f"has an RLE whose text gives no runs that add up to {height} × {width}"


def runs_of(counts: str) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """The runs of a compressed RLE; none where the text is no such code.

    pycocotools reads whatever comes: of runs that are too short it leaves the mask's end uninitialised.
    """
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits, more than any image's pixels
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << 5 * place, starts)
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the last piece's highest bit is the sign
    values[1::2] = np.cumsum(values[1::2])  # each but the first three is told from the last but one
    values[2::2] = np.cumsum(values[2::2])
    return values


def extent_of(form: Any) -> Box | None:
    """The smallest box around polygons or RLE of a right form; none where it has no area."""
    if not isinstance(form, list):
        x, y, width, height = masks.bounds(form)
        return (x, y, x + width, y + height) if width and height else None
    whole = [polygon for polygon in form if not is_flat(polygon)]
    if not whole:
        return None
    across, down = ([value for polygon in whole for value in polygon[first::2]] for first in (0, 1))
    return min(across), min(down), max(across), max(down)


def is_flat(polygon: Sequence[float]) -> bool:
    """Whether all corners lie on one line."""
    x, y = polygon[::2], polygon[1::2]
    twice = sum(map(mul, x, [*y[1:], y[0]])) - sum(map(mul, y, [*x[1:], x[0]]))
    if abs(twice) > FLAT:
        return False
    # a polygon that crosses itself may have no area by this sum, and yet hold pixels
    lengths = [(a - x[0]) ** 2 + (b - y[0]) ** 2 for a, b in zip(x, y, strict=True)]
    longest = max(lengths)
    if longest < FLAT**2:
        return True
    end = lengths.index(longest)
    dx, dy = x[end] - x[0], y[end] - y[0]
    return all(abs((a - x[0]) * dy - (b - y[0]) * dx) <= FLAT * longest**0.5 for a, b in zip(x, y, strict=True))


def area(box: Box) -> float:
    """Of a box; 0 where it is turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def shared(one: Box, other: Box) -> float:
    """Area that two boxes have in common."""
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = shared(one, other)
    return common / max(area(one) + area(other) - common, FLAT)


def fits_as_corners(bbox: Sequence[float], extent: Box) -> bool:
    """Whether a box fits its mask's extent as x1, y1, x2, y2, and not as x, y, width, height."""
    as_corners = overlap(extent, (bbox[0], bbox[1], bbox[2], bbox[3]))
    return as_corners >= FITS and overlap(extent, corners(bbox)) < FITS * as_corners


class Boxes(NamedTuple):
    """What a file's boxes look like.

    Attributes:
        with_masks: boxes whose masks can be read, and told of them: those that fit as two corners alone.
        all: boxes of four numbers; leaving: those that leave their image as x, y, width, height; inside: those that lie
            in it as two corners.
        first: the first box that speaks for corners, by its annotation.
        shares: boxes that lie in 0 … 1, of images that are larger.
        unlike: boxes of `with_masks` that have next to nothing in common with their masks' extents.
    """

    with_masks: int
    told: int
    all: int
    leaving: int
    inside: int
    first: Annotation | None
    shares: int = 0
    unlike: int = 0


def look_at_boxes(annotations: Iterable[Annotation], sizes: dict[int, Size]) -> Boxes:
    """What a file's boxes look like, crowds aside."""
    with_masks = told = count = leaving = inside = 0
    shares = unlike = 0
    first: Annotation | None = None
    for annotation in annotations:
        bbox, form = annotation.get("bbox"), annotation.get("segmentation")
        if annotation.get("iscrowd") or not is_box(bbox):
            continue
        height, width = sizes[annotation["image_id"]]
        count += 1
        x, y, right, low = bbox
        is_inside = x < right <= width + 1 and y < low <= height + 1
        out = x + right > width + max(1, 0.02 * width) or y + low > height + max(1, 0.02 * height)
        inside, leaving = inside + is_inside, leaving + out
        extent = extent_of(form) if form and not bad_form(form, height, width) else None
        by_mask = extent is not None and fits_as_corners(bbox, extent)
        with_masks, told = with_masks + (extent is not None), told + by_mask
        shares += min(height, width) > SMALL and min(bbox) >= 0 and 0 < max(x + right, y + low) <= 1 + FEW
        unlike += extent is not None and not by_mask and overlap(extent, corners(bbox)) < FEW
        if first is None and (by_mask or (extent is None and out and is_inside)):
            first = annotation
    return Boxes(with_masks, told, count, leaving, inside, first, shares, unlike)


def told_otherwise(boxes: Boxes) -> str:
    """Why a file's boxes are no pixels, or not those of its masks; empty where they are."""
    if boxes.shares > (1 - FEW) * boxes.all:
        return (
            f"{boxes.shares} of {boxes.all} boxes lie in 0 … 1, as shares of the image; COCO's are in pixels: multiply "
            "x and width by the image's width, y and height by its height"
        )
    if boxes.unlike > FEW * max(1, boxes.with_masks):
        return (
            f"{boxes.unlike} of {boxes.with_masks} boxes have next to nothing in common with their masks; correct the "
            "boxes, or leave the masks out"
        )
    return ""


def told_as_corners(boxes: Boxes) -> str:
    """Why a file's boxes seem to be two corners; empty where they do not."""
    if boxes.first is None:
        return ""
    example = f"e.g. annotation {shown(boxes.first.get('id'))}, {boxes.first['bbox']}"
    if 2 * boxes.with_masks >= boxes.all:
        if boxes.told <= FEW * boxes.with_masks:
            return ""
        return f"{boxes.told} of {boxes.with_masks} boxes fit their masks as [x1, y1, x2, y2] alone, {example}"
    if boxes.leaving <= FEW * boxes.all or boxes.inside < (1 - FEW / 5) * boxes.all:
        return ""
    return (
        f"{boxes.leaving} of {boxes.all} boxes leave their image as [x, y, width, height], and as [x1, y1, x2, y2] "
        f"{boxes.inside} lie in it, {example}"
    )


def from_corners(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Annotations whose boxes are x1, y1, x2, y2, as COCO has them; a box that is none is left as it is."""
    changed = []
    for annotation in annotations:
        bbox = annotation.get("bbox")
        if is_box(bbox):
            annotation = {**annotation, "bbox": [bbox[0], bbox[1], bbox[2] - bbox[0], bbox[3] - bbox[1]]}
        changed.append(annotation)
    return changed
