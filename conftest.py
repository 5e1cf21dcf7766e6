"""For all tests: one thread a process, so that several workers share the cores; less looking for garbage."""

import gc
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start
gc.set_threshold(100_000, 20, 50)  # 8 % of the time went into looking through imported modules


def pytest_collection_finish(session: Any) -> None:  # noqa: ARG001
    """What was imported stays: it need not be looked through again."""
    gc.collect()
    gc.freeze()
