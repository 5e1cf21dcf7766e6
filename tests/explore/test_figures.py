"""`botvision draw`: images for papers, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from botvision.cli import main
from botvision.draw.instances import save_image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SMALL = ["--img_size", "64"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(path)
    return str(path)


def test_attention_and_tables_are_drawn(untrained, image, tmp_path, monkeypatch):
    monkeypatch.setattr("botvision.explore.figures.STEPS", 3)
    for command, name in (("attention", "a.png"), ("attention", "a.gif"), ("tables", "t.svg")):
        out = tmp_path / name
        assert main(["draw", command, str(untrained), image, "--out", str(out)]) == 0
        assert out.stat().st_size > 2000
    assert Image.open(tmp_path / "a.gif").n_frames == 3
    assert Image.open(tmp_path / "a.png").size[0] > 800  # the image and four heads
    assert (tmp_path / "t.svg").read_text().count("<image") >= 4


def test_objects_and_curves_are_drawn(untrained, image, tmp_path):
    assert (
        main(["draw", "instances", str(untrained), image, "--threshold", "0.2", "--out", str(tmp_path / "i.jpg")]) == 0
    )
    assert Image.open(tmp_path / "i.jpg").size[0] >= 640
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/box_ap\n1,2.0,\n2,1.5,0.1\n")
    assert main(["draw", "curves", str(tmp_path), "--out", str(tmp_path / "c.svg")]) == 0
    assert "<svg" in (tmp_path / "c.svg").read_text()
    (tmp_path / "metrics.csv").write_text("step\n")  # a run that has not evaluated: an older picture is not its own
    assert main(["draw", "curves", str(tmp_path), "--out", str(tmp_path / "c.svg")]) == 2


def test_a_drawing_that_is_too_long_for_jpeg_is_smaller(tmp_path):
    save_image(np.zeros((40, 66_000, 3), np.uint8), tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").size[0] == 65_500


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["attention", "botnet14", "{image}", "--out", "a.jpg"], "out=a.jpg must end in .png, .svg, .pdf, .gif"),
        (["attention", "resnet14t", "{image}", *SMALL], "resnet14t has no attention"),
        (["attention", "botnet14", "{image}", "--at", "2", "0"], "at=2 0 must be shares"),
        (["tables", "botnet14", "{image}", *SMALL, "--options", "{position: none}"], "no position tables to draw"),
        (
            ["attention", "botnet14", "{image}", *SMALL, "--part", "content", "--options", "{position: none}"],
            "one part",
        ),
        (["curves", "gone"], "no metrics.csv in gone"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(arguments, said, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", *(argument.replace("{image}", image) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
