"""Writes the equation's picture, docs/live/equation.html, from a layer's own numbers: python docs/equation.py."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from botvision import MHSA2d
from botvision.attention import Watched, watch
from botvision.digits import load_digits
from botvision.draw.page import page as around
from botvision.draw.page import web
from botvision.explore.blocks import block_of
from botvision.explore.page import described

LIVE = Path(__file__).parent / "live" / "equation.html"
PARTS = LIVE.parent / "parts"
SIZE = (8, 8)
CHANNELS, HEADS = 32, 4
DIGIT = 0  # of the validation images
QKV_STD = 0.3  # so that content counts beside position; by default 0.09


@torch.no_grad()
def seen() -> Watched:
    """A layer at its directional start, and the digit's features that came into it: the same on every call."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        stem = nn.Sequential(nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        layer = MHSA2d(CHANNELS, HEADS, max_size=SIZE, start="directional", qkv_std=QKV_STD)
    with watch(layer) as watching:
        layer(stem(torch.from_numpy(load_digits("val")[0][DIGIT])[None, None]))
    [one] = watching
    return one


def data() -> dict[str, Any]:
    """What the page reads: the digit, and q, k and tables of the layer on it."""
    digits, labels = load_digits("val")
    block = described(block_of(seen(), "float32"), SIZE)
    return {"block": block, "pixels": digits[DIGIT].flatten().tolist(), "label": int(labels[DIGIT])}


def page(values: dict[str, Any]) -> str:
    """The page around its data."""
    body, style, script = ((PARTS / f"equation.{kind}").read_text() for kind in ("html", "css", "js"))
    scripts = [web("botvision.explore", "attention.js"), script]
    return around("Attention's equation", body, data=values, styles=[style], scripts=scripts)


if __name__ == "__main__":
    LIVE.write_text(page(data()))
