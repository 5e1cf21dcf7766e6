"""The command line: ultralytics' grammar with our names, our commands; one line and exit code 2 for a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ultralytics

from botvision_yolo.cli import COMMANDS, main

BIN = Path(sys.executable).parent


def words_of(options):
    return [f"{key}={value}" for key, value in options.items()]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def test_it_trains_a_variant_by_its_name_and_scores_it(data, tmp_path, small):
    command = [
        BIN / "bot-yolo",
        "train",
        "model=yolo11n-botnet.yaml",
        f"data={data}",
        "epochs=1",
        f"project={tmp_path}",
        *words_of(small),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "botvision_yolo.blocks.C3k2BoT" in done.stdout + done.stderr
    best = next(tmp_path.rglob("best.pt"))
    done = subprocess.run(
        [BIN / "bot-yolo", "val", f"model={best}", f"data={data}", *words_of(small)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("way", ["spaced", "cfg"])
def test_the_grammars_other_ways_to_name_a_model(way, data, tmp_path, small):
    words = ["model", "=", "yolo11n-mhsa.yaml"]
    if way == "cfg":
        (tmp_path / "my.yaml").write_text("model: yolo11n-mhsa.yaml\n")
        words = ["cfg=my.yaml"]
    assert main(["train", *words, f"data={data}", "epochs=1", f"project={tmp_path}", *words_of(small)]) == 0
    assert list(tmp_path.rglob("best.pt"))


def test_the_untouched_yolo_command_trains_a_seed(data, tmp_path, capsys, small):
    assert main(["init", "yolo11n-mhsa.pt"]) == 0
    assert "yolo detect train model=yolo11n-mhsa.pt" in capsys.readouterr().out
    command = [
        BIN / "yolo",
        "train",
        "model=yolo11n-mhsa.pt",
        f"data={data}",
        "epochs=1",
        f"project={tmp_path}",
        *words_of(small),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.rglob("best.pt"))


def test_a_seed_from_trained_weights_holds_them(trained, capsys):
    source = trained("yolo11n-seg.yaml")
    source.save("plain.pt")
    assert main(["init", "yolo11n-insert-seg.pt", "weights=plain.pt"]) == 0
    seed = ultralytics.YOLO("yolo11n-insert-seg.pt").model
    assert torch.equal(seed.model[10].cv1.conv.weight, source.model.model[9].cv1.conv.weight.half().float())


def test_a_seed_has_the_classes_of_its_weights(trained, capsys):
    source = trained()
    source.model = type(source.model)({**source.model.yaml, "nc": 3}, verbose=False)
    source.model.names = {0: "ant", 1: "bee", 2: "cat"}
    source.save("three.pt")
    assert main(["init", "yolo11n-mhsa.pt", "weights=three.pt"]) == 0
    said = capsys.readouterr().out
    assert "weights from three.pt, 499 of 507 tensors kept; fresh, by row: 10" in said
    seed = ultralytics.YOLO("yolo11n-mhsa.pt").model
    assert seed.names == source.model.names
    own, theirs = (head.cv3[0][2].weight for head in (seed.model[24], source.model.model[23]))
    assert torch.equal(own, theirs.half().float())


def test_a_seed_of_a_yaml_of_ones_own_says_so(capsys):
    main(["yaml", "yolo11n-mhsa.yaml"])
    Path("yolo11n-mhsa.yaml").rename("mine.yaml")
    capsys.readouterr()
    assert main(["init", "mine.pt"]) == 0
    assert "mine.pt holds your own mine.yaml with its initial weights" in capsys.readouterr().out
    assert type(ultralytics.YOLO("mine.pt").model.model[10]).__name__ == "ResidualMHSA2d"
    assert main(["init", "yours.pt"]) == 2
    assert "no yaml 'yours.yaml'" in capsys.readouterr().err


def test_a_yaml_to_read(capsys):
    assert main(["yaml", "yolo11s-mhsa.yaml"]) == 0
    assert Path("yolo11s-mhsa.yaml").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_verb(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: bot-yolo {command} {COMMANDS[command].usage}".strip() in capsys.readouterr().out


def test_help_names_our_verbs_and_theirs(capsys):
    assert main(["help"]) == 0
    out = capsys.readouterr().out
    assert all(f"bot-yolo {command} " in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "model=yolo11n-botnett.yaml"], "did you mean yolo11n-botnet.yaml"),
        (["init", "yolo11n-bitnet.pt"], "no yaml 'yolo11n-bitnet.yaml'"),
        (["init", "yolo11n-botnet.onnx"], "a seed is a .pt file; got yolo11n-botnet.onnx"),
        (["init", "yolo11n-botnet.pt", "weights=gone/a.pt"], "no weights at gone/a.pt; give a .pt that exists"),
        (["init", "a.pt", "b.pt"], "usage: bot-yolo init"),
        (["yaml", "yolo11n-botnet.yaml", "fodler=x"], "unexpected keyword argument 'fodler'; usage: bot-yolo yaml"),
        (["convert", "gone.pt", "new.pt"], "no checkpoint at gone.pt"),
        (["compare", "gone.yaml"], "no data at gone.yaml; make some: bot-yolo scenes"),
        (["compare", "gone.yaml", "tasks=fly"], "unknown task 'fly'; use detect, segment"),
        (["train", "model=yolo11n-botnet.yaml", "data=gone.yaml", "project=/nowhere"], "gone.yaml"),
        (["scenes", "x", "size=1"], "size=1 must be at least 32"),
        (["trane", "model=yolo11n-botnet.yaml"], "trane"),
        (["modelz"], "no command 'modelz'; did you mean models? bot-yolo help lists all"),
        (["model"], "did you mean models?"),
        (["table", "model=yolo99"], "no model 'yolo99' in ultralytics"),
        (["table", "model=yolo11n.yaml"], "by name without scale, task and suffix; use one of yolo11, yolo12"),
        (["table", "scales=nq"], "scales='nq', but yolo11 has n, s, m, l, x in ultralytics"),
        (["table", "scales="], "e.g. scales=nsmlx"),
        (["table", "--model", "x"], "written key=value, without dashes; got '--model'; usage: bot-yolo table [model="),
        (["comparee", "data.yaml"], "did you mean compare?"),
        (["yaml", "yolo11n-botnet.yaml", "folder=/proc/nowhere"], "/proc/nowhere: no such file or directory"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(words, message, capsys, tmp_path):
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("bot-yolo: ")
    assert message in error
    assert not list(tmp_path.iterdir())
