"""Classes that ultralytics' yaml reader takes for one of its own, without being it."""

from typing import Any

from torch import nn


class Likeness(type):
    """A class that equals the one it names as `like`, and so is found in the reader's sets of classes.

    The reader decides by membership (`module in base_modules`) which rows get channels in and out, width and depth;
    those sets are inside a function and cannot be added to. Identity (`is`) and `isinstance` stay true to the class.
    """

    like: type[nn.Module]

    def __hash__(cls) -> int:
        return hash(cls.like)

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is cls.like

    def __ne__(cls, other: Any) -> bool:
        return not cls == other
