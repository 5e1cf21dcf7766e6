"""Requests that wait together are answered together: batches that form by themselves."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

Work = Callable[[Sequence[bytes]], Sequence[Any]]  # uploads → of each an answer, or an error


class Waiting(NamedTuple):
    """An upload whose answer is awaited."""

    upload: bytes
    answer: asyncio.Future[Any]


class Batches:
    """Takes uploads one by one and hands them on together, to one thread that computes.

    While a batch is computed others gather; the first of an idle server waits `seconds` for company.
    """

    def __init__(self, work: Work, *, size: int, seconds: float, told: Callable[[int], None]) -> None:
        """Nothing runs before `run`.

        Args:
            work: answers a batch, in a thread.
            size: most uploads of a batch.
            seconds: that an upload waits for others.
            told: called with the size of each batch.
        """
        self.work, self.size, self.seconds, self.told = work, size, seconds, told
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()

    async def answer(self, upload: bytes) -> Any:
        """The answer to an upload.

        Raises:
            Exception: whatever `work` gives for it, or has raised with it alone.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.queue.put(Waiting(upload, future))
        return await future

    async def run(self) -> None:
        """Compute until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            while True:
                batch = await self.gathered()
                self.told(len(batch))
                await self.computed(batch, thread)

    async def gathered(self) -> list[Waiting]:
        """The next uploads."""
        batch = [await self.queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                while len(batch) < self.size:
                    batch.append(await self.queue.get())
        return batch

    async def computed(self, batch: list[Waiting], thread: ThreadPoolExecutor) -> None:
        """Answer a batch; where it fails as a whole, each upload alone."""
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(thread, self.work, [waiting.upload for waiting in batch])
        except Exception as error:  # of an engine: memory, or a picture that it cannot take
            if len(batch) > 1:
                for waiting in batch:
                    await self.computed([waiting], thread)
                return
            answers = [error]
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)
