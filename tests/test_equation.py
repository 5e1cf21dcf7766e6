"""The front page's picture of the equation: MHSA2d's own numbers, in the file and in the browser's arithmetic."""

import base64
import json
import re
import runpy
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
PARTS = ("content", "position", "both")
PLACES = [(y, x) for y in range(8) for x in range(8)]


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(DOCS / "equation.py"))


@pytest.fixture(scope="module")
def stored(made):
    return json.loads(re.search(r'id="data">(.*?)</script>', made["LIVE"].read_text(), re.DOTALL)[1])


@pytest.fixture(scope="module")
def rows(made):
    """(3 parts, 4 heads, 64, 64): the layer's weights from every place, by itself."""
    seen = made["seen"]()
    own = [torch.stack([seen.attention_row(y, x, part=part).flatten(1) for y, x in PLACES], 1) for part in PARTS]
    return torch.stack(own).numpy()


def array(block, name):
    numbers = np.frombuffer(base64.b64decode(block[name]), "<f4").astype(np.float64)
    return numbers.reshape(*((4, 64) if name in "qk" else (15,)), 8)


def test_the_page_is_as_it_is_now_and_on_the_front_page(made, stored):
    """Where it is not: python docs/equation.py."""
    text = made["LIVE"].read_text()
    assert text == made["page"](stored)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import|fetch\(|XMLHttpRequest|\{\{", text)
    front = (DOCS / "index.md").read_text()
    for page in ("live/equation.html", "live/explorer.html"):
        assert f'<iframe src="{page}"' in front
        assert f"]({page})" in front
        assert (DOCS / page).is_file()


def test_numbers_in_the_file_are_the_layers_own(stored, rows):
    """The equation written again: (q·k + q·r) / √d, r of the key's row offset and of its column offset."""
    q, k, table_h, table_w = (array(stored["block"], name) for name in ("q", "k", "table_h", "table_w"))
    y, x = np.array(PLACES).T
    down, across = y - y[:, None] + 7, x - x[:, None] + 7  # query, key
    r = table_h[down] + table_w[across]
    content, position = q @ k.swapaxes(1, 2), np.einsum("mqd,qkd->mqk", q, r)
    powers = np.exp(np.stack([content, position, content + position]) / np.sqrt(8))
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), rows, atol=1e-5)
    assert rows.max() > 0.3


NODE = """
const A = require(process.argv[1]), block = JSON.parse(require("fs").readFileSync(0)).block;
const every = (f) => Array.from({length: 4}, (_, h) =>
  Array.from({length: 64}, (_, n) => Array.from(f(h, n >> 3, n & 7))));
console.log(JSON.stringify({
  rows: ["content", "position", "both"].map((part) => every((h, y, x) => A.row(block, h, y, x, part))),
  position: every((h, y, x) => A.logits(block, h, y, x, "position")),
  down: every((h, y, x) => A.products(block, h, y, x, "table_h")),
  across: every((h, y, x) => A.products(block, h, y, x, "table_w")),
}));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs node; the file's numbers are checked in Python above")
def test_the_pages_arithmetic_is_the_layers(stored, rows):
    script = files("botvision.explore") / "web" / "attention.js"
    command = ["node", "-e", NODE, str(script)]
    done = subprocess.run(command, input=json.dumps(stored), capture_output=True, text=True, check=True)
    found = {name: np.array(values) for name, values in json.loads(done.stdout).items()}
    np.testing.assert_allclose(found["rows"], rows, atol=1e-5)
    for n, (y, x) in enumerate(PLACES):  # the 8 offsets of the strips that are underlined, from 7 − y and 7 − x
        down, across = found["down"][:, n, 7 - y :][:, :8], found["across"][:, n, 7 - x :][:, :8]
        sums = (down[:, :, None] + across[:, None]).reshape(4, 64)
        np.testing.assert_allclose(sums, found["position"][:, n], atol=1e-9)


CLICKS = """
addEventListener("load", () => {
  const get = (selector) => document.querySelector(selector), said = [], image = get("#image");
  const note = () => said.push(get("#reading").textContent);
  const used = (id) => [...document.querySelectorAll(`#${id} .used`)].map((cell) => cell.textContent).join(" ");
  const key = (name) => image.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  note();
  const box = get("#both").getBoundingClientRect();
  const corner = { clientX: box.right - 2, clientY: box.bottom - 2, bubbles: true };
  get("#both").dispatchEvent(new PointerEvent("pointerdown", corner)); note();
  key("ArrowDown"); note();
  key("ArrowLeft"); key("2"); note();
  const fits = document.documentElement.scrollWidth <= innerWidth;
  const unnamed = [...document.querySelectorAll("[role=img]")].filter((one) => !one.getAttribute("aria-label")).length;
  document.title = JSON.stringify({ said, fits, unnamed, asked: performance.getEntriesByType("resource").length,
    rows: used("rows"), columns: used("columns"), label: image.getAttribute("aria-label") });
});
"""


def test_the_page_in_a_browser(made, rows, in_browser):
    found = in_browser(made["LIVE"].read_text(), CLICKS)
    start, corner, still, moved = found["said"]
    assert start.startswith("Head 1, from row 4, column 4: most, ")
    assert corner.startswith("Head 1, from row 8, column 8")
    assert still == corner
    best = rows[2, 1, 62].argmax()
    place = f"to row {best // 8 + 1}, column {best % 8 + 1}, "
    assert moved.startswith("Head 2, from row 8, column 7: most, ")
    assert place in moved
    assert (found["rows"], found["columns"]) == ("−7 −6 −5 −4 −3 −2 −1 0", "−6 −5 −4 −3 −2 −1 0 1")
    assert (found["fits"], found["unnamed"], found["asked"]) == (True, 0, 0)
    assert found["label"].startswith("A handwritten 0 of 8 × 8 pixels. Head 2")
