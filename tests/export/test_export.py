"""Exported files: equal to torch, described, proved, or not there."""

import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import botvision
from botvision.cli import main
from botvision.deploy import Classifier, open_graph
from botvision.deploy import Predictor as TorchFree
from botvision.export import MismatchError, export
from botvision.export.formats import runner, writer, xml_writer
from botvision.export.proof import proved
from botvision.export.subject import detector_subject, drawn
from botvision.files import sha256
from botvision.maskrcnn.checkpoint import Detector, build_model, load_detector
from botvision.maskrcnn.coco import Category
from botvision.maskrcnn.config import ModelConfig
from botvision.maskrcnn.model import PRESETS
from botvision.maskrcnn.static import ImageDetector, StaticDetector, sigmoid
from botvision.serve import Served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
SIZES = ((64, 64), (97, 333), (38, 101))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of drawn pictures of three sizes and a blank one."""
    folder = tmp_path_factory.mktemp("photos")
    for height, width in SIZES:
        Image.fromarray(drawn(1, height, width)[0]).save(folder / f"{height}x{width}.png")
    Image.new("RGB", (50, 40)).save(folder / "blank.png")
    return folder


def test_the_static_detector_is_eager_to_the_bit(untrained):
    model = botvision.maskrcnn.load_detector(untrained).model
    static, with_images = StaticDetector(model), ImageDetector(model)
    with torch.no_grad():
        for batch, height, width in ((1, 64, 64), (3, 97, 333), (4, 20, 90)):
            images = torch.from_numpy(drawn(batch, height, width))
            eager = model([image.permute(2, 0, 1) for image in images]).detections
            found = with_images(images)
            assert len(found["boxes"]) > 10
            assert found["image"].bincount(minlength=batch).tolist() == [len(own["boxes"]) for own in eager]
            for key in ("boxes", "labels", "scores"):
                assert torch.equal(found[key], torch.cat([own[key] for own in eager])), key
            torch.testing.assert_close(found["masks"], torch.cat([own["mask_probs"] for own in eager]))
        mixed = [torch.rand(3, 40, 64), torch.rand(3, 64, 30)]  # of two sizes, which tensors alone can hold
        on_canvas = model.resize(mixed)
        found = static(on_canvas.tensors, torch.tensor(on_canvas.image_sizes))
        counts = [len(own["boxes"]) for own in model(mixed).detections]
    assert found["image"].bincount(minlength=2).tolist() == counts


def test_sure_scores_are_ranked_in_onnxruntime_as_in_torch(tmp_path):
    logits = torch.linspace(-60, 40, 50_001)
    path = tmp_path / "sigmoid.onnx"

    class Sigmoid(torch.nn.Module):
        def forward(self, x):
            return sigmoid(x)

    program = torch.onnx.export(Sigmoid(), (logits,), dynamo=True, opset_version=18, verbose=False)
    program.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: logits.numpy()})
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, logits.sigmoid().numpy(), rtol=1e-6)


def test_nothing_found_is_an_empty_result(untrained):
    model = botvision.maskrcnn.load_detector(untrained).model
    model.roi_heads.score_thresh = 0.999
    with torch.no_grad():
        found = ImageDetector(model)(torch.zeros(2, 40, 50, 3, dtype=torch.uint8))
    assert {name: tuple(part.shape) for name, part in found.items()} == {
        "boxes": (0, 4), "labels": (0,), "scores": (0,), "image": (0,), "masks": (0, 28, 28)
    }  # fmt: skip


def test_a_file_says_what_it_is_and_how_it_was_proved(exported_detector):
    about = open_graph(exported_detector.path).about
    assert about["categories"] == [[7, "cat"], [8, "dog"], [11, "cow"]]
    assert (about["task"], about["licence"], about["opset"], about["precision"]) == (
        "maskrcnn", "cc0-1.0", 18, "float32"
    )  # fmt: skip
    assert len(about["sha256"]) == 64
    rows = about["proof"]["differences"]
    assert {"blank", "64×64", "38×101", "97×333", "4 of 38×101"} == {row["name"] for row in rows}
    assert sum(row["objects"] for row in rows) > 100
    assert max(row["largest"]["boxes"] for row in rows) < 1e-3
    said = str(exported_detector)
    assert "opset 18" in said
    assert "nodes" in said
    assert not list(exported_detector.path.parent.glob(".unfinished*"))


def test_attention_multiplies_no_padding(exported_detector, exported_classifier):
    for exported in (exported_detector, exported_classifier):
        nodes = onnx.load(exported.path).graph.node
        kinds = {output: node.op_type for node in nodes for output in node.output}
        products = [n for n in nodes if n.op_type == "MatMul" and kinds.get(n.input[0]) == "Softmax"]
        assert products
        assert "Pad" not in {kinds.get(product.input[1]) for product in products}


def test_a_predictor_gives_what_the_checkpoint_gives(exported_detector, untrained, photos):
    paths = sorted(photos.glob("*.png"))
    ours, theirs = (botvision.Predictor.load(path, threshold=0.252) for path in (untrained, exported_detector.path))
    for own, other in zip(ours(paths), theirs(paths), strict=True):
        assert len(own) == len(other)
        np.testing.assert_allclose(own.xyxy, other.xyxy, atol=2e-3)
        np.testing.assert_array_equal(own.class_id, other.class_id)
        assert (own.mask != other.mask).mean() < 1e-3 if len(own) else True


def what_it_finds(checkpoint, photos, path, *, threshold):
    """A COCO file whose truth is what the checkpoint itself finds above a score."""
    predictor = botvision.Predictor.load(checkpoint, threshold=threshold)
    images, annotations = [], []
    for number, photo in enumerate(sorted(photos.glob("*.png")), 1):
        with Image.open(photo) as image:
            width, height = image.size
        images.append({"id": number, "file_name": photo.name, "width": width, "height": height})
        found = predictor(photo)
        for box, label in zip(found.xyxy.tolist(), found.class_id.tolist(), strict=True):
            x1, y1, x2, y2 = box
            if min(x2 - x1, y2 - y1) < 2:
                continue
            corners = [x1, y1, x2, y1, x2, y2, x1, y2]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": (7, 8, 11)[label], "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [corners],
            })  # fmt: skip
    assert annotations
    categories = [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 11, "name": "cow"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_ap_is_the_checkpoints(exported_detector, untrained, photos, tmp_path):
    file = what_it_finds(untrained, photos, tmp_path / "truth.json", threshold=0.2535)  # which a few reach
    before, after = (
        botvision.maskrcnn.evaluate(path, file, photos, workers=0) for path in (untrained, exported_detector.path)
    )
    assert before.box["AP"] > 0.1
    for name in ("AP", "AP50", "AR_100"):
        assert after.box[name] == pytest.approx(before.box[name], abs=1e-3)
        assert after.mask[name] == pytest.approx(before.mask[name], abs=1e-3)


def test_a_process_without_torch_finds_the_same(exported_detector, exported_classifier, photos):
    code = """
import json, sys
for name in ("torch", "torchvision", "timm", "supervision"):
    sys.modules[name] = None  # an import of it fails
import botvision
from botvision.deploy import Classifier, Predictor
detector, classifier, *paths = sys.argv[1:]
found = Predictor.load(detector, threshold=0.252, threads=1)(paths)
named = Classifier.load(classifier, threads=1)(paths)
objects = [[own.xyxy.tolist(), own.class_name, [int(m.sum()) for m in own.mask]] for own in found]
print(json.dumps([objects, named]))
"""
    paths = [str(path) for path in sorted(photos.glob("*.png"))]
    run = subprocess.run(
        [sys.executable, "-c", code, str(exported_detector.path), str(exported_classifier.path), *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    objects, named = json.loads(run.stdout)
    predictor = botvision.Predictor.load(exported_detector.path, threshold=0.252)
    for (boxes, names, areas), own in zip(objects, predictor(paths), strict=True):
        np.testing.assert_allclose(np.reshape(boxes, (-1, 4)), own.xyxy, atol=2e-3)
        assert names == list(own.data["class_name"])
        np.testing.assert_allclose(areas, own.mask.sum((1, 2)), atol=2)
    assert [sorted(name for name, _ in row) for row in named] == [["a", "b", "c"]] * len(paths)


def test_a_classifier_and_its_file_agree(classifier_checkpoint, exported_classifier, pictures):
    cpu = botvision.engine.config.DeviceConfig("cpu")
    before, after = (
        botvision.classify.evaluate(path, str(pictures), workers=0, engine=cpu, img_size=(64, 96)).rows
        for path in (classifier_checkpoint, exported_classifier.path)
    )
    for own, other in zip(before, after, strict=True):
        assert own.confusion.tolist() == other.confusion.tolist()
    assert open_graph(exported_classifier.path).about["classes"] == ["a", "b", "c"]


def test_predict_and_evaluate_take_a_file_on_the_command_line(exported_classifier, exported_detector, photos, tmp_path):
    found = ["maskrcnn", "predict", str(exported_detector.path), str(photos), "--out", str(tmp_path / "found")]
    assert main([*found, "--threshold", "0.252", "--draw", "false"]) == 0
    assert len((tmp_path / "found/predictions.jsonl").read_text().splitlines()) == 1 + len(SIZES) + 1
    named = ["classify", "predict", str(exported_classifier.path), str(photos), "--out", str(tmp_path / "named")]
    assert main(named) == 0
    assert len(json.loads((tmp_path / "named/predictions.json").read_text())) == len(SIZES) + 1


def test_served_it_answers_what_predict_writes(exported_detector, photos, tmp_path):
    served = Served.load(
        exported_detector.path, threshold=0.252, top=5, batch_size=8, threads=None, most_pixels=100_000
    )
    paths = sorted(photos.glob("*.png"))
    found = ["maskrcnn", "predict", str(exported_detector.path), str(photos), "--out", str(tmp_path / "found")]
    assert main([*found, "--threshold", "0.252", "--draw", "false"]) == 0
    written = json.loads((tmp_path / "found/predictions.json").read_text())
    for path, answer in zip(paths, served.answers([path.read_bytes() for path in paths]), strict=True):
        own = [result for result in written if result["file_name"] == path.name]
        assert len(own) == len(answer["objects"])
        for result, other in zip(own, answer["objects"], strict=True):
            assert result["category_id"] == other["category_id"]
            assert result["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
            assert (
                result["segmentation"]["size"] == other["segmentation"]["size"] == [answer["height"], answer["width"]]
            )


def test_openvino_gives_the_same(exported_detector, tmp_path):
    path = tmp_path / "detector.xml"
    xml_writer(exported_detector.path)(path, exported_detector.about)
    images = drawn(4, 38, 101)
    wanted, found = (open_graph(file).run({"images": images}) for file in (exported_detector.path, path))
    assert len(wanted["boxes"]) == len(found["boxes"]) > 100
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=2e-3)
    np.testing.assert_allclose(found["masks"], wanted["masks"], atol=1e-3)


def test_openvino_answers_each_thread_with_its_own_and_is_not_spoilt_by_nothing(exported_detector, tmp_path):
    path = tmp_path / "detector.xml"
    xml_writer(exported_detector.path)(path, exported_detector.about)
    graph = open_graph(path)
    images = [drawn(1, 40 + 8 * n, 64) for n in range(6)]
    alone = [graph.run({"images": image})["scores"] for image in images]
    for file in (graph, open_graph(exported_detector.path)):
        with pytest.raises(ValueError, match=r"images is empty, \(0, 40, 64, 3\); give at least one image"):
            file.run({"images": images[0][:0]})
    with ThreadPoolExecutor(3) as pool:
        many = list(pool.map(lambda n: graph.run({"images": images[n % 6]})["scores"], range(24)))
    for number, found in enumerate(many):
        np.testing.assert_array_equal(found, alone[number % 6])


@pytest.mark.parametrize("img_size", [(48, 96), (64, 64)])
def test_tensors_of_small_free_sizes_are_recorded(untrained, tmp_path, img_size):
    """On a canvas of one cell of stride 64 torch would take a side for fixed."""
    detector = load_detector(untrained)
    subject = detector_subject(detector, {"source": "x", "input": "tensor"}, img_size=img_size)
    nodes = writer(subject, ".onnx", tmp_path, opset=18)(tmp_path / "a.onnx", subject.about)
    assert nodes > 100


def test_torchscript_is_written_and_proved(classifier_checkpoint, tmp_path):
    made = export(str(classifier_checkpoint), out=tmp_path / "classifier.pt")
    extra = {"botvision.json": ""}
    module = torch.jit.load(made.path, _extra_files=extra)
    assert json.loads(extra["botvision.json"])["classes"] == ["a", "b", "c"]
    assert module(torch.zeros(5, 70, 90, 3, dtype=torch.uint8)).shape == (5, 3)


def test_a_mismatch_leaves_no_file_and_exits_1(classifier_checkpoint, tmp_path, monkeypatch, capsys):
    from botvision.export import proof

    monkeypatch.setattr(proof, "RELATIVE", -1.0)
    out = tmp_path / "new" / "classifier.pt"
    assert main(["export", str(classifier_checkpoint), "--out", str(out)]) == 1
    assert "does not give what torch gives: logits differ by" in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_ties_are_told_from_objects_that_are_lost(untrained):
    """All places of a blank image tie, and a rounding decides between them in torch too; what is lost is a mismatch."""
    detector = botvision.maskrcnn.load_detector(untrained)
    for name, weight in detector.model.named_parameters():
        if "cls" in name and weight.ndim > 1:
            weight.data.mul_(30)  # scores that differ, but on a blank image
    subject = detector_subject(detector, {"input": "image"}, img_size=128)
    subject = replace(subject, probes={name: subject.probes[name] for name in list(subject.probes)[-3:]})
    other = subject.rounded(0)
    tied = proved(subject, other)
    blank = tied.differences[-1]
    assert blank.stray > 0.01 * blank.objects
    assert blank.ties >= blank.stray  # here the file is the very same model with other roundings
    assert tied.mismatch() == ""

    def loses(feeds):
        found = subject.eager(feeds)
        return {name: array[np.arange(len(array)) % 7 != 3] for name, array in found.items()}

    assert re.match(r"\d+ objects of \d+ are found by one of the two alone", proved(subject, loses).mismatch())


def test_int8_is_measured_and_refused_where_it_loses(
    classifier_checkpoint, exported_classifier, pictures, tmp_path, monkeypatch
):
    from botvision.export import calibration, exporting
    from botvision.export.formats import write_onnx

    def again(*_, **__):  # the graph is recorded already
        model = onnx.load(exported_classifier.path)

        def write(path, about):
            write_onnx(onnx, model, path, about)
            return len(model.graph.node)

        return write

    monkeypatch.setattr(exporting, "writer", again)
    out = tmp_path / "plain.onnx"
    options = {"out": out, "precision": "int8", "images": pictures, "max_ap_drop": 0.5}
    made = export(str(classifier_checkpoint), **options)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(out).graph.node}
    assert set(made.about["accuracy"]["before"]) == {"top-1"}
    assert "top-1" in str(made)
    out.unlink()
    drop = calibration.Drop({"top-1": 0.9}, {"top-1": 0.1})
    monkeypatch.setattr(calibration.Calibration, "drop", lambda *_: drop)
    with pytest.raises(MismatchError, match=r"0\.9000 → 0\.1000, more than max_ap_drop=0\.5; no file is left"):
        export(str(classifier_checkpoint), **options)
    assert not list(tmp_path.iterdir())


def test_ranges_are_taken_from_images_of_the_whole_folder(tmp_path, pictures):
    from botvision.export.calibration import Calibration
    from botvision.export.subject import images_below

    for name in "0123456789":
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.png").touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.png").touch()
    (tmp_path / "0" / "._1.png").touch()
    spread = Calibration(Path("last.ckpt"), tmp_path, None, tmp_path, 0.01)
    paths = spread.paths()
    assert len(set(paths)) == 64
    counts = Counter(path.parent.name for path in paths)
    assert (len(counts), set(counts.values())) == (10, {6, 7})
    with pytest.raises(ValueError, match=r"cannot read image .*0\.png"):  # before accuracy is measured
        spread.check(SimpleNamespace(task="classify"))
    assert len(images_below(pictures)) == 6
    (tmp_path / "none").mkdir()
    (tmp_path / "film.mp4").touch()
    for empty in ("none", "film.mp4", "*.mp4"):
        with pytest.raises(FileNotFoundError, match=r"no image in .*(none|mp4) or in a folder below it"):
            images_below(tmp_path / empty)


def test_large_images_do_not_go_through_a_graph_together(exported_detector, monkeypatch):
    from botvision.maskrcnn import exported

    detector, sizes = exported.ExportedDetector(exported_detector.path), []
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in drawn(3, 38, 101)]
    whole = detector(images).detections
    run = detector.graph.run

    def counted(feeds):
        sizes.append(len(feeds["images"]))
        return run(feeds)

    monkeypatch.setattr("botvision.deploy.predictor.MOST_PIXELS", 2 * 38 * 101)
    monkeypatch.setattr(detector, "graph", detector.graph._replace(run=counted))
    parts = detector(images).detections
    assert sizes == [2, 1]
    assert [len(own["boxes"]) for own in parts] == [len(own["boxes"]) for own in whole]


def test_bfloat16_is_measured_and_refused_where_it_loses(
    untrained, exported_detector, photos, tmp_path, monkeypatch, capsys
):
    """The gate from end to end; the refused file is one whose scores are of the wrong sign."""
    from botvision.export import exporting

    def is_score(name):
        return "cls_" in name and name.endswith("weight")

    content = torch.load(untrained, weights_only=True)
    for name, tensor in content["state_dict"].items():
        if is_score(name):
            tensor.mul_(30)  # scores that differ: bfloat16 would order those of random weights anew
    sharp = tmp_path / "sharp.ckpt"
    torch.save(content, sharp)
    truth = what_it_finds(sharp, photos, tmp_path / "truth.json", threshold=0.5)

    def writer_of(factor):  # the graph is recorded already
        def writer(subject, suffix, folder, *, opset):
            model, own = onnx.load(exported_detector.path), []
            for tensor in model.graph.initializer:
                if is_score(tensor.name):
                    own.append(tensor.name)
                    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            assert len(own) == 2, own
            onnx.save(model, folder / "between.onnx")
            return xml_writer(folder / "between.onnx")

        return writer

    out = tmp_path / "made" / "detector.xml"
    command = ["export", str(sharp), "--out", str(out), "--precision", "bfloat16", "--images", str(photos)]
    command += ["--max_ap_drop", "0.1", "--annotations"]
    foreign = tmp_path / "foreign.json"
    foreign.write_text(truth.read_text().replace('"cow"', '"bird"'))
    monkeypatch.setattr(exporting, "writer", lambda *_, **__: pytest.fail("recorded in vain"))
    assert main([*command, str(foreign)]) == 2
    assert "foreign.json has 3 (cat, dog, bird)" in capsys.readouterr().err
    assert not out.parent.exists()
    command += [str(truth)]
    monkeypatch.setattr(exporting, "writer", writer_of(-30))
    assert main(command) == 1
    said = capsys.readouterr()
    assert re.search(r"box AP 1\.0000 → 0\.\d+, mask AP .* more than max_ap_drop=0\.1; no file is left", said.err)
    assert not said.out
    assert not list(out.parent.iterdir())
    monkeypatch.setattr(exporting, "writer", writer_of(30))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert re.search(r"box AP 1\.0000 → [01]\.\d+, mask AP", said)
    assert "is written and proved" in said
    about = open_graph(out).about
    assert about["precision"] == "bfloat16"
    assert about["accuracy"]["before"]["box AP"] - about["accuracy"]["after"]["box AP"] <= 0.1
    assert sorted(path.name for path in out.parent.iterdir()) == ["detector.bin", "detector.xml"]
    assert about["weights_sha256"] == sha256(out.with_suffix(".bin"))
    weights = bytearray(out.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1  # another export's, of the same length
    out.with_suffix(".bin").write_bytes(weights)
    with pytest.raises(ValueError, match=r"detector\.bin holds other weights than detector\.xml was exported with"):
        open_graph(out)


SLOW = ("paper", "tiny", "nano")  # of the same parts as torchvision_v2, which has the most


@pytest.mark.parametrize("preset", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in PRESETS])
def test_every_preset_is_proved_in_onnxruntime_and_openvino(preset, tmp_path, monkeypatch):
    """Narrower than it is, and with fewer proposals, for time; its parts and their numbers are the preset's own."""
    own = PRESETS[preset]
    narrow = own._replace(width=32, box_width=64, mask_width=32, proposals=tuple(min(n, 100) for n in own.proposals))
    monkeypatch.setitem(PRESETS, preset, narrow)
    config = ModelConfig("botnet14", preset, 64, backbone_options={"channels": [16, 32, 64, 128]})
    model = build_model(config, 3)
    for name, weight in model.named_parameters():
        if "cls_" in name and weight.ndim > 1:
            weight.data.mul_(30)
    categories = [Category(number, str(number)) for number in (1, 2, 3)]
    subject = detector_subject(Detector(model.eval(), categories), {"source": preset, "input": "image"}, img_size=None)
    path = tmp_path / "detector.onnx"
    nodes = writer(subject, ".onnx", tmp_path, opset=18)(path, subject.about)
    assert nodes > 500
    xml_writer(path)(path.with_suffix(".xml"), subject.about)
    for file in (path, path.with_suffix(".xml")):
        proof = proved(subject, runner(file, subject.outputs, precision="float32"))
        assert proof.mismatch() == "", "\n".join(map(str, proof.differences))
        assert proof.objects > 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 9}, "opset=9 is not supported; use 18 to 23"),
        ({"out": Path("model.engine")}, "must end in .onnx, .xml, .pt2, .pt"),
        ({"precision": "int8"}, "int8 needs images"),
        ({"precision": "bfloat16"}, "bfloat16 is for .xml"),
        ({"img_size": 8}, "img_size=8 must be"),
        ({"features": True}, "features are of a backbone"),
        ({"annotations": Path("a.json")}, "annotations, calibration_images and max_ap_drop are for int8"),
        ({"max_ap_drop": 0.5}, "are for int8 and bfloat16; add --precision int8"),
        (
            {"out": Path("a.xml"), "precision": "bfloat16", "calibration_images": Path("a")},
            "calibration_images are for int8",
        ),
        ({"out": Path("a.xml"), "precision": "bfloat16", "annotations": Path("a.json")}, "give --images FOLDER too"),
        ({"precision": "int8", "images": Path("a"), "max_ap_drop": -1.0}, "max_ap_drop=-1.0 must be at least 0"),
        ({"out": Path("file/model.onnx")}, "nothing can be written into file (.*not a directory); give another --out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(untrained, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("y)", r"y\)")):
        export(str(untrained), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_refused(classifier_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["export", str(classifier_checkpoint), "--out", str(tmp_path / "file" / "model.pt")]) == 2
    assert "file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_images_that_would_prove_nothing_and_exported_files_are_refused(classifier_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="images prove a detector's file that takes images, or serve int8"):
        export(str(classifier_checkpoint), out=tmp_path / "a.onnx", images=tmp_path)
    with pytest.raises(ValueError, match=r"a\.onnx is an exported file; give the \.ckpt or the name"):
        export(str(tmp_path / "a.onnx"), out=tmp_path / "b.onnx")
    assert not list(tmp_path.iterdir())


def test_a_detector_is_no_torchscript(untrained, tmp_path, capsys):
    assert main(["export", str(untrained), "--out", str(tmp_path / "model.pt")]) == 2
    assert "a detector goes to .onnx, .xml or .pt2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_named(exported_detector, exported_classifier, tmp_path, capsys):
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(exported_detector.path.read_bytes()[:5000])
    foreign = tmp_path / "foreign.onnx"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), foreign)
    claims = tmp_path / "claims.onnx"
    model = onnx.load(foreign)
    onnx.helper.set_model_props(model, {"botvision": '["maskrcnn"]'})
    onnx.save(model, claims)
    for path, said in (
        (torn, "not a whole ONNX file"),
        (foreign, "was not written by `botvision export`: it says nothing of itself"),
        (claims, "was not written by `botvision export`: what it says of itself is not ours"),
    ):
        with pytest.raises(ValueError, match=said):
            TorchFree.load(path)
    with pytest.raises(ValueError, match="of task 'classify', not 'maskrcnn'"):
        TorchFree.load(exported_classifier.path)
    with pytest.raises(ValueError, match="of task 'maskrcnn', not 'classify'"):
        Classifier.load(exported_detector.path)
    with pytest.raises(FileNotFoundError, match="no exported graph at"):
        TorchFree.load(tmp_path / "none.onnx")
    assert main(["maskrcnn", "predict", str(torn), str(tmp_path)]) == 2
    assert "not a whole ONNX file" in capsys.readouterr().err
