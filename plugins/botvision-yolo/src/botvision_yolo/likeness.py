"""The yaml reader's sets of classes, with ours in them beside the ones that they stand for."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import C2PSA, C3, Bottleneck, C3k2

from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT

LIKE: dict[type[nn.Module], type[nn.Module]] = {
    BoTBottleneck: Bottleneck,
    C3BoT: C3,
    C3k2BoT: C3k2,
    C2BoT: C2PSA,
}
NAME = "frozenset"
LOCK = threading.RLock()


def with_ours(members: Iterable[Any] = ()) -> frozenset[Any]:
    """A frozenset; one with a block that a block of ours stands for has ours too."""
    given = frozenset(members)
    return given.union(ours for ours, builtin in LIKE.items() if builtin in given)


@contextmanager
def reading_ours(*, alone: bool = False) -> Iterator[None]:
    """Let the reader find our blocks where it finds the ones they stand for.

    It decides by membership (`module in base_modules`) which rows get channels in and out, width and depth. Those sets
    are made inside its function, by the name `frozenset`, which is given another meaning in its module meanwhile. The
    classes themselves equal nothing but themselves.

    Args:
        alone: the yaml has `C3k2BoT` and no `C3k2`, by whose name the reader knows which head is meant.
    """
    names = vars(tasks)
    with LOCK:
        before, family = names.get(NAME), names["C3k2"]
        names[NAME] = with_ours
        if alone:
            names["C3k2"] = C3k2BoT
        try:
            yield
        finally:
            names["C3k2"] = family
            if before is None:
                del names[NAME]
            else:
                names[NAME] = before
