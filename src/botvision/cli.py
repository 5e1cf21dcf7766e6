"""The command line: `botvision <task> <command>`, made of the functions' own signatures."""

import argparse
import contextlib
import difflib
import errno
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, NoReturn, get_args, get_origin

from botvision import __version__
from botvision.completion import Shell, add_flags, script
from botvision.engine.settings import read_yaml
from botvision.files import is_file
from botvision.usage import REQUIRED, Flag, Paragraphs, about, explain, flags_of, refusal, types_in, words_of

DEBUG = "BOTVISION_DEBUG"  # set it to see the traceback of a refused command
USERS_MISTAKE = 2
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
ALONE = {"--help", "--print_config"}  # flags without a value
ENGINES = {"onnxruntime": "deploy", "openvino": "export"}  # which run exported files: the extra that brings each


class Command(NamedTuple):
    """A function to offer: where it lives, what it is for, which extras it needs, and where its recipes are.

    What the function requires needs no flag, unless the command has recipes, which may give it.
    """

    function: str
    help: str
    extras: str = "all"
    recipes: str | None = None


COMMANDS: dict[str, dict[str, Command] | Command] = {
    "maskrcnn": {
        "train": Command(
            "botvision.maskrcnn.commands:train",
            "train a Mask R-CNN with any backbone",
            "train,detect",
            recipes="botvision.maskrcnn.recipes",
        ),
        "evaluate": Command(
            "botvision.maskrcnn.commands:evaluate", "box and mask AP of a checkpoint on a COCO file", "train,detect"
        ),
        "predict": Command("botvision.maskrcnn.commands:predict", "detect objects in images", "train,detect"),
    },
    "classify": {
        "train": Command(
            "botvision.classify.commands:train",
            "train a classifier: any BoTNet or timm model",
            "train",
            recipes="botvision.classify.recipes",
        ),
        "evaluate": Command(
            "botvision.classify.commands:evaluate", "accuracy and speed of a checkpoint, at any sizes", "train"
        ),
        "predict": Command("botvision.classify.commands:predict", "classify images", "train"),
    },
    "bench": {
        "attention": Command(
            "botvision.bench.commands:attention", "time the attention layer beside timm's, as ratios", "train"
        ),
        "backbone": Command(
            "botvision.bench.commands:backbone", "time whole backbones beside their ResNet baseline", "train"
        ),
        "classify": Command(
            "botvision.bench.commands:classify", "time BoTNets T3 to T7 beside EfficientNets, each at its px", "train"
        ),
        "detector": Command(
            "botvision.bench.commands:detector",
            "time Mask R-CNN beside its baseline and torchvision's",
            "train",
        ),
        "deploy": Command(
            "botvision.bench.commands:deploy", "time eager, fused, compiled and exported models", "export"
        ),
    },
    "draw": {
        "attention": Command(
            "botvision.explore.figures:attention", "where one place of an image looks, by head", "train,detect"
        ),
        "tables": Command("botvision.explore.figures:tables", "learnt position tables as maps", "train,detect"),
        "instances": Command("botvision.explore.figures:instances", "objects on an image", "train,detect"),
        "curves": Command("botvision.explore.figures:curves", "a run's training curves", "train,detect"),
    },
    "explore": Command(
        "botvision.explore.commands:explore", "see where attention looks: one HTML file", "train,detect"
    ),
    "report": Command(
        "botvision.report:report", "a run, or several beside a baseline, as one HTML file", "train,detect"
    ),
    "export": Command(
        "botvision.export.commands:export",
        "write a model as ONNX, OpenVINO, torch.export or TorchScript, proved",
        "export",
    ),
    "serve": Command("botvision.serve.commands:serve", "serve an exported model over HTTP", "serve"),
    "digits": Command(
        "botvision.digits:make_digits", "write handwritten digits as class folders or tar shards", "train,scenes"
    ),
    "scenes": Command(
        "botvision.scenes:make_scenes", "write a small COCO dataset of digits on photographs", "train,scenes"
    ),
    "completion": Command("botvision.cli:completion", "print a shell's completion script", "train"),
}
GROUPS = {
    "maskrcnn": "detect objects, with masks: train, evaluate, predict",
    "classify": "classify images: train, evaluate, predict",
    "draw": "draw for papers: attention, tables, instances, curves",
    "bench": "time models on this machine: attention, backbone, classify, detector, deploy",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit code 2, Ctrl-C is 130, SIGTERM in training 143."""
    any_terminal()
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
        return int(getattr(error, "exit_code", USERS_MISTAKE))


def run(arguments: list[str]) -> int:
    """Find the command, parse its flags, call it, print what it returns."""
    command, words = find(arguments)
    if command is None:
        no_command(arguments)
    with extras_named(command, " ".join(words)):
        result = called(command, words, arguments[len(words) :])
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once, not once a process
        tell(result)
    return 0


def any_terminal() -> None:
    """Have help written where a terminal's code lacks our signs: by their numbers, where Python would refuse."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(result: Any) -> None:
    """Print a result, to the last byte: a reader that has gone, as `head` does, is no fault.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    try:
        code = sys.stdout.encoding or "utf-8"  # a file's name may be of other bytes
        print(str(result).encode(code, "backslashreplace").decode(code), flush=True)
    except OSError as error:
        with contextlib.suppress(OSError):  # what is buffered is not to be tried again as the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def called(command: Command, words: Sequence[str], arguments: list[str]) -> Any:
    """What a command's function returns for the flags that were typed.

    Raises:
        ValueError: words that are no text, which a file's name may be.
    """
    for argument in arguments:
        if not argument.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in argument):
            raise ValueError(f"{argument!r} is not in UTF-8; rename the file, or give its folder")
    parser = command_parser(command, prog=f"botvision {' '.join(words)}")
    function = load(command.function)
    flags = flags_of(function)
    given = as_jsonargparse_reads(arguments, lists_of(flags))
    given = switched_on(given, switches_of(flags), before_words=command.recipes is None)
    if command.recipes is None:
        given = spare_words_named(given, function)
    given = last_words_joined(given, flags)
    options = parser.instantiate_classes(parser.parse_args(none_as_null(given, flags)))
    if command.recipes:  # it trains
        quiet_libraries()
    return function(**{name: value for name, value in options.items() if name != "config"})


@contextlib.contextmanager
def extras_named(command: Command, words: str) -> Iterator[None]:
    """Say which extras bring a package that is not installed.

    Raises:
        ValueError: in place of a ModuleNotFoundError of another package than ours, and of an ImportError of one that is
            there and does not load.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "botvision"):
            raise
        if not isinstance(error, ModuleNotFoundError):
            raise ValueError(f"{words} needs {package}, which does not load: {error}") from error
        own = [ENGINES[package]] if package in ENGINES else []
        extras = ",".join(dict.fromkeys([*command.extras.split(","), *own]))
        raise ValueError(f"{words} needs {package}; pip install 'botvision[{extras}]'") from error


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


def no_command(arguments: Sequence[str]) -> NoReturn:
    """Print the help or version that was asked for; otherwise refuse, with the commands that there are."""
    table: Mapping[str, Any] = COMMANDS
    words: list[str] = []
    for word in arguments:
        if word in ("-h", "--help"):
            overview().parse_args([*words, "--help"])
        if word == "--version":
            overview().parse_args(["--version"])
        if word not in table:
            refuse(misnamed(word, words, table))
        table = table[word]
        words.append(word)
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
        overview().parse_args([*words, "--help"])
    print(file=sys.stderr)
    refuse(f"{' '.join(['give', *words])} a command: {', '.join(table)}")


def misnamed(word: str, words: Sequence[str], table: Mapping[str, Any]) -> str:
    """One line about a word that names no command, with those that may have been meant."""
    there = f"commands{' of ' * bool(words)}{' '.join(words)}: {', '.join(table)}"
    if word.startswith("-"):
        near = difflib.get_close_matches(word, ("--help", "--version"), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{' '.join(['give', *words])} a command before {word}{hint}; {there}"
    meant = [" ".join([*words, name]) for name in difflib.get_close_matches(word, table, n=1)]
    groups = [name for name, below in COMMANDS.items() if not isinstance(below, Command) and word in below]
    meant = meant or [f"{name} {word}" for name in groups]
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"no command {' '.join([*words, word])!r}; {hint}{there}"


def refuse(message: str) -> NoReturn:
    """End with a user's mistake, in one line."""
    print(f"botvision: {message}", file=sys.stderr)
    sys.exit(USERS_MISTAKE)


def overview(fill: Callable[[argparse.ArgumentParser, Command], None] | None = None) -> argparse.ArgumentParser:
    """What there is, by task.

    Args:
        fill: adds a command's own flags to its parser; without it they are not there.
    """
    parser = argparse.ArgumentParser(
        prog="botvision",
        description="BoTNet made usable: train, evaluate, predict.",
        epilog="botvision COMMAND --help says more, e.g. botvision maskrcnn train --help.",
    )
    parser.add_argument("--version", action="version", version=f"botvision {__version__}")
    tasks = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(table: Any, name: str, command: Command, prog: str) -> None:
        added = table.add_parser(name, help=command.help, prog=f"{prog} {name}")
        if fill is not None:
            fill(added, command)

    for task, commands in COMMANDS.items():
        if isinstance(commands, Command):
            add(tasks, task, commands, "botvision")
            continue
        group = tasks.add_parser(
            task,
            help=GROUPS[task],
            description=f"{GROUPS[task]}.".capitalize(),
            epilog=f"botvision {task} COMMAND --help has its flags.",
        )
        below = group.add_subparsers(title="commands", metavar="COMMAND")
        for name, command in commands.items():
            add(below, name, command, f"botvision {task}")
    return parser


def completion(shell: Shell) -> str:
    """Print a shell's completion script: commands, flags, choices and recipes.

        bash  botvision completion bash > ~/.local/share/bash-completion/completions/botvision
        zsh   botvision completion zsh > ~/.zfunc/_botvision, where ~/.zfunc is in $fpath before compinit
        fish  botvision completion fish > ~/.config/fish/completions/botvision.fish

    New shells have it then; write it again after an update.

    Args:
        shell: the one that reads the script.
    """

    def fill(parser: argparse.ArgumentParser, command: Command) -> None:
        names = recipe_names(command.recipes) if command.recipes else []
        add_flags(parser, command_parser(command, prog=parser.prog), flags_of(load(command.function)), recipes=names)

    return script(shell, overview(fill))


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
        if (kind and own and not is_list(own)) or len(own) > 1:
            value = listed(own, kind)
            read += [f"{name}={value}", *values] if is_joined else [name, value, *values[len(own) :]]
        else:
            read += [name + flag[len(name) :], *values]
    return read


def is_list(words: Sequence[str]) -> bool:
    """Whether it is one list in YAML's brackets, and no file of such a name."""
    return len(words) == 1 and words[0].startswith("[") and words[0].endswith("]") and not is_file(Path(words[0]))


def listed(values: list[str], kind: Any = None) -> str:
    """Numbers as a YAML list, or words where it is one of words."""
    words = kind is not None and kind not in (int, float)
    return f"[{', '.join(json.dumps(value, ensure_ascii=False) if words else value for value in values)}]"


def lists_of(flags: Mapping[str, Flag]) -> dict[str, Any]:
    """Flags that take several values and nothing else, and the type of these."""
    return {name: get_args(flag.kind)[0] for name, flag in flags.items() if get_origin(flag.kind) is tuple}


def none_as_null(arguments: Sequence[str], flags: Mapping[str, Flag]) -> list[str]:
    """`none`, as help and Python say it, as YAML's null, for flags that may have no value; no path is that."""
    optional = {f"--{name}": types_in(flag.kind) for name, flag in flags.items() if NoneType in types_in(flag.kind)}

    def value(given: str, types: Sequence[Any]) -> str:
        if given.lower() == "none":
            return "null"
        return f"./{given}" if Path in types and given.startswith(("#", "&")) else given  # alone, nothing in YAML

    read: list[str] = []
    for argument in arguments:
        name, joined, given = argument.partition("=")
        if joined and name in optional:
            read.append(f"{name}={value(given, optional[name])}")
        else:
            read.append(value(argument, optional[read[-1]]) if read and read[-1] in optional else argument)
    return read


def switches_of(flags: Mapping[str, Flag]) -> set[str]:
    """Flags that are true or false."""
    return {name for name, flag in flags.items() if flag.kind is bool}


def switched_on(arguments: list[str], switches: set[str], *, before_words: bool) -> list[str]:
    """`--track` alone as `--track true`; `before_words` too, where a command takes words without a flag."""
    read: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        ends = following == "" or following.startswith("--")
        bare = argument.removeprefix("--") in switches and following.lower() not in {"true", "false"}
        bare = bare and (ends or before_words)
        read += [argument, "true"] if bare and argument.startswith("--") else [argument]
    return read


def last_words_joined(arguments: list[str], flags: Mapping[str, Flag]) -> list[str]:
    """The words without a flag that a command takes last, as one list where it takes several, such as images."""
    required = [name for name, flag in flags.items() if flag.default is REQUIRED]
    if not required or get_origin(flags[required[-1]].kind) is not tuple:
        return arguments
    words, named = apart(arguments)
    single, several = words[: len(required) - 1], words[len(required) - 1 :]
    return [*single, *([listed(several, str)] if several and not is_list(several) else several), *named]


def spare_words_named(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """Words beyond those that a command requires, as the flags of what its function takes next without a name."""
    required, spare = words_of(function)
    words, named = apart(arguments)
    least = len(required)
    extra = list(zip(spare, words[least:], strict=False))
    if not extra:
        return arguments
    rest = [*words[:least], *words[least + len(extra) :]]
    return [*rest, *(part for name, word in extra for part in (f"--{name}", word)), *named]


def apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Words without a flag, and flags with their values."""
    words, named = list[str](), list[str]()
    for argument in arguments:
        follows = bool(named) and named[-1].startswith("--") and "=" not in named[-1] and named[-1] not in ALONE
        (named if argument.startswith("-") or follows else words).append(argument)
    return words, named


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

    function = load(command.function)
    flags = flags_of(function)
    recipes = recipe_names(command.recipes) if command.recipes else []

    class OneLineParser(ArgumentParser):
        """A mistake is one line, with the flag that may have been meant."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            positionals = [action.dest for action in self._actions if not action.option_strings]
            contents = {name: recipe_path(name, command.recipes) for name in recipes}
            told = refusal(" ".join(message.split()), flags, positionals=positionals, recipes=contents)
            refuse(f"{told}; flags: {prog} --help")

    parser = OneLineParser(prog=prog, description=about(function), formatter_class=Paragraphs, allow_abbrev=False)
    if recipes:
        help_text = f"a YAML file with any of the flags, or a recipe: {', '.join(recipes)}"
        parser.add_argument("--config", "--recipe", action=RecipeOrFile, help=help_text, metavar="NAME|FILE")
    else:
        parser.add_argument("--config", action=RecipeOrFile, help="a YAML file with any of the flags", metavar="FILE")
    parser.add_function_arguments(function, as_positional=command.recipes is None)
    explain(parser, flags, recipes=recipes, spare=words_of(function)[1])
    return parser


def quiet_libraries() -> None:
    """Keep what people cannot act on off their screens: lightning's tips, deprecations inside libraries."""
    with contextlib.suppress(ImportError):
        import lightning.pytorch  # noqa: F401  # it sets its logger's level when it is imported
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def load(function: str) -> Callable[..., Any]:
    """`package.module:name` as the function itself."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
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
        read_yaml(Path(value), what="settings")  # refused here, before the parser unfolds its aliases
        return Path(value)
    names = recipe_names(package) if package else []
    near = difflib.get_close_matches(value, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"recipes: {', '.join(names)}" if names else "give a YAML file"
    raise FileNotFoundError(f"no recipe or YAML file {value!r}; {hint}")


def first_cause(error: BaseException) -> str:
    """One line: what was wrong, without the traceback that a data-loading process puts before it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if isinstance(error, OSError) and error.filename and error.strerror:
        cure = "; give a path that can be read and written" if error.errno in NO_ACCESS else ""
        return f"{error.filename}: {error.strerror.lower()}{cure}"
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("ValueError: ").removeprefix("FileNotFoundError: ")


if __name__ == "__main__":
    sys.exit(main())
