"""`botvision serve` under load on loopback: latency percentiles and throughput, with bad requests among the good.

Starts the server itself, once for each batch size, and stops it. Clients are threads that each send one image after
the other over one connection; every tenth request is no image. The clients share the cores with the server.

    python benchmarks/serve_load.py detector.onnx scenes/val --out benchmarks/results/serve_load_2-core-cpu.md
"""

import argparse
import http.client
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from botvision.files import write_json, write_text
from botvision.inputs import find_images

CLIENTS = (1, 2, 4, 8, 16)
EVERY = 10  # one request of as many is no image
POINTS = (50, 90, 95, 99)


class Row(NamedTuple):
    """One load.

    Attributes:
        batch_size: of the server.
        clients: that send at a time.
        a_second: images that were answered a second.
        percentiles: milliseconds of the good requests.
        together: images of a batch, on average.
        statuses: how often each was answered.
        memory_mb: of the server, resident, at the end.
    """

    batch_size: int
    clients: int
    a_second: float
    percentiles: list[float]
    together: float
    statuses: dict[int, int]
    memory_mb: float

    def __str__(self) -> str:
        times = " | ".join(f"{value:.0f}" for value in self.percentiles)
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        first = f"| {self.batch_size} | {self.clients} | {self.a_second:.1f} | {times} | {self.together:.1f} "
        return f"{first}| {counts} | {self.memory_mb:.0f} |"


def main() -> None:
    """Load a server at several batch sizes and file the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file; JSON goes beside it")
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    bodies = [path.read_bytes() for path in find_images(options.images)[:50]]
    rows = [row for size in options.batch_sizes for row in loaded(options.model, bodies, size, options.seconds)]
    head = ["batch_size", "clients", "images/s", *(f"p{point} ms" for point in POINTS), "together", "answers", "MB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *map(str, rows)]
    write_text(options.out, "\n".join(["# Serving under load", "", *lines, ""]))
    write_json(options.out.with_suffix(".json"), [row._asdict() for row in rows])
    print("\n".join(lines))


def loaded(model: Path, bodies: Sequence[bytes], batch_size: int, seconds: float) -> list[Row]:
    """A server's rows, one for each number of clients."""
    command = [sys.executable, "-m", "botvision", "serve", str(model), "--port", "0", "--batch_size", str(batch_size)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            place = re.search(r":(\d+), until", said)
            if place is None:
                raise RuntimeError(said + server.stderr.read())
            return [load(server.pid, int(place[1]), bodies, batch_size, clients, seconds) for clients in CLIENTS]
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=30)


def load(pid: int, port: int, bodies: Sequence[bytes], batch_size: int, clients: int, seconds: float) -> Row:
    """Some clients for some seconds."""
    before, begun = batches(port), time.monotonic()
    with ThreadPoolExecutor(clients) as threads:
        given = [(port, bodies, number, begun + seconds) for number in range(clients)]
        answers = [answer for some in threads.map(lambda own: client(*own), given) for answer in some]
    lasted = time.monotonic() - begun
    after = batches(port)
    good = [1e3 * took for status, took in answers if status == 200]
    cuts = statistics.quantiles(good, n=100, method="inclusive")
    return Row(
        batch_size,
        clients,
        len(good) / lasted,
        [cuts[point - 1] for point in POINTS],
        (after[0] - before[0]) / max(1, after[1] - before[1]),
        dict(Counter(status for status, _ in answers)),
        resident(pid),
    )


def client(port: int, bodies: Sequence[bytes], number: int, end: float) -> list[tuple[int, float]]:
    """Status and seconds of one request after the other."""
    connection, answers = http.client.HTTPConnection("127.0.0.1", port, timeout=60), list[tuple[int, float]]()
    while time.monotonic() < end:
        turn = number * 7 + len(answers)
        body = b"no image" if turn % EVERY == EVERY - 1 else bodies[turn % len(bodies)]
        begun = time.perf_counter()
        connection.request("POST", "/predict", body)
        answer = connection.getresponse()
        answer.read()
        answers.append((answer.status, time.perf_counter() - begun))
    connection.close()
    return answers


def batches(port: int) -> tuple[float, float]:
    """Images that were computed, and batches."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    said = connection.getresponse().read().decode()
    connection.close()
    total, count = (re.search(rf"^botvision_batch_images_{name} (\S+)$", said, re.M) for name in ("sum", "count"))
    assert total is not None
    assert count is not None
    return float(total[1]), float(count[1])


def resident(pid: int) -> float:
    """MB that a process holds in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1e3


if __name__ == "__main__":
    main()
