"""Try many cases in a process of their own, with limits, and say what became of each."""

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

SURVIVED, REFUSED, LOST = "survived", "refused", "lost"
SECONDS = 20  # of computing that a case may take
SILENT = 600  # seconds that a case may take without computing, on a machine that others use
MEMORY = 1 << 31  # bytes that a case may take besides what the process has
LONG = 1500  # characters of a message
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
             "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")  # fmt: skip


class Wrong(Exception):  # noqa: N818 - a verdict, not an error
    """What a case did wrong without an error: labels changed, a payload run."""


@dataclass
class Family:
    """Cases of one kind.

    Attributes:
        name: in the table.
        count: of the cases.
        case: given a number, tries it: returns where it survived, and gives names of which a refusal must have one.
        named: parts of names of which a refusal must hold one.
    """

    name: str
    count: int
    case: Callable[[int], None]
    named: Sequence[str] = ()


@dataclass
class Tally:
    """What became of a family's cases."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def add(self, number: int, verdict: str, detail: str) -> None:
        """One more."""
        self.counts[verdict] += 1
        if verdict == LOST:
            self.lost.append(f"{self.name} {number}: {detail}")


_watching: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching is not None and event in FORBIDDEN:
        _watching.append(f"{event} {arguments!r:.100}")
        raise PermissionError(f"{event} in a test of hostile files")


def judge(family: Family, number: int) -> tuple[str, str]:
    """Try a case: survived, refused with a line that names the file and a cure, or lost and why."""
    global _watching
    _watching = seen = []
    try:
        family.case(number)
        verdict, detail = SURVIVED, ""
    except Wrong as error:
        verdict, detail = LOST, str(error)
    except (ValueError, FileNotFoundError) as error:
        wrong = ill_told(str(error), family.named)
        verdict, detail = (LOST, f"{wrong}: {error!r:.300}") if wrong else (REFUSED, str(error))
    except BaseException as error:
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        verdict, detail = (
            LOST,
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]} at {' '.join(where[-4:])}",
        )
    finally:
        _watching = None
    return (LOST, f"did what it must not: {seen[0]}") if seen else (verdict, detail)


def ill_told(message: str, named: Sequence[str]) -> str:
    """What a refusal's message lacks."""
    if "\n" in message or len(message) > LONG:
        return "not one line"
    if named and not any(name in message for name in named):
        return "names no file"
    return "" if "; " in message or ", e.g. " in message else "has no cure"


def watch() -> None:
    """From now on in this process, notice commands and connections of a case."""
    if _hook not in vars(sys).setdefault("_botvision_hooks", []):
        sys.addaudithook(_hook)
        vars(sys)["_botvision_hooks"].append(_hook)


def in_this_process(family: Family, numbers: Iterable[int]) -> Tally:
    """Cases that cannot hang or crash."""
    watch()
    tally = Tally(family.name)
    for number in numbers:
        tally.add(number, *judge(family, number))
    return tally


def apart(family: Family, numbers: Iterable[int]) -> Tally:
    """Each case in a process with limits of time and memory, which is begun anew after a hang or a crash."""
    waiting, tally = list(numbers), Tally(family.name)
    fork = multiprocessing.get_context("fork")
    while waiting:
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=_serve, args=(family, waiting, theirs), daemon=True)
        child.start()
        theirs.close()
        for verdict, detail in _answers(ours, child.pid or 0):
            tally.add(waiting.pop(0), verdict, detail)
        if waiting:
            gone = ours.poll(0)  # its end of the pipe is closed
            child.join(60 if gone else 0)
            reason = f"crashed ({child.exitcode})" if gone else "hung"
            tally.add(waiting.pop(0), LOST, reason)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    return tally


def _answers(pipe: Connection, pid: int) -> Iterator[tuple[str, str]]:
    """Verdicts as they come, until the process computes or is silent for too long, or is gone."""
    try:
        while True:
            begun, computed = time.monotonic(), _computed(pid)
            while not pipe.poll(0.2):
                if _computed(pid) - computed > SECONDS or time.monotonic() - begun > SILENT:
                    return
            yield pipe.recv()
    except EOFError:
        return


def _computed(pid: int) -> float:
    """Seconds that a process has computed; none of one that is gone."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _serve(family: Family, numbers: Sequence[int], pipe: Connection) -> None:
    """In the process: case after case."""
    watch()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders written in C say there what they think of a file
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        pipe.send(judge(family, number))


def table(tallies: Sequence[Tally]) -> str:
    """Tried, survived, refused, lost, as Markdown."""
    rows = ["| cases | tried | survived | refused | lost |", "|---|---|---|---|---|"]
    for tally in tallies:
        counts = " | ".join(f"{tally.counts[verdict]:,}" for verdict in (SURVIVED, REFUSED, LOST))
        rows.append(f"| {tally.name} | {tally.tried:,} | {counts} |")
    total = Counter[str]()
    for tally in tallies:
        total += tally.counts
    counts = " | ".join(f"**{total[verdict]:,}**" for verdict in (SURVIVED, REFUSED, LOST))
    return "\n".join([*rows, f"| all | **{sum(total.values()):,}** | {counts} |"])
