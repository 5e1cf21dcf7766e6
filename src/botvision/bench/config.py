"""Options of a benchmark: where and how contenders run; loads no torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from botvision.engine.config import DeviceConfig, hardware

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Engine(DeviceConfig):
    """Where and how contenders run.

    Args:
        accelerator: auto (the GPU where there is one), cpu, gpu, or torch's name of a device, e.g. cuda:1.
        precision: number format of queries, keys and values; of layers and models by autocast.
        compile: compile contenders by torch.compile.
        threads: threads of torch on the CPU; none leaves its choice.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    threads: int | None = None

    @property
    def dtype(self) -> "torch.dtype":
        """The precision as torch's."""
        import torch

        found: torch.dtype = getattr(torch, self.precision)
        return found

    def autocast(self) -> "torch.autocast":
        """The precision of layers and models."""
        import torch

        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def run(self, step: Callable[[], Any], *, times: int = 1) -> float:
        """Seconds of one step, its last kernel included; the mean where it is repeated."""
        import torch

        start = time.perf_counter()
        for _ in range(times):
            step()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return (time.perf_counter() - start) / times

    def is_usable(self) -> bool:
        """Whether the device still works: after a faulty kernel it refuses all that a process asks."""
        import torch

        try:
            torch.ones(1, device=self.device).sum().item()
        except torch.OutOfMemoryError:
            return True
        except RuntimeError:
            return False
        return True

    def __str__(self) -> str:
        how = f"{self.precision}{', compiled' if self.compile else ''}"
        return f"{hardware(self.device)}, timm {version('timm')}, {how}, {datetime.now(UTC):%Y-%m-%d}"
