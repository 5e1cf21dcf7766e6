"""report.html of ultralytics' runs: figures of known detections, a trained run's page, baselines, refusals."""

import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from ultralytics.engine.results import Results

from botvision.cli import main as core
from botvision_yolo import YOLO
from botvision_yolo.cli import main
from botvision_yolo.report import YoloReporter, read_run, seconds_of
from botvision_yolo.report import report as write


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, small):
    """One epoch of a variant that segments, made once; tests copy it."""
    out = tmp_path_factory.mktemp("runs")
    YOLO("yolo11n-botnet-seg.yaml").train(data=data, epochs=1, project=str(out), name="one", **small)
    return out / "one"


@pytest.fixture
def copied(run, tmp_path):
    """A function that copies the run with other arguments."""

    def copy(folder, **arguments):
        shutil.copytree(run, tmp_path / folder, ignore=shutil.ignore_patterns("report.html"))
        path = tmp_path / folder / "args.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **arguments}))
        return tmp_path / folder

    return copy


def rows_of(text, section):
    """The tables' rows of a section as lists of texts."""
    part = re.search(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_a_run_as_a_page(run, data):
    written = write(str(run))
    assert written.out == run / "report.html"
    text = written.out.read_text()
    head, values = ([cell.strip() for cell in line.split(",")] for line in (run / "results.csv").read_text().split())
    row = dict(zip(head, map(float, values), strict=True))
    assert f"<strong>{row['metrics/mAP50-95(B)']:.3f}</strong><span>box mAP50-95</span>" in text
    assert f"<strong>{row['metrics/mAP50-95(M)']:.3f}</strong><span>mask mAP50-95</span>" in text
    names = re.findall(r"<h2>(.*?)</h2>", text)
    assert names[:7] == [
        "Result", "Curves", "AP by class and size", "Precision and recall", "Confusion", "What costs AP", "Calibration",
    ]  # fmt: skip
    assert names[7:] == [
        "Worst and best images", "Attention of the surest detections", "Attention heads over training",
        "Configuration, hardware, time",
    ]  # fmt: skip
    assert "yolo11n-botnet-seg YOLO, 1 epoch in" in text
    assert "figures by class and examples are of all 8 validation images" in text
    heads = [name for name in head if name.startswith("attention/entropy/")]
    assert heads == [f"attention/entropy/8.m.0.m.{layer}.head{number}" for layer in (0, 1) for number in (0, 1)]
    titles = re.findall(r"<h3>(.*?)</h3>", text[: text.index('id="ap-by-class-and-size"')])
    assert titles[:4] == ["box loss", "seg loss", "cls loss", "dfl loss"]
    section = text[text.index('id="attention-heads-over-training"') :]
    assert section.count('<g class="line"') == 2 * len(heads)  # entropy and distance
    assert ["imgsz", "64"] in rows_of(text, "configuration--hardware--time")
    labels = "\n".join(path.read_text() for path in (data.parent / "labels" / "val").iterdir())
    there = [len(re.findall(rf"^{number} ", labels, re.MULTILINE)) for number in range(10)]
    assert [int(row[1]) for row in rows_of(text, "ap-by-class-and-size")[1:11]] == there


def truth(data):
    """A function in `predict`'s place that finds what the labels of the image say."""
    names = yaml.safe_load(data.read_text())["names"]
    shown = {}
    for path in sorted((data.parent / "images" / "val").iterdir()):
        lines = (data.parent / "labels" / "val" / f"{path.stem}.txt").read_text().split("\n")
        shown[np.asarray(Image.open(path)).tobytes()] = [line.split() for line in lines if line]

    def predict(self, pixels, **options):
        boxes, masks = [], []
        for kind, *places in shown[pixels[..., ::-1].tobytes()]:
            points = np.array(places, float).reshape(-1, 2) * pixels.shape[1::-1]
            boxes.append([*points.min(0), *points.max(0), 0.9, int(kind)])
            masks.append(cv2.fillPoly(np.zeros(pixels.shape[:2], np.float32), [np.int32(np.round(points - 0.5))], 1))
        found = {"boxes": torch.tensor(boxes).reshape(-1, 6), "masks": torch.from_numpy(np.stack(masks))}
        assert options["retina_masks"]
        return [Results(pixels, "", names, **found)]

    return predict


def test_detections_that_are_the_labels_are_all_right(run, data, monkeypatch):
    monkeypatch.setattr(YOLO, "predict", truth(data))
    record = read_run(run)
    reporter = YoloReporter({})
    found = reporter.analyse(record, record.checkpoint, device=torch.device("cpu"), seconds=None)
    assert found.box.ap() == pytest.approx(1)
    assert found.mask.ap(overlap=0.5) > 0.9  # COCO fills polygons of a few pixels otherwise than OpenCV does
    assert (found.recall, found.precision) == (1, 1)
    counts = found.confusion
    assert counts.trace() == counts.sum() == sum(map(len, found.objects))
    assert reporter.classes(record.checkpoint) == found.names == [str(number) for number in range(10)]


def test_boxes_are_those_that_ultralytics_evaluates(data, tmp_path, small):
    """With several classes for a box; of objects with masks `predict` leaves out those whose mask is empty."""
    YOLO("yolo11n-insert.yaml").train(data=data, epochs=1, project=str(tmp_path), name="one", **small)
    record = read_run(tmp_path / "one")
    found = YoloReporter({}).analyse(record, record.checkpoint, device=torch.device("cpu"), seconds=None).found
    YOLO(record.checkpoint).val(data=data, project=str(tmp_path), name="val", save_json=True, rect=False, **small)
    theirs = json.loads((tmp_path / "val" / "predictions.json").read_text())
    assert len(theirs) > 8
    results = [result for own in found for result in own]
    ours, theirs = (sorted([one["category_id"], one["score"]] for one in every) for every in (results, theirs))
    assert np.array(ours) == pytest.approx(np.array(theirs), abs=2e-5)


def test_seeds_beside_a_baseline(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = [copied(f"a{seed}", seed=seed) for seed in (0, 1)]
    others = [copied(f"b{seed}", seed=seed, model="yolo11n-seg.yaml", name=f"b{seed}") for seed in (0, 1)]
    assert main(["report", *map(str, ours), f"against={','.join(map(str, others))}", "out=both.html"]) == 0
    text = (tmp_path / "both.html").read_text()
    head, box, *_ = rows_of(text, "result")
    assert head == ["", "yolo11n-botnet-seg (2 seeds)", "yolo11n-seg (2 seeds)", "difference"]
    assert box[0] == "box mAP50-95"
    assert box[3].startswith("+0.000")
    assert ["model", *["yolo11n-botnet-seg.yaml"] * 2, *["yolo11n-seg.yaml"] * 2] in [
        [cell.rsplit("/", 1)[-1] for cell in row] for row in rows_of(text, "configuration--hardware--time")
    ]


def test_a_run_of_compare_is_found_and_named(run, tmp_path):
    seed = tmp_path / "detect" / "yolo11n-botnet" / "seed0"
    shutil.copytree(run, seed / "train")
    (seed / "result.json").write_text("{}")
    record = read_run(seed)
    assert (record.path, record.name) == (seed / "train", "yolo11n-botnet/seed0")
    assert read_run(seed / "train").name == record.name
    assert record.checkpoint == seed / "train" / "weights" / "best.pt"


def test_the_best_epoch_and_the_time_of_a_run_that_was_resumed(copied):
    out = copied("resumed", epochs=9)
    lines = ["epoch,time,metrics/mAP50-95(B)", "1,10,0.1", "2,20,0.3", "3,12,0.2", "4,24,0.25"]
    text = "\n".join(lines) + "\n"
    (out / "results.csv").write_text(text)
    assert read_run(out).summary == {"box_ap": 0.3, "epochs": "4 of 9", "seed": 0, "wall_seconds": 44}
    assert seconds_of([]) == 0
    for odd in ("5,3", "5,36,0.9", "5,36,1e"):  # a line that a kill has cut off may be any
        (out / "results.csv").write_text(text + odd)
        assert read_run(out).summary["box_ap"] == 0.3
    resumed = text.replace("1,10,0.1", "1,10,nan") + "4,36,0.26\n"  # no number, an epoch that was done again
    for joined in ("3,1" + "3,12,0.2\n", "2" + "3,12,0.2\n"):  # two lines in one
        (out / "results.csv").write_text(resumed.replace("4,24,0.25\n", "4,24,0.25\n" + joined))
        assert read_run(out).summary["box_ap"] == 0.3
        assert [row["epoch"] for row in read_run(out).rows] == [1, 2, 3, 4]
        assert read_run(out).rows[-1]["time"] == 36
    (out / "results.csv").write_text(text)
    (out / "args.yaml").write_text("{val: false, epochs: 4}")  # the others' zeros are of no evaluation
    assert read_run(out).rows[:2] == ({"epoch": 1, "time": 10}, {"epoch": 2, "time": 20})
    assert read_run(out).summary["box_ap"] == 0.25


def test_a_botified_model_is_another_kind_than_the_one_it_was(copied, monkeypatch):
    """Its run bears the name of the file that it was made of."""
    plain, other, same = (read_run(copied(name, model="yolo11n.pt")) for name in ("plain", "other", "same"))
    ours = [-1, 1, "MHSA2d", []]
    rows = {plain.path: [[-1, 1, "Conv", []]], other.path: [ours], same.path: [[-1, 1, "Conv", []]]}

    def opened(path):
        return SimpleNamespace(model=SimpleNamespace(yaml={"backbone": rows[path.parents[1]], "head": []}))

    monkeypatch.setattr("botvision_yolo.report.opened", opened)
    assert plain.kind == same.kind != other.kind


def test_what_is_missing_is_said(copied, capsys):
    torn = copied("torn")
    (torn / "weights" / "best.pt").write_bytes((torn / "weights" / "best.pt").read_bytes()[:5000])
    text = write(str(torn)).out.read_text()
    assert "best.pt cannot be opened" in re.search(r'<p class="note">(.*?)</p>', text)[1]
    assert "<h2>Curves</h2>" in text
    moved = copied("moved", data="gone/data.yaml")
    assert "gone/data.yaml" in write(str(moved)).out.read_text()
    killed = copied("killed")
    shutil.rmtree(killed / "weights")
    (killed / "results.csv").unlink()
    text = write(str(killed)).out.read_text()
    assert "results.csv has no row yet" in text
    assert "has no checkpoint" in text
    assert "is without examples and figures by class" in capsys.readouterr().err


def test_a_task_without_figures_says_so(run, monkeypatch):
    monkeypatch.setattr("botvision_yolo.report.opened", lambda _: SimpleNamespace(task="pose"))
    record = read_run(run)
    with pytest.raises(ValueError, match=r"is a run of pose: figures by class and examples are made of detect, segm"):
        YoloReporter({}).analyse(record, record.checkpoint, device=torch.device("cpu"), seconds=None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "report needs at least one run"),
        (["gone"], "gone is no folder; give the folder of a run of ultralytics"),
        (["empty"], "empty holds no args.yaml; give the folder of a run of ultralytics"),
        (["ours"], "ours holds no args.yaml; botvision report ours reports runs of botvision"),
        (["one", "one"], "is given twice"),
        (["one", "against=same"], "are runs of the same options and the same seed 0"),
        (["one", "out=empty"], "empty is a folder; give a file"),
        (["lines"], "args.yaml is no run's"),
        (["one", "device=quatsch"], "accelerator='quatsch' is unknown; use auto, cpu or gpu"),
        pytest.param(
            ["one", "device=9"],
            "accelerator='cuda:9' is not there",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU"),
        ),
    ],
)
def test_bad_input_is_one_line(words, said, copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copied("one", name="one"), copied("same", name="same")
    for name, file, text in (("empty", "x", ""), ("ours", "config.yaml", "{}"), ("lines", "args.yaml", "- a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    assert main(["report", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("bot-yolo: ")
    assert said in line
    assert not list(tmp_path.glob("**/*.html"))


def test_the_core_points_here(copied, capsys):
    out = copied("theirs")
    assert core(["report", str(out)]) == 2
    assert f"{out} is a run of ultralytics; bot-yolo report {out} (of botvision-yolo)" in capsys.readouterr().err
