"""The explorer: its rows are torch's, in Python and in JavaScript; its file asks for nothing; bad input is one line."""

import base64
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from botvision.attention import HeadStatistics, MHSA2d, attend, watch
from botvision.attention.statistics import spread_out
from botvision.cli import main
from botvision.explore import blocks, explore
from botvision.explore.blocks import block_of, in_words
from botvision.explore.field import receptive_fields
from botvision.explore.page import check_size

WEB = files("botvision.explore") / "web"
POSITIONS = ("relative", "absolute", "relative_only", "none")
SIZE = (5, 7)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def ran(position):
    """A layer with sharp attention on an odd, oblong map beyond its tables, and what came into it."""
    layer = MHSA2d(24, 3, position=position, max_size=(4, 7), qkv_std=0.4, position_std=0.6).eval()
    with watch(layer) as seen, torch.no_grad():
        layer(torch.randn(1, 24, *SIZE))
    [one] = seen
    return one


def exact(seen, part="both"):
    """(M, N, N) weights in float64 from torch's own q and k, by the reference backend."""
    layer, size = seen.layer, seen.size
    q, k, _ = (t.double() for t in layer.project(seen.x))
    layer.double()
    q, k, rel_h, rel_w = layer.with_positions(q, k, size)
    names = torch.eye(size[0] * size[1], dtype=torch.float64).expand(1, layer.num_heads, -1, -1)
    found = attend(q, k, names, rel_h, rel_w, scale=layer.scale, backend="reference")[0].detach()
    layer.float()
    return found


def array(text, dtype="float32"):
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<")).astype(np.float64)


def row_of_stored(block, head, y, x):
    """The page's arithmetic, written again over what is stored."""
    height, width, dim = block["height"], block["width"], block["dim"]
    q = array(block["q"], block["dtype"]).reshape(-1, height, width, dim)[head, y, x]
    logits = np.zeros((height, width))
    if block["k"]:
        logits += array(block["k"], block["dtype"]).reshape(-1, height, width, dim)[head] @ q
    if block["table_h"]:
        down, across = (array(block[name]).reshape(-1, dim) @ q for name in ("table_h", "table_w"))
        if block["position"] != "absolute":
            down, across = down[height - 1 - y :][:height], across[width - 1 - x :][:width]
        logits += down[:, None] + across
    powers = np.exp(block["scale"] * (logits - logits.max()))
    return (powers / powers.sum()).ravel()


@pytest.mark.parametrize("position", POSITIONS)
def test_rows_of_what_is_stored_are_torchs(position):
    seen = ran(position)
    stored = json.loads(json.dumps(block_of(seen, "auto").plain()))
    rows = np.stack([[row_of_stored(stored, h, y, x) for y in range(5) for x in range(7)] for h in range(3)])
    assert np.abs(rows - exact(seen).numpy()).max() < 1e-6
    assert rows.max() > 0.3


NODE = """
const A = require(process.argv[1]), blocks = JSON.parse(require("fs").readFileSync(0));
const rows = (block, part) => Array.from({length: block.heads}, (_, h) => Array.from({length: 35},
  (_, n) => Array.from(A.row(block, h, Math.floor(n / 7), n % 7, part))));
console.log(JSON.stringify(blocks.map((block) => ({
  ...Object.fromEntries(block.parts.map((part) => [part, rows(block, part)])),
  spread: block.statistics.map((_, h) => rows(block, "both")[h].map(
    (row, n) => A.spread(block, row, Math.floor(n / 7), n % 7))),
  table: block.table_h ? A.table(block, 1) : null,
}))));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs node; the same arithmetic is checked in Python above")
def test_rows_in_javascript_are_torchs(tmp_path):
    seen = [ran(position) for position in POSITIONS]
    stored = [block_of(one, "auto").plain() for one in seen]
    command = ["node", "-e", NODE, str(WEB / "attention.js")]
    done = subprocess.run(command, input=json.dumps(stored), capture_output=True, text=True, check=True)
    for one, found in zip(seen, json.loads(done.stdout), strict=True):
        assert np.abs(np.array(found["both"]) - exact(one).numpy()).max() < 1e-6
        for part in set(found) & {"content", "position"}:
            own = torch.stack([one.attention_row(n // 7, n % 7, part=part).flatten(1) for n in range(35)], 1)
            assert np.abs(np.array(found[part]) - own.numpy()).max() < 1e-6
        for head, places in zip(one.statistics(), found["spread"], strict=True):
            means = [np.mean([place[name] for place in places]) for name in ("entropy", "distance", "down", "right")]
            assert means == pytest.approx(list(head[2:6]), abs=1e-5)
        if found["table"]:
            own = block_of(one, "float32").table_maps()[1].flatten()
            assert np.abs(np.array(list(found["table"]["values"].values())) - own.numpy()).max() < 1e-5


def test_float16_where_it_is_exact_enough_and_float32_where_not():
    sharp = ran("relative")
    assert block_of(sharp, "auto").dtype == "float32"
    half = block_of(sharp, "float16")
    assert 1e-6 < half.error < 1e-2
    torch.testing.assert_close(half.rows(torch.arange(35)), exact(sharp), atol=2 * half.error, rtol=0)
    flat = MHSA2d(64, 4)
    with watch(flat) as seen, torch.no_grad():
        flat(torch.randn(1, 64, 6, 6))
    [one] = seen
    small = block_of(one, "auto")
    assert (small.dtype, small.error <= 1e-6) == ("float16", True)
    assert len(small.plain()["q"]) == 4 * 36 * 16 * 2 * 4 / 3


def test_places_that_are_looked_at_are_of_all_rows_and_columns():
    for height in range(1, 90):
        for width in (1, 2, 7, 16, 20, 48, 60, 64, 80, 100):
            places = spread_out((height, width), 512)
            assert len(places.unique()) == len(places) == min(height * width, 512)
            assert len((places // width).unique()) == height
            assert len((places % width).unique()) == width


@pytest.mark.parametrize(
    ("entropy", "distance", "down", "right", "shared", "said"),
    [
        (0.995, 4, 0, 0, 0.9, "averages"),
        (0.4, 3, 0, -2.5, 0.9, "looks left, 40 px."),
        (0.4, 3, 2, 2, 0.9, "looks down and right"),
        (0.4, 1, 0.1, 0, 0.9, "at its own surroundings, 16 px"),
        (0.4, 4, 0.5, 0, 0.9, "picks few places, in no one direction, 64 px"),
        (0.8, 4, 0.5, 0, 0.9, "spreads widely"),
        (0.1, 4, 2, -2, 0.3, "looks at the same few places from everywhere"),
    ],
)
def test_a_head_in_words(entropy, distance, down, right, shared, said):
    assert said in in_words(HeadStatistics("", 0, entropy, distance, down, right, (12, 12)), shared, (16, 16))


def test_a_head_that_looks_at_one_key_is_told_from_one_that_looks_to_a_side():
    layer = MHSA2d(4, 1, position="none", qkv_std=0.0)
    layer.qkv.weight.data[0] = layer.qkv.weight.data[4, 1] = 1.0  # every query is 1; channel 1 makes the key
    x = torch.ones(1, 4, 6, 6)
    x[0, 1] = 0
    x[0, 1, 0, 5] = 40
    with watch(layer) as seen, torch.no_grad():
        layer(x)
    assert block_of(seen[""], "auto").shared[0] < 0.2
    layer = MHSA2d(64, 4, max_size=(12, 12), start="directional")
    with watch(layer) as seen, torch.no_grad():
        layer(torch.randn(1, 64, 12, 12).relu())
    assert min(block_of(seen[""], "auto").shared) > 0.7


def test_the_receptive_field_of_a_convolution_is_its_kernel():
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
    found = receptive_fields(convolution, torch.rand(1, 3, 32, 32), 3)
    rows = array(found["rows"]).reshape(3, 3, 32, 32)
    assert rows.sum((2, 3)) == pytest.approx(np.ones((3, 3)), abs=1e-6)
    assert np.argwhere(rows[1, 1] > 0).min(0).tolist() == [15, 15]
    assert np.argwhere(rows[1, 1] > 0).max(0).tolist() == [17, 17]
    assert found["down"] == pytest.approx([1 / 64, 33 / 64, 63 / 64])
    assert 1 < found["side"] <= 3


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a <b>.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def compared(untrained, image, tmp_path_factory):
    """A detector beside a ResNet."""
    out = tmp_path_factory.mktemp("page") / "explore.html"
    options = {"img_size": 64, "threshold": 0.2}
    return explore(str(untrained), (str(image),), out=out, against="resnet14t", **options)


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_a_detector_beside_a_resnet(compared, untrained):
    data = data_of(compared.out)
    ours, theirs = data["images"][0]["views"]
    assert [block["kind"] for block in ours["blocks"] + theirs["blocks"]] == ["attention", "field", "field"]
    assert ours["frame"] == [0, 0, 64, 64]  # 64 × 48 px, padded below
    assert theirs["frame"] == [8, 0, 56, 48]
    assert ours["found"]
    assert all(one["label"] in {"cat", "dog", "cow"} and one["score"] >= 0.2 for one in ours["found"])
    assert compared.megabytes == pytest.approx(compared.out.stat().st_size / 1e6, abs=0.01)
    assert len(compared.sentences) == 4 + 2


def test_the_file_asks_for_nothing_and_no_name_ends_a_script(compared):
    text = compared.out.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import|fetch\(|XMLHttpRequest", text)
    assert "a <b>.png" not in text
    assert data_of(compared.out)["images"][0]["name"] == "a <b>.png"
    assert text.count("</script>") == 2
    assert "{{" not in text


def test_the_page_in_a_browser(compared, in_browser):
    found = in_browser(compared.out.read_text(), (Path(__file__).parent / "clicks.js").read_text())
    start, corner, moved, head, position, low, held, free, other, object_, block, theme, hidden, fits = found["said"]
    assert "of 4 × 4: most at row" in start
    assert corner.startswith("The heads' mean from row 1, column 1 of 4 × 4")
    assert "from row 1, column 2" in moved
    assert head.startswith("Head 2 from row 1, column 2")
    assert position.split(":")[0] == head.split(":")[0]
    assert low.endswith("%")
    assert held == position
    assert "from row 4, column 4" in free
    assert other.startswith("The last map's from row 32, column 32 of 32 × 32")  # the same place of the image, cut off
    assert re.match(r"Head 2 from (cat|dog|cow) 0\.\d\d: most at", object_)
    assert (block, hidden, fits, found["asked"]) == ("1", True, True, 0)
    assert theme in {"dark", "light"}
    assert found["label"].endswith("Arrow keys move the place.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["botnet14", "gone.jpg"], "no image at gone.jpg"),
        (["botnet14"], "missing IMAGES"),
        (["resnet14t", "{image}"], "resnet14t has no attention (no MHSA2d) to show; --field 8 shows"),
        (["botnet14", "{image}", "--img_size", "64", "--max_mb", "0.02"], "more than max_mb=0.02; give "),
        (["botnet14", "{image}", "--max_mb", "-3"], "max_mb=-3 must be above 0; e.g. 50"),
        (["botnt14", "{image}"], "unknown model 'botnt14'; did you mean botnet14"),
        (["gone.ckpt", "{image}"], "no checkpoint at gone.ckpt"),
        (["{image}", "{image}"], "is not a whole checkpoint"),
        (["botnet14", "{image}", "--out", "{folder}"], "is a folder; give a file as --out"),
        (["{untrained}", "{image}", "--options", "{start: directional}"], "are of a backbone by its name"),
        (["{untrained}", "{image}", "--against", "{other}"], "have different classes (cow, pig); compare models"),
        (["botnet14", "{image}", "--threshold", "2"], "threshold=2.0 must lie in 0 … 1"),
        (["{untrained}", "{image}", "--out", "other.ckpt"], "out=other.ckpt must end in .html: a page is written"),
    ],
)
def test_bad_input_is_one_line(arguments, said, untrained, image, tmp_path, monkeypatch, capsys):
    content = torch.load(untrained, weights_only=True)
    content["botvision"]["categories"][2] = [11, "pig"]
    torch.save(content, tmp_path / "other.ckpt")
    monkeypatch.chdir(tmp_path)
    names = {"{untrained}": untrained, "{image}": image, "{other}": "other.ckpt", "{folder}": tmp_path}
    try:
        code = main(["explore", *(str(names.get(argument, argument)) for argument in arguments)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("botvision: ")
    assert said in line
    assert not list(tmp_path.glob("*.html"))


def test_too_large_a_page_offers_a_smaller_one():
    with pytest.raises(
        ValueError, match=r"would take 40\.0 MB at 1024 px, .*=10; give --img_size 512, --dtype float16, "
    ):
        check_size(40, 10, img_size=1024, dtype="float32")


def test_several_images_and_the_size_first(image, tmp_path, capsys):
    out = tmp_path / "deep" / "e.html"
    assert main(["explore", "botnet14", str(image), str(image), "--img_size", "64", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert re.search(r"writing \d\.\d MB to .*e\.html \(q and k in float(16|32)", told.err)
    assert "layer4.0 head 1: This head averages" in told.out
    assert [one["name"] for one in data_of(out)["images"]] == ["a <b>.png"] * 2
    assert blocks.EXACT == 1e-6
