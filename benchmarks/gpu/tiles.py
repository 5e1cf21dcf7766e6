"""Stage 7, on demand: the Triton kernel's tiles, for a round of tuning where a goal is missed."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import main, needs, restart
from botvision.attention import tiled
from botvision.bench.attention import SDPA, core
from botvision.bench.config import Engine
from botvision.bench.race import Setting

ROUNDS = 7
MAPS, TOY_MAP = ((64, 8), (32, 8)), (3, 1)
TILES = {  # name → what `arguments` in attention/tiled.py chooses
    f"block {block}, {warps} warps, {stages} stages": {"BLOCK": block, "num_warps": warps, "num_stages": stages}
    for block, warps, stages in itertools.product((64, 128, 32), (4, 8), (1, 2, 3))
}
NOTE = "All three kernels have one choice of tiles; “as it is” is what attention/tiled.py chooses."
AS_IT_IS = "as it is"


def tiles(out: Path, toy: bool) -> str:
    """Race choices of tiles, training and forward. What wins is exact only when stage 1 has run with it.

    Raises:
        SkippedError: Triton is missing.
    """
    needs("triton")
    if toy and not tiled.is_interpreted():
        os.environ["TRITON_INTERPRET"] = "1"  # kernels run in numpy, if Triton knows it when it is imported
        restart()
    results = Results(out / "7_tiles.json", "Tiles of the Triton kernel", toy=toy, note=NOTE)
    return run_heats(results, heats(toy=toy), rounds=1 if toy else ROUNDS)


def heats(*, toy: bool) -> Iterator[Heat]:
    """A size after the other, training first."""
    engine = Engine(accelerator="cpu" if toy else "cuda", precision="float16" if toy else "bfloat16")
    names = [SDPA, AS_IT_IS, *([*TILES][:1] if toy else TILES)]
    for (side, batch), train in itertools.product((TOY_MAP,) if toy else MAPS, (True, False)):
        yield Heat("tiles", build, names, Setting(side, batch, train, engine))


def build(name: str, setting: Setting) -> Callable[[], Any]:
    """The core's step with a choice of tiles."""
    step = core(SDPA if name == SDPA else "attend tiled", setting)
    if name in (SDPA, AS_IT_IS):
        return step
    usual, own = tiled.arguments, TILES[name]

    def run() -> Any:
        with patch.object(tiled, "arguments", lambda *tensors: usual(*tensors) | own):
            return step()

    return run


if __name__ == "__main__":
    sys.exit(main(tiles))
