"""Tasks in processes of their own, one thread each; what fails is named, and the others go on."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

Task = TypeVar("Task")


def each(work: Callable[[Task], None], tasks: Sequence[Task], *, jobs: int) -> list[str]:
    """Call `work`, which a new process can import, with each task, `jobs` at a time; a line for each that failed."""
    if not tasks:
        return []
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(work, task): task for task in tasks}
        ended = tqdm(as_completed(running), total=len(running), desc="trials", unit="trial", disable=None)
        errors = {running[one]: one.exception() for one in ended}
    return [f"{one}: {type(error).__name__}: {error}" for one, error in errors.items() if error is not None]
