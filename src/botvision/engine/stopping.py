"""Signals that end a run: Ctrl-C, SIGTERM, a terminal that closes, SLURM's warning."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WARNING = getattr(signal, "SIGUSR1", None)  # before a SLURM job ends: #SBATCH --signal=USR1@90
ENDING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Stopped(KeyboardInterrupt):
    """A run that a signal has ended.

    Attributes:
        signum: the signal.
        code: exit code of a process that it ends: 128 + its number; SLURM's warning counts as SIGTERM.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.code = 128 + (signal.SIGTERM if signum == WARNING else signum)


def signals() -> list[signal.Signals]:
    """Those that end a run, but for what it was told to ignore, as `nohup` does; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    slurm = [WARNING] if "SLURM_JOB_ID" in os.environ and WARNING is not None else []
    return [signum for signum in (*ENDING, *slurm) if signal.getsignal(signum) != signal.SIG_IGN]


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals that end a run go to `handler` inside the block, and to the handlers of before after it."""
    before = {signum: signal.signal(signum, handler) for signum in signals()}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def stoppable(go_on: Callable[[], str]) -> Iterator[None]:
    """Where a run is not being fitted, a signal ends it at once, with a line on how to go on.

    Args:
        go_on: what to do to go on, as the run stands then.

    Raises:
        Stopped: by a signal.
    """

    def stop(signum: int, _: Any) -> None:
        raise Stopped(signum, f"stopped by {signal.Signals(signum).name}; {go_on()}")

    with handled(stop):
        yield


@dataclass
class Notice:
    """The signal that came, if one did."""

    signum: int | None = None


@contextmanager
def noticing(step: str) -> Iterator[Notice]:
    """A signal is noted for the loop inside the block to end after its step; a second Ctrl-C ends it at once.

    Args:
        step: what is finished first, for the line that says so.
    """
    notice = Notice()

    def note(signum: int, _: Any) -> None:
        if notice.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if notice.signum is None:  # not by print: the signal may have come in the middle of one
            os.write(2, f"\n{signal.Signals(signum).name}: stopping after this {step}\n".encode())
        notice.signum = signum

    with handled(note):
        yield notice
