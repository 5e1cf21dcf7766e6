"""BoTVision: Bottleneck Transformers (arXiv 2101.11605) made usable."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botvision.attention import MHSA2d, attend
    from botvision.backbone import (
        create_model,
        from_pretrained,
        fuse,
        list_models,
        load_resnet,
        load_weights,
        push_to_hub,
        save_pretrained,
    )
    from botvision.maskrcnn import build_mask_rcnn

__version__ = version("botvision")

_ROOMS = {
    "MHSA2d": "attention",
    "attend": "attention",
    "build_mask_rcnn": "maskrcnn",
    "create_model": "backbone",
    "from_pretrained": "backbone",
    "fuse": "backbone",
    "list_models": "backbone",
    "load_resnet": "backbone",
    "load_weights": "backbone",
    "push_to_hub": "backbone",
    "save_pretrained": "backbone",
}
__all__ = [
    "MHSA2d",
    "__version__",
    "attend",
    "build_mask_rcnn",
    "create_model",
    "from_pretrained",
    "fuse",
    "list_models",
    "load_resnet",
    "load_weights",
    "push_to_hub",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    """Open a room on first use, so that `import botvision` alone stays light."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'botvision' has no attribute {name!r}")
    return getattr(import_module(f"botvision.{_ROOMS[name]}"), name)
