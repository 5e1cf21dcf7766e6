"""Configurations of the BoTNet models: one line per model of the paper."""

from typing import NamedTuple


class Variant(NamedTuple):
    """What tells one BoTNet from another.

    Attributes:
        blocks: bottlenecks in c2, c3, c4, c5.
        img_size: image side whose position tables have a row for every offset.
        c5_stride: 2, or 1 for the S1 models (paper section 4.7; 4.8 in its first version).
        scaled: SE in the convolution blocks and SiLU everywhere (the scaled family).
    """

    blocks: tuple[int, int, int, int]
    img_size: int = 224
    c5_stride: int = 2
    scaled: bool = False


VARIANTS: dict[str, Variant] = {
    "botnet14": Variant((1, 1, 1, 1)),  # for tests
    "botnet26": Variant((2, 2, 2, 2)),  # for CPUs and demos
    "botnet50": Variant((3, 4, 6, 3)),
    "botnet101": Variant((3, 4, 23, 3)),
    "botnet152": Variant((3, 8, 36, 3)),
    "botnet200": Variant((3, 24, 36, 3)),
    "botnet_s1_50": Variant((3, 4, 6, 3), c5_stride=1),
    "botnet_s1_59": Variant((3, 4, 6, 6), c5_stride=1, scaled=True),  # T3
    "botnet_s1_110": Variant((3, 4, 23, 6), c5_stride=1, scaled=True),  # T4
    "botnet_s1_128": Variant((3, 4, 23, 12), img_size=256, c5_stride=1, scaled=True),  # T5; T7 at 384
    "botnet_s1_77": Variant((3, 4, 6, 12), img_size=320, c5_stride=1, scaled=True),  # T6
}
