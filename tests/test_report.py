"""report.html: numbers, escaping, comparison, incomplete runs, refusals; in Chromium where there is one."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
import yaml

from botvision.cli import main
from botvision.engine.intervals import interval
from botvision.engine.record import read_record
from botvision.engine.settings import plain
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.report import report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
CLASSES = [(7, "cat"), (8, "<script>alert(1)</script>"), (11, "cow & co")]
APS = {0: 0.5, 1: 0.6, 2: 0.7}


@pytest.fixture(scope="module")
def truth(scenes, tmp_path_factory):
    """The scenes' validation images with three classes, two of which are told by hostile names."""
    document = json.loads((scenes / "annotations" / "val.json").read_text())
    for annotation in document["annotations"]:
        annotation["category_id"] = CLASSES[annotation["id"] % 3][0]
    document["categories"] = [{"id": number, "name": name} for number, name in CLASSES]
    path = tmp_path_factory.mktemp("truth") / "val.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def checkpoint(untrained, tmp_path_factory):
    content = torch.load(untrained, weights_only=True)
    content["botvision"]["categories"] = [list(one) for one in CLASSES]
    # surer: its first class is found everywhere
    content["state_dict"]["model.roi_heads.box_predictor.cls_score.bias"][1] += 3
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    torch.save(content, path)
    return path


def maker(scenes, truth, checkpoint, root):
    """A function that makes the folder of a run."""

    def run(name, *, seed=0, backbone="botnet14", ap=None, parts=("metrics", "summary", "checkpoint")):
        out = root / name
        out.mkdir()
        data = DataConfig(truth, scenes / "val", truth, scenes / "val", workers=0, on_bad="skip")
        groups = {"data": data, "model": ModelConfig(backbone, "nano", 64), "optim": OptimConfig(epochs=2)}
        config = {name: plain(asdict(group)) for name, group in groups.items()} | {"engine": {"seed": seed}}
        (out / "config.yaml").write_text(yaml.safe_dump(config))
        ap = APS[seed] if ap is None else ap
        if "metrics" in parts:
            lines = ["step,epoch,seconds,lr,train/loss,val/box_ap,val/attention_entropy/layer4.0.head0"]
            lines += ["1,0,1,0.1,3.5,,", "2,0,2,0.1,,0.25,0.9", "3,1,3,0.1,2.5,,", f"4,1,4,0.1,,{ap},0.8"]
            (out / "metrics.csv").write_text("\n".join(lines) + "\n")
        if "summary" in parts:
            summary = {"box_ap": ap, "mask_ap": ap / 2, "wall_seconds": 90, "epochs": 2, "seed": seed}
            (out / "summary.json").write_text(json.dumps({**summary, "hardware": "an abacus", "model": backbone}))
        if "checkpoint" in parts:
            (out / "checkpoints").mkdir()
            (out / "checkpoints" / "last.ckpt").symlink_to(checkpoint)
        return out

    return run


@pytest.fixture
def make(scenes, truth, checkpoint, tmp_path):
    return maker(scenes, truth, checkpoint, tmp_path)


def rows_of(text, section):
    """The tables' rows of a section as lists of texts."""
    part = re.search(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


@pytest.fixture(scope="module")
def page(scenes, truth, checkpoint, tmp_path_factory):
    out = maker(scenes, truth, checkpoint, tmp_path_factory.mktemp("one"))("mine")
    written = report((out,))
    assert written.out == out / "report.html"
    assert str(written).startswith(f"{out / 'report.html'}: ")
    return written.out.read_text()


def test_a_run_as_a_page(page):
    assert "<strong>0.500</strong><span>box AP</span>" in page
    assert "<strong>0.250</strong><span>mask AP</span>" in page
    assert "2 epochs in 1.5 min; figures by class and examples are of all 6 validation images" in page
    names = re.findall(r"<h2>(.*?)</h2>", page)
    assert names == [
        "Result", "Curves", "AP by class and size", "Precision and recall", "Confusion", "What costs AP", "Calibration",
        "Worst and best images", "Attention of the surest detections", "Attention heads over training",
        "Configuration, hardware, time",
    ]  # fmt: skip
    assert "an abacus" in page
    assert ["model.backbone", "botnet14"] in rows_of(page, "configuration--hardware--time")
    assert page.count("<h3>Worst: ") == 6


def test_the_matrix_counts_every_object(page, truth):
    _, *rows = rows_of(page, "confusion")
    counts = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in rows]
    document = json.loads(truth.read_text())
    there = [sum(one["category_id"] == number for one in document["annotations"]) for number, _ in CLASSES]
    assert [sum(row) for row in counts[:3]] == there
    assert [int(row[1]) for row in rows_of(page, "ap-by-class-and-size")[1:4]] == there


def test_hostile_names_are_text_and_nothing_is_asked_for(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "cow &amp; co" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\(|@import|fetch\(|XMLHttpRequest", page)
    assert len(page) < 3e6


def test_seeds_beside_a_baseline(make, tmp_path):
    ours = tuple(make(f"ours-{seed}", seed=seed) for seed in APS)
    others = tuple(make(f"res-{seed}", seed=seed, backbone="resnet14t", ap=APS[seed] - 0.1) for seed in APS)
    out = tmp_path / "both.html"
    text = report(ours, against=others, out=out).out.read_text()
    head, box, *_ = rows_of(text, "result")
    assert head == ["", "botnet14 (3 seeds)", "resnet14t (3 seeds)", "difference"]
    half = 4.302652729911275 * 0.1 / 3**0.5  # t of 97.5 % at two degrees of freedom
    assert interval(list(APS.values())).half == pytest.approx(half)
    assert box == ["box AP", f"0.600 ± {half:.3f}", f"0.500 ± {half:.3f}", "+0.100 ± 0.000 (above)"]
    assert ["model.backbone", *["botnet14"] * 3, *["resnet14t"] * 3] in rows_of(text, "configuration--hardware--time")
    assert "6 runs of a detector" in text


def test_folders_of_one_name_are_told_apart_and_other_images_are_told(make, scenes, tmp_path):
    for folder in ("lr1", "lr2"):
        (tmp_path / folder).mkdir()
    ours, other = make("lr1/seed0"), make("lr2/seed0", ap=0.25)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["optim"]["lr"] = 0.5
    document = json.loads((scenes / "annotations" / "val.json").read_text())
    document["images"] = [{**image, "id": image["id"] + 50} for image in document["images"]]
    for annotation in document["annotations"]:
        annotation |= {"image_id": annotation["image_id"] + 50, "category_id": CLASSES[annotation["id"] % 3][0]}
    document["categories"] = [{"id": number, "name": name} for number, name in CLASSES]
    (tmp_path / "other.json").write_text(json.dumps(document))
    config["data"]["val_annotations"] = str(tmp_path / "other.json")
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    text = report((ours,), against=(other,), out=tmp_path / "both.html").out.read_text()
    assert rows_of(text, "result")[0] == ["", "lr1/seed0", "lr2/seed0", "difference"]
    assert [row[0] for row in rows_of(text, "calibration")[1:3]] == ["lr1/seed0", "lr2/seed0"]
    assert "The runs were evaluated on different validation images" in text
    assert "<figcaption>lr2/seed0: " not in text  # it has not seen these images


def test_more_columns_than_dashes_have_panels_of_their_own(make, tmp_path):
    runs = tuple(make(f"run-{seed}", seed=seed, parts=("metrics",)) for seed in (0, 1))
    terms = [f"train/loss_{name}" for name in ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")]
    for run in runs:
        (run / "metrics.csv").write_text("\n".join([",".join(["step", *terms]), "1,1,2,3,4,5", "2,1,2,3,4,5", ""]))
    alone, both = (report(some, out=tmp_path / "r.html").out.read_text() for some in (runs[:1], runs))
    assert re.findall(r"<h3>(.*?)</h3>", alone) == ["parts of the loss"]
    assert re.findall(r"<h3>(.*?)</h3>", both) == terms


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "metrics.csv has no row yet"),
        (("metrics",), "has no checkpoint: the run ended before it saved one"),
        (("metrics", "checkpoint"), "the run has not ended"),
        (("checkpoint",), "Nothing was evaluated yet"),
    ],
)
def test_a_run_that_was_killed(make, parts, said):
    text = report((make("killed", parts=parts),)).out.read_text()
    if parts != ("checkpoint",):  # its model was looked at all the same
        assert said in text
    assert ("Worst: " in text) == ("checkpoint" in parts)
    assert "<strong>0.500</strong><span>box AP</span>" in text or "metrics" not in parts


def test_validation_images_that_are_gone_are_said(make, capsys):
    out = make("moved")
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["data"]["val_annotations"] = "gone/val.json"
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    text = report((out,)).out.read_text()
    assert "gone/val.json" in re.search(r'<p class="note">(.*?)</p>', text)[1]
    assert "is without examples and figures by class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["gone"], "gone is no folder; give the folder of a run"),
        (["empty"], "empty holds no config.yaml; give the folder of a run"),
        (["mine", "mine"], "is given twice"),
        (["mine", "same"], "are runs of the same options and the same seed 0; leave one out"),
        (["mine", "other"], "have different classes (<script>alert(1)</script>, pig)"),
        (["mine", "line"], "is a run of maskrcnn and "),
        (["mine", "--out", "empty"], "is a folder; give a file as --out"),
        (["torn"], "metrics.csv is no table of numbers"),
        (["mine", "--out", "notes.txt"], "out=notes.txt must end in .html"),
    ],
)
def test_bad_input_is_one_line(make, given, said, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make("mine"), make("same")
    other = make("other", seed=1)
    content = torch.load(checkpoint, weights_only=True)
    content["botvision"]["categories"][1][1] = "pig"
    (other / "checkpoints" / "last.ckpt").unlink()
    torch.save(content, other / "checkpoints" / "last.ckpt")
    (make("torn") / "metrics.csv").write_text("step,loss\n1,much\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "config.yaml").write_text("slope: 2\nengine: {seed: 0}\n")
    assert main(["report", *given]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("botvision: ")
    assert said in line
    assert not list(tmp_path.glob("**/*.html"))


def test_a_record_knows_runs_that_differ_by_their_seed(make):
    one, two, other = (read_record(make(name, seed=seed, backbone=backbone)) for name, seed, backbone in (
        ("a", 0, "botnet14"), ("b", 1, "botnet14"), ("c", 1, "resnet14t")))  # fmt: skip
    assert one.kind == two.kind != other.kind
    low = replace(one, config={**one.config, "engine": {"precision": "bf16-mixed"}})
    assert low.kind != one.kind
    several, seldom = (replace(one, config={**one.config, "engine": {**one.config["engine"], **own}}) for own in (
        {"devices": 8}, {"evaluate_every": 10}))  # fmt: skip
    assert several.kind != one.kind == seldom.kind
    best = [replace(run, config={**run.config, "optim": {"final": "best"}}) for run in (one, seldom)]
    assert best[0].kind != best[1].kind  # what is chosen among the evaluations
    assert (two.seed, two.model, two.last("train/loss"), two.checkpoint.name) == (1, "botnet14", 2.5, "last.ckpt")


CLICKS = """
addEventListener("load", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const before = ground();
  document.getElementById("theme").click();
  document.querySelector("details summary").click();
  const asked = performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length;
  const broken = [...document.images].filter((image) => !image.complete || !image.naturalWidth).length;
  const lead = (link) => document.querySelector(link.getAttribute("href"));
  const links = [...document.querySelectorAll("nav a")].filter((link) => !lead(link)).length;
  document.title = JSON.stringify({ asked, broken, links, turned: before !== ground(), pictures: document.images.length,
    fits: document.documentElement.scrollWidth <= innerWidth, open: document.querySelector("details").open,
    theme: document.documentElement.dataset.theme === (dark ? "light" : "dark") });
});
"""


def test_the_page_in_a_browser(page, in_browser):
    found = in_browser(page, CLICKS)
    assert found.pop("pictures") >= 12
    assert found == {"asked": 0, "broken": 0, "links": 0, "turned": True, "fits": True, "open": True, "theme": True}
