"""Flags of a command as people say them: kinds, choices, defaults, and what a refusal says."""

import argparse
import difflib
import inspect
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from botvision.engine.settings import RENAMED, read_yaml

REQUIRED = inspect.Parameter.empty
WORDS = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", NoneType: "none"}
PRINT_CONFIG = "print the options as YAML, for a file to give to --config, and exit"


class Flag(NamedTuple):
    """A flag's type and default; `REQUIRED` where it has none."""

    kind: Any
    default: Any


def flags_of(function: Callable[..., Any]) -> dict[str, Flag]:
    """A function's flags by their dotted names: those of its dataclasses too."""
    found: dict[str, Flag] = {}
    for parameter in inspect.signature(function).parameters.values():
        found |= flags_in(parameter.name, parameter.annotation, parameter.default)
    return found


def flags_in(name: str, kind: Any, default: Any) -> dict[str, Flag]:
    """A parameter as one flag, or as a flag for each field of its dataclass."""
    if not is_dataclass(kind):
        return {name: Flag(kind, default)}
    found: dict[str, Flag] = {}
    for field in fields(kind):
        own = getattr(default, field.name) if is_dataclass(default) else default_of(field)
        found |= flags_in(f"{name}.{field.name}", field.type, own)
    return found


def words_of(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Parameters that a command takes as words without a flag: those that it needs, and those that may follow."""
    taken = [p for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [parameter.name for parameter in taken if parameter.default is REQUIRED]
    return needed, [parameter.name for parameter in taken if parameter.default is not REQUIRED]


def default_of(field: Field[Any]) -> Any:
    """A field's default; `REQUIRED` where it has none."""
    if field.default is not MISSING:
        return field.default
    return REQUIRED if field.default_factory is MISSING else field.default_factory()


def types_in(kind: Any) -> tuple[Any, ...]:
    """Types of a union, or the one type that it is."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices(kind: Any) -> list[str]:
    """Every value of a type that has only few: literals, true and false; nothing where it has others too."""
    found: list[str] = []
    for one in types_in(kind):
        if get_origin(one) is Literal:
            found += [str(value) for value in get_args(one)]
        elif one in (bool, NoneType):
            found += WORDS[one].split("|")
        else:
            return []
    return found


def said(kind: Any) -> str:
    """What a flag takes, e.g. PATH, refuse|skip, or NUMBER ... for a list of them."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return "|".join(said(part) for part in parts)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is tuple:
        return " ".join("..." if part is ... else said(part) for part in parts)
    return "{NAME: VALUE, ...}" if origin is dict else WORDS.get(kind, "VALUE")


def shown(default: Any) -> str:
    """A default as it would be typed."""
    if isinstance(default, tuple | list):
        return " ".join(shlex.quote(shown(part)) for part in default)
    if isinstance(default, bool | NoneType):
        return str(default).lower()
    return f"{default:.4g}" if isinstance(default, float) else str(default)


class Paragraphs(argparse.HelpFormatter):
    """A description in its paragraphs; indented ones as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        filled = (
            part if part.startswith(" ") else super(Paragraphs, self)._fill_text(part, width, indent) for part in parts
        )
        return "\n\n".join(filled)


def about(function: Callable[..., Any]) -> str:
    """What a function is for: its docstring up to what its arguments are."""
    return re.split(r"\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0].strip()


def explain(
    parser: argparse.ArgumentParser, flags: Mapping[str, Flag], *, recipes: Sequence[str], spare: Sequence[str] = ()
) -> None:
    """Give each flag of jsonargparse's parser its kind and default in our words, each group its dataclass's name.

    Args:
        parser: to change.
        flags: of its function.
        recipes: names of those that the command has.
        spare: flags whose value may follow the required words without their name.
    """
    for action in parser._actions:
        if action.dest in flags:
            explain_flag(action, flags[action.dest], recipes=recipes)
        elif action.dest == "print_config":
            action.help, action.metavar = PRINT_CONFIG, ""
        elif action.dest == "help":
            action.help = "show this and exit"
        elif action.dest != "config":
            action.help = argparse.SUPPRESS  # a file for one group: --config does it for all
    for group in parser._action_groups:
        groups = {action.dest.rpartition(".")[0] for action in group._group_actions if action.dest in flags}
        for name in groups:
            group.title = f"{name}: {group.title}" if name else "arguments"
    positionals = [action.dest.upper() for action in parser._actions if not action.option_strings]
    words = ["[--recipe NAME]"] if recipes else [*positionals, *(f"[{name.upper()}]" for name in spare)]
    parser.usage = " ".join([parser.prog, *words, "[--FLAG VALUE ...]"]).replace("%", "%%")
    parser.epilog = (
        "A dash in a flag's name is as good as an underscore. A flag that takes several values takes them one after "
        "another, without brackets or commas."
    )


def explain_flag(action: argparse.Action, flag: Flag, *, recipes: Sequence[str]) -> None:
    """Its help, then its default, or that it is required; where its value is, what it takes."""
    is_required = flag.default is REQUIRED
    note = "required, here or in the recipe" if recipes else "required"
    note = note if is_required else f"default: {shown(flag.default)}"
    action.metavar = said(flag.kind)
    if not action.option_strings:
        note, action.metavar = said(flag.kind).lower(), action.dest.upper()
    text = (action.help or "").strip().removesuffix(".")
    action.help = f"{text} ({note})".strip().replace("%", "%%")


def nearest(name: str, known: Iterable[str]) -> str:
    """The name that may have been meant: today's of an old one, one in another group, or one spelt alike."""
    known = list(known)
    leaf = name.rpartition(".")[2]
    leaf = RENAMED.get(leaf, leaf)
    same = [other for other in known if other.rpartition(".")[2] == leaf]
    leaves = difflib.get_close_matches(leaf, [other.rpartition(".")[2] for other in known], n=1)
    alike = [other for other in known if other.rpartition(".")[2] in leaves]
    return next(iter([*same, *difflib.get_close_matches(name, known, n=1), *alike]), "")


def refusal(message: str, flags: Mapping[str, Flag], *, positionals: Sequence[str], recipes: Mapping[str, Path]) -> str:
    """Jsonargparse's message in our words: flags as they are typed, kinds as the help has them.

    Args:
        message: as one line.
        flags: of the command.
        positionals: those of them that need no name.
        recipes: those that the command has, by name.
    """

    def typed(name: str) -> str:
        return name.upper() if name in positionals else f"--{name}"

    if missing := re.search(r'arguments are required: ([\w., ]+)|Key "([\w.]+)" is required', message):
        names = next(filter(None, missing.groups())).split(", ")
        able = [recipe for recipe, path in recipes.items() if gives(path, names)]
        cure = f"; give them, or --recipe with one that does: {', '.join(able)}" if able else ""
        return f"missing {', '.join(map(typed, names))}{cure}"
    if nothing := re.search(r"argument (?:-\w/)?--([\w.]+)\S*: expected", message):
        kind = flags[nothing[1]].kind if nothing[1] in flags else str
        return f"--{nothing[1]} takes {said(kind)}; got nothing"
    key = re.search(r'[Pp]arser key "([\w.]+)"', message)
    if key and key[1] in flags:
        return unfit(typed(key[1]), flags[key[1]], message)
    return message + unknown(message, flags, recipes)


def gives(recipe: Path, names: Iterable[str]) -> bool:
    """Whether a recipe has a value for each of these flags."""
    content = read_yaml(recipe, what="recipe")
    for name in names:
        value = content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            return False
    return True


def unfit(name: str, flag: Flag, message: str) -> str:
    """A value of another kind than the flag's, with the choice that may have been meant."""
    value = re.search(r"(?:Got|Given) value: (.*)$", message)
    got = f"; got {value[1]}" if value else ""
    near = difflib.get_close_matches(value[1], choices(flag.kind), n=1) if value else []
    return f"{name} takes {said(flag.kind)}{got}" + (f"; did you mean {near[0]}?" if near else "")


def unknown(message: str, flags: Mapping[str, Flag], recipes: Collection[str]) -> str:
    """What may have been meant by a flag, by a key of a file, or by a recipe without its flag."""
    word = re.search(r"arguments: ([\w-]+)", message)
    if word and word[1] in recipes:
        return f"; did you mean --recipe {word[1]}?"
    if flag := re.search(r"arguments: .*?--([\w.-]+)", message):
        near = nearest(flag[1], [*flags, "config", *(["recipe"] if recipes else [])])
        return f"; did you mean --{near}?" if near else ""
    if key := re.search(r"(?:[Oo]ption|[Kk]ey) '([\w.]+)'", message):
        group = re.search(r"[Gg]roup '([\w.]+)'", message)
        own = [flag for flag in flags if group and flag.startswith(f"{group[1]}.")]
        near = (nearest(f"{group[1]}.{key[1]}" if group else "", own) or nearest(key[1], flags)).rpartition(".")[2]
        return f"; did you mean {near}?" if near else ""
    return ""
