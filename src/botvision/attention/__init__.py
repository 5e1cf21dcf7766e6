"""Global self-attention with 2-D positions, at any map size; needs torch alone."""

from botvision.attention.dispatch import BACKENDS, attend, why_not
from botvision.attention.module import EXTENSIONS, POSITIONS, MHSA2d

__all__ = ["BACKENDS", "EXTENSIONS", "POSITIONS", "MHSA2d", "attend", "why_not"]
