"""The command line: `botvision <task> <command>`, made of the functions' own signatures."""

import argparse
import contextlib
import difflib
import inspect
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_origin

from botvision import __version__
from botvision.engine.settings import RENAMED

DEBUG = "BOTVISION_DEBUG"  # set it to see the traceback of a refused command
USERS_MISTAKE = 2


class Command(NamedTuple):
    """A function to offer: where it lives, what it is for, and where its recipes are.

    What the function requires needs no flag, unless the command has recipes, which may give it.
    """

    function: str
    help: str
    recipes: str | None = None


COMMANDS: dict[str, dict[str, Command] | Command] = {
    "maskrcnn": {
        "train": Command(
            "botvision.maskrcnn.commands:train",
            "train a Mask R-CNN with any backbone",
            recipes="botvision.maskrcnn.recipes",
        ),
        "evaluate": Command("botvision.maskrcnn.commands:evaluate", "box and mask AP of a checkpoint on a COCO file"),
        "predict": Command("botvision.maskrcnn.commands:predict", "detect objects in images"),
    },
    "classify": {
        "train": Command(
            "botvision.classify.commands:train",
            "train a classifier: any BoTNet or timm model",
            recipes="botvision.classify.recipes",
        ),
        "evaluate": Command("botvision.classify.commands:evaluate", "accuracy and speed of a checkpoint, at any sizes"),
        "predict": Command("botvision.classify.commands:predict", "classify images"),
    },
    "bench": {
        "attention": Command("botvision.bench.attention:attention", "time the layer beside timm's, as ratios"),
        "backbone": Command("botvision.bench.backbone:backbone", "time whole backbones beside their ResNet baseline"),
        "classify": Command("botvision.bench.classify:classify", "time T3 … T7 beside EfficientNets, each at its px"),
        "detector": Command(
            "botvision.bench.detector:detector", "time Mask R-CNN beside its baseline and torchvision's"
        ),
    },
    "digits": Command("botvision.digits:make_digits", "write handwritten digits as class folders or tar shards"),
    "scenes": Command("botvision.scenes:make_scenes", "write a small COCO dataset of digits on photographs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit code 2, Ctrl-C is 130, SIGTERM in training 143."""
    try:
        return run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt as stopped:  # a run that was stopped says itself how to go on with it
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"botvision: {stopped if str(stopped) else 'stopped by SIGINT'}", file=sys.stderr)
        return int(getattr(stopped, "code", 128 + signal.SIGINT))
    except Exception as error:
        users = isinstance(error, ValueError | OSError) or type(error).__name__ == "MisconfigurationException"
        if os.environ.get(DEBUG) or not users:
            raise
        print(f"botvision: {first_cause(error)}", file=sys.stderr)
        return USERS_MISTAKE


def run(arguments: list[str]) -> int:
    """Find the command, parse its flags, call it, print what it returns."""
    command, words = find(arguments)
    if command is None:
        overview().parse_args(arguments)  # help, the version, or an unknown name
        raise AssertionError("an overview has no command to call")
    try:
        parser = command_parser(command, prog=f"botvision {' '.join(words)}")
    except ImportError as error:
        raise ValueError("the command line needs more packages; pip install 'botvision[all]'") from error
    given = switched_on(as_jsonargparse_reads(arguments[len(words) :], lists_of(command)), switches_of(command))
    options = parser.instantiate_classes(parser.parse_args(given))
    if command.recipes:  # it trains
        quiet_libraries()
    result = load(command.function)(**{name: value for name, value in options.items() if name != "config"})
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once, not once a process
        print(result)
    return 0


def find(arguments: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command that the first words name, and these words; none where they name none."""
    table: Mapping[str, Any] = COMMANDS
    for count, word in enumerate(arguments, 1):
        found = table.get(word)
        if isinstance(found, Command):
            return found, list(arguments[:count])
        if found is None:
            break
        table = found
    return None, []


def overview() -> argparse.ArgumentParser:
    """What there is, by task; the commands' own flags are not in it."""
    parser = argparse.ArgumentParser(prog="botvision", description="BoTNet made usable: train, evaluate, predict.")
    parser.add_argument("--version", action="version", version=f"botvision {__version__}")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for task, commands in COMMANDS.items():
        if isinstance(commands, Command):
            tasks.add_parser(task, help=commands.help)
            continue
        below = tasks.add_parser(task, help=", ".join(commands)).add_subparsers(required=True, metavar="COMMAND")
        for name, command in commands.items():
            below.add_parser(name, help=command.help)
    return parser


def as_jsonargparse_reads(arguments: list[str], lists: Mapping[str, Any] | None = None) -> list[str]:
    """`--img-size 224 320` as `--img_size [224, 320]`: dashes in names, and several numbers after one flag.

    Args:
        arguments: as they were typed.
        lists: flags that take a list always, one value or several and words as well, and what it is a list of.
    """
    groups: list[list[str]] = [[]]
    for argument in arguments:
        if argument.startswith("--"):
            groups.append([])
        groups[-1].append(argument)
    read = groups[0]
    for flag, *values in groups[1:]:
        name, is_joined, value = flag.partition("=")
        name = "--" + name[2:].replace("-", "_")
        kind = (lists or {}).get(name[2:])
        own = [value] if is_joined else values if kind else list(takewhile(is_number, values))
        if (kind and own and not own[0].startswith("[")) or len(own) > 1:
            value = listed(own, kind)
            read += [f"{name}={value}", *values] if is_joined else [name, value, *values[len(own) :]]
        else:
            read += [name + flag[len(name) :], *values]
    return read


def listed(values: list[str], kind: Any = None) -> str:
    """Numbers as a YAML list, or words where it is one of words."""
    words = kind is not None and kind not in (int, float)
    return f"[{', '.join(json.dumps(value, ensure_ascii=False) if words else value for value in values)}]"


def lists_of(command: Command) -> dict[str, Any]:
    """A command's flags that take any number of values, and the type of these."""
    parameters = inspect.signature(load(command.function)).parameters.values()
    given = {p.name: get_args(p.annotation) for p in parameters if get_origin(p.annotation) is tuple}
    return {name: types[0] for name, types in given.items() if types[-1] is ...}


def switches_of(command: Command) -> set[str]:
    """A command's own flags that are true or false."""
    return {name for name, p in inspect.signature(load(command.function)).parameters.items() if p.annotation is bool}


def switched_on(arguments: list[str], switches: set[str]) -> list[str]:
    """`--track` alone as `--track true`."""
    read: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        bare = argument.removeprefix("--") in switches and following.lower() not in {"true", "false"}
        read += [argument, "true"] if bare and argument.startswith("--") else [argument]
    return read


def is_number(argument: str) -> bool:
    """Whether it reads as one."""
    try:
        float(argument)
    except ValueError:
        return False
    return True


def command_parser(command: Command, *, prog: str) -> Any:
    """Flags and help from the function's signature and docstring."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    class RecipeOrFile(ActionConfigFile):
        """A shipped recipe by its name, or a YAML file by its path."""

        def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
            super().__call__(parser, cfg, str(recipe_path(values, command.recipes)), option_string)

    class OneLineParser(ArgumentParser):
        """A mistake is one line, with the flag that may have been meant."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            told = " ".join(message.split())
            unknown = re.search(r"arguments: --([\w.-]+)|(?:option|key) '([\w.]+)'", told)
            known = [flag.removeprefix("--") for action in self._actions for flag in action.option_strings]
            name = next(filter(None, unknown.groups())) if unknown else ""
            today = RENAMED.get(name.rpartition(".")[2], "")
            near = [today] if today else difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            print(f"botvision: {told}{hint}; flags: {prog} --help", file=sys.stderr)
            sys.exit(USERS_MISTAKE)

    function = load(command.function)
    parser = OneLineParser(prog=prog, description=(function.__doc__ or "").partition("\n")[0])
    if command.recipes:
        about = f"a YAML file, or a recipe: {', '.join(recipe_names(command.recipes))}"
        parser.add_argument("--config", "--recipe", action=RecipeOrFile, help=about)
    else:
        parser.add_argument("--config", action=RecipeOrFile, help="a YAML file with any of the flags")
    parser.add_function_arguments(function, as_positional=command.recipes is None)
    return parser


def quiet_libraries() -> None:
    """Keep what people cannot act on off their screens: lightning's tips, deprecations inside libraries."""
    with contextlib.suppress(ImportError):
        import lightning.pytorch  # noqa: F401  # it sets its logger's level when it is imported
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def load(function: str) -> Callable[..., Any]:
    """`package.module:name` as the function itself; a missing extra is named."""
    module, _, name = function.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ValueError(f"this command needs {error.name}; pip install 'botvision[all]'") from error
    return found


def recipe_names(package: str) -> list[str]:
    """Names of the recipes that a task ships."""
    return sorted(Path(entry.name).stem for entry in files(package).iterdir() if entry.name.endswith(".yaml"))


def recipe_path(value: str, package: str | None) -> Path:
    """A recipe's file by its name, or the YAML file that was given.

    Raises:
        FileNotFoundError: neither.
    """
    if package and value in recipe_names(package):
        return Path(str(files(package) / f"{value}.yaml"))
    if Path(value).is_file():
        return Path(value)
    names = recipe_names(package) if package else []
    near = difflib.get_close_matches(value, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"recipes: {', '.join(names)}" if names else "give a YAML file"
    raise FileNotFoundError(f"no recipe or YAML file {value!r}; {hint}")


def first_cause(error: BaseException) -> str:
    """One line: what was wrong, without the traceback that a data-loading process puts before it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("ValueError: ").removeprefix("FileNotFoundError: ")


if __name__ == "__main__":
    sys.exit(main())
