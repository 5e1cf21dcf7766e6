"""LightningModule of Mask R-CNN: losses, optimiser, validation AP, unreadable images."""

from typing import Any, cast

import torch

from botvision.engine.loader import ResumableLoader
from botvision.engine.module import TaskModule
from botvision.maskrcnn.checkpoint import describe
from botvision.maskrcnn.config import ModelConfig, OptimConfig
from botvision.maskrcnn.data import Batch, CocoInstances
from botvision.maskrcnn.evaluation import Metrics, coco_metrics
from botvision.maskrcnn.model import MaskRCNN
from botvision.maskrcnn.resize import padded_alike
from botvision.maskrcnn.results import Result, batch_results
from botvision.maskrcnn.targets import CROP_SIDE
from botvision.optim import build_optimizer, freeze, rate_for, trained_before


class MaskRCNNModule(TaskModule):
    """Losses, rates and AP; the arithmetic is elsewhere, in plain torch."""

    def __init__(
        self,
        model: MaskRCNN,
        *,
        config: ModelConfig,
        optim: OptimConfig,
        loader: ResumableLoader,
        val_set: CocoInstances,
        bad_limit: int = 10,
    ) -> None:
        """`loader` of the training data, of which `bad_limit` images may be unreadable; `val_set`, for the AP."""
        if optim.freeze:
            freeze(model.pyramid.body)
        about = describe(config, val_set.categories)
        super().__init__(model, about=about, config=config, loader=loader, bad_limit=bad_limit)
        self.optim = optim
        self.val_set = val_set
        self.categories = val_set.categories
        self.results: list[Result] = []

    def not_copied(self) -> list[Any]:
        """The data of both splits."""
        return [*super().not_copied(), self.val_set]

    @property
    def detector(self) -> MaskRCNN:
        """The model."""
        return cast("MaskRCNN", self.model)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Sum of the losses."""
        self.bad.count(batch.bad)
        if not batch.images:
            return self.nothing(self.black)
        losses = self.model(batch.images, batch.targets).losses
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            terms = ", ".join(f"{k} {v.item():.3g}" for k, v in losses.items())
            raise ValueError(
                f"the loss is not finite at step {self.global_step} ({terms}); begin anew with a lower "
                "--optim.lr, more --optim.warmup_steps or --optim.clip 10, and --on_existing replace"
            )
        self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, batch_size=len(batch.images))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.images))
        return loss

    def black(self) -> torch.Tensor:
        """The losses of a black image without objects."""
        device = next(self.model.parameters()).device
        target: dict[str, Any] = {
            "boxes": torch.zeros(0, 4, device=device),
            "labels": torch.zeros(0, dtype=torch.int64, device=device),
            "masks": torch.zeros(0, CROP_SIDE, CROP_SIDE, dtype=torch.uint8, device=device),
        }
        losses = self.model([torch.zeros(3, 64, 64, device=device)], [target]).losses
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Detections as COCO results, and the losses."""
        for places in padded_alike(self.detector.resize.rule, batch.images):
            images, targets = [batch.images[place] for place in places], [batch.targets[place] for place in places]
            output = self.model(images, targets)
            self.results += batch_results(output.detections, images, targets, self.categories)
            losses = {f"val/{k}": v for k, v in output.losses.items()}
            losses["val/loss"] = torch.stack(list(output.losses.values())).sum()
            self.log_dict(losses, batch_size=len(images), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Box and mask AP over all processes, whose loaders give each image once."""
        results = self.gathered()
        found = (
            coco_metrics(self.val_set.truth(), results, masks=self.detector.masks) if self.global_rank == 0 else None
        )
        found = cast("Metrics", self.trainer.strategy.broadcast(found))
        self.results = []
        metrics = {"val/box_ap": found.box["AP"]}
        if found.mask:
            metrics["val/mask_ap"] = found.mask["AP"]
        self.log_dict(metrics, prog_bar=True, rank_zero_only=False)

    def gathered(self) -> list[Result]:
        """Results of all processes."""
        if self.trainer.world_size == 1:
            return self.results
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, self.results)
        return [result for part in parts for result in part]

    def configure_optimizers(self) -> Any:
        """The optimiser and its rate at each step."""
        o = self.optim
        batch = self.loader.share.batch_size * self.trainer.world_size
        rates = [
            None if rate is None else rate_for(rate, o.optimizer, batch=batch, meant_for=o.lr_batch_size)
            for rate in (o.lr, o.backbone_lr)
        ]
        optimizer = build_optimizer(
            self.model,
            o.optimizer,
            lr=cast("float", rates[0]),
            weight_decay=o.weight_decay,
            momentum=o.momentum,
            slow=trained_before(self.detector.pyramid.body),
            slow_lr=rates[1],
        )
        per_epoch = int(self.trainer.estimated_stepping_batches) // int(self.trainer.max_epochs or 1)
        return self.scheduled(
            optimizer,
            total=per_epoch * cast("int", o.epochs),
            schedule=o.schedule,
            warmup_steps=o.warmup_steps,
            warmup=o.warmup,
            warmup_from=o.warmup_from,
            milestones=o.milestones,
        )
