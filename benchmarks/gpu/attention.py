"""Stage 2: attention cores and layers, forward and training, time and memory, in the order of their worth."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.heats import Heat, run_heats
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import can_compile, is_there, main
from botvision.bench.attention import CUDNN, FLEX, NOTE, SDPA, TIMM, contenders, core, layer
from botvision.bench.config import Engine
from botvision.bench.race import Setting

ROUNDS = 11
MAPS = ((64, 8), (32, 8), (14, 8), (128, 1), (64, 1), (32, 1))  # side and batch
TOY = ((4, 2),)


def attention(out: Path, toy: bool) -> str:
    """Race the backends, FlexAttention, other ports' arithmetic and timm's layer."""
    results = Results(out / "2_attention.json", "Attention", toy=toy, note=NOTE)
    return run_heats(results, heats(toy=toy), rounds=1 if toy else ROUNDS)


def heats(*, toy: bool) -> Iterator[Heat]:
    """First what the goals ask for and what bfloat16's rows of the table need, then the other dtypes' cores."""
    where = "cpu" if toy else "cuda"
    cores, layers = contenders(Engine(accelerator=where).device)
    cores = [name for name in cores if name != FLEX]
    layers = [name for name in layers if name != TIMM or is_there("timm")]
    engine = Engine(accelerator=where, precision="bfloat16")
    for (side, batch), train in itertools.product(TOY if toy else MAPS, (True, False)):
        setting = Setting(side, batch, train, engine)
        yield Heat("core", core, cores, setting)
        yield Heat("layer", layer, layers, setting)
    if toy:
        return
    for other in (Engine(accelerator=where, precision="float16"), Engine(accelerator=where)):
        for (side, batch), train in itertools.product(MAPS[:4], (True, False)):
            yield Heat("core", core, cores, Setting(side, batch, train, other))
    # last: torch's other kernels, and one that is compiled for each size; what hangs here has spoilt nothing
    peers = [SDPA, f"{SDPA}{CUDNN}", f"attend onehot{CUDNN}", *([FLEX] if can_compile(toy=False) else [])]
    for (side, batch), train in itertools.product(MAPS[:2], (True, False)):
        yield Heat("core, other kernels", core, peers, Setting(side, batch, train, engine))


if __name__ == "__main__":
    sys.exit(main(attention))
