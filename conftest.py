"""For all tests: one thread a process, so that several workers share the cores instead of waiting for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start
