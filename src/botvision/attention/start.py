"""Initial weights of attention: the paper's, or a directional start whose heads look to a side."""

# M heads, D head dim, H×W map that the tables cover, L a side of it; offsets are key − query

import numbers
from collections.abc import Callable

import torch
from torch import Tensor, nn

STARTS = ("paper", "directional")
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # (down, right) of four heads
REACHES = (1.0, 0.5, 1.5)  # of the first four heads, the next and the third, in units of the distance
WIDTH = 1 / 3  # standard deviation of what a head sees, in units of the distance; at least half a cell
DEPTH = 8.0  # how far, along each axis, the logits fall at most below that of the place looked at
BEHIND_RELU = 0.4  # mean of a channel behind BatchNorm and ReLU, which is where BoT blocks have their attention
MEANS = (1e-3, 1e3)  # what a mean of channels may be
MOST = len(DIRECTIONS) * len(REACHES)  # heads with a direction


def hills(heads: int, size: tuple[int, ...], distance: float) -> list[tuple[Tensor, Tensor]]:
    """Position logits of a directional start, by offsets of rows and of columns.

    Args:
        heads: how many; beyond twelve they have none.
        size: (H, W) of the map.
        distance: how far the first four look, as a share of each side.

    Returns:
        ((2H−1,), (2W−1,)) a head: the logarithm of a Gaussian around the place looked at, no lower than −8 along each
        axis, so that a gradient comes from everywhere.
    """
    found = []
    for head in range(min(heads, MOST)):
        group, number = divmod(head, len(DIRECTIONS))
        place = [distance * REACHES[group] * step for step in DIRECTIONS[number]]
        rows, columns = (
            hill(side, share * side, max(distance * WIDTH * side, 0.5)) for side, share in zip(size, place, strict=True)
        )
        found.append((rows, columns))
    return found


def hill(side: int, place: float, width: float) -> Tensor:
    """(2·side−1,) logits by offset, zero at `place`."""
    offsets = torch.arange(1 - side, side, dtype=torch.float64, device="cpu")  # whatever device is the default
    return (-((offsets - place) ** 2) / (2 * width**2)).clamp(min=-DEPTH)


def mean_behind(act_layer: Callable[..., nn.Module], *, start: str) -> float:
    """Mean of a channel behind BatchNorm and an activation, to a tenth: 0.4 of ReLU, 0.2 of SiLU.

    Only a directional start needs it: for another nothing is computed.
    """
    if start != "directional" or act_layer is nn.ReLU:
        return BEHIND_RELU
    with torch.device("cpu"), torch.no_grad():  # whatever device is the default
        shares = torch.linspace(-1, 1, 2001, dtype=torch.float64)[1:-1]
        act = act_layer().double()
        return max(round(float(act(torch.erfinv(shares) * 2**0.5).mean()), 1), 0.1)


def check_start(start: str, distance: float, mean: float, *, position: str, num_heads: int, head_dim: int) -> None:
    """Refuse a start that a layer cannot have, by rule, value and cure."""
    if start not in STARTS:
        raise ValueError(f"start={start!r} is unknown; use one of {', '.join(STARTS)}")
    if not is_number(distance) or not 0 < distance < 1:
        raise ValueError(f"start_distance={distance!r} must be a share of the map's side between 0 and 1; e.g. 0.25")
    if not is_number(mean) or not MEANS[0] <= mean <= MEANS[1]:
        raise ValueError(
            f"start_mean={mean!r} must be a mean of the input's channels between {MEANS[0]} and {MEANS[1]:g}; e.g. 0.4 "
            "behind ReLU"
        )
    if start == "paper":
        return
    if position not in {"relative", "relative_only"}:
        raise ValueError(
            f"start='directional' needs relative positions, which tell a direction; got position={position!r}; use "
            "position='relative' or start='paper'"
        )
    if min(num_heads, MOST) > head_dim:
        raise ValueError(
            f"start='directional' needs a channel of the tables for each of up to {MOST} heads; got num_heads="
            f"{num_heads}, of {head_dim} channels each; use at most as many heads as a head has channels"
        )
    reach = max(REACHES[: -(-min(num_heads, MOST) // len(DIRECTIONS))])
    if distance * reach >= 1:
        raise ValueError(
            f"start_distance={distance!r} has some of {num_heads} heads look {reach} times as far, "
            f"{distance * reach:.3g} of the map's side, which is beyond it; use less than {1 / reach:.3g}"
        )


def check_stds(**stds: float | None) -> None:
    """Refuse what is no standard deviation."""
    for name, std in stds.items():
        if std is not None and not (is_number(std) and 0 <= std < float("inf")):
            raise ValueError(f"{name}={std!r} must be a standard deviation of at least 0; e.g. 0.05")


def is_number(value: object) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
