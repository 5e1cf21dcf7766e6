"""Self-contained HTML pages: one file with styles, scripts and data, which asks for nothing."""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def page(title: str, body: str, *, data: Any, styles: Sequence[str] = (), scripts: Sequence[str] = ()) -> str:
    """A page as text; its policy forbids every request.

    Args:
        title: of the window.
        body: HTML of the page itself, which is trusted; it has a button `theme`.
        data: plain values, which scripts read from the element `data`.
        styles: CSS, after the common theme.
        scripts: JavaScript, after the common colours and the theme's button.
    """
    parts = {
        "title": html.escape(title),
        "styles": "\n".join([web("botvision.draw", "theme.css"), *styles]),
        "body": body,
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # no text can end the element
        "scripts": "\n".join([web("botvision.draw", "colours.js"), web("botvision.draw", "theme.js"), *scripts]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], web("botvision.draw", "page.html"))


def web(package: str, name: str) -> str:
    """A file of a package's folder `web`."""
    return (files(package) / "web" / name).read_text(encoding="utf-8")


def as_url(picture: NDArray[np.uint8], *, kind: str = "JPEG") -> str:
    """Pixels (H, W, 3) as an address that holds them."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def small(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture of at most `side` px."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def mask_url(mask: NDArray[np.uint8]) -> str:
    """A mask (H, W) of 0 and 1 as an address of a small PNG, clear where it is 0."""
    content = io.BytesIO()
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(content, "PNG", transparency=0, bits=1)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
