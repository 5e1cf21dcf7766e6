"""A study's function as a command: flags and help from its signature, a mistake as one line."""

import inspect
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

from jsonargparse import auto_cli

from botvision.cli import USERS_MISTAKE, as_jsonargparse_reads, first_cause, quiet_libraries


def run(study: Callable[..., Any], arguments: Sequence[str] | None = None) -> int:
    """Parse the flags, call the study, print what it returns.

    Args:
        study: a function with types and a docstring.
        arguments: instead of those of the process.

    Returns:
        The exit code: 2 after a user's mistake, 128 + its number after a signal.
    """
    quiet_libraries()
    before = signal.signal(signal.SIGTERM, end)
    given = sys.argv[1:] if arguments is None else list(arguments)
    parameters = inspect.signature(study).parameters.values()
    kinds = {parameter.name: get_args(parameter.annotation) for parameter in parameters}
    lists = {name: types[0] for name, types in kinds.items() if types and types[-1] is ...}
    try:
        print(auto_cli(study, args=as_jsonargparse_reads(given, lists), prog=f"python -m studies.{study.__name__}"))
    except KeyboardInterrupt as stopped:
        print("stopped; the same command goes on with what was begun", file=sys.stderr)
        return 128 + int(next(iter(stopped.args), signal.SIGINT))
    except (ValueError, OSError) as error:
        print(f"{study.__name__}: {first_cause(error)}", file=sys.stderr)
        return USERS_MISTAKE
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def end(signum: int, _: Any) -> None:
    """SIGTERM as an exception: what was begun is ended by those who began it."""
    raise KeyboardInterrupt(signum)
