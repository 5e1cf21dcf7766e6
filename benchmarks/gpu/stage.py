"""How a stage is started and ended: its arguments, what it needs, what its exit code says."""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

SKIPPED, NO_GPU, MISTAKE = 77, 3, 2  # exit codes; 77 is automake's

Stage = Callable[[Path, bool], str]  # output folder, toy or not → one line that says what came of it


class SkippedError(Exception):
    """The stage cannot run here, for the reason that it gives."""


class InexactError(Exception):
    """The stage ran to its end and found something wrong; its file says what."""


def main(stage: Stage, arguments: Sequence[str] | None = None) -> int:
    """Run a stage as a command and print one line at its end.

    Returns:
        The exit code: 0 done, 77 skipped, 3 without a GPU, 2 after a user's mistake, 1 otherwise.
    """
    parser = argparse.ArgumentParser(description=sys.modules[stage.__module__].__doc__)
    parser.add_argument("out", type=Path, help="folder of the results; a run into it again goes on with them")
    parser.add_argument("--toy", action="store_true", help="smallest sizes on the CPU: proves the script, nothing else")
    given = parser.parse_args(arguments)
    if not given.toy and not torch.cuda.is_available():
        print("torch sees no NVIDIA GPU here; use --toy to try the script on the CPU")
        return NO_GPU
    before = signal.signal(signal.SIGTERM, ended)
    try:
        with torch.compiler.set_stance("force_eager") if given.toy else contextlib.nullcontext():
            print(stage(given.out, given.toy))
    except SkippedError as reason:
        print(f"skipped: {reason}")
        return SKIPPED
    except InexactError as reason:
        print(reason)
        return 1
    except (ValueError, OSError) as error:
        traceback.print_exc()
        print(error)
        return MISTAKE
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def ended(signum: int, _: object) -> NoReturn:
    """SIGTERM as an exit, so that files half written are taken away."""
    sys.exit(128 + signum)


def is_there(module: str) -> bool:
    """Whether a top-level module is installed."""
    return importlib.util.find_spec(module) is not None


def needs(*modules: str) -> None:
    """Skip the stage where a module is missing.

    Raises:
        SkippedError: one is.
    """
    missing = [module for module in modules if not is_there(module)]
    if missing:
        raise SkippedError(f"it needs {', '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed")


def time_to_compile(least: float = 300) -> bool:
    """Whether the stage's bound in seconds leaves time for a compilation of minutes."""
    return float(os.environ.get("BOUND", least)) >= least


def can_compile(*, toy: bool) -> bool:
    """Whether torch.compile works: on a GPU it needs Triton; a toy run passes it over."""
    return toy or is_there("triton")


def restart() -> NoReturn:
    """Begin this process anew: the device refuses all work of the old one. What is on file is not run again."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
