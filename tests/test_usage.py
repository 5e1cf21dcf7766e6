"""Help and refusals: flags as they are typed, kinds in people's words, choices, defaults, the nearest name."""

import re
from pathlib import Path
from typing import Any, Literal

import pytest

from botvision.cli import COMMANDS, Command, load, main, recipe_names
from botvision.usage import REQUIRED, choices, flags_of, nearest, said, shown

ALL = [
    pytest.param([task, name] if name else [task], command, id=f"{task} {name}")
    for task, below in COMMANDS.items()
    for name, command in ([(None, below)] if isinstance(below, Command) else below.items())
]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def help_of(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(("words", "command"), ALL)
def test_help_says_kinds_and_defaults_in_peoples_words(words, command, capsys):
    text = help_of(words, capsys)
    assert not re.search(r"<class|Union|Optional|Literal|tuple|null|True|False|\bdict\b|type:|%%", text)
    flat = " ".join(text.split())
    for name, flag in flags_of(load(command.function)).items():
        typed = f"--{name} {said(flag.kind)} " if f"--{name} " in flat else f" {name.upper()} "
        assert typed in flat
        assert f"default: {shown(flag.default)})" in flat if flag.default is not REQUIRED else True


def test_help_is_grouped_by_dataclass(capsys):
    text = help_of(["classify", "train"], capsys)
    heads = ["arguments:", "data: images and how they are augmented:", "data.augment: of training images:"]
    heads += ["model: the classifier:", "optim: how it learns:", "engine: hardware, precision, logging:"]
    places = [text.index(f"\n{head}\n") for head in heads]
    assert places == sorted(places)
    for head, flag in (("data", "crop"), ("data.augment", "mixup"), ("optim", "lr_per_256"), ("engine", "seed")):
        assert f"--{head}.{flag}" in text.partition(f"\n{head}: ")[2].partition("\n\n")[0]


def test_help_shows_choices_and_what_a_recipe_may_give(capsys):
    text = " ".join(help_of(["maskrcnn", "train"], capsys).split())
    assert "--model.preset paper|torchvision_v2|tiny|nano " in text
    assert "--data.flip true|false mirror half of the images (default: true)" in text
    assert "--out PATH folder of the run, e.g. runs/maskrcnn/mine (required, here or in the recipe)" in text
    assert "--data.root PATH|none in place of these four, a folder in" in text
    assert "--data.jitter NUMBER NUMBER" in text
    assert "usage: botvision maskrcnn train [--recipe NAME] [--FLAG VALUE ...]" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Path, "PATH"),
        (int | None, "INTEGER|none"),
        (tuple[float, ...], "NUMBER ..."),
        (int | tuple[int, int], "INTEGER|INTEGER INTEGER"),
        (Literal["a", "b"] | None, "a|b|none"),
        (dict[str, Any] | None, "{NAME: VALUE, ...}|none"),
        (Any, "VALUE"),
    ],
)
def test_a_kind_in_words(kind, words):
    assert said(kind) == words


def test_choices_are_all_values_or_none():
    assert choices(Literal["a", "b"] | None) == ["a", "b", "none"]
    assert choices(bool) == ["true", "false"]
    assert choices(Literal["a"] | int) == choices(str) == []


def test_a_default_as_it_is_typed():
    assert [shown(value) for value in (None, True, 2 / 3, (0.5, 2), ("a b", "c"), Path("p"))] == [
        "none",
        "true",
        "0.6667",
        "0.5 2",
        "'a b' c",
        "p",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("optim.lrr", "optim.lr"), ("lr", "optim.lr"), ("canvas", "model.img_size"), ("epoch", "optim.epochs"), ("x", "")],
)
def test_the_nearest_name_may_be_in_another_group(name, meant):
    assert nearest(name, ["out", "model.img_size", "optim.lr", "optim.epochs"]) == meant


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--treshold", "0.3", "a", "b"], "; did you mean --threshold?"),
        (["train", "--recip", "demo", "--epochs", "3"], "; did you mean --recipe?"),
        (["train", "--recipe", "demo", "--epochs", "3"], "; did you mean --optim.epochs?"),
        (["predict", "a", "b", "--thresh", "0.3"], "unrecognized arguments: --thresh 0.3; did you mean --threshold?"),
        (["train", "--recipe", "finetune", "--data.roo", "x"], "; did you mean --data.root?"),
        (["train", "demo"], "; did you mean --recipe demo?"),
        (["train", "--optim.lr", "many"], "--optim.lr takes NUMBER; got many;"),
        (["train", "--model.preset", "papr"], "--model.preset takes paper|torchvision_v2|tiny|nano"),
        (["train", "--engine.live", "x"], "--engine.live takes tensorboard|wandb|none"),
        (["train", "--data.jitter", "0.5"], "--data.jitter takes NUMBER NUMBER; got [0.5];"),
        (["train", "--engine.compile", "maybe"], "--engine.compile takes true|false; got maybe;"),
        (["predict", "a.ckpt"], "missing SOURCE; flags: botvision maskrcnn predict --help"),
    ],
)
def test_a_wrong_flag_is_one_line_in_the_words_of_the_help(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["maskrcnn", *arguments])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert said.lower() in line.lower()  # "Unrecognized", in older versions
    assert line.count("\n") == 1


@pytest.mark.parametrize("task", ["maskrcnn", "classify"])
def test_what_is_missing_is_named_as_it_is_typed_with_the_recipes_that_may_give_it(task, capsys):
    with pytest.raises(SystemExit) as stop:
        main([task, "train"])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert re.match(r"botvision: missing --(data\.|out)", line)
    recipes = set(re.search(r"or --recipe with one that does: ([\w ,-]+);", line)[1].split(", "))
    without = {"finetune"} if "--data." in line else set()  # a recipe that names no images
    assert recipes == set(recipe_names(f"botvision.{task}.recipes")) - without
