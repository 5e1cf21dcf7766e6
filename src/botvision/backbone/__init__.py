"""The BoTNet family on timm's ResNet; importing it registers every model name with timm."""

from botvision.backbone.blocks import BoTBlock
from botvision.backbone.botnet import BoTNet
from botvision.backbone.convert import Converted, convert
from botvision.backbone.fuse import fuse
from botvision.backbone.hub import from_pretrained, push_to_hub, save_pretrained
from botvision.backbone.registry import check_offline, create_model, list_models
from botvision.backbone.spec import VARIANTS, Variant
from botvision.backbone.weights import LoadReport, load_resnet, load_weights

__all__ = [
    "VARIANTS",
    "BoTBlock",
    "BoTNet",
    "Converted",
    "LoadReport",
    "Variant",
    "check_offline",
    "convert",
    "create_model",
    "from_pretrained",
    "fuse",
    "list_models",
    "load_resnet",
    "load_weights",
    "push_to_hub",
    "save_pretrained",
]
