"""YOLO with BoTNet's attention, on the user's own ultralytics: importing this registers the blocks."""

from importlib.metadata import version

from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d
from botvision_yolo.registry import register

register()

from botvision_yolo.model import YOLO  # noqa: E402
from botvision_yolo.transfer import Transfer, botify, load_pretrained  # noqa: E402
from botvision_yolo.variants import derive, write_yaml  # noqa: E402

__version__ = version("botvision-yolo")
__all__ = [
    "YOLO",
    "BoTBottleneck",
    "C2BoT",
    "C3BoT",
    "C3k2BoT",
    "ResidualMHSA2d",
    "Transfer",
    "botify",
    "derive",
    "load_pretrained",
    "register",
    "write_yaml",
]
