"""Serve an exported model over HTTP, in batches that form by themselves; no torch."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.serve.app import Limits, application
    from botvision.serve.commands import serve
    from botvision.serve.served import Served

__all__ = ["Limits", "Served", "application", "serve"]
__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("Limits", "application"), f"{__name__}.app"),
        "serve": f"{__name__}.commands",
        "Served": f"{__name__}.served",
    },
)
