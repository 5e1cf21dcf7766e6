"""Which part of the images a process does: by --part, or by what torchrun tells it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """One of several processes, which share what there is to do without speaking to each other.

    Attributes:
        number: from 0.
        count: of the processes.
    """

    number: int = 0
    count: int = 1

    @property
    def is_shared(self) -> bool:
        """Whether there are other processes."""
        return self.count > 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Its own of all items, which every process has in the same order."""
        return list(items[self.number :: self.count])

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


ALONE = Part()


def own_part(given: str | None) -> Part:
    """The part that was given, e.g. 0/8; under torchrun, without one, by its rank; otherwise everything.

    Raises:
        ValueError: no such part.
    """
    if given is None:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return ALONE
        return Part(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    found = re.fullmatch(r"(\d+)/(\d+)", given)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"part={given!r} must be a number from 0 and their count, as 0/8 … 7/8")
    return Part(int(found[1]), int(found[2]))
