"""`draw`: attention, position tables, objects and training curves as images for papers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from botvision.files import check_no_file

if TYPE_CHECKING:
    from torch import Tensor

    from botvision.explore.blocks import Block
    from botvision.explore.subjects import Seen

Part = Literal["both", "content", "position"]
STILL, MOVING = (".png", ".svg", ".pdf"), (".gif",)
STEPS = 24  # places of a GIF


class Drawn(NamedTuple):
    """The file that was drawn."""

    out: Path

    def __str__(self) -> str:
        return str(self.out)


def attention(
    model: str,
    image: str,
    *,
    out: Path = Path("attention.png"),
    at: tuple[float, float] = (0.5, 0.5),
    part: Part = "both",
    img_size: int | None = None,
    options: dict[str, Any] | None = None,
) -> Drawn:
    """Draw where one place of an image looks, by block and head; as a GIF, where a row of places look.

    Args:
        model: a checkpoint (.ckpt, or a YOLO's .pt with botvision-yolo), or a backbone's name (random weights).
        image: a file.
        out: .png, .svg, .pdf, or .gif, in which the place moves from left to right.
        at: the place, down and right, as shares of the sides of what the model sees.
        part: softmax of all logits, or of one part of them.
        img_size: px; none is what the model was trained at.
        options: of a backbone by its name, e.g. {start: directional}.

    Raises:
        FileNotFoundError, ValueError: no image or model, one without attention or this part of it, a place outside.
    """
    from botvision.draw.attention import draw_attention

    out = checked(Path(out), STILL + MOVING)
    if not all(0 <= share <= 1 for share in at):
        raise ValueError(f"at={at[0]:g} {at[1]:g} must be shares of the sides, 0 … 1, down and right; e.g. 0.5 0.5")
    seen, blocks = looked(model, image, img_size=img_size, options=options)
    if missing := [block.name for block in blocks if part not in block.parts]:
        raise ValueError(
            f"{missing[0]} has position={blocks[0].position!r}, whose logits have one part; leave --part out"
        )
    places = [at]
    if out.suffix.lower() in MOVING:
        places = [(at[0], (step + 0.5) / STEPS) for step in range(STEPS)]
    frames = [(place, {block.name: row_at(block, place, part).numpy() for block in blocks}) for place in places]
    draw_attention(seen.picture, frames, out)
    return Drawn(out)


def tables(
    model: str,
    image: str,
    *,
    out: Path = Path("tables.png"),
    img_size: int | None = None,
    options: dict[str, Any] | None = None,
) -> Drawn:
    """Draw the learnt position tables as maps: logits of each head's mean query on an image, by offset.

    Args:
        model: a checkpoint (.ckpt, or a YOLO's .pt with botvision-yolo), or a backbone's name (random weights).
        image: a file, which the queries come from.
        out: .png, .svg or .pdf.
        img_size: px; none is what the model was trained at.
        options: of a backbone by its name, e.g. {start: directional}.

    Raises:
        FileNotFoundError, ValueError: no image or model, one without attention or without tables.
    """
    from botvision.draw.attention import draw_tables

    out = checked(Path(out), STILL)
    _, blocks = looked(model, image, img_size=img_size, options=options)
    if any(block.table_h is None for block in blocks):
        raise ValueError(f"{model} has position='none', and so no position tables to draw; give another model")
    maps = {block.name: block.table_maps().numpy() for block in blocks}
    draw_tables(maps, out, absolute=blocks[0].position == "absolute")
    return Drawn(out)


def instances(
    checkpoint: Path,
    image: str,
    *,
    out: Path = Path("instances.png"),
    threshold: float = 0.5,
    img_size: int | None = None,
) -> Drawn:
    """Draw a detector's objects on an image: masks, boxes, names and scores.

    Args:
        checkpoint: of a Mask R-CNN's run.
        image: a file.
        out: .png or .jpg.
        threshold: lowest score that is drawn.
        img_size: px; none is what it was trained at.

    Raises:
        FileNotFoundError, ValueError: no image or checkpoint.
    """
    from botvision.draw.instances import draw_instances, save_image
    from botvision.inputs import read_image
    from botvision.maskrcnn import Predictor
    from botvision.maskrcnn.resize import image_size

    out = checked(Path(out), (".png", ".jpg", ".jpeg"))
    predictor = Predictor.load(Path(checkpoint), threshold=threshold, accelerator="cpu")
    if img_size is not None:
        predictor.detector.model.resize.rule = image_size(img_size)
    pixels = read_image(image)
    save_image(draw_instances(pixels.permute(1, 2, 0).numpy(), predictor(pixels), predictor.names), out)
    return Drawn(out)


def curves(run: Path, *, out: Path = Path("curves.png")) -> Drawn:
    """Draw a run's training curves from its metrics.csv.

    Args:
        run: folder of the run.
        out: .png, .svg or .pdf.

    Raises:
        FileNotFoundError, ValueError: no metrics.csv there, or nothing in it.
    """
    from botvision.classify.task import Classification
    from botvision.draw.curves import draw_curves
    from botvision.engine.attention import PANELS
    from botvision.engine.record import read_rows
    from botvision.maskrcnn.task import InstanceSegmentation

    out, table = checked(Path(out), STILL), Path(run) / "metrics.csv"
    if not table.is_file():
        raise FileNotFoundError(f"no metrics.csv in {run}; give the folder of a run, e.g. runs/maskrcnn/demo")
    rows = read_rows(table)
    panels = {**Classification.panels, **InstanceSegmentation.panels, **PANELS}
    if not draw_curves(rows, out, panels=panels):
        raise ValueError(f"{table} has no row yet; wait for the first evaluation")
    return Drawn(out)


def checked(out: Path, suffixes: tuple[str, ...]) -> Path:
    """The file to write.

    Raises:
        ValueError: its suffix tells of nothing that is drawn here, or its folder is a file.
    """
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"out={out} must end in {', '.join(suffixes)}")
    check_no_file(out.parent)
    return out


def looked(
    model: str, image: str, *, img_size: int | None, options: dict[str, Any] | None
) -> tuple["Seen", list["Block"]]:
    """What a model sees of an image, and its attention layers.

    Raises:
        FileNotFoundError, ValueError: no such model or image; a model without attention.
    """
    from botvision.attention import watch
    from botvision.explore.blocks import block_of
    from botvision.explore.page import has_attention
    from botvision.explore.subjects import open_subject
    from botvision.inputs import open_image

    picture = open_image(image)
    subject = open_subject(model, [picture], img_size=img_size, threshold=0.5, options=options)
    if not has_attention(subject):
        raise ValueError(f"{subject.name} has no attention (no MHSA2d) to draw; give a BoTNet")
    with watch(subject.model) as watching:
        seen = subject.look(picture)
    return seen, [block_of(one, "float32") for one in watching]


def row_at(block: "Block", place: tuple[float, float], part: Part) -> "Tensor":
    """(M, H, W) weights from a place given as shares of the sides."""
    import torch

    y, x = (min(int(share * side), side - 1) for share, side in zip(place, block.size, strict=True))
    rows = block.rows(torch.tensor([y * block.size[1] + x]), part)
    return rows[:, 0].unflatten(-1, block.size)
