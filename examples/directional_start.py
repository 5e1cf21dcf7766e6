"""Where a head of a directional start looks, built for one map and read on others. Writes directional_sizes.png."""

from pathlib import Path

import torch

from botvision import MHSA2d
from botvision.draw.positions import draw_positions

SIDES = (7, 14, 28, 64)

layers = {f"built for {side}": MHSA2d(64, 4, max_size=(side, side), start="directional") for side in (14, 28)}
query = torch.zeros(16)
query[0] = 1.0  # what head 0, which looks right, makes of an input with the usual mean

draw_positions(layers, query, Path("directional_sizes.png"), sides=SIDES)
print("directional_sizes.png: the ring is the query, bright is where head 0 looks: a quarter of the side to the right")
