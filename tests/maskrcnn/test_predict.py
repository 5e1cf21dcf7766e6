"""Predictions as people expect them: any image, many images, videos, cameras; stopped, resumed, in three formats."""

import csv
import gc
import json
import signal
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image

import botvision
from botvision.cli import main
from botvision.engine.journal import Journal
from botvision.engine.sharing import Part, own_part
from botvision.engine.stopping import Stopped
from botvision.maskrcnn import predict, streaming
from botvision.maskrcnn.checkpoint import Detector, build_model
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.config import ModelConfig
from botvision.maskrcnn.prediction import Predictor
from botvision.maskrcnn.results import image_results, to_supervision
from botvision.maskrcnn.task import draw_examples
from botvision.video import read_video, video_writer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CATEGORIES = [Category(7, "cat"), Category(8, "dog"), Category(11, "cow")]


@pytest.fixture(scope="module")
def predictor(untrained):
    return Predictor.load(untrained, threshold=0.25, batch_size=4, accelerator="cpu")


@pytest.fixture
def photos(tmp_path):
    """Eleven images of several sizes, one of them no image."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(10):
        image = random.integers(0, 255, (40 + number, 60, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mp4"
    with video_writer(path, rate=25) as writer:
        for number in range(9):
            writer.write(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8), number / 25)
    return path


@pytest.fixture
def found(monkeypatch):
    """In the place of the model: a cat that moves, and a dog that fades away."""
    seen = []

    def find(self, images, *, threshold=None):
        lowest, results = self.threshold if threshold is None else threshold, []
        for image in images:
            n = len(seen)
            seen.append(image)
            scores = torch.tensor([0.95, 0.95 if n < 5 else 0.2])
            boxes = torch.tensor([[2.0 + n, 5, 15 + n, 25], [40.0 - n, 20, 60 - n, 40]])
            keep = scores >= lowest
            every = {
                "boxes": boxes,
                "labels": torch.tensor([1, 2]),
                "scores": scores,
                "mask_probs": torch.ones(2, 28, 28),
            }
            results.append({name: value[keep] for name, value in every.items()})
        return results

    monkeypatch.setattr(Predictor, "find", find)
    return seen


@pytest.fixture
def quick(monkeypatch):
    """In the place of the model: a box an image, as high as it is."""

    def find(self, images, **_):
        return [
            {
                "boxes": torch.tensor([[1.0, 1, 30, image.shape[1] - 1]]),
                "labels": torch.tensor([1]),
                "scores": torch.tensor([image.shape[1] / 100]),
                "mask_probs": torch.ones(1, 28, 28),
            }
            for image in images
        ]

    monkeypatch.setattr(Predictor, "find", find)


def lines(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def same(one, other):
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.xyxy, other.xyxy, atol=1e-3)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-5)
    assert (one.class_id == other.class_id).all()
    assert (one.mask != other.mask).mean() < 1e-4


def test_a_predictor_takes_one_image_or_many(predictor, photos):
    assert botvision.Predictor is Predictor
    paths = sorted(photos.glob("*.png"))[:5]
    with Image.open(paths[2]) as image:
        mixed = [paths[0], str(paths[1]), image.copy(), np.array(Image.open(paths[3]))]
    tensor = torch.from_numpy(np.array(Image.open(paths[4]))).permute(2, 0, 1)
    many = predictor([*mixed, tensor / 255])
    assert [type(found) for found in many] == [sv.Detections] * 5
    for path, found in zip(paths, many, strict=True):
        same(predictor(path), found)
    batch = predictor(torch.stack([tensor, tensor.flip(2)]))
    same(batch[0], many[4])
    assert len(batch) == 2
    assert predictor([]) == []
    with pytest.raises(TypeError, match="an image is a path, an http"):
        predictor([paths[0], None])
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        Predictor(predictor.detector, predictor.device, batch_size=0)


def test_free_sizes_in_a_batch_are_found_as_alone():
    """Images of a batch are padded to its largest, which attention sees."""
    torch.manual_seed(0)
    config = ModelConfig("botnet14", "nano", (48, 128), backbone_options={"channels": [16, 32, 64, 128]})
    predictor = Predictor(Detector(build_model(config, 3).eval(), CATEGORIES), torch.device("cpu"), 0.25)
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in ((48, 48), (48, 120), (50, 50))]
    for image, found in zip(images, predictor(images), strict=True):
        same(predictor(image), found)


def test_a_folder_is_predicted_in_batches_and_formats(untrained, photos, tmp_path, capsys):
    out = tmp_path / "out"
    done = predict(untrained, str(photos), out=out, threshold=0.25, batch_size=4)
    assert (done.images, len(done.skipped)) == (10, 1)
    assert "cannot read image" in capsys.readouterr().err
    results = json.loads((out / "predictions.json").read_text())
    assert len(results) == done.objects > 10
    assert {path.stem for path in out.glob("*.jpg")} == {str(number) for number in range(10)}
    assert [line["image_id"] for line in lines(out) if "objects" in line] == list(range(1, 11))
    assert main(["maskrcnn", "predict", str(untrained), str(photos), "--out", str(out), "--threshold", "0.25",
                 "--format", "csv", "--on_existing", "resume"]) == 0  # fmt: skip
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert [float(row["score"]) for row in rows] == [result["score"] for result in results]
    first, row = results[0], rows[0]
    assert [float(row[side]) for side in ("x", "y", "width", "height")] == first["bbox"]
    assert (row["category"], row["rle"]) == ("cat", first["segmentation"]["counts"]) or row["category_id"] != "7"
    assert [int(row["image_height"]), int(row["image_width"])] == first["segmentation"]["size"]


def test_parquet_is_the_same_table(untrained, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    given = {"out": tmp_path / "out", "threshold": 0.25, "draw": False}
    predict(untrained, str(photos), format="csv", **given)
    predict(untrained, str(photos), format="parquet", on_existing="resume", **given)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    table = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in table] == rows


@pytest.mark.parametrize(
    ("package", "options", "message"),
    [
        ("pyarrow.parquet", {"format": "parquet"}, r"format=parquet needs pyarrow: pip install 'botvision\[parquet\]'"),
        ("trackers", {"track": True}, r"track needs the package trackers: pip install 'botvision\[track\]'"),
    ],
)
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    untrained, film, tmp_path, monkeypatch, package, options, message
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=message):
        predict(untrained, str(film), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_drawings_the_results_alone_are_written(untrained, photos, tmp_path, quick):
    predict(untrained, str(photos), out=tmp_path / "out", draw=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json", "predictions.jsonl"}


def test_images_of_one_name_are_drawn_apart(untrained, photos, tmp_path, quick):
    (photos / "more").mkdir()
    Image.new("RGB", (40, 40)).save(photos / "more" / "0.png")
    Image.new("RGB", (40, 40)).save(photos / "0.bmp")
    predict(untrained, f"{photos}/**/0.*", out=tmp_path / "out", threshold=0.25)
    drawn = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg")}
    assert drawn == {"0.bmp.jpg", "0.png.jpg", "more/0.jpg"}
    assert [line["file_name"] for line in lines(tmp_path / "out")[1:]] == ["0.bmp", "0.png", "more/0.png"]


def stop_after(monkeypatch, count, signum=signal.SIGTERM):
    """A signal comes while the line of image number `count` is written."""
    if signal.getsignal(signum) == signal.SIG_IGN:  # as a shell's background jobs begin with SIGINT
        signal.signal(signum, signal.SIG_DFL if signum != signal.SIGINT else signal.default_int_handler)
    own = Journal.add

    def add(self, record):
        own(self, record)
        if self.images == count:
            signal.raise_signal(signum)

    monkeypatch.setattr(Journal, "add", add)


@pytest.mark.parametrize("torn", [False, True])
def test_a_prediction_that_was_stopped_goes_on(untrained, photos, tmp_path, monkeypatch, quick, torn):
    given = {"threshold": 0.25, "batch_size": 4}
    predict(untrained, str(photos), out=tmp_path / "whole", **given)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(
            Stopped, match=r"stopped by SIGTERM with 4 images done.*--on_existing resume goes on"
        ) as end:
            predict(untrained, str(photos), out=out, **given)
    assert end.value.code == 128 + signal.SIGTERM
    assert not (out / "predictions.json").exists()
    if torn:  # by a kill or a full disk
        with (out / "predictions.jsonl").open("a") as journal:
            journal.write('{"image_id": 5, "file_name": "4.p')
    drawn = []
    monkeypatch.setattr(streaming, "save_image", lambda image, path: drawn.append(path.name))
    done = predict(untrained, str(photos), out=out, on_existing="resume", **given)
    assert drawn == [f"{number}.jpg" for number in range(4, 10)]
    assert done.images == 10
    assert lines(out) == lines(tmp_path / "whole")
    assert (out / "predictions.json").read_text() == (tmp_path / "whole" / "predictions.json").read_text()


def in_parts(untrained, photos, out, *parts, **given):
    return [predict(untrained, str(photos), out=out, threshold=0.25, part=part, **given) for part in parts]


def test_processes_share_a_folder_and_the_last_writes_what_one_would(untrained, photos, tmp_path, quick):
    """Torchrun's processes, and a SLURM array's, do not speak to each other: they see each other's lines."""
    predict(untrained, str(photos), out=tmp_path / "whole", threshold=0.25, draw=False)
    out = tmp_path / "out"
    first, second, last = in_parts(untrained, photos, out, "2/3", "0/3", "1/3", on_existing="resume")
    assert (first.left, second.left, last.left) == (8, 4, 0)
    assert "other processes have 8 to do, and the last of them writes the results of all" in str(first)
    assert (first.images, second.images, last.images, len(last.skipped)) == (3, 4, 10, 1)
    assert (out / "predictions.json").read_text() == (tmp_path / "whole" / "predictions.json").read_text()
    assert {path.name for path in out.glob("*.jsonl")} == {f"predictions.{n}-of-3.jsonl" for n in range(3)}
    assert len(list(out.glob("*.jpg"))) == 10


def test_a_dead_process_part_is_taken_up_again_by_itself_or_by_others(untrained, photos, tmp_path, monkeypatch, quick):
    predict(untrained, str(photos), out=tmp_path / "whole", threshold=0.25)
    for number, parts in enumerate((["1/3"], ["0/2", "1/2"], [None])):
        out = tmp_path / f"out{number}"
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            with pytest.raises(Stopped):
                in_parts(untrained, photos, out, "1/3", batch_size=2)
        with (out / "predictions.1-of-3.jsonl").open("a") as journal:
            journal.write('{"image_id": 3, "file_na')  # by a kill
        in_parts(untrained, photos, out, "0/3", "2/3")
        assert not (out / "predictions.json").exists()
        done = in_parts(untrained, photos, out, *parts, on_existing="resume")[-1]
        assert (done.images, len(done.skipped)) == (10, 1)
        assert (out / "predictions.json").read_text() == (tmp_path / "whole" / "predictions.json").read_text()
        written = [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text().split("\n")[:-1] if
                   line.endswith("}")]  # fmt: skip
        assert sum("objects" in line for line in written) == 10


def test_parts_do_not_replace_each_other_and_are_refused_where_they_cannot_be(untrained, photos, tmp_path, quick):
    out = tmp_path / "out"
    in_parts(untrained, photos, out, "0/2", "1/2")
    for part in ("0/2", "0/4", None):
        with pytest.raises(ValueError, match="are there already and would be overwritten"):
            in_parts(untrained, photos, out, part)
    in_parts(untrained, photos, out, "0/2", "1/2", on_existing="replace")
    assert len(list(out.glob("*.jsonl"))) == 2
    in_parts(untrained, photos, out, None, on_existing="replace")
    assert [path.name for path in out.glob("*.jsonl")] == ["predictions.jsonl"]
    for part in ("2/2", "half", "1"):
        with pytest.raises(ValueError, match=f"part='{part}' must be a number from 0 and their count, as 0/8"):
            in_parts(untrained, photos, tmp_path / "x", part)
    with pytest.raises(ValueError, match="a camera's frames cannot be shared among processes"):
        predict(untrained, "camera:0", out=tmp_path / "x", part="0/2")


def test_torchruns_rank_is_the_part(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert own_part(None) == Part(3, 4)
    assert own_part("0/8") == Part(0, 8)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # a container's RANK alone is no torchrun
    assert own_part(None) == Part(0, 1)


def test_other_settings_and_foreign_files_are_not_gone_on_with(untrained, photos, tmp_path, quick):
    out = tmp_path / "out"
    predict(untrained, str(photos), out=out, draw=False, threshold=0.25)
    with pytest.raises(ValueError, match=r"was begun with other settings \(threshold 0\.25\); give these again"):
        predict(untrained, str(photos), out=out, draw=False, on_existing="resume")
    predict(untrained, str(photos), out=photos, draw=False)  # nothing is drawn, so no image is in danger
    with pytest.raises(ValueError, match=r"predictions\.json and 1 more files are there already"):
        predict(untrained, str(photos), out=out, draw=False)
    text = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join([*text[:3], "{\n", *text[3:]]))
    with pytest.raises(ValueError, match="is damaged at line 4; remove it, and its images are done again"):
        predict(untrained, str(photos), out=out, draw=False, threshold=0.25, on_existing="resume")
    (out / "predictions.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="is no list of predictions of ours; give another --out"):
        predict(untrained, str(photos), out=out, draw=False, on_existing="resume")
    assert (out / "predictions.jsonl").read_text() == "mine\n"


def test_drawings_that_an_earlier_command_did_not_make_are_told(untrained, photos, tmp_path, quick):
    first = predict(untrained, str(photos), out=tmp_path / "out", draw=False)
    assert first.undrawn == 0
    gone_on = predict(untrained, str(photos), out=tmp_path / "out", on_existing="resume")
    assert gone_on.undrawn == first.images > 1
    assert str(gone_on).endswith(f", {first.images} without a drawing; --on_existing replace draws all")
    drawn = predict(untrained, str(photos), out=tmp_path / "out", on_existing="replace")
    assert drawn.undrawn == 0
    assert "without" not in str(drawn)


def test_no_more_than_three_batches_are_held(untrained, tmp_path, monkeypatch, found):
    """300 images at four a batch: what is read ahead, what is predicted, and no more."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03}.jpg").touch()
    alive, most = weakref.WeakSet(), []

    def read(path):
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        alive.add(image)
        most.append(len(alive))
        return image

    def find(self, images, **_):
        return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)} for _ in images]

    monkeypatch.setattr("botvision.inputs.read_image", read)
    monkeypatch.setattr(Predictor, "find", find)
    gc.collect()
    done = predict(untrained, str(folder), out=tmp_path / "out", draw=False, batch_size=4)
    assert (done.images, len(most)) == (300, 300)
    assert max(most) <= 3 * 4


def test_a_video_is_predicted_frame_by_frame(untrained, film, tmp_path, found):
    done = predict(untrained, str(film), out=tmp_path / "out", batch_size=4)
    assert (done.images, len(found)) == (9, 9)
    records = lines(tmp_path / "out")[1:]
    assert records.pop() == {"file_name": "film.mp4", "frames": 9}
    assert [record["frame"] for record in records] == list(range(9))
    assert [record["time"] for record in records] == pytest.approx([n / 25 for n in range(9)], abs=1e-3)
    drawn = list(read_video(tmp_path / "out" / "film.mp4"))
    assert [frame.time for frame in drawn] == pytest.approx([n / 25 for n in range(9)], abs=1e-3)
    assert tuple(drawn[0].image.shape) == (3, 480, 640)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert set(results[0]) == {
        "image_id", "category_id", "bbox", "score", "segmentation", "file_name", "frame", "time"
    }  # fmt: skip
    again = predict(untrained, str(film), out=tmp_path / "out", on_existing="resume")
    assert (again.images, len(found)) == (9, 9)


def test_a_video_that_was_stopped_is_done_again_whole(untrained, film, photos, tmp_path, monkeypatch, found):
    film.rename(photos / "film.mp4")
    (photos / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(patch, 14, signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT with 14 images done"):
            predict(untrained, str(photos), out=out, batch_size=2)
    assert not (out / "film.mp4").exists()
    done = predict(untrained, str(photos), out=out, batch_size=2, on_existing="resume")
    assert (done.images, done.objects) == (19, len(json.loads((out / "predictions.json").read_text())))
    assert [line["image_id"] for line in lines(out) if "objects" in line] == list(range(1, 20))
    assert any("broken.mp4" in reason for reason in done.skipped)


def test_of_a_video_that_breaks_off_what_is_before_is_kept(untrained, film, tmp_path, monkeypatch, found):
    def broken(*_, **__):
        for frame in read_video(film):
            if frame.number == 5:
                raise ValueError("cannot read video film.mp4 after 5 frames: invalid data")
            yield frame

    monkeypatch.setattr(streaming, "read_video", broken)
    done = predict(untrained, str(film), out=tmp_path / "out")
    assert done.images == 5
    assert done.skipped == ["the rest of a video: cannot read video film.mp4 after 5 frames: invalid data"]
    assert len(list(read_video(tmp_path / "out" / "film.mp4"))) == 5


def test_a_camera_is_predicted_until_it_is_stopped(untrained, tmp_path, monkeypatch, found):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("botvision.video.device_of", lambda camera: ("testsrc=size=64x48:rate=10", "lavfi"))
    stop_after(monkeypatch, 5, signal.SIGINT)
    assert main(["maskrcnn", "predict", str(untrained), "0", "--out", "out"]) == 0
    assert len(lines(Path("out"))) == 1 + 5 + 1
    assert len(list(read_video("out/camera-0.mp4"))) == 5
    assert {result["file_name"] for result in json.loads(Path("out/predictions.json").read_text())} == {"camera-0"}


class Nearest:
    """Gives each object its place among the frame's as its number, but for the first frame; in another order."""

    def __init__(self, frame_rate):
        self.frame_rate, self.frames = frame_rate, 0

    def update(self, detections):
        self.frames += 1
        detections.tracker_id = detections.class_id if self.frames > 1 else np.full(len(detections), -1)
        return detections[np.arange(len(detections))[::-1]]


@pytest.mark.parametrize("kind", ["stand-in", "trackers"])
def test_objects_are_followed_through_a_video(untrained, film, tmp_path, monkeypatch, found, kind):
    if kind == "trackers":
        pytest.importorskip("trackers")
    else:
        monkeypatch.setitem(sys.modules, "trackers", SimpleNamespace(ByteTrackTracker=Nearest))
    predict(untrained, str(film), out=tmp_path / "out", track=True)
    records = lines(tmp_path / "out")[1:-1]
    ids = [[(o["category_id"], o["track_id"]) for o in record["objects"]] for record in records]
    assert ids[0] == [(7, None), (8, None)]
    assert ids[1:] == [[(7, 0), (8, 1)]] * 8
    faint = records[-1]["objects"][1]
    assert faint["score"] == pytest.approx(0.2)  # below the threshold, and kept because it is followed
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [result["track_id"] for result in results] == [None, None, *[0, 1] * 8]


def test_tracks_of_images_alone_are_refused(untrained, photos, tmp_path):
    with pytest.raises(
        ValueError, match="track follows objects through a video or a camera, and here are images alone"
    ):
        predict(untrained, str(photos), out=tmp_path / "out", track=True)


def test_boxes_without_masks_are_results_and_drawings_too():
    found = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}
    (result,) = image_results(found, CATEGORIES, image_id=1, size=(64, 64))
    assert result == {"image_id": 1, "category_id": 8, "bbox": [4, 4, 36, 36], "score": pytest.approx(0.9)}
    detections = to_supervision([{**result, "track_id": 3}], CATEGORIES, size=(64, 64))
    assert detections.mask is None
    assert detections.tracker_id.tolist() == [3]
    drawn = streaming.draw_instances(np.zeros((64, 64, 3), np.uint8), detections, ["cat", "dog", "cow"])
    assert drawn[300, 40].any()
    assert not drawn[200, 200].any()


def test_drawings_of_equal_names_are_all_there(tmp_path):
    names = ["cam1/0001.jpg", "cam2/0001.jpg", "sheet.jpg"]

    class Data:
        def __len__(self):
            return len(names)

        def __getitem__(self, index):
            return torch.zeros(3, 32, 32, dtype=torch.uint8), {}

        def record(self, index):
            return {"id": index + 5, "file_name": names[index]}, []

    class Nothing:
        names = ()

        def __call__(self, image):
            return sv.Detections.empty()

    draw_examples(Nothing(), Data(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0001_5.jpg", "0001_6.jpg", "sheet_7.jpg", "sheet.jpg"}
