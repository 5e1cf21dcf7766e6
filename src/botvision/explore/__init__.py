"""The explorer: one HTML file in which a place of an image shows where attention looks from it."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.explore.commands import explore
    from botvision.explore.subjects import Found, Seen, Subject

__all__ = ["Found", "Seen", "Subject", "explore"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "explore": f"{__name__}.commands",
        **dict.fromkeys(("Found", "Seen", "Subject"), f"{__name__}.subjects"),
    },
)
