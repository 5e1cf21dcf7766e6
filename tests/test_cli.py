"""The command line: help of every command, every recipe, one line and exit code 2 for a user's mistake."""

import errno
import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

from botvision import __version__
from botvision.cli import (
    COMMANDS,
    Command,
    as_jsonargparse_reads,
    extras_named,
    first_cause,
    last_words_joined,
    main,
    recipe_names,
    recipe_path,
)
from botvision.explore import explore
from botvision.maskrcnn.resize import image_size
from botvision.usage import flags_of

RECIPES = "botvision.maskrcnn.recipes"
ALL = [
    [task, name] if name else [task]
    for task, commands in COMMANDS.items()
    for name in ([None] if isinstance(commands, Command) else commands)
]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize("command", [[], *ALL], ids=" ".join)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: botvision" in capsys.readouterr().out


def test_help_text_lives_at_the_field(capsys):
    with pytest.raises(SystemExit):
        main(["maskrcnn", "train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "averaged weights, which are then evaluated and saved" in text
    assert "a recipe: botnet101-36ep" in text


@pytest.mark.parametrize("name", recipe_names(RECIPES))
def test_every_recipe_parses_and_builds(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["maskrcnn", "train", "--recipe", name, "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)

    import torch

    from botvision.maskrcnn.checkpoint import build_model
    from botvision.maskrcnn.config import ModelConfig

    with torch.device("meta"):
        model = build_model(ModelConfig(**config["model"]), 80)
    assert model.resize.rule == image_size(config["model"]["img_size"])
    shipped = yaml.safe_load(recipe_path(name, RECIPES).read_text())
    for part in ("data", "model", "optim", "engine"):
        for key, value in shipped.get(part, {}).items():
            assert config[part][key] == value


def test_the_papers_recipes_are_all_there_and_batch_64():
    names = set(recipe_names(RECIPES))
    assert {"demo", "r50-36ep", "botnet50-12ep", "botnet50-24ep", "botnet50-36ep", "botnet50-72ep-jitter",
            "botnet101-36ep", "botnet152-36ep", "botnet200-1280-72ep"} <= names  # fmt: skip
    for name in names - {"demo", "finetune"}:
        recipe = yaml.safe_load(recipe_path(name, RECIPES).read_text())
        assert recipe["data"]["batch_size"] * recipe["engine"]["devices"] == 64
        assert recipe["optim"]["epochs"] == int(name.split("ep")[0].rsplit("-", 1)[1])


@pytest.mark.parametrize("epochs", ["24ep", "36ep", "72ep-jitter"])
def test_a_botnet_recipe_differs_from_its_baseline_in_the_backbone_alone(epochs):
    ours, baseline = (yaml.safe_load(recipe_path(f"{n}-{epochs}", RECIPES).read_text()) for n in ("botnet50", "r50"))
    assert ours["model"].pop("backbone") == "botnet50"
    assert baseline["model"].pop("backbone") == "resnet50"
    assert ours.pop("out") != baseline.pop("out")
    assert ours == baseline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maskrcnn", "predict", "gone.ckpt", "a.jpg"], "no checkpoint at gone.ckpt"),
        (["maskrcnn", "train", "--recipe", "dmo"], "no recipe or YAML file 'dmo'; did you mean demo?"),
        (["maskrcnn", "train", "--recipe", "demo", "--model.backbone", "botnet27"], "did you mean botnet26"),
        (["scenes", "x", "--size", "1"], "size=1 must be at least 32 pixels"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("botvision: ")
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="pipes as POSIX has them")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_fault_and_a_full_disk_is_one(unbuffered):
    """`botvision completion bash | head -1`, and `> /dev/full`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "botvision", "completion", "bash"]
    reading, writing = os.pipe()
    os.close(reading)
    gone = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (gone.returncode, gone.stderr) == (0, "")
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        assert told.returncode == 2
        assert "No space left on device" in told.stderr
        assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["maskrcnn", "fly"], ["maskrcnn", "predict"], ["scenes", "x", "--train", "many"]]
)
def test_a_wrong_flag_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("botvision: ")
    assert said.count("\n") == 1


def test_an_error_in_a_data_process_is_one_line_too():
    error = ValueError(
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback…\nValueError: cannot read a.jpg"
    )
    assert first_cause(error) == "cannot read a.jpg"


def test_a_truncated_image_met_in_training_is_one_line(scenes, tmp_path, capsys):
    import shutil

    images = tmp_path / "train"
    shutil.copytree(scenes / "train", images)
    for path in images.iterdir():
        path.write_bytes(path.read_bytes()[:400])
    arguments = ["maskrcnn", "train", "--recipe", "demo", "--out", str(tmp_path / "run"), "--data.train_images"]
    arguments += [str(images), "--data.train_annotations", str(scenes / "annotations" / "train.json")]
    arguments += ["--data.val_annotations", str(scenes / "annotations" / "val.json"), "--data.val_images"]
    arguments += [str(scenes / "val"), "--data.workers", "1", "--data.on_bad", "skip", "--model.backbone", "botnet14"]
    arguments += ["--engine.progress", "false"]
    assert main(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(
        r"botvision: 1\d images could not be read, more than --data.bad_limit 10 .*: cannot read image", last
    )
    assert last.endswith("replace the file or leave it out")


def test_help_of_no_command_loads_torch():
    """Importing it takes seconds."""
    code = f"""
import sys
from botvision.cli import main
for command in {[[], *ALL]}:
    try:
        main([*command, "--help"])
    except SystemExit:
        pass
print([m for m in ("torch", "timm", "lightning", "sklearn") if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.count("usage: ") == 1 + len(ALL)


def test_import_botvision_is_light():
    code = "import sys, botvision; print([m for m in ('torch', 'timm', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NOT_TO_SERVE = "lightning,matplotlib,shtab,webdataset,hotcoco,supervision,sklearn,scipy"
MISSING = "lightning,jsonargparse,matplotlib,shtab,webdataset,hotcoco,pycocotools,supervision,sklearn"


@pytest.mark.parametrize(
    ("packages", "arguments", "code", "said"),
    [
        (MISSING, ["--version"], 0, f"botvision {__version__}"),
        (MISSING, ["--help"], 0, "maskrcnn  detect objects"),
        (MISSING, ["maskrcnn", "--help"], 0, "train     train a Mask R-CNN"),
        (MISSING, ["maskrcnn", "evaluat"], 2, "did you mean maskrcnn evaluate?"),
        (MISSING, ["classify", "predict", "a", "b"], 2, "needs jsonargparse; pip install 'botvision[train]'"),
        (
            "supervision",
            ["maskrcnn", "predict", "a", "b"],
            2,
            "needs supervision; pip install 'botvision[train,detect]'",
        ),
        ("pycocotools", ["scenes", "x"], 2, "scenes needs pycocotools; pip install 'botvision[train,scenes]'"),
        (NOT_TO_SERVE, ["serve", "--help"], 0, "usage: botvision serve"),
        ("shtab", ["completion", "bash"], 2, "completion needs shtab; pip install 'botvision[train]'"),
    ],
)
def test_without_extras_a_command_names_those_it_needs(packages, arguments, code, said, tmp_path):
    hidden = "import runpy, sys\nsys.modules.update(dict.fromkeys(sys.argv.pop(1).split(',')))\n"
    hidden += "runpy.run_module('botvision', run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", hidden, packages, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code
    assert said in (done.stderr if code else done.stdout)
    assert done.stderr.count("\n") == (1 if code else 0)


def test_every_command_is_said_to_need_extras_that_there_are():
    offered = set(metadata("botvision").get_all("Provides-Extra"))
    commands = [c for below in COMMANDS.values() for c in ([below] if isinstance(below, Command) else below.values())]
    line = {"train", "export", "serve"}  # those that bring the command line
    assert all(line & set(command.extras.split(",")) for command in commands)
    needed = {str(need) for need in metadata("botvision").get_all("Requires-Dist")}
    for extra in line - {"export"}:  # which brings `train`
        assert any("jsonargparse" in need and f'extra == "{extra}"' in need.replace("'", '"') for need in needed), extra
    assert {extra for command in commands for extra in command.extras.split(",")} <= offered


def test_an_import_of_our_own_that_fails_is_no_users_mistake():
    with pytest.raises(ModuleNotFoundError), extras_named(COMMANDS["digits"], "digits"):
        importlib.import_module("botvision.gone")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["maskrcnn", "evaluat"],
            "no command 'maskrcnn evaluat'; did you mean maskrcnn evaluate? commands of maskrcnn: train, ",
        ),
        (["maskrnn", "train"], "no command 'maskrnn'; did you mean maskrcnn? commands: maskrcnn, classify, "),
        (["train"], "did you mean maskrcnn train or classify train?"),
        (["fly"], "no command 'fly'; commands: maskrcnn, "),
        (["--verson"], "give a command before --verson; did you mean --version?"),
        (["maskrcnn", "--recipe", "demo"], "give maskrcnn a command before --recipe; commands of maskrcnn: train, "),
    ],
)
def test_a_misspelt_command_is_one_line_with_the_nearest(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("botvision: ")
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "shown", "last"),
    [
        ([], "write a small COCO dataset", "botvision: give a command: maskrcnn, classify, "),
        (["maskrcnn"], "box and mask AP", "botvision: give maskrcnn a command: train, evaluate, predict"),
    ],
)
def test_a_group_alone_shows_its_commands(arguments, shown, last, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert shown in said
    assert said.splitlines()[-1].startswith(last)


@pytest.mark.parametrize("typed", [["0.7"], ["0.7", "0.9"], ["[0.7, 0.9]"]])
def test_a_list_in_a_group_takes_one_value_or_several(typed, capsys):
    with pytest.raises(SystemExit):
        main(["maskrcnn", "train", "--recipe", "demo", "--optim.milestones", *typed, "--print_config"])
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["optim"]["milestones"] == ([0.7] if typed == ["0.7"] else [0.7, 0.9])


@pytest.mark.parametrize("typed", [["--optim.ema", "none"], ["--optim.ema=None"]])
def test_none_is_no_value(typed, capsys):
    """The recipe has one."""
    recipe = yaml.safe_load(recipe_path("demo", RECIPES).read_text())
    assert recipe["optim"]["ema"] > 0
    with pytest.raises(SystemExit):
        main(["maskrcnn", "train", "--recipe", "demo", *typed, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["optim"]["ema"] is None


def test_a_name_that_yaml_would_read_as_nothing_is_a_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("#3.html", "&b.html"):
        for typed in (["--out", name], [f"--out={name}"]):
            with pytest.raises(SystemExit):
                main(["report", "run", *typed, "--print_config"])
            assert Path(yaml.safe_load(capsys.readouterr().out)["out"]) == Path(name)


def test_a_name_in_another_code_is_refused_by_name(capsys):
    assert main(["explore", "m.ckpt", "bad\udce9.jpg"]) == 2
    assert "'bad\\udce9.jpg' is not in UTF-8; rename the file, or give its folder" in capsys.readouterr().err


@pytest.mark.parametrize("code", ["ascii", "latin-1"])
def test_help_is_written_in_every_terminals_code(code):
    done = subprocess.run(
        [sys.executable, "-m", "botvision", "maskrcnn", "train", "--help"],
        env={**os.environ, "PYTHONIOENCODING": code},
        capture_output=True,
    )
    assert done.returncode == 0
    assert b"usage: botvision maskrcnn train" in done.stdout


def test_a_package_that_does_not_load_is_one_line():
    told = pytest.raises(ValueError, match="maskrcnn predict needs cv2, which does not load: libGL")
    with told, extras_named(COMMANDS["maskrcnn"]["predict"], "maskrcnn predict"):
        raise ImportError("libGL.so.1: cannot open shared object file", name="cv2")


@pytest.mark.parametrize(
    ("command", "package", "extras"),
    [
        (COMMANDS["maskrcnn"]["predict"], "onnxruntime", "train,detect,deploy"),
        (COMMANDS["classify"]["evaluate"], "openvino", "train,export"),
        (COMMANDS["serve"], "openvino", "serve,export"),
        (COMMANDS["export"], "openvino", "export"),
    ],
)
def test_a_missing_engine_is_told_with_the_extra_that_brings_it(command, package, extras):
    told = pytest.raises(ValueError, match=re.escape(f"it needs {package}; pip install 'botvision[{extras}]'"))
    with told, extras_named(command, "it"):
        raise ModuleNotFoundError(name=package)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--img-size", "224", "320", "--out", "a-b"], ["--img_size", "[224, 320]", "--out", "a-b"]),
        (["x", "--rounds", "3"], ["x", "--rounds", "3"]),
        (["--sides", "[4, 5]"], ["--sides", "[4, 5]"]),
        (["--on-existing=resume-it", "7", "8"], ["--on_existing=resume-it", "7", "8"]),
        (["a.ckpt", "12", "13"], ["a.ckpt", "12", "13"]),
        (["--data.augment.scale", "0.6", "1.0"], ["--data.augment.scale", "[0.6, 1.0]"]),
        (["--data.batch-size", "4"], ["--data.batch_size", "4"]),
    ],
)
def test_dashes_and_several_numbers_are_taken(given, read):
    assert as_jsonargparse_reads(given) == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--worlds", "side", "--jobs", "2"], ["--worlds", '["side"]', "--jobs", "2"]),
        (["--worlds", "side", "a b", "3"], ["--worlds", '["side", "a b", "3"]']),
        (["--worlds=side"], ['--worlds=["side"]']),
        (["--sizes", "64"], ["--sizes", "[64]"]),
        (["--worlds", "[side, key]"], ["--worlds", "[side, key]"]),
        (["--worlds=[side]", "x"], ["--worlds=[side]", "x"]),
        (["--worlds", "[1] a", "b"], ["--worlds", '["[1] a", "b"]']),
    ],
)
def test_lists_are_taken_without_brackets(given, read):
    assert as_jsonargparse_reads(given, {"worlds": str, "sizes": int}) == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["botnet14", "a.png", "b c.png", "--out", "x"], ["botnet14", '["a.png", "b c.png"]', "--out", "x"]),
        (["--out", "x", "botnet14", "a.png"], ["botnet14", '["a.png"]', "--out", "x"]),
        (["botnet14", "--max_mb=3", "a.png", "7.png"], ["botnet14", '["a.png", "7.png"]', "--max_mb=3"]),
        (["botnet14", "[a.png]"], ["botnet14", "[a.png]"]),
        (["botnet14", "[2024] a.png", "b.png"], ["botnet14", '["[2024] a.png", "b.png"]']),
        (["botnet14"], ["botnet14"]),
    ],
)
def test_the_last_words_are_one_list_where_a_command_takes_several(given, read):
    assert last_words_joined(given, flags_of(explore)) == read
    assert last_words_joined(given, {}) == given


def test_one_value_of_a_list_needs_no_brackets(capsys):
    flags = ["--models", "resnet50", "botnet50", "--sizes", "64"]
    with pytest.raises(SystemExit):
        main(["bench", "detector", *flags, "--print_config"])
    said = yaml.safe_load(capsys.readouterr().out)
    assert (said["models"], said["sizes"]) == (["resnet50", "botnet50"], [64])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model.canvas", "64"], ["nrecognized arguments: --model.canvas 64; did you mean --model.img_size?"]),
        (["--optim.optimiser", "adamw"], ["did you mean --optim.optimizer?"]),
        (
            ["--config", "{folder}/old.yaml"],
            ["Group 'engine' does not accept", "'score_every'; did you mean evaluate_every?"],
        ),
        (["--config", "{folder}/typo.yaml"], ["'rot'; did you mean root?"]),
        (["--config", "{folder}/top.yaml"], ["'backbone_weight'", "did you mean backbone_weights?"]),
    ],
)
def test_a_wrong_name_is_one_line_with_the_right_one(tmp_path, capsys, flags, said):
    (tmp_path / "old.yaml").write_text("engine: {score_every: 2}\n")
    (tmp_path / "typo.yaml").write_text("data: {rot: mine}\n")
    (tmp_path / "top.yaml").write_text("backbone_weight: mine.pth\n")
    with pytest.raises(SystemExit) as stop:
        main(["maskrcnn", "train", *(flag.format(folder=tmp_path) for flag in flags)])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert all(part in line for part in said)  # jsonargparse's versions say the rest in words of their own
    assert line.count("\n") == 1


def test_a_switch_needs_no_value(capsys):
    with pytest.raises(SystemExit):
        main(["maskrcnn", "predict", "--track", "a.ckpt", "0", "--draw", "false", "--print_config"])
    said = yaml.safe_load(capsys.readouterr().out)
    assert (said["track"], said["draw"], said["source"]) == (True, False, "0")


def test_what_the_system_refuses_is_told_with_its_path_and_a_cure():
    refused = PermissionError(errno.EACCES, "Permission denied", "/there/a.json")
    assert first_cause(refused) == "/there/a.json: permission denied; give a path that can be read and written"
    assert first_cause(IsADirectoryError(errno.EISDIR, "Is a directory", "/there")) == "/there: is a directory"
    assert first_cause(OSError("no room to write a.json")) == "no room to write a.json"
