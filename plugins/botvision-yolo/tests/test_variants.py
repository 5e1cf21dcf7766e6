"""Variants of the installed yamls: every name builds, rows are renumbered, nothing else changes."""

import re

import pytest
import torch
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER, YAML

from botvision.attention import MHSA2d
from botvision_yolo import YOLO, derive, write_yaml
from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d
from botvision_yolo.variants import VARIANTS, insert_row, is_installed, known_names, models, split

IN = {"botnet": C3k2BoT, "insert": BoTBottleneck, "mhsa": ResidualMHSA2d, "c2bot": C2BoT}
KIND = {"": "detect", "-seg": "segment", "-cls": "classify", "-pose": "pose", "-obb": "obb"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", KIND)
def test_every_variant_of_every_task_builds_and_runs(variant, task):
    model = YOLO(f"yolo11n-{variant}{task}.yaml")
    assert model.task == KIND[task]
    assert any(type(m) is IN[variant] for m in model.model.modules())
    model.model.eval()(torch.rand(1, 3, 96, 64))


@pytest.mark.parametrize("scale", "smlx")
def test_every_scale_builds(scale):
    with torch.device("meta"):
        for variant in ("botnet", "mhsa", "c2bot"):
            d = tasks.yaml_model_load(write_yaml(f"yolo11{scale}-{variant}.yaml"))
            assert d["scale"] == scale
            rows, _ = tasks.parse_model(d, 3, verbose=False)
            assert any(type(m) is IN[variant] for m in rows.modules())


def test_what_is_listed_is_what_can_be_written(tmp_path):
    for name in known_names("n"):
        assert write_yaml(name, tmp_path).is_file()
    listed = models().splitlines()
    assert "| yolo11 | detect, -seg, -cls, -pose, -obb | botnet, insert, mhsa, c2bot |" in listed
    assert "| yolov8-ghost | detect | mhsa |" in listed
    assert "yolov9c" in listed[-1]


@pytest.mark.parametrize(
    ("name", "row", "block"),
    [
        ("yolov8n-botnet", 8, C3k2BoT),
        ("yolov8n-mhsa", 10, ResidualMHSA2d),
        ("yolov8n-p2-botnet", 8, C3k2BoT),
        ("yolov8n-p6-botnet", 10, C3k2BoT),
        ("yolov8n-insert-seg", 9, BoTBottleneck),
        ("yolov5n-botnet", 8, C3BoT),
        ("yolov10n-botnet", 8, C3k2BoT),
        ("yolov10n-c2bot", 10, C2BoT),
        ("yolo11n-botnet", 8, C3k2BoT),
        ("yolo11n-mhsa", 10, ResidualMHSA2d),
        ("yolo11n-c2bot", 10, C2BoT),
        ("yolo12n-botnet", 8, C3k2BoT),
        ("yolo12n-mhsa", 9, ResidualMHSA2d),
        ("yolo26n-botnet", 8, C3k2BoT),
        ("yolo26n-c2bot-seg", 10, C2BoT),
    ],
)
def test_other_families(name, row, block):
    if not is_installed(base := re.sub(rf"-({'|'.join(VARIANTS)})", "", name)):
        pytest.skip(f"this ultralytics has no {base}")
    model = YOLO(f"{name}.yaml").model
    assert type(model.model[row]) is block
    model.eval()(torch.rand(1, 3, 128, 192))
    plain = tasks.yaml_model_load(split(f"{name}.yaml")[0])
    changed = sum(ours != theirs for ours, theirs in zip(model.yaml["backbone"], plain["backbone"], strict=False))
    assert changed == 1 or len(model.yaml["backbone"]) == len(plain["backbone"]) + 1


@pytest.mark.parametrize("scale", "nm")
def test_the_head_is_the_plain_models(scale):
    """By its last stage's `C3k2BoT` the reader once took a YOLOv8 for a YOLO11, whose head is another."""
    names = [name for name in known_names(scale) if "-botnet" in name and "directional" not in name]
    scaled = [name for name in names if not (found := re.match(r"yolov10(.)", name)) or found[1] == scale]
    assert len(scaled) > 10
    for name in scaled:
        plain = split(name)[0]
        with torch.device("meta"):
            rows, theirs = (
                tasks.parse_model(tasks.yaml_model_load(path), 3, verbose=False)[0]
                for path in (write_yaml(name), plain)
            )
        heads = [{key: value.shape for key, value in those[-1].state_dict().items()} for those in (rows, theirs)]
        assert heads[0] == heads[1], name


def test_c3k_is_of_yolo11_and_later():
    with torch.device("meta"):
        for name, inner in (("yolov8m-botnet.yaml", BoTBottleneck), ("yolo11m-botnet.yaml", C3BoT)):
            rows, _ = tasks.parse_model(tasks.yaml_model_load(write_yaml(name)), 3, verbose=False)
            [block] = [row for row in rows if isinstance(row, C3k2BoT)]
            assert {type(part) for part in block.m} == {inner}


def test_the_inserted_row_renumbers_as_the_posts_yaml_written_by_hand():
    d = derive(tasks.yaml_model_load("yolo11n.yaml"), "mhsa")
    assert [row[2] for row in d["backbone"]][8:] == ["C3k2", "SPPF", "MHSA2d", "C2PSA"]
    assert [row[0] for row in d["head"]] == [
        -1, [-1, 6], -1, -1, [-1, 4], -1, -1, [-1, 14], -1, -1, [-1, 11], -1, [17, 20, 23],
    ]  # fmt: skip


def test_who_read_the_row_before_by_number_reads_the_inserted_one():
    d = derive(tasks.yaml_model_load("yolov8n.yaml"), "mhsa")  # here the head reads SPPF, row 9
    assert [row[0] for row in d["head"] if row[2] == "Concat"] == [[-1, 6], [-1, 4], [-1, 13], [-1, 10]]


def test_rows_counted_backwards_stay_where_they_were():
    rows = [[-1, 1, "Conv", [8, 1]] for _ in range(4)] + [[-3, 1, "Conv", [8, 1]], [[-1, -4], 1, "Concat", [1]]]
    d = insert_row({"backbone": rows[:4], "head": rows[4:]}, 3, [-1, 1, "new", []])
    assert d["backbone"][3][2] == "new"
    assert [row[0] for row in d["head"]] == [1, [-1, 1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo11n-botnett.yaml", "no yaml 'yolo11n-botnett.yaml' in ultralytics .*; did you mean yolo11n-botnet.yaml"),
        ("yolo11n-botnet-sgm.yaml", "did you mean yolo11n-botnet-seg.yaml"),
        ("yolov9c-botnet.yaml", "no CSP block .* in this yaml's last stage; it has .*RepNCSPELAN4"),
        ("yolov8n-c2bto.yaml", "did you mean yolov10n-c2bot.yaml, yolo"),  # v8 has none
        ("yolov8n-c2bot.yaml", "this yaml has no C2PSA or PSA to replace; use botnet, insert or mhsa"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        YOLO(name)


def test_a_derived_model_is_not_derived_again():
    once = derive(tasks.yaml_model_load("yolo11n.yaml"), "mhsa")
    with pytest.raises(ValueError, match=r"this model has MHSA2d already"):
        derive(once, "botnet")
    with pytest.raises(ValueError, match=r"unknown variant 'bot'; use one of botnet, insert, mhsa, c2bot"):
        derive(once, "bot")


def test_the_file_says_what_the_derivation_did_and_no_more(tmp_path):
    path = write_yaml("yolo11s-botnet-seg.yaml", tmp_path)
    plain = YAML.load(tasks.check_yaml("yolo11-seg.yaml"))
    plain["backbone"][8] = [-1, 2, "C3k2BoT", [1024, True]]
    assert YAML.load(path) == plain
    assert path.read_text().startswith("# the paper's rule: the last stage's 3×3 convolutions become attention; from ")


def test_a_folder_with_a_digit_and_a_scales_letter_is_no_trap(tmp_path):
    folder = tmp_path / "py3lib"
    model = YOLO(str(write_yaml("yolo11s-mhsa.yaml", folder)))
    assert model.model.yaml["scale"] == "s"


def test_a_path_means_that_file_and_a_changed_file_is_not_overwritten(tmp_path):
    with pytest.raises(FileNotFoundError):
        YOLO(str(tmp_path / "yolo11n-botnet.yaml"))
    path = write_yaml("yolo11n-botnet.yaml", tmp_path)
    assert write_yaml("YOLO11n-BoTNet.yaml", tmp_path) == path
    path.write_text("nc: 7\n")
    with pytest.raises(ValueError, match=r"yolo11n-botnet.yaml holds something else; give another folder"):
        write_yaml("yolo11n-botnet.yaml", tmp_path)
    assert path.read_text() == "nc: 7\n"


def test_a_yaml_of_ultralytics_name_beside_the_user_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolo11.yaml").write_text("nc: 7\n")
    assert YOLO("yolo11n-botnet.yaml").model.yaml["nc"] == 80


@pytest.mark.parametrize("name", ["yolo11n-botnet.yaml", "yolo11-botnet.yaml"])
def test_a_users_own_file_of_that_name_comes_first_as_in_ultralytics(name, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    LOGGER.propagate = True
    written = write_yaml("yolo11n-botnet.yaml", tmp_path)
    text = written.read_text(encoding="utf-8").replace("nc: 80", "nc: 7")
    written.unlink()
    (tmp_path / name).write_text(text, encoding="utf-8")
    with caplog.at_level("INFO"):
        model = YOLO("yolo11n-botnet.yaml").model
        assert (model.yaml["nc"], model.yaml["scale"]) == (7, "n")
        assert f"yolo11n-botnet.yaml: your own file {tmp_path / name}, not the variant" in caplog.text
        caplog.clear()
        YOLO("yolo11n-mhsa.yaml")
    assert "yolo11n-mhsa.yaml: derived from the yaml that ultralytics" in caplog.text


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_start_by_name_and_its_spreads_by_option_reach_every_layer(variant, tmp_path):
    path = write_yaml(f"yolo11n-{variant}-directional-seg.yaml", tmp_path, qkv_std=0.03, position_std=0.2)
    layers = [m for m in YOLO(path).model.modules() if isinstance(m, MHSA2d)]
    assert layers
    assert all((m.start, m.qkv_std, m.position_std) == ("directional", 0.03, 0.2) for m in layers)
    plain = YAML.load(write_yaml(f"yolo11n-{variant}-paper-seg.yaml", tmp_path))
    assert plain == YAML.load(write_yaml(f"yolo11n-{variant}-seg.yaml", tmp_path))
