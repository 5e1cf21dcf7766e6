"""The demo: scenes as ultralytics reads them, and runs that are repeated by nobody."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from ultralytics.data import YOLODataset
from ultralytics.utils import YAML

from botvision_yolo.compare import Run, compare, summary
from botvision_yolo.scenes import polygon, scenes
from botvision_yolo.table import table
from botvision_yolo.variants import write_yaml


def drawn(outline, size):
    canvas = np.zeros(size, np.uint8)
    points = np.round(outline * (size[1], size[0]) - 0.5).astype(np.int32)
    return cv2.fillPoly(canvas, [points], 1)


def test_a_polygon_is_the_mask_even_in_two_parts():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 8:30] = 1
    mask[25:35, 40:55] = 1
    again = drawn(polygon(mask), mask.shape)
    assert (again & mask).sum() / (again | mask).sum() > 0.95


def test_a_line_of_pixels_becomes_its_box():
    mask = np.zeros((10, 10), np.uint8)
    mask[4, 2:4] = 1
    assert np.allclose(polygon(mask), [[0.2, 0.4], [0.4, 0.4], [0.4, 0.5], [0.2, 0.5]])


def test_ultralytics_reads_every_label(data):
    content = YAML.load(data)
    read = YOLODataset(img_path=str(data.parent / "images/train"), imgsz=64, data={**content, "nc": 10}, task="segment")
    assert len(read.labels) == 16
    assert all(len(label["cls"]) == len(label["segments"]) > 0 for label in read.labels)


def test_scenes_are_made_once(data):
    assert "already" in scenes(data.parent, train=16, val=8, size=64)
    with pytest.raises(ValueError, match=r"holds something else"):
        scenes(data.parent, train=17, val=8, size=64)


def test_a_comparison_goes_on_where_it_stopped(data, tmp_path, monkeypatch, capsys):
    import botvision_yolo.compare as room

    monkeypatch.setitem(room.RECIPE, "imgsz", 64)
    options = {"models": "yolo11n,yolo11n-botnet", "tasks": "segment", "seeds": 1, "epochs": 1, "out": tmp_path / "out"}
    text = compare(data, **options)
    assert "| segment | yolo11n-botnet | 2.7" in text
    assert (tmp_path / "out" / "summary.png").stat().st_size > 5000
    report = tmp_path / "out" / "segment" / "report.html"
    page = report.read_text()
    assert "<h1>Report of yolo11n-botnet-seg and yolo11n-seg</h1>" in page
    assert '<th scope="col">difference</th>' in page
    monkeypatch.setattr(room.YOLO, "train", None)  # nothing is trained again
    monkeypatch.setattr("botvision_yolo.report.write_report", None)  # nor is the page made again
    assert compare(data, **options) == text
    assert report.read_text() == page
    report.unlink()
    assert compare(data, **options) == text  # a report that cannot be made is a warning
    shown = json.loads((tmp_path / "out" / "segment" / "report.json").read_text())
    assert shown == ["yolo11n/seed0", "yolo11n-botnet/seed0"]
    assert "report.html could not be made ('NoneType' object is not callable)" in capsys.readouterr().err
    [result] = (tmp_path / "out").rglob("yolo11n-botnet/seed0/result.json")
    content = json.loads(result.read_text())
    assert set(content["run"]["entropy"]) == {"1"}  # the first step, and the last: the only one
    assert all(len(heads) == 4 and 0.9 < min(heads) <= 1 for heads in content["run"]["entropy"].values())
    assert "| segment | yolo11n-botnet | 0.99" in text or "| segment | yolo11n-botnet | 1.00" in text
    assert set(content["run"]["metrics"]) == {"box", "mask"}
    with pytest.raises(ValueError, match=r"was trained by another recipe; give another out"):
        compare(data, **{**options, "epochs": 2})
    monkeypatch.setattr("ultralytics.__version__", "8.9.9")
    with pytest.raises(ValueError, match=r"was trained by another ultralytics; give another out"):
        compare(data, **options)


def test_the_summary_counts_differences_seed_by_seed():
    runs = [Run("detect", m, s, {"box": v}, 1_000_000, 10.0) for m, s, v in
            [("a", 0, 0.5), ("b", 0, 0.6), ("a", 1, 0.7), ("b", 1, 0.6)]]  # fmt: skip
    lines = summary(runs, epochs=1).splitlines()
    assert lines[2] == "| detect | a | 1.000 | box mAP50-95 | 0.600 | 0.500, 0.700 |  | 10 |"
    assert lines[3] == "| detect | b | 1.000 | box mAP50-95 | 0.600 | 0.600, 0.600 | +0.000 (+0.100, -0.100) | 10 |"


def test_the_table_of_variants(tmp_path, monkeypatch, capsys):
    """A file of the user's own by a variant's name is what a training would open, and so what is counted."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(write_yaml("yolo11n-insert.yaml"), "yolo11n-c2bot.yaml")
    text = table(scales="n", rounds=0, out=tmp_path / "table.md")
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.startswith("| yolo")}
    assert "| yolo11n | 2.624 | 6.5" in rows["yolo11n"]
    assert "| 499 of 507 | 198 | yes |" in rows["yolo11n-mhsa"]
    assert "| no |" in rows["yolo11n-botnet"]
    assert rows["yolo11n-c2bot"].split("|")[2:] == rows["yolo11n-insert"].split("|")[2:]
    assert "yolo11n-c2bot: your own file " in capsys.readouterr().err
    assert torch.is_grad_enabled()
    assert "- yolo11n-insert: entropy / log N of its heads at the start 1.0000, 1.0000, 1.0000, 1.0000" in text
    assert "- yolo11n:" not in text
    assert json.loads((tmp_path / "table.json").read_text())["lines"][0]["parameters"] == 2_624_080
