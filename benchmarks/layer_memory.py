"""Peak memory and time of one attention layer, in a process of its own: python layer_memory.py [side] [train]."""

import resource
import subprocess
import sys
import time

LAYERS = ("none", "chunked", "onehot", "explicit", "timm")


def measure(kind: str, side: int, *, train: bool) -> str:
    """Three passes of one layer of 512 channels; memory beyond what the process held before the first."""
    import torch
    from timm.layers.bottleneck_attn import BottleneckAttn

    from botvision import MHSA2d

    if kind == "timm":
        layer = BottleneckAttn(512, feat_size=(side, side))
    elif kind == "none":
        layer = MHSA2d(512, position="none")
    else:
        layer = MHSA2d(512, max_size=(side, side), backend=kind)
    image, seconds = torch.randn(1, 512, side, side), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode(not train):
            out = layer(image)
        if train:
            out.sum().backward()
        seconds.append(time.perf_counter() - start)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"| {kind} | {side}² | {'training' if train else 'forward'} | {extra:.0f} MB | {1e3 * min(seconds):.0f} ms |"


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(measure(sys.argv[1], int(sys.argv[2]), train=sys.argv[3] == "train"))
    else:
        side, passes = (sys.argv[1:] or ["64"])[0], (sys.argv[2:] or ["forward"])[0]
        for kind in LAYERS:
            subprocess.run([sys.executable, __file__, kind, side, passes], check=True)
