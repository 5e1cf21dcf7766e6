"""ultralytics' own engine with our blocks: train, resume, val, predict, track, fuse, export, workers, reopening."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import ultralytics
from PIL import Image
from ultralytics.engine import tuner
from ultralytics.utils import dist

from botvision_yolo import YOLO, botify
from botvision_yolo.blocks import BoTBottleneck, C3k2BoT, ResidualMHSA2d
from botvision_yolo.trainer import AlignedWeights, ClassificationTrainer, DetectionTrainer, entropies
from botvision_yolo.variants import write_yaml

PICTURE = np.random.default_rng(0).integers(0, 255, (96, 64, 3), np.uint8)


def run(code, *arguments, cwd):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def best(data, tmp_path_factory, small):
    """The best.pt of one epoch, made once."""
    out = tmp_path_factory.mktemp("runs")
    model = YOLO("yolo11n-botnet.yaml")
    model.train(data=data, epochs=1, project=str(out), name="one", **small)
    return out / "one" / "weights" / "best.pt"


def test_training_leaves_what_ultralytics_leaves(best):
    assert best.is_file()
    assert (best.parent / "last.pt").is_file()
    assert (best.parent.parent / "args.yaml").is_file()


def test_each_epochs_log_has_the_entropy_of_attention(best, data, tmp_path, small):
    head, row = (best.parent.parent / "results.csv").read_text().strip().splitlines()
    assert head.split(",")[-1].strip() == "attention/entropy"
    assert 0.9 < float(row.split(",")[-1]) <= 1
    model = YOLO("yolo11n-insert.yaml")
    model.model.train()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    trainer = SimpleNamespace(model=model.model, seen=torch.rand(2, 3, 64, 64))
    assert len(entropies(trainer)) == 4
    after = model.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert model.model.training
    plain = YOLO("yolo11n.yaml").model
    assert not entropies(SimpleNamespace(model=plain, seen=trainer.seen))
    distilled = torch.nn.Module()  # as ultralytics holds a student beside its teacher
    distilled.student_model, distilled.teacher_model = plain, model.model
    assert not entropies(SimpleNamespace(model=distilled, seen=trainer.seen))
    distilled.student_model, distilled.teacher_model = model.model, plain
    assert not any("student" in head.layer for head in entropies(SimpleNamespace(model=distilled, seen=trainer.seen)))


@pytest.mark.parametrize("opened", [YOLO, ultralytics.YOLO], ids=["ours", "stock"])
def test_val_predict_fuse(best, data, opened, tmp_path, small):
    model = opened(best)
    assert model.val(data=data, project=str(tmp_path), rect=True, **small).box.map >= 0
    assert len(model.predict(PICTURE, imgsz=64, verbose=False, device="cpu")) == 1
    image = torch.rand(1, 3, 64, 96)
    plain = opened(best).model.eval()
    with torch.inference_mode():
        before = plain(image)[0]
        after = plain.fuse(verbose=False)(image)[0]
    assert (before - after).abs().max() < 1e-3 * before.abs().max()
    assert plain.is_fused()


def test_a_fresh_process_that_knows_ultralytics_alone_opens_and_predicts(best, tmp_path):
    code = """
import sys, numpy
from ultralytics import YOLO
model = YOLO(sys.argv[1])
print(type(model.model.model[8]).__module__, len(model(numpy.zeros((64, 96, 3), numpy.uint8), verbose=False)))
"""
    done = run(code, best, cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1] == "botvision_yolo.blocks 1", done.stderr


def test_restricted_loading_opens_it_where_this_package_is_imported(best, tmp_path):
    if not hasattr(ultralytics.nn.tasks, "_SafeLoad"):
        pytest.skip("this ultralytics has no restricted loading")
    code = "import sys, botvision_yolo; from ultralytics import YOLO; print(YOLO(sys.argv[1]).task)"
    environment = {"ULTRALYTICS_SAFE_LOAD": "1"}
    done = run("import os; os.environ.update(" + repr(environment) + "); " + code, best, cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1:] == ["detect"], done.stderr


def test_a_stock_yolo_trains_on_from_a_file(best, data, tmp_path, small):
    model = ultralytics.YOLO(best)
    before = model.model.model[8].cv1.conv.weight.detach().clone()
    model.train(data=data, epochs=1, lr0=0.0, lrf=0.0, optimizer="SGD", project=str(tmp_path), **small)
    after = ultralytics.YOLO(tmp_path / "train" / "weights" / "last.pt").model.model[8].cv1.conv.weight
    assert torch.allclose(before.half(), after.half(), atol=1e-3)  # it did not begin anew


def test_an_interrupted_run_goes_on(data, tmp_path, small):
    class StoppedError(Exception):
        pass

    def stop(trainer):
        if trainer.epoch == 1:
            raise StoppedError

    model = YOLO("yolo11n-mhsa.yaml")
    model.add_callback("on_train_epoch_start", stop)
    with pytest.raises(StoppedError):
        model.train(data=data, epochs=2, project=str(tmp_path), name="run", **small)
    last = tmp_path / "run" / "weights" / "last.pt"
    resumed = YOLO(last)
    resumed.train(resume=True)
    rows = (tmp_path / "run" / "results.csv").read_text().strip().splitlines()
    assert [row.split(",")[0].strip() for row in rows[1:]] == ["1", "2"]


@pytest.mark.parametrize("classes", [80, 10])
def test_pretrained_weights_come_by_aligned_rows_in_training(classes, trained, data, tmp_path, capsys, small):
    plain = trained()
    if classes == 10:  # as many as the data have, whatever their names: the classifier is kept
        plain.model = type(plain.model)({**plain.model.yaml, "nc": 10}, verbose=False)
    plain.save(tmp_path / "plain.pt")
    model = YOLO("yolo11n-mhsa.yaml")
    model.train(
        data=data,
        epochs=1,
        pretrained=str(tmp_path / "plain.pt"),
        lr0=0.0,
        optimizer="SGD",
        project=str(tmp_path),
        **small,
    )
    source = ultralytics.YOLO(tmp_path / "plain.pt").model.model
    target = ultralytics.YOLO(tmp_path / "train" / "weights" / "last.pt").model.model
    for mine, theirs in ((11, 10), (14, 13), (23, 22)):  # rows behind the inserted one
        assert torch.allclose(target[mine].cv1.conv.weight.half(), source[theirs].cv1.conv.weight.half(), atol=2e-3)
    if classes == 10:
        own, theirs = (head.cv3[0][2].weight.half() for head in (target[24], source[23]))
        assert torch.allclose(own, theirs, atol=2e-3)


class Stock:
    """In an ultralytics trainer's place."""

    resume = False

    def __init__(self, name="yolo11n-insert.yaml", **args):
        self.name, self.args = name, SimpleNamespace(**{"pretrained": True, "freeze": None, **args})

    def get_model(self, cfg=None, weights=None, verbose=True):
        return YOLO(self.name).model

    def save_metrics(self, metrics):
        with self.csv.open("a") as file:
            file.write(",".join(map(str, metrics.values())) + "\n")


class Ours(AlignedWeights, Stock):
    pass


def test_rows_are_frozen_by_name_whatever_way_the_word_came():
    """By a file of settings or a tuner too; the numbers are those of the model that is trained."""
    for name, rows in (("yolo11n-insert.yaml", [*range(9), 10, 11]), ("yolo11n-botnet.yaml", [*range(8), 9, 10])):
        trainer = Ours(name, freeze="backbone")
        trainer.get_model()
        assert trainer.args.freeze == rows
    with pytest.raises(ValueError, match="freeze='neck': no row is named 'neck'; use a number, or backbone, Conv"):
        Ours(freeze="neck").get_model()


def test_tuning_begins_with_aligned_weights(trained, tmp_path, monkeypatch):
    """Its trainings are commands of ultralytics' own, which load `pretrained` by the rows' numbers."""
    seen = {}
    monkeypatch.setattr(ultralytics.YOLO, "tune", lambda self, **options: seen.update(options))
    monkeypatch.delattr(tuner, "subprocess", raising=False)
    plain = trained("yolo11n.yaml")
    plain.save(tmp_path / "plain.pt")
    model = YOLO("yolo11n-mhsa.yaml")
    model.tune(pretrained=str(tmp_path / "plain.pt"), epochs=1)
    assert seen == {"epochs": 1}
    assert torch.equal(model.model.model[-2].cv1.conv.weight, plain.model.model[-2].cv1.conv.weight.half().float())
    monkeypatch.setattr(tuner, "subprocess", subprocess, raising=False)
    with pytest.raises(ValueError, match="align no rows; write a seed and tune that: bot-yolo init"):
        model.tune(pretrained=str(tmp_path / "plain.pt"))
    YOLO("yolo11n.yaml").tune(pretrained=str(tmp_path / "plain.pt"))
    assert seen["pretrained"] == str(tmp_path / "plain.pt")


def test_a_line_that_a_kill_has_cut_off_is_not_gone_on_with(tmp_path):
    trainer = Ours()
    trainer.model = torch.nn.Identity()
    trainer.csv = tmp_path / "results.csv"
    trainer.csv.write_text("epoch,time\n1,2.5\n2,4")
    trainer.save_metrics({"epoch": 2, "time": 5.1})
    assert trainer.csv.read_text() == "epoch,time\n1,2.5\n2,5.1\n"


def test_of_several_data_sets_those_that_failed_are_an_error(tmp_path, small):
    if not hasattr(ultralytics.engine.trainer, "MultiTrainer"):
        pytest.skip("this ultralytics trains on one data set")
    model = YOLO("yolo11n-insert.yaml")
    with pytest.raises(ValueError, match="2 of 2 data sets could not be trained on: one, two; see above"):
        model.train(data=[str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")], project=str(tmp_path), **small)


@pytest.mark.parametrize("variant", ["botnet", "mhsa"])
def test_segmentation_trains_with_multi_scale(variant, data, tmp_path, small):
    many = {"multi_scale": 0.5} if ultralytics.__version__ >= "8.4" else {"multi_scale": True}
    model = YOLO(f"yolo11n-{variant}-seg.yaml")
    model.train(data=data, epochs=1, project=str(tmp_path), **many, **small)
    assert model.val(data=data, project=str(tmp_path), **small).seg.map >= 0


def labelled(folder, line, **more):
    """A data set of four images with one label line each."""
    for split in ("train", "val"):
        for number in range(4):
            for kind, suffix in (("images", "png"), ("labels", "txt")):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                path = folder / kind / split / f"{number}.{suffix}"
                Image.fromarray(PICTURE).save(path) if kind == "images" else path.write_text(line)
    lines = ["train: images/train", "val: images/val", "names: {0: thing}", *(f"{k}: {v}" for k, v in more.items())]
    (folder / "data.yaml").write_text("\n".join(lines))
    return folder / "data.yaml"


def test_poses_train(tmp_path, small):
    data = labelled(tmp_path / "data", "0 .5 .5 .4 .4 .4 .4 2 .6 .6 2", kpt_shape=[2, 3], flip_idx=[1, 0])
    model = YOLO("yolo11n-botnet-pose.yaml")
    model.train(data=data, epochs=1, project=str(tmp_path), **small)
    assert model.predict(PICTURE, imgsz=64, verbose=False, device="cpu")[0].keypoints is not None


def test_rotated_boxes_train(tmp_path, small):
    data = labelled(tmp_path / "data", "0 .3 .3 .7 .3 .7 .7 .3 .7")
    model = YOLO("yolo11n-c2bot-obb.yaml")
    model.train(data=data, epochs=1, project=str(tmp_path), **small)
    assert model.predict(PICTURE, imgsz=64, verbose=False, device="cpu")[0].obb is not None


def test_classification_trains(tmp_path, small):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(PICTURE).save(folder / f"{number}.png")
    model = YOLO("yolo11n-mhsa-cls.yaml")
    model.train(data=tmp_path / "data", epochs=1, project=str(tmp_path), **small)
    assert model.predict(PICTURE, imgsz=64, verbose=False, device="cpu")[0].probs is not None


@pytest.mark.parametrize("variant", ["insert", "mhsa"])
def test_a_classifier_from_scratch_keeps_attentions_own_start(variant):
    """ultralytics resets each part of it, a block before its own parts."""
    trainer = object.__new__(ClassificationTrainer)
    trainer.args = SimpleNamespace(pretrained=False, dropout=0.0, freeze=None)
    trainer.data, trainer.resume = {"nc": 3, "channels": 3}, False
    model = trainer.get_model(write_yaml(f"yolo11n-{variant}-cls.yaml"), verbose=False)
    blocks = [module for module in model.modules() if isinstance(module, BoTBottleneck | ResidualMHSA2d)]
    assert blocks
    for block in blocks:
        last = block.expand.bn if isinstance(block, BoTBottleneck) else block.norm
        assert not last.weight.any()
        assert float(block.mhsa.qkv.weight.std()) == pytest.approx(0.01, rel=0.1)


def test_tracking(best, tmp_path):
    pytest.importorskip("lap")
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        Image.fromarray(np.roll(PICTURE, number, 1)).save(frames / f"{number}.png")
    tracked = YOLO(best).track(frames, imgsz=64, conf=0.0001, verbose=False, device="cpu", persist=True)
    assert len(tracked) == 3


# What ultralytics starts for several GPUs is a file that a fresh process runs; here it runs as one worker, on the CPU
FRESH = """
import os, runpy, sys, traceback
from ultralytics.models.yolo import detect
assert not [name for name in sys.modules if name.startswith("botvision")]
for line in sys.stdin:
    folder, file = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os.chdir(folder)
        log = os.open("worker.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 0
        try:
            runpy.run_path(file, run_name="__main__")
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A function that runs a file in a process that has imported ultralytics, nothing of ours; gives its exit code."""
    command = [sys.executable, "-W", "ignore", "-c", FRESH]
    where = tmp_path_factory.mktemp("fresh")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=where) as process:

        def run_file(folder, file):
            process.stdin.write(f"{folder}\t{file}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run_file
        process.stdin.close()


@pytest.mark.parametrize("start", ["ours", "stock", "seed", "botified"])
def test_the_file_that_a_worker_runs_needs_no_import_of_the_users(start, fresh, data, tmp_path, monkeypatch, small):
    from botvision_yolo.seed import init
    from botvision_yolo.variants import write_yaml

    monkeypatch.chdir(tmp_path)
    if start == "ours":
        model = YOLO("yolo11n-mhsa.yaml")
    elif start == "stock":
        model = ultralytics.YOLO(str(write_yaml("yolo11n-mhsa.yaml", tmp_path)))
    elif start == "seed":
        init(tmp_path / "yolo11n-mhsa.pt")
        model = ultralytics.YOLO(tmp_path / "yolo11n-mhsa.pt")
    else:
        plain = YOLO("yolo11n.yaml")
        plain.model.model[13].cv1.bn.bias.data.fill_(0.5)  # no initial weights have that
        plain.save(tmp_path / "plain.pt")
        model = botify(ultralytics.YOLO(tmp_path / "plain.pt"), "mhsa")
    overrides = {**model.overrides, "data": str(data), "epochs": 1, "project": str(tmp_path), "name": "worker", **small}
    trainer = model._smart_load("trainer")(overrides=overrides, _callbacks=model.callbacks)
    assert isinstance(trainer, DetectionTrainer) == (start == "ours")
    if model.ckpt:  # as `train` does before it starts workers
        trainer.model = trainer.get_model(weights=model.model, cfg=model.model.yaml, verbose=False)
    file = dist.generate_ddp_file(trainer)
    try:
        assert fresh(tmp_path, file) == 0, (tmp_path / "worker.log").read_text()[-3000:]
    finally:
        dist.ddp_cleanup(trainer, file)
    last = ultralytics.YOLO(next(Path(tmp_path).rglob("last.pt"))).model
    assert type(last.model[10]).__name__ == "ResidualMHSA2d"
    if start == "botified":  # it began with the model's weights: in one epoch of two small steps they do not go far
        assert torch.allclose(last.model[14].cv1.bn.bias, torch.tensor(0.5), atol=0.05)


def one_of_two(rank, port, folder):
    """A worker of two under gloo: one step of a botified model on half of the images, as ultralytics wraps it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = YOLO("yolo11n-mhsa.yaml").model.train()
    model.args = ultralytics.utils.DEFAULT_CFG
    wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    labels = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])}
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
    wrapped({"img": image, **labels})[0].sum().backward()
    layer = model.model[10]
    torch.save([layer.norm.weight.grad, model.model[0].conv.weight.grad], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_agree_on_the_gradients_of_our_blocks(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for mine, theirs in zip(first, second, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.abs().sum() > 0


def test_the_names_in_a_checkpoint_are_importable(best):
    module = ultralytics.YOLO(best).model.model[8]
    assert type(module) is C3k2BoT
