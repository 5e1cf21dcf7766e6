"""Convert weights of other BoTNet ports, where that is exact; what is not is named."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The blocks of the ports that translate the authors' code number their parts; ours have a ResNet's names
BLOCK_PARTS = {
    "shortcut.0": "downsample.0",
    "shortcut.1": "downsample.1",
    "net.0": "conv1",
    "net.1": "bn1",
    "net.3": "mhsa",
    "net.5": "bn2",
    "net.7": "conv3",
    "net.8": "bn3",
}
# A ResNet whose children were put into one Sequential with a stack of BoT blocks in c5's place
CUT_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "10": "fc"}
TRANSPOSED = "the port's position term is p_query·q_key, transposed; no table of offsets or coordinates computes it"


class Converted(NamedTuple):
    """A port's weights by our names.

    Attributes:
        tensors: by our names.
        options: what `MHSA2d` and `BoTBlock` must be built with to compute the same.
        left_out: names of the port that have no exact place here, and why.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any]
    left_out: dict[str, str]


class Hints(NamedTuple):
    """What a port's tensors do not tell of themselves; see `convert`."""

    num_heads: int | None = None
    scaled_positions: bool = False


class Port(NamedTuple):
    """Another implementation: the names that each of its attention layers has, and how they become ours."""

    marks: tuple[str, ...]  # the first one's tensor is a 1×1 kernel
    convert: Callable[[Mapping[str, Tensor], Hints], Converted]


def find_port(state: Mapping[str, Tensor]) -> str | None:
    """The port that a state dict comes from, by its names; None for ours, for a ResNet's and for strangers."""
    return next((name for name, port in PORTS.items() if layers_of(state, port.marks)), None)


def layers_of(state: Mapping[str, Tensor], marks: tuple[str, ...]) -> list[str]:
    """Prefixes under which all marks of a port's layer stand."""
    leads = [key.removesuffix(marks[0]) for key, value in state.items() if is_last(key, marks[0]) and value.ndim == 4]
    return [lead for lead in leads if all(lead + mark in state for mark in marks)]


def is_last(key: str, name: str) -> bool:
    """Whether a dotted key ends with a dotted name."""
    return f".{key}".endswith(f".{name}")


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it.

    Raises:
        ValueError: no name begins with it.
    """
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"no name begins with prefix={prefix!r}; the names are {first(list(state))}")
    return found


def convert(
    state: Mapping[str, Tensor], *, prefix: str = "", num_heads: int | None = None, scaled_positions: bool = False
) -> Converted:
    """Another port's state dict as ours; outputs stay the same to rounding (docs/correctness.md).

    Knows distribuuuu's and CandiceD17's BoTNet, lucidrains' `Attention`, `BottleBlock` and `BottleStack`, timm's
    `BottleneckAttn`, and the `MHSA` snippet that YOLO forks share (its content part).

    Args:
        state: a layer's, a block's, a stage's or a whole model's tensors.
        prefix: take only the names that begin with it, without it, e.g. "stages.2.1.self_attn.".
        num_heads: of the snippet where it was built without positions; otherwise read from the tables.
        scaled_positions: timm's layer was built with `scale_pos_embed=True`.

    Raises:
        ValueError: no port's names, or a layer that ours cannot express (query and value of different widths).
    """
    state = without_prefix(state, prefix)
    port = find_port(state)
    if port is None:
        raise ValueError(
            f"no port known here has these names: {first(list(state))}; known are {', '.join(PORTS)}; "
            "give `prefix` where the layer is a part of a larger model"
        )
    return PORTS[port].convert(state, Hints(num_heads, scaled_positions))


def from_gist(state: Mapping[str, Tensor], hints: Hints) -> Converted:
    """distribuuuu, CandiceD17 and lucidrains: the authors' code in PyTorch, its blocks' parts numbered."""
    whole = any(key.startswith("7.net.") for key in state)
    tensors = {our_name(key, whole=whole): value for key, value in state.items()}
    for key in [k for k in tensors if is_last(k, "to_qk.weight")]:
        lead = key.removesuffix("to_qk.weight")
        tensors[f"{lead}qkv.weight"] = torch.cat([tensors.pop(key), tensors.pop(f"{lead}to_v.weight")])
    tables = [key for key in tensors if re.search(r"(^|\.)(rel|abs)_[hw]$", key)]
    if not tables:
        raise ValueError(f"no position tables beside {first(list(state))}; these are not a BoTNet layer's weights")
    tensors |= {key: tensors[key][None] for key in tables}  # rows D → 1 rows D
    position = "relative" if is_last(tables[0], "rel_h") or is_last(tables[0], "rel_w") else "absolute"
    options = {"position": position, "qkv_bias": False} | heads_of(tensors, tables)
    if any("downsample.0." in key for key in tensors):
        options["shortcut_act"] = True
    return Converted(tensors, options, {})


def our_name(key: str, *, whole: bool) -> str:
    """A numbered part's name in our blocks; `whole` for a model cut into one Sequential."""
    if whole:
        child, _, rest = key.partition(".")
        key = f"{CUT_RESNET.get(child, child)}.{rest}"
    key = re.sub(r"(^|\.)net\.(\d+)\.(net|shortcut)\.", r"\1\2.\3.", key)  # a stack's blocks
    key = re.sub(r"(^|\.)(shortcut\.[01]|net\.[013578])\.", lambda m: f"{m[1]}{BLOCK_PARTS[m[2]]}.", key)
    key = key.replace("to_qkv.", "qkv.")
    return re.sub(r"pos_emb\.(rel_)?(height|width)$", lambda m: f"{'rel' if m[1] else 'abs'}_{m[2][0]}", key)


def from_timm(state: Mapping[str, Tensor], hints: Hints) -> Converted:
    """`BottleneckAttn` of timm: by default it scales q·k alone, so its tables grow by √D here."""
    tensors, tables = {}, []
    for key, value in state.items():
        if table := re.search(r"pos_embed\.(height|width)_rel$", key):
            ours = key[: table.start()] + f"rel_{table[1][0]}"
            tables.append(ours)
            tensors[ours] = (value if hints.scaled_positions else value * value.shape[-1] ** 0.5)[None]  # 1 2L−1 D
        else:
            tensors[key] = value
    bias = any(is_last(key, "qkv.bias") for key in tensors)
    return Converted(tensors, {"position": "relative", "qkv_bias": bias} | heads_of(tensors, tables), {})


def from_snippet(state: Mapping[str, Tensor], hints: Hints) -> Converted:
    """The YOLO forks' `MHSA`: unscaled q·k with biases, which is exact; its position term is left out, by name."""
    left_out = {key: TRANSPOSED for key in state if re.search(r"(^|\.)rel_[hw](_weight)?$", key)}
    heads = next((state[key].shape[1] for key in left_out), hints.num_heads)
    tensors = {key: value for key, value in state.items() if key not in left_out}
    for lead in layers_of(state, SNIPPET_MARKS):
        dim = state[f"{lead}query.weight"].shape[0]
        if heads is None or dim % heads:
            raise ValueError(f"the snippet's num_heads is not in these weights; give num_heads, a divisor of {dim}")
        for kind in ("weight", "bias"):
            query, *rest = (tensors.pop(f"{lead}{part}.{kind}") for part in ("query", "key", "value"))
            tensors[f"{lead}qkv.{kind}"] = torch.cat([query * (dim // heads) ** 0.5, *rest])  # √D undoes our scale
    return Converted(tensors, {"position": "none", "qkv_bias": True, "num_heads": heads}, left_out)


def heads_of(tensors: Mapping[str, Tensor], tables: list[str]) -> dict[str, int]:
    """The number of heads that a layer's tables and projections tell of.

    Raises:
        ValueError: query, key and value whose widths differ from the layer's, which `MHSA2d` does not have.
    """
    heads = {}
    for table in tables:
        lead = re.sub(r"(rel|abs)_[hw]$", "", table)
        rows, dim = tensors[f"{lead}qkv.weight"].shape[:2]
        if rows != 3 * dim:
            raise ValueError(
                f"{lead}qkv projects {dim} channels to {rows}; MHSA2d needs query, key and value of {dim} each"
            )
        heads["num_heads"] = dim // tensors[table].shape[-1]
    return heads


def first(keys: list[str]) -> str:
    """The first five names of a list, and how many more there are."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return (", ".join(keys[:5]) or "none") + more


SNIPPET_MARKS = tuple(f"{part}.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias"))
PORTS: dict[str, Port] = {
    "distribuuuu": Port(("to_qk.weight", "to_v.weight"), from_gist),
    "lucidrains": Port(("to_qkv.weight",), from_gist),
    "timm": Port(("qkv.weight", "pos_embed.height_rel", "pos_embed.width_rel"), from_timm),
    "snippet": Port(SNIPPET_MARKS, from_snippet),
}
