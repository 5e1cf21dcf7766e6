"""Processes share images to classify and to evaluate on; the last to end writes what one would have."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from botvision.classify import evaluate, predict, prediction
from botvision.classify.config import ModelConfig
from botvision.classify.model import build_model, describe
from botvision.digits import make_digits
from botvision.engine.config import DeviceConfig
from botvision.engine.journal import claim
from botvision.engine.shared_results import SharedResults
from botvision.engine.stopping import Notice, Stopped

CPU = DeviceConfig("cpu")
TIMES = {"per_second", "latency_ms"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small classifier of ten classes with random weights."""
    torch.manual_seed(0)
    config = ModelConfig("botnet14", img_size=32, options={"channels": [8, 16, 32, 64]})
    model = build_model(config, 10)
    path = tmp_path_factory.mktemp("untrained") / "last.ckpt"
    about = describe(config, [str(digit) for digit in range(10)], model, crop=1.0)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "botvision": about}, path)
    return path


@pytest.fixture
def images(tmp_path):
    """Twenty-one images in ten class folders, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for number in range(21):
        folder = tmp_path / "images" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 32, 3), np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "images" / "3" / "13.png").write_bytes(b"no image")
    return tmp_path / "images"


def test_the_last_process_writes_the_predictions_of_all(checkpoint, images, tmp_path):
    alone = predict(checkpoint, str(images / "**" / "*"), out=tmp_path / "one", engine=CPU)
    assert (len(alone.predictions), len(alone.skipped)) == (20, 1)
    given = {"out": tmp_path / "three", "engine": CPU, "on_existing": "resume"}
    parts = [predict(checkpoint, str(images / "**" / "*"), part=f"{number}/3", **given) for number in (1, 2, 0)]
    assert [part.left for part in parts] == [14, 7, 0]
    assert "other processes have 14 images to do, and the last of them writes the results of all" in str(parts[0])
    assert parts[2].predictions == alone.predictions
    for name in ("predictions.json", "sheet.jpg"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    with pytest.raises(ValueError, match="are there already and would be overwritten"):
        predict(checkpoint, str(images / "**" / "*"), part="0/3", **given | {"on_existing": "refuse"})
    with pytest.raises(ValueError, match=r"begun with other settings \(top 5\)"):
        predict(checkpoint, str(images / "**" / "*"), part="0/3", top=2, **given)


def test_a_stopped_process_part_is_taken_up_again_by_itself_or_by_others(checkpoint, images, tmp_path, monkeypatch):
    predict(checkpoint, str(images / "**" / "*"), out=tmp_path / "one", engine=CPU)
    check, calls = prediction.check_signal, []

    def stopped(notice, journal):
        calls.append(1)
        check(Notice(signal.SIGTERM) if len(calls) == 5 else notice, journal)

    monkeypatch.setattr(prediction, "check_signal", stopped)
    for number, takes_up in enumerate((["1/2"], [None], ["0/3", "1/3", "2/3"])):
        calls.clear()
        given = {"out": tmp_path / f"two{number}", "engine": CPU, "on_existing": "resume"}
        with pytest.raises(Stopped, match=r"stopped by SIGTERM with [45] images done, .*--on_existing resume goes on"):
            predict(checkpoint, str(images / "**" / "*"), part="1/2", **given)
        with (given["out"] / "predictions.1-of-2.jsonl").open("a") as journal:
            journal.write('{"file_name": "3/3.p')  # by a kill
        predict(checkpoint, str(images / "**" / "*"), part="0/2", **given)
        assert not (given["out"] / "predictions.json").exists()
        for part in takes_up:
            predict(checkpoint, str(images / "**" / "*"), part=part, **given)
        assert len(calls) <= 22  # each image once; what cannot be read may be tried again
        one, two = ((folder / "predictions.json").read_text() for folder in (tmp_path / "one", given["out"]))
        assert one == two


def figures(out):
    """What an evaluation has written, but for the times that it took."""
    rows = json.loads((out / "metrics.json").read_text())
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.mark.parametrize("kind", ["folders", "shards"])
def test_the_last_process_counts_the_evaluation_of_all(checkpoint, images, tmp_path, monkeypatch, few_digits, kind):
    """Of a part that was killed, only what it had left is done again; at each size."""
    if kind == "shards":
        make_digits(tmp_path / "d", size=32, shards=2)
        images = tmp_path / "d" / "val.json"
    given = {"img_size": (32, 48), "workers": 0, "engine": CPU, "batch_size": 32 if kind == "shards" else 2}
    alone = evaluate(checkpoint, str(images), out=tmp_path / "one", **given)
    add, calls = SharedResults.add, []

    def killed(self, name, **found):
        calls.append(name)
        add(self, name, **found)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SharedResults, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, str(images), out=tmp_path / "two", part="1/2", **given)
    first = evaluate(checkpoint, str(images), out=tmp_path / "two", part="0/2", **given)
    assert "other processes have" in str(first)
    assert (first.images, first.left) == ((112, 112 - 56) if kind == "shards" else (22, 42 - 22 - 4))
    both = evaluate(checkpoint, str(images), out=tmp_path / "two", part="1/2", **given)
    assert len(calls) == len(set(calls)) == 2 * (4 if kind == "shards" else 6 + 5)
    assert figures(tmp_path / "one") == figures(tmp_path / "two")
    for one, two in zip(alone.rows, both.rows, strict=True):
        assert torch.equal(one.confusion, two.confusion)
        assert sorted(one.skipped) == sorted(two.skipped)
        name = f"confusion-{one.size}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_real_labels_of_two_processes_are_those_of_one(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / "val" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8))
        image.save(folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG", "JPEG")
    real = tmp_path / "real.json"
    real.write_text(json.dumps([rng.choice(10, 4).tolist() for _ in range(20)]))
    given = {"real_labels": real, "workers": 0, "engine": CPU, "batch_size": 4}
    alone = evaluate(checkpoint, str(tmp_path / "val"), **given)
    for number in range(2):
        both = evaluate(checkpoint, str(tmp_path / "val"), out=tmp_path / "two", part=f"{number}/2", **given)
    assert both.rows[0].real_top1 == alone.rows[0].real_top1 > 0


def test_what_cannot_be_shared_is_refused(checkpoint, images, tmp_path):
    with pytest.raises(ValueError, match=r"part 0/2 is put together by the files of a folder; give --out"):
        evaluate(checkpoint, str(images), part="0/2", workers=0)
    with pytest.raises(ValueError, match="has 21 images, fewer than 22 devices; start fewer processes"):
        evaluate(checkpoint, str(images), part="0/22", workers=0, out=tmp_path / "out")
    with pytest.raises(ValueError, match="part='2/2' must be a number from 0 and their count"):
        predict(checkpoint, str(images / "**" / "*"), part="2/2", out=tmp_path / "out")


@pytest.mark.parametrize("on_existing", ["resume", "replace"])
def test_lines_that_another_process_writes_are_an_error_and_no_unreadable_images(
    checkpoint, images, tmp_path, on_existing
):
    given = {"out": tmp_path / "out", "engine": CPU}
    predict(checkpoint, str(images / "0"), **given)
    path = tmp_path / "out" / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    with path.open("a") as other:
        claim(other, path)
        with pytest.raises(ValueError, match=r"another process is writing .*; give each its own --part"):
            predict(checkpoint, str(images / "0"), on_existing=on_existing, **given)
    assert path.read_text() == "".join(lines[:2])


def test_where_nothing_can_be_read_an_earlier_prediction_is_not_handed_out_again(checkpoint, images, tmp_path):
    given = {"out": tmp_path / "out", "engine": CPU}
    predict(checkpoint, str(images / "1"), **given)
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    for path in (images / "1").iterdir():
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="none of 2 images could be read"):
        predict(checkpoint, str(images / "1"), on_existing="replace", **given)
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_the_sheet_replaces_no_image_and_is_none_the_next_time(checkpoint, images, tmp_path):
    sheet = images / "2" / "sheet.jpg"
    Image.new("RGB", (40, 32)).save(sheet)
    before = sheet.read_bytes()
    with pytest.raises(ValueError, match=r"sheet\.jpg would replace the image itself; give another --out"):
        predict(checkpoint, str(images / "2"), out=images / "2", on_existing="replace", engine=CPU)
    assert sheet.read_bytes() == before
    with pytest.raises(ValueError, match="would be taken for an image the next time"):
        predict(checkpoint, str(images / "4"), out=images / "4", engine=CPU)
    for on_existing in ("refuse", "replace"):
        found = predict(checkpoint, str(images / "**" / "*"), out=images / "found", on_existing=on_existing, engine=CPU)
        assert (len(found.predictions), len(found.skipped)) == (21, 1)


def test_an_evaluation_that_cannot_be_written_is_not_begun(checkpoint, images, tmp_path):
    with pytest.raises(ValueError, match="nothing can be written into"):
        evaluate(checkpoint, str(images), out=checkpoint / "x", engine=CPU)
    with pytest.raises(ValueError, match="workers=-1 must be at least 0"):
        evaluate(checkpoint, str(images), workers=-1, engine=CPU)
