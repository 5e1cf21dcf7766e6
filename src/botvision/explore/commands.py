"""`explore`: attention of a model, or of two, on images, as one HTML file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from botvision.files import check_page, whole_file

if TYPE_CHECKING:
    from botvision.explore.page import Explored
    from botvision.explore.subjects import Subject

FIELD = 8  # places a side of a model that has no attention, beside one that has


def explore(
    model: str,
    images: tuple[str, ...],
    *,
    out: Path = Path("explore.html"),
    against: str | None = None,
    img_size: int | None = None,
    threshold: float = 0.5,
    field: int | None = None,
    dtype: Literal["auto", "float16", "float32"] = "auto",
    max_mb: float = 50.0,
    options: dict[str, Any] | None = None,
) -> "Explored":
    """Write an HTML file that shows where attention looks from each place of an image.

    It opens from disk and asks nothing of any server: q, k and the position tables are in it, and the browser computes
    the rest. Each block and head apart, content and position apart, tables, and a detector's objects.

    Args:
        model: a checkpoint of a run (.ckpt), a YOLO's (.pt, with botvision-yolo), or a backbone's name, which gets
            random weights.
        images: files, folders or quoted globs.
        out: the HTML file; one that is there is replaced.
        against: a second model beside it, on the same images, with a common cursor.
        img_size: px; none is what each model was trained at.
        threshold: lowest score of an object that is shown.
        field: places a side that the effective receptive field is computed at, by gradient; 0 for none; none is 8 where
            one of two models has no attention, otherwise 0.
        dtype: of q and k in the file: auto is float16 where weights stay within 1e-6 of the exact ones, looked at for
            up to 512 places of each map, otherwise float32.
        max_mb: largest file in MB.
        options: of backbones by their names, e.g. {start: directional}.

    Raises:
        FileNotFoundError, ValueError: no image, no such model, one without attention, two of different classes, or a
            page that is too large.
    """
    from botvision.explore.blocks import Block
    from botvision.explore.page import Explored, assemble, check_size, has_attention, longest, view_of
    from botvision.explore.subjects import open_subject
    from botvision.inputs import find_images, open_image

    out = Path(out)
    check_page(out, name="explore.html")
    images = (images,) if isinstance(images, str | Path) else images
    if not images:
        raise ValueError("explore needs at least one image; give a file, a folder or a quoted glob")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie in 0 … 1; e.g. 0.5")
    if field is not None and field < 0:
        raise ValueError(f"field={field} must be at least 1 place a side, or 0 for none; e.g. 8")
    if max_mb <= 0:
        raise ValueError(f"max_mb={max_mb:g} must be above 0; e.g. 50")
    paths = [path for source in images for path in find_images(source)]
    opened = [open_image(path) for path in paths]
    given: dict[str, Any] = {"img_size": img_size, "threshold": threshold, "options": options}
    subjects = [open_subject(name, opened, **given) for name in (model, against) if name is not None]
    check_classes(subjects)
    lacking = [subject.name for subject in subjects if not has_attention(subject)]
    if lacking and field is None and len(lacking) == len(subjects):
        raise ValueError(
            f"{', '.join(lacking)} has no attention (no MHSA2d) to show; --field {FIELD} shows what each place "
            "depends on, its effective receptive field"
        )
    places = (FIELD if lacking else 0) if field is None else field
    if lacking:
        print(f"{', '.join(lacking)} has no attention: its effective receptive field is shown", file=sys.stderr)
    shown, sentences, every = [], list[str](), list[Block]()
    for path, image in zip(paths, opened, strict=True):
        views = []
        for subject in subjects:
            view, blocks = view_of(subject, image, dtype=dtype, field=places)
            views.append(view)
            every += blocks
            if path == paths[0]:
                sentences += told(subject, view)
        shown.append({"name": path.name, "views": views})
    title = "Attention of " + " and ".join(subject.name for subject in subjects)
    text = assemble(title, subjects, shown).encode()
    megabytes = len(text) / 1e6
    dtypes = sorted({block.dtype for block in every})
    check_size(megabytes, max_mb, img_size=longest(shown), dtype=dtypes[-1] if dtypes else "float32")
    error = max((block.error for block in every), default=0.0)
    rounded = f", rows within {error:.1g} of the exact ones" if error else ""
    exact = f" (q and k in {' and '.join(dtypes)}{rounded})" if every else ""
    print(f"writing {megabytes:.1f} MB to {out}{exact}", file=sys.stderr)
    with whole_file(out) as unfinished:
        unfinished.write_bytes(text)
    return Explored(out, round(megabytes, 2), sentences)


def told(subject: "Subject", view: dict[str, Any]) -> list[str]:
    """Lines on a model's blocks: a head each, or how large its receptive field is."""
    lines = []
    for block in view["blocks"]:
        if block["kind"] == "field":
            lines.append(f"{subject.name}: 95 % of what a place depends on, on average, in {block['side']:.0f}² px")
            continue
        for head, (words, numbers) in enumerate(zip(block["sentences"], block["statistics"], strict=True), 1):
            lines.append(f"{subject.name} {block['name']} head {head}: {words} Entropy {numbers[0]:.2f}.")
    return lines


def check_classes(subjects: list["Subject"]) -> None:
    """Refuse two models of different classes.

    Raises:
        ValueError: they are.
    """
    named = [subject for subject in subjects if subject.classes]
    if len(named) == 2 and named[0].classes != named[1].classes:
        one, other = (set(subject.classes) for subject in named)
        apart = ", ".join(sorted(one ^ other)[:4]) or "the same in another order"
        raise ValueError(
            f"{named[0].name} and {named[1].name} have different classes ({apart}); compare models of the same data"
        )
