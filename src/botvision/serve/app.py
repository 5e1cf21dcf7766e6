"""The routes of a served model: predict, health and metrics, with bounds on what comes in."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from botvision.serve.batches import Batches
from botvision.serve.served import Served

CLOSE = {"Connection": "close"}
DISCARDED = 2**28  # bytes of a refused body that are read nevertheless: most clients hear a refusal only behind them


class Limits(NamedTuple):
    """Bounds on what comes in.

    Attributes:
        upload: bytes of an image's file.
        waiting: requests that are read, wait or are computed at a time; more are refused with 503.
        batch_size: images that are computed together.
        batch_seconds: that a request waits for others.
        read_seconds: that a client may take to send an image.
    """

    upload: int = 16 * 2**20
    waiting: int = 64
    batch_size: int = 8
    batch_seconds: float = 0.005
    read_seconds: float = 30.0


class Figures:
    """What `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("botvision_requests", "Requests to /predict by status.", ["status"], registry=own)
        self.seconds = Histogram("botvision_request_seconds", "Seconds from a request to its answer.", registry=own)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batches = Histogram("botvision_batch_images", "Images computed together.", buckets=sizes, registry=own)
        self.waiting = Gauge("botvision_requests_waiting", "Requests without an answer yet.", registry=own)


class Service:
    """A served model between its routes."""

    def __init__(self, served: Served, limits: Limits) -> None:
        self.served, self.limits, self.figures, self.waiting = served, limits, Figures(), 0
        self.batches = Batches(
            served.answers, size=limits.batch_size, seconds=limits.batch_seconds, told=self.figures.batches.observe
        )
        self.computing: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Batches are computed while the server runs."""
        self.computing = asyncio.create_task(self.batches.run())
        try:
            yield
        finally:
            self.computing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.computing

    async def predict(self, request: Request) -> Response:
        """An image in the body → what the model finds in it."""
        begun, status = time.perf_counter(), 500
        try:
            response = await self.answered(request)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self.figures.requests.labels(status).inc()
            self.figures.seconds.observe(time.perf_counter() - begun)

    async def answered(self, request: Request) -> Response:
        """The same, uncounted."""
        if self.waiting >= self.limits.waiting:
            said = f"{self.waiting} requests wait already; try again in a second"
            raise HTTPException(503, said, {"Retry-After": "1"})
        with self.counted():
            upload = await self.upload(request)
            try:
                return JSONResponse(await self.batches.answer(upload))
            except ValueError as error:  # the image is at fault
                raise HTTPException(400, str(error)) from error
            except Exception as error:
                print(f"serve: {type(error).__name__}: {error}", file=sys.stderr)
                raise HTTPException(500, "the model could not compute this image; the server's log says why") from error

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """As one that waits."""
        self.waiting += 1
        self.figures.waiting.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= 1
            self.figures.waiting.set(self.waiting)

    async def upload(self, request: Request) -> bytes:
        """The body.

        Raises:
            HTTPException: too large, too slow, broken off, or a form.
        """
        most, form = self.limits.upload, request.headers.get("content-type", "").startswith("multipart/")
        body, length = bytearray(), 0
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                async for piece in request.stream():
                    length += len(piece)
                    if length > most + DISCARDED:
                        break
                    body += piece if length <= most and not form else b""
        except TimeoutError as error:
            raise HTTPException(408, f"the image took more than {self.limits.read_seconds:g} s", CLOSE) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the upload broke off", CLOSE) from error
        if form:
            raise HTTPException(415, "send the image itself, not a form: curl --data-binary @photo.jpg URL", CLOSE)
        if length > most:
            raise HTTPException(413, f"an upload may have {most / 2**20:.4g} MiB; send a smaller image", CLOSE)
        return bytes(body)

    async def health(self, request: Request) -> Response:
        """Whether it answers, and which model."""
        well = self.computing is not None and not self.computing.done()
        about = self.served.model.graph.about
        said = {"model": self.served.name, "task": self.served.task, "sha256": about.get("sha256")}
        return JSONResponse({"status": "ok" if well else "the model computes no more", **said}, 200 if well else 503)

    async def metrics(self, request: Request) -> Response:
        """Figures in Prometheus's form."""
        return Response(generate_latest(self.figures.registry), media_type=CONTENT_TYPE_LATEST)


async def refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """A refusal as JSON, in one line."""
    status, headers = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    detail = error.detail if isinstance(error, HTTPException) else "the server failed; its log says why"
    return JSONResponse({"error": " ".join(detail.split())}, status, headers)


def application(served: Served, limits: Limits | None = None) -> Starlette:
    """An ASGI application, for uvicorn or another server.

    Args:
        served: the model.
        limits: on what comes in; none are those of `Limits()`.
    """
    service = Service(served, limits or Limits())
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
    ]
    handlers = {HTTPException: refused, 500: refused}
    return Starlette(routes=routes, lifespan=service.lifespan, exception_handlers=handlers)
