"""Pretrained weights survive an inserted or changed row; a model that was botified computes what it did."""

import copy

import pytest
import torch
import ultralytics
from ultralytics.nn import tasks
from ultralytics.utils.torch_utils import intersect_dicts

from botvision_yolo import YOLO, botify, load_pretrained
from botvision_yolo.seed import init
from botvision_yolo.table import neck
from botvision_yolo.trainer import TRAINERS, DetectionTrainer
from botvision_yolo.transfer import align_rows

IMAGE = torch.rand(1, 3, 320, 416, generator=torch.Generator().manual_seed(1))


def same(model, other):
    return max(float((a - b).abs().max()) for a, b in zip(neck(model, IMAGE), neck(other, IMAGE), strict=True))


def test_an_inserted_row_keeps_499_of_507_where_numbers_keep_198(trained):
    source, target = trained().model, YOLO("yolo11n-mhsa.yaml").model
    assert len(intersect_dicts(source.state_dict(), target.state_dict())) == 198
    report = load_pretrained(target, source)
    assert (report.kept, report.total) == (499, 507)
    assert report.rows[9:12] == [9, None, 10]
    assert report.fresh == {"10 ResidualMHSA2d": 8}
    assert str(report) == "499 of 507 tensors kept; fresh, by row: 10 ResidualMHSA2d (8)"
    own, came = target.state_dict(), source.state_dict()
    for key, value in came.items():
        number = int(key.split(".")[1])
        moved = key.replace(f"model.{number}.", f"model.{number + (number >= 10)}.", 1)
        assert torch.equal(own[moved], value), key


@pytest.mark.parametrize(
    ("variant", "kept", "total"), [("botnet", 475, 515), ("insert", 499, 519), ("c2bot", 469, 489)]
)
def test_what_the_other_variants_keep(variant, kept, total, trained):
    report = load_pretrained(YOLO(f"yolo11n-{variant}.yaml"), trained())
    assert (report.kept, report.total) == (kept, total)


@pytest.mark.parametrize("variant", ["mhsa", "insert"])
@pytest.mark.parametrize("task", ["", "-seg", "-pose", "-obb"])
def test_a_model_botified_gives_its_head_what_it_gave_before(variant, task, trained):
    model = trained(f"yolo11n{task}.yaml")
    before = copy.deepcopy(model.model)
    assert botify(model, variant) is model
    assert same(before, model.model) == 0.0
    assert len(model.model.model) == len(before.model) + 1
    assert model.model.names == before.names
    assert not model.model.training


def test_botify_takes_ultralytics_own_yolo_and_the_model_in_it(trained):
    stock = ultralytics.YOLO("yolo11n.yaml")
    stock.model = trained().model
    before = copy.deepcopy(stock.model)
    botify(stock)
    assert same(before, stock.model) == 0.0
    bare = copy.deepcopy(before)
    assert botify(bare, "mhsa") is bare
    assert same(before, bare) == 0.0


def test_botify_says_that_layers_taken_away_change_the_model(trained):
    model = trained()
    before = copy.deepcopy(model.model)
    botify(model, "botnet")
    assert same(before, model.model) > 0
    assert len(model.model.model) == len(before.model)


def test_botify_refuses(trained):
    model = trained()
    with pytest.raises(ValueError, match=r"unknown variant 'more'"):
        botify(model, "more")
    botify(model)
    with pytest.raises(ValueError, match=r"has BoTBottleneck already"):
        botify(model)
    with pytest.raises(ValueError, match=r"Linear is no ultralytics model; give a YOLO"):
        botify(torch.nn.Linear(1, 1))
    fused = trained()
    fused.fuse()
    with pytest.raises(ValueError, match=r"fused for inference; botify the checkpoint"):
        botify(fused)


def test_load_of_a_file_by_aligned_rows(trained, tmp_path):
    source = trained()
    source.save(tmp_path / "yolo11n.pt")
    target = YOLO("yolo11n-mhsa.yaml").load(tmp_path / "yolo11n.pt")
    half = copy.deepcopy(source.model).half().float()  # ultralytics saves halves
    target.model.eval()
    assert same(half, target.model) == 0.0
    assert target.ckpt


def test_a_seed_of_an_unstripped_checkpoint_is_the_variant_and_starts_anew(trained, tmp_path):
    source = trained()
    kept = {"model": None, "ema": source.model, "epoch": 3, "optimizer": {"state": {}}, "train_args": {}}
    torch.save(kept, tmp_path / "last.pt")
    init(tmp_path / "yolo11n-mhsa.pt", weights=tmp_path / "last.pt")
    content = torch.load(tmp_path / "yolo11n-mhsa.pt", weights_only=False)
    assert content.get("ema") is None
    assert content.get("optimizer") is None
    assert content.get("epoch", -1) == -1
    seed = ultralytics.YOLO(tmp_path / "yolo11n-mhsa.pt")
    assert type(seed.model.model[10]).__name__ == "ResidualMHSA2d"
    assert seed.names == source.names
    with pytest.raises(ValueError, match=r"yolo11n-mhsa.pt is there already; give another name"):
        init(tmp_path / "yolo11n-mhsa.pt")


def test_the_source_is_left_as_it_is(trained):
    source = trained().model.half()
    target = YOLO("yolo11n-mhsa.yaml")
    load_pretrained(target, source)
    assert {p.dtype for p in source.parameters()} == {torch.float16}
    assert {p.dtype for p in botify(source).parameters()} == {torch.float16}
    assert target.names[3] == "thing 3"


def test_another_number_of_classes_keeps_all_but_the_classifier(trained):
    source = trained()
    target = tasks.DetectionModel(YOLO("yolo11n-mhsa.yaml").model.yaml, nc=5, verbose=False)
    report = load_pretrained(target, source)
    assert set(report.fresh) == {"10 ResidualMHSA2d", "24 Detect"}
    assert report.kept > 440


@pytest.mark.parametrize("task", TRAINERS)
def test_every_tasks_trainer_aligns_rows(task):
    assert TRAINERS[task].get_model is DetectionTrainer.get_model


def test_rows_align_in_order_and_only_where_something_fits():
    a, b, c = torch.nn.Linear(2, 3), torch.nn.Linear(4, 5), torch.nn.Conv2d(1, 1, 3)
    assert align_rows([a, c, b], [a, b]) == [0, None, 1]
    assert align_rows([a, b], [a, c, b]) == [0, 2]
    assert align_rows([c], [a, b]) == [None]
    assert align_rows([b, a], [a, b]) in ([0, None], [None, 0], [1, None])


def test_fused_weights_are_refused_with_the_cure(trained, tmp_path):
    fused = trained()
    fused.fuse()
    fused.save(tmp_path / "fused.pt")
    for source in (fused, str(tmp_path / "fused.pt")):
        with pytest.raises(
            ValueError, match=r"these weights are fused for inference: .*; give the checkpoint that was"
        ):
            load_pretrained(YOLO("yolo11n-mhsa.yaml"), source)
