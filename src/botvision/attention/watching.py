"""Read attention from outside: rows, entropy and distance of every layer of a model that runs."""

# B batch, M heads, C channels, H×W map, N = H·W tokens

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from botvision.attention.module import MHSA2d
from botvision.attention.statistics import (
    HeadStatistics,
    attention_weights,
    check_part,
    layer_statistics,
    on_inputs,
)

CALL = 'call the model, a compiled one in torch.compiler.set_stance("force_eager")'


@dataclass(frozen=True)
class Watched:
    """One layer and what came into it, which its attention is computed from when it is asked for.

    Attributes:
        name: of the layer in the model.
        layer: it.
        x: (B, C, H, W), a copy of its input.
    """

    name: str
    layer: MHSA2d
    x: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the map."""
        return self.x.shape[2], self.x.shape[3]

    @torch.no_grad()
    def attention_row(self, y: int, x: int, *, image: int = 0, part: str = "both") -> Tensor:
        """Where one place of the map looks: (M, H, W) softmax weights, of each head its own, in float32 or better.

        Args:
            y, x: row and column of the place, from 0.
            image: its number in the batch.
            part: the softmax of all logits ("both"), or of the "content" or the "position" logits alone.

        Raises:
            ValueError: a place or an image that is not there, or a part that this layer's logits do not have.
        """
        height, width = self.size
        check_part(part, self.layer)
        if not (0 <= y < height and 0 <= x < width):
            raise ValueError(
                f"(y, x)=({y}, {x}) is outside the map of {height} × {width}; rows and columns count from 0"
            )
        if not 0 <= image < len(self.x):
            raise ValueError(f"image={image} is not in the batch of {len(self.x)}; images count from 0")
        chosen = torch.tensor([y * width + x], device=self.x.device)
        with torch.autocast(self.x.device.type, enabled=False):
            weights = attention_weights(self.layer, self.input(image), chosen, part=part)  # 1 M 1 N
        return weights[0, :, 0].unflatten(-1, self.size)

    def input(self, image: int | None = None) -> Tensor:
        """The input in the weights' dtype, of one image or of all."""
        x = self.x if image is None else self.x[image : image + 1]
        return x.to(self.layer.qkv.weight.dtype)

    def statistics(self) -> list[HeadStatistics]:
        """Where each head looks, a mean over images and at most 256 places."""
        return layer_statistics(self.layer, self.x, name=self.name)

    def entropy(self) -> Tensor:
        """(M,) entropy of each head's weights as a share of log N: 1 is a plain average, 0 a single place."""
        return torch.tensor([head.entropy for head in self.statistics()])

    def mean_distance(self) -> Tensor:
        """(M,) distance from a place to what it looks at, in cells of the map."""
        return torch.tensor([head.distance for head in self.statistics()])


class Watching:
    """The attention layers of a model, by name, as they last ran; made by `watch`."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, Watched] = {}
        self.hooks: list[RemovableHandle] = on_inputs(model, self._keep)
        if not self.hooks:
            raise ValueError("watch needs a model with MHSA2d in it, e.g. a BoTNet; this one has none")

    def _keep(self, name: str, layer: MHSA2d, x: Tensor) -> None:
        self.seen[name] = Watched(name, layer, x.detach().clone())  # what comes after may change it in place

    def __getitem__(self, name: str) -> Watched:
        if name not in self.seen:
            there = f"those that ran: {', '.join(self.seen)}" if self.seen else f"none has run yet; {CALL}"
            raise KeyError(f"no attention layer {name!r}; {there}")
        return self.seen[name]

    def __iter__(self) -> Iterator[Watched]:
        """In the order in which they first ran."""
        return iter(self.seen.values())

    def __len__(self) -> int:
        return len(self.seen)

    def __enter__(self) -> "Watching":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off; what was seen stays."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []


def watch(model: nn.Module) -> Watching:
    """See what comes into each attention layer from now on; the layers run as they did, by the same backend.

    A graph that torch.compile has made before does not look at hooks: run a compiled model in
    `torch.compiler.set_stance("force_eager")`. Use it as a context, or call `close()`:

        with watch(model) as seen:
            model(images)
        for layer in seen:
            layer.attention_row(3, 5)  # (heads, H, W)

    Args:
        model: one that has `MHSA2d` in it.

    Raises:
        ValueError: it has none.
    """
    return Watching(model)
