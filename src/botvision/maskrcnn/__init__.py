"""Mask R-CNN around any timm backbone: train, score, predict."""

from botvision.maskrcnn.model import PRESETS, MaskRCNN, Output, build_mask_rcnn

__all__ = ["PRESETS", "MaskRCNN", "Output", "build_mask_rcnn"]
