"""BoTVision: Bottleneck Transformers (arXiv 2101.11605) made usable."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.attention import MHSA2d, attend, attention_statistics
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
    from botvision.maskrcnn import Predictor, build_mask_rcnn

try:
    __version__ = version("botvision")
except PackageNotFoundError:  # from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "MHSA2d",
    "Predictor",
    "__version__",
    "attend",
    "attention_statistics",
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
__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(__all__, "botvision.backbone"),
        **dict.fromkeys(("MHSA2d", "attend", "attention_statistics"), "botvision.attention"),
        **dict.fromkeys(("Predictor", "build_mask_rcnn"), "botvision.maskrcnn"),
    },
)
