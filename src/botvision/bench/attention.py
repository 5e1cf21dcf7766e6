"""Benchmark of the attention layer and its core beside torch's, timm's and lucidrains'."""

# B batch, M heads, H×W map, N = H·W tokens, D head dim

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from botvision.attention import MHSA2d, attend
from botvision.attention.position import relative_logits
from botvision.bench.race import Engine, Report, Row, Setting, race, trained

HEADS, HEAD_DIM = 4, 128  # the paper's, in c5
SDPA, LUCIDRAINS, FLEX = "torch SDPA, no positions", "lucidrains' arithmetic", "torch FlexAttention"
CUDNN = ", cuDNN first"  # behind a name: with torch's attention by cuDNN
WITHOUT, TIMM = "layer without positions", "timm BottleneckAttn"
CPU_BACKENDS = ("auto", "chunked", "explicit", "onehot")
GPU_BACKENDS = ("auto", "explicit", "onehot", "tiled")
NOTE = (
    f"{HEADS} heads of {HEAD_DIM}; rounds in random order. The core's baseline is torch's attention on the same "
    "q, k, v, without positions; the layer's, the layer without positions."
)


def race_attention(sides: tuple[int, ...], *, rounds: int, train: bool, memory: bool, engine: Engine) -> Report:
    """The races of `botvision bench attention`, which says what its arguments are."""
    if not sides:
        raise ValueError("bench attention needs at least one side; e.g. --sides 14 32 64")
    cores, layers = contenders(engine.device)
    rows: list[Row] = []
    for side in sides:
        setting = Setting(side, 8 if side <= 14 else 1, train, engine)
        rows += race(core, cores, setting, what="core", rounds=rounds, memory=memory)
        rows += race(layer, layers, setting, what="layer", rounds=rounds, memory=memory)
    return Report("Attention", NOTE, str(engine), rows)


def contenders(device: torch.device) -> tuple[list[str], list[str]]:
    """Names of the cores and of the layers that race on a device, the baselines first."""
    backends = CPU_BACKENDS if device.type == "cpu" else GPU_BACKENDS
    cores = [SDPA, *(f"attend {name}" for name in backends), LUCIDRAINS]
    cores += [] if device.type == "cpu" else [FLEX]  # compiled for a CPU it has crashed
    return cores, [WITHOUT, *(f"MHSA2d {name}" for name in backends), TIMM]


def core(name: str, setting: Setting) -> Callable[[], Any]:
    """Attention on given q, k, v, with position logits from tables."""
    size, engine = (setting.size, setting.size), setting.engine
    generator = torch.Generator(engine.device).manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, device=engine.device)
        return drawn.to(engine.dtype).requires_grad_(setting.train)

    q, k, v = (leaf(setting.batch, HEADS, setting.size**2, HEAD_DIM) for _ in range(3))
    tables = leaf(2 * setting.size - 1, HEAD_DIM), leaf(2 * setting.size - 1, HEAD_DIM)
    scale = HEAD_DIM**-0.5

    def ours(how: Callable[..., Tensor]) -> Tensor:
        return how(q, k, v, *relative_logits(q, tables[0] * scale, tables[1] * scale, size=size), scale=scale)

    forwards: dict[str, Callable[[], Tensor]] = {
        SDPA: lambda: scaled_dot_product_attention(q, k, v, scale=scale),
        LUCIDRAINS: lambda: pad_and_shift(q * scale, k, v, *tables, side=setting.size),
        FLEX: lambda: ours(attend_flex),
    }
    plain = name.removesuffix(CUDNN)
    forward = forwards.get(plain) or partial(ours, partial(attend, backend=plain.removeprefix("attend ")))
    if plain != name:
        forward = partial(by_cudnn, forward)
    called = torch.compile(forward) if engine.compile and name != FLEX else forward
    return trained(called, [q, k, v, *tables]) if setting.train else called


def by_cudnn(forward: Callable[[], Tensor]) -> Tensor:
    """With torch's attention by cuDNN first, which is not its default everywhere."""
    kernels = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kernels, set_priority=True):
        return forward()


def attend_flex(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *, scale: float) -> Tensor:
    """`attend` by torch's FlexAttention; compiled, except on a CPU."""
    width = rel_w.shape[-1]

    def with_positions(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + rel_h[b, head, query, key // width] + rel_w[b, head, query, key % width]

    out: Tensor = flex(compiled=q.device.type != "cpu")(q, k, v, score_mod=with_positions, scale=scale)
    return out


@functools.cache
def flex(*, compiled: bool) -> Callable[..., Tensor]:
    """FlexAttention's function, compiled once for each size."""
    function: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    return function


def pad_and_shift(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, *, side: int) -> Tensor:
    """The authors' way, as ports translate it: offsets to places by padding and reshaping, two N×N biases."""

    def places(on_map: Tensor, table: Tensor) -> Tensor:
        """(B, M, side, side, D) → (B, M, side, side, side): offsets along the fourth dimension to places."""
        offsets = (on_map @ table.T).flatten(1, 2)  # B M·side side 2·side−1
        flat = pad(pad(offsets, (0, 1)).flatten(2), (0, side - 1))
        shifted = flat.unflatten(2, (side + 1, 2 * side - 1))[:, :, :side, side - 1 :]
        return shifted.unflatten(1, (-1, side))

    on_map = q.unflatten(2, (side, side))
    across = places(on_map, table_w)[:, :, :, :, None].expand(-1, -1, -1, -1, side, -1)
    down = places(on_map.transpose(2, 3), table_h).transpose(2, 3)[..., None].expand(-1, -1, -1, -1, -1, side)
    n = side * side
    logits = q @ k.mT
    logits = logits + (across.reshape(*logits.shape[:2], n, n) + down.reshape(*logits.shape[:2], n, n))
    return logits.softmax(-1) @ v


def layer(name: str, setting: Setting) -> Callable[[], Any]:
    """Whole layers with their projections, channels_last."""
    dim, size, engine = HEADS * HEAD_DIM, (setting.size, setting.size), setting.engine
    module: nn.Module
    if name == TIMM:
        from timm.layers.bottleneck_attn import BottleneckAttn  # the others run without timm

        module = BottleneckAttn(dim, dim, feat_size=size, num_heads=HEADS)
    elif name == WITHOUT:
        module = MHSA2d(dim, HEADS, position="none")
    else:
        module = MHSA2d(dim, HEADS, max_size=size, backend=name.removeprefix("MHSA2d "))
    module = module.to(engine.device)
    x = torch.randn(setting.batch, dim, *size, device=engine.device).to(memory_format=torch.channels_last)
    x.requires_grad_(setting.train)
    called = torch.compile(module) if engine.compile else module

    def forward() -> Tensor:
        with engine.autocast():
            out: Tensor = called(x)
        return out

    return trained(forward, [x, *module.parameters()]) if setting.train else forward
