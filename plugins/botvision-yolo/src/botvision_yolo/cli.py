"""The command line: `bot-yolo` is ultralytics' `yolo` with our models in it, and a few commands of its own."""

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from botvision.cli import any_terminal, first_cause, tell

DEBUG = "BOTVISION_DEBUG"  # set it to see the traceback of a refused command
USERS_MISTAKE = 2
SPECIAL = ("checks", "version", "settings", "cfg", "login", "logout", "copy-cfg", "solutions", "help")  # of `yolo`


class Command(NamedTuple):
    """A function to offer by name: where it lives, how it is called, what it is for."""

    function: str
    usage: str
    help: str


COMMANDS = {
    "init": Command(
        "botvision_yolo.seed:init",
        "yolo11n-botnet.pt [weights=yolo11n.pt]",
        "a variant as a .pt that the untouched yolo command trains",
    ),
    "models": Command(
        "botvision_yolo.variants:models", "", "the families, tasks and variants that this ultralytics has"
    ),
    "yaml": Command(
        "botvision_yolo.cli:yaml",
        "yolo11n-botnet.yaml [folder=. qkv_std=0.05 position_std=0.1]",
        "a variant's yaml, to read or change",
    ),
    "convert": Command(
        "botvision_yolo.convert:convert",
        "old.pt new.pt [content_only=True trust=True]",
        "a fork's checkpoint with the shared MHSA snippet, without the fork",
    ),
    "table": Command(
        "botvision_yolo.table:table",
        "[model=yolo11 scales=nsm imgsz=640 rounds=9 out=table.md]",
        "the variants' counts, kept weights and time",
    ),
    "scenes": Command(
        "botvision_yolo.scenes:scenes",
        "DIR [train=1100 val=200 size=128 seed=0]",
        "a small offline data set, to detect and to segment",
    ),
    "report": Command(
        "botvision_yolo.report:report",
        "RUN… [against=RUN,RUN out=report.html device=cpu]",
        "a run's folder, or several beside a baseline, as one HTML file",
    ),
    "compare": Command(
        "botvision_yolo.compare:compare",
        "DATA.yaml [models=yolo11n,yolo11n-botnet tasks=detect,segment seeds=3 epochs=30 out=DIR]",
        "train variants beside the plain model, several seeds",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command of ours, or hand everything to ultralytics; a user's mistake is one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    any_terminal()
    try:
        return run(given)
    except (ValueError, OSError, SyntaxError, ImportError, RuntimeError) as error:
        data = isinstance(error, RuntimeError) and str(error).startswith("Dataset")  # one that ultralytics cannot find
        if os.environ.get(DEBUG) or (isinstance(error, RuntimeError) and not data):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]  # ultralytics' go on for a page
        first = first_cause(error) if isinstance(error, OSError) else lines[0]
        print(f"bot-yolo: {first}", file=sys.stderr)
        return USERS_MISTAKE


def run(given: list[str]) -> int:
    """Find the command and call it."""
    if given and given[0] in COMMANDS:
        tell(call(given[0], given[1:]))
        return 0
    if not given or given[0].lstrip("-") in {"help", "h"}:
        print(help_text(), flush=True)
    import ultralytics
    from ultralytics import cfg

    refuse_misspelt(given, words=[*cfg.MODES, *cfg.TASKS, *SPECIAL], options=switches_of(cfg))

    from botvision_yolo.model import YOLO

    stock, arguments = ultralytics.YOLO, list(cfg.ARGV)
    ultralytics.YOLO, cfg.ARGV[1:] = YOLO, given  # what its entry point takes its model and its words from
    try:
        cfg.entrypoint()
    finally:
        ultralytics.YOLO, cfg.ARGV[:] = stock, arguments
    return 0


def switches_of(cfg: Any) -> list[str]:
    """Options of ultralytics that are true where their name stands alone."""
    return [name for name, default in cfg.DEFAULT_CFG_DICT.items() if isinstance(default, bool)]


def refuse_misspelt(given: list[str], *, words: Sequence[str], options: Collection[str]) -> None:
    """Refuse a first word that is nearer to a command of ours than to any of ultralytics', and none of its options.

    Raises:
        ValueError: it is.
    """
    word = given[0] if given else ""
    near = difflib.get_close_matches(word, [*words, *COMMANDS], n=1, cutoff=0.75)
    if near and near[0] in COMMANDS and word not in options:
        raise ValueError(f"no command {word!r}; did you mean {near[0]}? bot-yolo help lists all")


def call(name: str, words: list[str]) -> Any:
    """Call a command's function with words and `key=value` pairs.

    Raises:
        ValueError: words that it does not take.
    """
    from ultralytics.cfg import smart_value

    command = COMMANDS[name]
    usage = f"usage: bot-yolo {name} {command.usage}".rstrip()
    if words and words[0].lstrip("-") in {"help", "h"}:
        return f"{usage}\n{command.help}"
    if dashed := [word for word in words if word.startswith("-")]:
        raise ValueError(f"options are written key=value, without dashes; got {dashed[0]!r}; {usage}")
    function = load(command.function)
    named = {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
    numbers = {key: smart_value(value) if not takes_text(function, key) else value for key, value in named.items()}
    try:
        bound = inspect.signature(function).bind(*(word for word in words if "=" not in word), **numbers)
    except TypeError as error:
        raise ValueError(f"{error}; {usage}") from error
    return function(*bound.args, **bound.kwargs)


def takes_text(function: Callable[..., Any], key: str) -> bool:
    """Whether a function takes a text by this name, so that `scales=n` stays one."""
    parameter = inspect.signature(function).parameters.get(key)
    return parameter is not None and "str" in str(parameter.annotation)


def load(path: str) -> Callable[..., Any]:
    """The function at `module:name`.

    Raises:
        ModuleNotFoundError: a package that only this command needs, with how to get it.
    """
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pip install 'botvision-yolo[all]'") from error
    return found


def yaml(name: str, *, folder: str = ".", qkv_std: float | None = None, position_std: float | None = None) -> str:
    """Write a variant's yaml into a folder of the user's."""
    from pathlib import Path

    from botvision_yolo.variants import write_yaml

    return f"{write_yaml(name, Path(folder), qkv_std=qkv_std, position_std=position_std)}"


def help_text() -> str:
    """Our commands, each with its usage."""
    lines = ["bot-yolo: everything that yolo does, with models such as yolo11n-botnet.yaml; and", ""]
    lines += [f"    bot-yolo {name} {command.usage}\n        {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(lines)
