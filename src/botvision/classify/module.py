"""LightningModule of a classifier: loss, optimiser, validation accuracies, unreadable images."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torchvision.transforms import v2

from botvision.classify.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from botvision.classify.data import Batch, Split
from botvision.classify.model import describe
from botvision.engine.module import TaskModule
from botvision.optim import build_optimizer, freeze, trained_before


class ClassifierModule(TaskModule):
    """Losses, rates and accuracies; the arithmetic is elsewhere, in plain torch."""

    def __init__(
        self, model: nn.Module, *, config: ModelConfig, optim: OptimConfig, data: DataConfig, train: Split
    ) -> None:
        """`train` is the split that it is trained on."""
        if optim.freeze:
            freeze(model)
            for parameter in head_of(model).parameters():
                parameter.requires_grad_(True)
        about = describe(config, train.classes, model, crop=data.crop)
        config = replace(config, pretrained=False)  # a checkpoint needs no weights of others
        super().__init__(model, about=about, config=config, loader=train.batches, bad_limit=data.bad_limit)
        self.optim = optim
        self.data = data
        self.steps = train.steps
        self.mix = mixing(data.augment, classes=len(train.classes))
        self.counts: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, mixed."""
        self.bad.count(batch.bad)
        if not len(batch.labels):
            return self.nothing(lambda: self.black(batch.images.device))
        images, targets = self.mix(batch.images, batch.labels) if self.mix else (batch.images, batch.labels)
        try:
            logits = self.model(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            if self.data.batch_size > 1:  # the only image of its batch that could be read
                return self.nothing(lambda: self.black(images.device))
            raise ValueError(
                f"data.batch_size=1 at model.img_size={self.config.img_size} leaves BatchNorm one value a channel; "
                "give --data.batch_size 2 or more, or a larger --model.img_size"
            ) from error
        loss = loss_of(logits, targets, kind=self.optim.loss, smoothing=self.data.augment.smoothing)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss is not finite at step {self.global_step}; begin anew with a lower --optim.lr_per_256, more "
                "--optim.warmup_epochs or --optim.clip 1, and --on_existing replace"
            )
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.labels))
        return loss

    def black(self, device: torch.device) -> Tensor:
        """What two black images give."""
        side = self.config.img_size
        return cast("Tensor", self.model(torch.zeros(2, 3, side, side, device=device)).sum())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """How many are right, and the plain loss."""
        self.bad.count(batch.bad)
        if len(batch.labels):
            logits = self.model(batch.images).float()
            loss = cross_entropy(logits, batch.labels, reduction="sum")
            seen = torch.tensor(len(logits), device=loss.device)
            self.counts.append(torch.stack([*right(first_five(logits), batch.labels), seen, loss]))

    def on_validation_epoch_end(self) -> None:
        """Accuracies over all processes."""
        empty = torch.zeros(4, device=self.device)
        total = self.trainer.strategy.reduce(torch.stack([empty, *self.counts]).sum(0), reduce_op="sum")
        top1, top5, seen, loss = cast("Tensor", total).tolist()
        self.counts = []
        if not seen:
            raise ValueError(f"{self.data.evaluated} has no image that can be read")
        figures = {"val/top1": top1 / seen, "val/top5": top5 / seen, "val/loss": loss / seen}
        self.log_dict(figures, prog_bar=True, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """The optimiser and its rate at each step."""
        o = self.optim
        batch = self.data.batch_size * self.trainer.world_size * o.accumulate
        optimizer = build_optimizer(
            self.model,
            o.optimizer,
            lr=o.lr_per_256 * batch / 256,
            weight_decay=o.weight_decay,
            momentum=o.momentum,
            layer_decay=o.layer_decay,
            slow=trained_before(self.model) - set(head_of(self.model).parameters()),
            slow_lr=None if o.backbone_lr is None else o.backbone_lr * batch / 256,
        )
        per_epoch = -(-self.steps // o.accumulate)  # lightning steps with what is left at an epoch's end
        return self.scheduled(
            optimizer,
            total=per_epoch * cast("int", o.epochs),
            schedule=o.schedule,
            warmup_steps=round(per_epoch * o.warmup_epochs),
            warmup=o.warmup,
            warmup_from=0.01,
            milestones=o.milestones,
        )


def head_of(model: nn.Module) -> nn.Module:
    """A timm model's last layer, which names the classes; both of those that have two."""
    head = cast("Any", model).get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple | list) else cast("nn.Module", head)


def mixing(augment: AugmentConfig, *, classes: int) -> nn.Module | None:
    """MixUp, CutMix, or one of them at a time."""
    mixes: list[nn.Module] = []
    if augment.mixup > 0:
        mixes.append(v2.MixUp(alpha=augment.mixup, num_classes=classes))
    if augment.cutmix > 0:
        mixes.append(v2.CutMix(alpha=augment.cutmix, num_classes=classes))
    return v2.RandomChoice(mixes) if mixes else None


def loss_of(logits: Tensor, targets: Tensor, *, kind: str, smoothing: float) -> Tensor:
    """Cross-entropy or binary cross-entropy of (B, K) logits with (B,) labels or (B, K) shares."""
    logits = logits.float()
    if kind == "ce":
        return cross_entropy(logits, targets, label_smoothing=smoothing)
    shares = one_hot(targets, logits.shape[1]).float() if targets.ndim == 1 else targets
    shares = shares * (1 - smoothing) + smoothing / logits.shape[1]
    return binary_cross_entropy_with_logits(logits, shares)


def first_five(logits: Tensor) -> Tensor:
    """Of (B, K) logits the most likely classes, first the likeliest: (B, 5), or fewer where there are fewer classes."""
    return logits.topk(min(5, logits.shape[1])).indices


def right(best: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the most likely classes (B, 5) have the label (B,) first, and how many at all."""
    hits = best == labels[:, None]  # B 5
    return hits[:, 0].sum(), hits.any(1).sum()
