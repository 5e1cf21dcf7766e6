"""BoTVision: Bottleneck Transformers (arXiv 2101.11605) made usable."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botvision.attention import MHSA2d, attend
    from botvision.backbone import create_model, list_models, load_resnet
    from botvision.maskrcnn import build_mask_rcnn

__all__ = ["MHSA2d", "__version__", "attend", "build_mask_rcnn", "create_model", "list_models", "load_resnet"]
__version__ = version("botvision")

_ROOMS = {
    "MHSA2d": "attention",
    "attend": "attention",
    "create_model": "backbone",
    "list_models": "backbone",
    "load_resnet": "backbone",
    "build_mask_rcnn": "maskrcnn",
}


def __getattr__(name: str) -> Any:
    """Open a room on first use, so that `import botvision` alone stays light."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'botvision' has no attribute {name!r}")
    return getattr(import_module(f"botvision.{_ROOMS[name]}"), name)
