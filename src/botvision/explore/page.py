"""Put the explorer page together: what each model saw of each image, and whether it fits."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from botvision.attention import MHSA2d, watch
from botvision.draw.page import as_url, mask_url, page, web
from botvision.explore.blocks import Block, DType, block_of, in_words
from botvision.explore.field import receptive_fields
from botvision.explore.subjects import Found, Subject

DIVISOR = 32  # px that image sizes are offered in


class Explored(NamedTuple):
    """What `explore` wrote.

    Attributes:
        out: the file.
        megabytes: its size.
        sentences: a line for each head of each model on the first image.
    """

    out: Path
    megabytes: float
    sentences: list[str]

    def __str__(self) -> str:
        return "\n".join([*self.sentences, f"{self.out}: {self.megabytes:.1f} MB; open it in a browser"])


def has_attention(subject: Subject) -> bool:
    """Whether there is an attention layer in it."""
    return any(isinstance(module, MHSA2d) for module in subject.model.modules())


def view_of(subject: Subject, image: Image.Image, *, dtype: DType, field: int) -> tuple[dict[str, Any], list[Block]]:
    """What the page reads of one model on one image, and the blocks themselves.

    Args:
        subject: the model.
        image: that it looks at.
        dtype: of q and k.
        field: places a side of the receptive field; 0 for none.
    """
    blocks: list[Block] = []
    if has_attention(subject):
        with watch(subject.model) as watching:
            seen = subject.look(image)
        blocks = [block_of(one, dtype) for one in watching]
    else:
        seen = subject.look(image)
    height, width = seen.picture.shape[:2]
    shown = [described(block, (height, width)) for block in blocks]
    if field:
        shown.append(receptive_fields(subject.last_map, seen.batch, field))
    return {
        "picture": as_url(seen.picture), "width": width, "height": height, "frame": seen.frame, "says": seen.says,
        "found": [placed(one) for one in seen.found], "blocks": shown,
    }, blocks  # fmt: skip


def described(block: Block, size: tuple[int, int]) -> dict[str, Any]:
    """A block with a sentence for each head; `size` is the picture's (h, w)."""
    cell = (size[0] / block.size[0], size[1] / block.size[1])
    words = [in_words(head, shared, cell) for head, shared in zip(block.statistics, block.shared, strict=True)]
    return {**block.plain(), "sentences": words}


def placed(found: Found) -> dict[str, Any]:
    """An object; its mask cut to what it covers, with that part's left upper corner."""
    mask, corner = None, (0, 0)
    if found.mask is not None and found.mask.any():
        rows, columns = (np.flatnonzero(found.mask.any(axis)) for axis in (1, 0))
        corner = (int(columns[0]), int(rows[0]))
        mask = mask_url(found.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return {"label": found.label, "score": round(found.score, 4), "box": [round(side, 2) for side in found.box],
            "mask": mask, "corner": corner}  # fmt: skip


def assemble(title: str, models: Sequence[Subject], images: Sequence[dict[str, Any]]) -> str:
    """The whole page.

    Args:
        title: above it.
        models: whose views each image has, in this order.
        images: name and views.
    """
    return wrapped({"title": title, "models": [{"name": m.name, "note": m.note} for m in models], "images": images})


def wrapped(data: dict[str, Any]) -> str:
    """The page around its data."""
    own = "botvision.explore"
    styles, scripts = [web(own, "explore.css")], [web(own, "attention.js"), web(own, "explore.js")]
    return page(data["title"], web(own, "explore.html"), data=data, styles=styles, scripts=scripts)


def check_size(megabytes: float, most: float, *, img_size: int, dtype: str) -> None:
    """Refuse a page that is too large, with an image size that would fit.

    Raises:
        ValueError: it is.
    """
    if megabytes <= most:
        return
    side = int(img_size * math.sqrt(most / megabytes)) // DIVISOR * DIVISOR
    cures = [f"--img_size {side}"] if side >= DIVISOR else []
    if dtype == "float32":
        cures.append("--dtype float16, which takes half and says how exact it is")
    cures.append(f"--max_mb {math.ceil(megabytes)}, or fewer images")
    raise ValueError(
        f"the page would take {megabytes:.1f} MB at {img_size} px, more than max_mb={most:g}; give {', '.join(cures)}"
    )


def longest(seen: Sequence[dict[str, Any]]) -> int:
    """Px of the largest picture's longer side."""
    return max(max(view["width"], view["height"]) for image in seen for view in image["views"])
