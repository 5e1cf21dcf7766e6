"""What a study ran on, as its figures name it."""

import os
import platform

import torch


def hardware(shared: int = 1) -> str:
    """Processor or GPU, runs at a time where there are several, and torch's version."""
    where = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    together = f", {shared} runs at a time" if shared > 1 else ""
    return f"{where}{together}, torch {torch.__version__.partition('+')[0]}"
