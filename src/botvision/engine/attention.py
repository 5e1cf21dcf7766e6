"""Log attention entropy and distance of each head at each evaluation; warn where it averages."""

import sys

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from botvision.attention import HeadStatistics, MHSA2d, layer_statistics, on_inputs

AVERAGES = 0.99  # of log N: from here on attention is called a plain average
IMAGES = 2  # of the first batch
PANELS = {
    "attention entropy / log N": ("val/attention_entropy/*",),
    "attention distance, cells": ("val/attention_distance/*",),
}


class AttentionLog(Callback):
    """Entropy and mean distance of every head of every `MHSA2d`, on the first validation images of each evaluation.

    A compiled model is left alone: to look into it would compile it anew.
    """

    def __init__(self, *, compiled: bool, epochs: int) -> None:
        """`epochs` of the whole run, of which a session may train some."""
        self.compiled = compiled
        self.epochs = epochs
        self.found: list[HeadStatistics] = []
        self.hooks: list[RemovableHandle] = []
        self.warned = False

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at each layer's next input."""
        self.found = []
        if self.compiled or not trainer.is_global_zero:
            return
        self.hooks = on_inputs(pl_module, self.look)

    def look(self, name: str, layer: MHSA2d, x: Tensor) -> None:
        """Look once at each layer."""
        if all(one.layer != short(name) for one in self.found):
            self.found += layer_statistics(layer, x[:IMAGES], name=short(name))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what was seen, and warn once in a run's second half where all heads average."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        for one in self.found:
            place = f"{one.layer}.head{one.head}"
            pl_module.log(f"val/attention_entropy/{place}", one.entropy, rank_zero_only=True)
            pl_module.log(f"val/attention_distance/{place}", one.distance, rank_zero_only=True)
        is_late = 2 * (trainer.current_epoch + 1) >= self.epochs
        layers = [module for module in pl_module.modules() if isinstance(module, MHSA2d)]
        can_look = any(layer.relative and layer.start == "paper" for layer in layers)
        if is_late and not self.warned and (warning := averaging(self.found, can_look=can_look)):
            self.warned = True
            print(warning, file=sys.stderr)


def short(name: str) -> str:
    """A layer's name without what all of a model's layers share, e.g. layer4.0."""
    return name.removesuffix(".mhsa").removeprefix("model.").removeprefix("pyramid.body.")


def averaging(found: list[HeadStatistics], *, can_look: bool = True) -> str:
    """A warning of the layers whose every head averages over the map; empty where there is none.

    Args:
        found: of all layers.
        can_look: whether a layer could have the directional start and has not.
    """
    layers = dict.fromkeys(one.layer for one in found)
    lazy = [name for name in layers if all(one.entropy >= AVERAGES for one in found if one.layer == name)]
    if not lazy:
        return ""
    cures = ["train longer", "begin from a trained ResNet's weights"]
    if can_look:
        cures.append("begin with the model option start=directional (docs/directional-start.md)")
    return (
        f"warning: attention is a plain average over the map in {', '.join(lazy)} (entropy / log N of every head at "
        f"least {AVERAGES}): it does no more than pooling would; {', or '.join(cures)}"
    )
