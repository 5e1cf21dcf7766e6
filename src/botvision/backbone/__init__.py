"""The BoTNet family on timm's ResNet; importing this room registers every name with timm."""

from botvision.backbone.blocks import BoTBlock
from botvision.backbone.botnet import BoTNet
from botvision.backbone.registry import create_model, list_models
from botvision.backbone.spec import VARIANTS, Variant
from botvision.backbone.weights import LoadReport, load_resnet

__all__ = [
    "VARIANTS",
    "BoTBlock",
    "BoTNet",
    "LoadReport",
    "Variant",
    "create_model",
    "list_models",
    "load_resnet",
]
