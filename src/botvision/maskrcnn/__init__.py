"""Mask R-CNN around any timm backbone: train, evaluate, predict."""

from typing import TYPE_CHECKING

from botvision.lazy import exports

if TYPE_CHECKING:
    from botvision.maskrcnn.checkpoint import load_detector
    from botvision.maskrcnn.commands import evaluate, predict, train
    from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
    from botvision.maskrcnn.model import PRESETS, MaskRCNN, Output, build_mask_rcnn
    from botvision.maskrcnn.prediction import Predictor
    from botvision.maskrcnn.targets import masks_in_boxes

__all__ = [
    "PRESETS",
    "DataConfig",
    "MaskRCNN",
    "ModelConfig",
    "OptimConfig",
    "Output",
    "Predictor",
    "build_mask_rcnn",
    "evaluate",
    "load_detector",
    "masks_in_boxes",
    "predict",
    "train",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("train", "evaluate", "predict"), f"{__name__}.commands"),
        **dict.fromkeys(("DataConfig", "ModelConfig", "OptimConfig"), f"{__name__}.config"),
        **dict.fromkeys(("PRESETS", "MaskRCNN", "Output", "build_mask_rcnn"), f"{__name__}.model"),
        "Predictor": f"{__name__}.prediction",
        "load_detector": f"{__name__}.checkpoint",
        "masks_in_boxes": f"{__name__}.targets",
    },
)
