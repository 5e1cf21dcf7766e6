"""The BoTNet layer on a map of any size, in each of the paper's variants."""

import torch

from botvision import MHSA2d

x = torch.randn(2, 256, 19, 27)
for position in ("relative", "relative_only", "absolute", "none"):
    layer = MHSA2d(256, num_heads=4, position=position, max_size=(32, 32))
    parameters = sum(p.numel() for p in layer.parameters())
    print(f"{position:14} {tuple(layer(x).shape)}  {parameters:,} parameters")
