"""Which part of an epoch a process reads, and where in it it begins."""

from typing import NamedTuple

import torch


class Place:
    """Where an epoch's reading begins: epoch and first batch, seen by worker processes too."""

    def __init__(self) -> None:
        self.memory = torch.zeros(2, dtype=torch.int64).share_memory_()

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Set it, before the loader is iterated."""
        self.memory[0], self.memory[1] = epoch, batch

    @property
    def epoch(self) -> int:
        """Epoch to read."""
        return int(self.memory[0])

    @property
    def batch(self) -> int:
        """Batches of it that were taken before."""
        return int(self.memory[1])


class Share(NamedTuple):
    """A process's part.

    Attributes:
        batch_size: pictures a step.
        train: shuffled, whole batches, the same number for every rank; otherwise everything in its order.
        place: where the epoch begins.
        seed: of the order.
        rank, world: which process of how many.
    """

    batch_size: int
    train: bool
    place: Place
    seed: int = 0
    rank: int = 0
    world: int = 1
