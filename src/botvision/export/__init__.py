"""Export to ONNX, OpenVINO, torch.export and TorchScript; a file is proved by running it."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.export.commands import export
    from botvision.export.exporting import Exported, MismatchError

__all__ = ["Exported", "MismatchError", "export"]
__getattr__, __dir__ = exports(
    __name__,
    {"export": f"{__name__}.commands", **dict.fromkeys(("Exported", "MismatchError"), f"{__name__}.exporting")},
)
