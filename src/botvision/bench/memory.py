"""Peak memory of a training or inference step; on a CPU in a process of its own."""

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PASSES = 2  # what an optimiser keeps is there from the second on
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux alone


def peak(build: Callable[[str, Any], Callable[[], Any]], name: str, setting: Any, small: Any) -> float:
    """MB that a contender's steps take beyond what the process holds with its weights and inputs.

    Libraries load much at their first use: a pass over a small input comes before, and is not counted.
    """
    if setting.engine.threads is not None:
        torch.set_num_threads(setting.engine.threads)
    with torch.inference_mode(not setting.train):
        try:
            build(name, small)()
        except ValueError:  # too small for this one, e.g. for BatchNorm, which needs two places
            build(name, setting)()
        return beyond(build(name, setting), setting.engine.device)


def beyond(step: Callable[[], Any], device: torch.device) -> float:
    """MB that steps take beyond what is held before them: exact on a GPU, where tensors alone are counted."""
    before = held_now(device)
    for _ in range(PASSES):
        step()
    return (held_most(device) - before) / 1e6


def held_now(device: torch.device) -> float:
    """Bytes held, what was freed given back; from here on the most is counted anew."""
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        return float(torch.accelerator.memory_allocated(device))
    if not RESET.exists():
        return held_most(device)  # elsewhere the system keeps one mark: what was held and freed before hides some
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    RESET.write_text("5")
    return status("VmRSS")


def held_most(device: torch.device) -> float:
    """Most bytes held so far: by the process, or on a GPU by its tensors."""
    if device.type != "cpu":
        return float(torch.accelerator.max_memory_allocated(device))
    if STATUS.exists():  # getrusage begins at the parent's peak there
        return status("VmHWM")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def status(field: str) -> float:
    """A field of the process's status, in bytes."""
    return 1024.0 * int(STATUS.read_text().partition(f"{field}:")[2].split()[0])
