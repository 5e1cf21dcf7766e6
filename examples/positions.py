"""What `extend` does: a table trained on 14×14 maps, read on maps of 7×7 to 64×64. Writes positions.png."""

from pathlib import Path

import torch

from botvision import MHSA2d
from botvision.draw.positions import draw_positions

TRAINED = 14
SIDES = (7, 14, 28, 64)

# A table that likes keys 3 rows above and 4 columns to the right of the query, as a trained one might
offsets = torch.arange(1.0 - TRAINED, TRAINED)
layers = {}
for extend in ("stretch", "clamp"):
    layer = MHSA2d(4, 1, max_size=(TRAINED, TRAINED), extend=extend)
    with torch.no_grad():
        layer.rel_h[0] = (-((offsets + 3) ** 2) / 20)[:, None]
        layer.rel_w[0] = (-((offsets - 4) ** 2) / 20)[:, None]
    layers[extend] = layer

draw_positions(layers, torch.ones(4), Path("positions.png"), sides=SIDES)
print("positions.png: the ring is the query, bright is where its positions point")
