"""Draw detections on their image: masks, boxes, class names, scores."""

import io
from pathlib import Path

import numpy as np
import supervision as sv
from numpy.typing import NDArray
from PIL import Image

from botvision.files import whole_file

LONGEST_JPEG = 65_500  # px of a side
LEGIBLE = 750  # px of a side to which text of scale 1 is legible when it is shown at half of it

Pixels = NDArray[np.uint8]


def draw_instances(image: Pixels, detections: sv.Detections, names: list[str], *, text: float = 1.0) -> Pixels:
    """Masks, boxes and labels on a copy of an RGB image (H, W, 3).

    Args:
        image: uint8 RGB.
        detections: with `class_id` counted from 0, in the image's pixels; masks are drawn where there are some, and
            objects with a `tracker_id` are named and coloured by it.
        names: of the classes, by `class_id`.
        text: size of labels, as a multiple of what is legible where the image is shown at half of 750 px.
    """
    side = max(image.shape[:2])
    enlarge = max(1, round(640 / side))  # labels need room: small images are drawn larger
    image = image.repeat(enlarge, 0).repeat(enlarge, 1)
    if not len(detections):
        return image
    detections = magnify(detections, enlarge)
    labels = [names[int(i)] for i in detections.class_id]
    if detections.confidence is not None:
        labels = [f"{label} {score:.2f}" for label, score in zip(labels, detections.confidence, strict=True)]
    colours = detections.class_id
    if detections.tracker_id is not None:
        labels = [f"#{n} {label}" if n >= 0 else label for n, label in zip(detections.tracker_id, labels, strict=True)]
        colours = np.where(detections.tracker_id >= 0, detections.tracker_id, colours)
    scene = np.ascontiguousarray(image[..., ::-1])  # supervision draws in OpenCV's order, BGR
    if detections.mask is not None:
        scene = sv.MaskAnnotator(opacity=0.45).annotate(scene, detections, custom_color_lookup=colours)
    scene = sv.BoxAnnotator(thickness=round(2 * text)).annotate(scene, detections, custom_color_lookup=colours)
    names_in = sv.LabelAnnotator(
        text_scale=text * max(image.shape[:2]) / LEGIBLE, text_thickness=max(1, round(text)), text_padding=4
    )
    scene = names_in.annotate(scene, detections, labels=labels, custom_color_lookup=colours)
    return np.ascontiguousarray(scene[..., ::-1])


def magnify(detections: sv.Detections, times: int) -> sv.Detections:
    """The same detections on the image enlarged a whole number of times."""
    dense = None if detections.mask is None else np.asarray(detections.mask).repeat(times, 1).repeat(times, 2)
    return sv.Detections(
        xyxy=detections.xyxy * times,
        mask=dense,
        confidence=detections.confidence,
        class_id=detections.class_id,
        tracker_id=detections.tracker_id,
    )


def save_image(image: Pixels, path: Path) -> None:
    """Write an RGB image whole; one that is too long for JPEG smaller."""
    picture = Image.fromarray(image)
    if path.suffix.lower() in (".jpg", ".jpeg") and max(picture.size) > LONGEST_JPEG:
        picture.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
    encoded = io.BytesIO()  # Pillow's own writer does not see that a disk takes only half of it
    picture.save(encoded, Image.registered_extensions()[path.suffix.lower()], quality=92)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(encoded.getvalue())


def contact_sheet(images: list[Pixels], *, columns: int = 3, side: int = 420) -> Pixels:
    """Images in rows, each in a square cell of `side`, as one image."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (min(columns, len(images)) * side, rows * side), "white")
    for number, image in enumerate(images):
        cell = Image.fromarray(image)
        cell.thumbnail((side - 4, side - 4))
        sheet.paste(cell, (number % columns * side + 2, number // columns * side + 2))
    return np.array(sheet)
