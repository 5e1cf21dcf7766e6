"""Shell completion: the flags of a command, what they take, and the script, which shtab writes."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

from botvision.usage import Flag, choices, types_in

Shell = Literal["bash", "zsh", "fish"]


def script(shell: Shell, parser: argparse.ArgumentParser) -> str:
    """A parser's completion script."""
    import shtab

    return shtab.complete(parser, shell)


def add_flags(
    parser: argparse.ArgumentParser,
    explained: argparse.ArgumentParser,
    flags: Mapping[str, Flag],
    *,
    recipes: Sequence[str],
) -> None:
    """Flags of a command for completion: argparse's own kind, which shtab reads.

    Args:
        parser: to add them to.
        explained: the command's parser, for names and help.
        flags: their types.
        recipes: names of those that the command has.
    """
    import shtab

    for action in explained._actions:
        if action.dest == "help" or action.help == argparse.SUPPRESS:
            continue
        if action.dest == "config":
            about = "a YAML file with any of the flags"
            parser.add_argument("--config", help=about).complete = shtab.FILE  # type: ignore[attr-defined]
            if recipes:
                parser.add_argument("--recipe", help="a recipe by its name", choices=recipes)
            continue
        if action.dest not in flags:
            parser.add_argument(*action.option_strings, help=action.help, action="store_true")
            continue
        kind = flags[action.dest].kind
        own: dict[str, Any] = {"nargs": "+"} if get_origin(kind) is tuple else {}
        names = action.option_strings or [action.dest]
        added = parser.add_argument(*names, help=action.help, choices=choices(kind) or None, **own)
        if not added.choices and {Path, str} & set(types_in(kind)):
            added.complete = shtab.FILE  # type: ignore[attr-defined]
