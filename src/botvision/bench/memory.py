"""Peak memory of a step, looked at from inside a process of its own."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PASSES = 2  # gradients are there from the second on


def peak(build: Callable[[str, Any], Callable[[], Any]], name: str, setting: Any, small: Any) -> float:
    """MB that a contender's steps take beyond what the process holds with its weights and inputs.

    Libraries load much at their first use: a pass over a small input comes before, and is not counted.
    """
    if setting.engine.threads is not None:
        torch.set_num_threads(setting.engine.threads)
    with torch.inference_mode(not setting.train):
        build(name, small)()
        step = build(name, setting)
        before = held(setting.engine.device, reset=True)
        for _ in range(PASSES):
            step()
    return (held(setting.engine.device) - before) / 1e6


def held(device: str, *, reset: bool = False) -> float:
    """Most bytes held so far: by the process, or on a GPU by its tensors since the last reset."""
    if device != "cpu":
        if reset:
            torch.accelerator.reset_peak_memory_stats()
        return float(torch.accelerator.max_memory_allocated())
    status = Path("/proc/self/status")  # where there is none, getrusage, which on Linux begins at the parent's peak
    if status.is_file():
        return 1024.0 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
