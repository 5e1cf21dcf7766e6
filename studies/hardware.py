"""What a study ran on, and the code that it ran, as its figures name them."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def hardware(shared: int = 1) -> str:
    """Processor or GPU, runs at a time where there are several, and torch's version."""
    where = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    together = f", {shared} runs at a time" if shared > 1 else ""
    return f"{where}{together}, torch {torch.__version__.partition('+')[0]}"


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty where there is no git.

    A copy of a checkout without its history is told it by the variable BOTVISION_COMMIT.
    """
    if told := os.environ.get("BOTVISION_COMMIT"):
        return told
    try:
        said = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git at all
        return ""
    return said.stdout.strip()
