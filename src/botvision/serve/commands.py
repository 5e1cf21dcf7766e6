"""`botvision serve`: a command, and a Python function."""

import socket
import sys
from ipaddress import ip_address
from pathlib import Path


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threshold: float = 0.5,
    top: int = 5,
    batch_size: int = 8,
    batch_ms: float = 5.0,
    waiting: int = 64,
    max_mb: float = 16.0,
    max_megapixels: float = 32.0,
    threads: int | None = None,
) -> str:
    """Serve an exported model over HTTP until Ctrl-C.

    POST /predict takes an image's bytes and answers JSON; GET /health and GET /metrics (Prometheus) tell how it is.
    Requests that wait together are computed together.

    Args:
        model: an .onnx, or an .xml with its .bin beside it, of `botvision export`.
        host: address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in. There is no
            password: put a proxy before it.
        port: to listen at; 0 takes a free one.
        threshold: lowest score of a detector's objects.
        top: classes that a classifier names.
        batch_size: most images that are computed together.
        batch_ms: milliseconds that a request waits for others.
        waiting: requests that are read, wait or are computed at a time; more are answered 503.
        max_mb: largest upload, in MiB; a larger one is answered 413.
        max_megapixels: largest image, in millions of pixels; a larger one is answered 400, before it is decoded.
        threads: that the model computes with; none leaves the choice to the engine.

    Raises:
        FileNotFoundError, ValueError: no such file, a checkpoint, a damaged or foreign file, numbers that cannot be, or
            an address that cannot be listened at.
    """
    import uvicorn

    from botvision.serve.app import Limits, application
    from botvision.serve.served import Served

    check_numbers(batch_ms=batch_ms, waiting=waiting, max_mb=max_mb, max_megapixels=max_megapixels)
    served = Served.load(
        model,
        threshold=threshold,
        top=top,
        batch_size=batch_size,
        threads=threads,
        most_pixels=max_megapixels * 1e6,
    )
    served.warm()
    limits = Limits(int(max_mb * 2**20), waiting, batch_size, batch_ms / 1e3)
    config = uvicorn.Config(application(served, limits), log_level="warning", timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    with listening(host, port) as place:
        number = place.getsockname()[1]
        where = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        print(f"serving {served.name} ({served.task}) at http://{where}, until Ctrl-C", file=sys.stderr, flush=True)
        if not ip_address(place.getsockname()[0]).is_loopback:
            print("other machines may reach it, and there is no password", file=sys.stderr, flush=True)
        server.run(sockets=[place])
    return f"{served.name} is served no more"


def check_numbers(*, batch_ms: float, waiting: int, max_mb: float, max_megapixels: float) -> None:
    """Refuse limits that let nothing in.

    Raises:
        ValueError: one of them.
    """
    if not 0 <= batch_ms <= 10_000:
        raise ValueError(f"batch_ms={batch_ms} must lie in 0 … 10000; e.g. 5")
    if waiting < 1:
        raise ValueError(f"waiting={waiting} must be at least 1; e.g. 64")
    for name, value in (("max_mb", max_mb), ("max_megapixels", max_megapixels)):
        if not 0 < value <= 4096:
            raise ValueError(f"{name}={value} must be above 0 and at most 4096; e.g. 16")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: no such address, or one that is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        place = socket.create_server((host, port), family=family)
        # asyncio does so for sockets of its own alone; without it each answer waits 40 ms for an acknowledgement
        place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return place
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0].rstrip(".")
        raise ValueError(
            f"cannot listen at {host}, port {port}: {reason.lower()}; give another --host or --port"
        ) from error
