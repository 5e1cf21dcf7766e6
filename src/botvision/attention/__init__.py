"""Global self-attention with 2-D positions, at any map size; needs torch alone."""

from botvision.attention.dispatch import BACKENDS, attend, why_not
from botvision.attention.module import EXTENSIONS, POSITIONS, MHSA2d
from botvision.attention.start import STARTS
from botvision.attention.statistics import (
    HeadStatistics,
    attention_statistics,
    attention_weights,
    entropy_share,
    layer_statistics,
    on_inputs,
)
from botvision.attention.watching import Watched, Watching, watch

__all__ = [
    "BACKENDS",
    "EXTENSIONS",
    "POSITIONS",
    "STARTS",
    "HeadStatistics",
    "MHSA2d",
    "Watched",
    "Watching",
    "attend",
    "attention_statistics",
    "attention_weights",
    "entropy_share",
    "layer_statistics",
    "on_inputs",
    "watch",
    "why_not",
]
