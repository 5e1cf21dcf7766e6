"""Compile the Triton kernels for capabilities 9.0 and 10.0, without a GPU, and print what the compiler says as JSON."""

import json
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from botvision.attention import tiled_kernels

DIM = 128
SIDES = ((64, 64, 1), (32, 32, 2), (14, 16, 4))  # of the map; columns and rows of keys of a tile
HOPPER, BLACKWELL = 90, 100
# capability, BLOCK, warps, stages: `tiles` in attention/tiled.py
TILES = ((HOPPER, 128, 8, 2), (HOPPER, 64, 4, 2), (BLACKWELL, 64, 4, 2))
LARGEST = SIDES[0][0]
FLOATS = ("total_ptr", "delta_ptr", "rel_h_ptr")


def compiled(kernel: Any, side: int, row: int, rows: int, tile: tuple[int, int, int, int]) -> Any:
    """A kernel in bfloat16 at a size."""
    capability, block, warps, stages = tile
    numbers = {"height": side, "width": side, "dim": DIM, "value_dim": DIM}
    constants = {"BLOCK": block, "ROWS": rows, "ROW": row, "D": DIM, "DV": DIM, "PRECISION": "ieee"}
    kinds, even = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name.endswith("_ptr"):
            kinds[name] = "*fp32" if name in FLOATS else "*bf16"
        else:
            kinds[name] = "i32" if name in numbers else "fp32" if name == "scale" else "constexpr"
        if name.endswith("_ptr") or numbers.get(name, 1) % 16 == 0:
            even[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, kinds, constants, even)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def main() -> None:
    """Every kernel, at each size, with each choice of tiles."""
    found = {}
    for side, row, rows in SIDES:
        for tile in TILES if side == LARGEST else TILES[:2]:
            for name in ("forward", "query_gradient", "key_gradient"):
                one = compiled(getattr(tiled_kernels, f"{name}_kernel"), side, row, rows, tile)
                text = one.asm["ttgir"]
                found[f"{name} {side}² capability {tile[0]} BLOCK {tile[1]}"] = {
                    "shared": one.metadata.shared,
                    "warp_group_dots": text.count("ttng.warp_group_dot "),
                    "other_dots": text.count("tt.dot "),
                }
    print(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        triton.knobs.cache.dir = cache
        main()
