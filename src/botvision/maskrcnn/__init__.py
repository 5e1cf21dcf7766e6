"""Mask R-CNN around any timm backbone: train, score, predict."""

from botvision.maskrcnn.model import PRESETS, MaskRCNN, Output, build_mask_rcnn
from botvision.maskrcnn.targets import masks_in_boxes

__all__ = ["PRESETS", "MaskRCNN", "Output", "build_mask_rcnn", "masks_in_boxes"]
