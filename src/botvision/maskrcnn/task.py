"""What lightning needs to know of a detector: losses, rates, scores."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import lightning as L
import torch
from torch.optim.lr_scheduler import LambdaLR

from botvision.engine.checkpoint import KEY
from botvision.engine.loader import READING, Place
from botvision.engine.settings import check_same
from botvision.maskrcnn.checkpoint import ModelConfig, describe
from botvision.maskrcnn.data import Batch, CocoInstances
from botvision.maskrcnn.model import MaskRCNN
from botvision.maskrcnn.score import Result, Scores, evaluate, to_results
from botvision.recipe import Schedule, build_optimizer, learning_rate_factor


@dataclass(frozen=True)
class OptimConfig:
    """How it learns; the defaults are those of the detection code that the paper cites, for batch 64.

    Args:
        optimizer: sgd (the paper's) or adamw.
        lr: base rate at the batch that the run really has, all devices together.
        weight_decay: on weights only, never on norms, biases and position tables.
        momentum: of sgd; beta1 of adamw.
        schedule: steps (×0.1 at each milestone) or cosine (to 0).
        milestones: as fractions of the run.
        warmup_steps: linear warm-up.
        warmup_from: first rate, as a fraction of lr.
        epochs: passes over the training pictures.
        clip: largest norm of the gradient; none leaves it.
        ema: decay of averaged weights, which are then scored and saved; none keeps the plain ones.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.08
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Schedule = "steps"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    warmup_steps: int = 500
    warmup_from: float = 0.084
    epochs: int = 36
    clip: float | None = None
    ema: float | None = None


class Task(L.LightningModule):
    """What lightning needs to know: losses, rates, scores; the arithmetic is elsewhere, in plain torch."""

    def __init__(
        self,
        detector: MaskRCNN,
        *,
        model: ModelConfig,
        optim: OptimConfig,
        val_set: CocoInstances,
        place: Place,
        reading: list[int],
    ) -> None:
        """`place` of the training loader; `reading`, how its epochs are given out: seed and devices."""
        super().__init__()
        self.model = detector
        self.config = model
        self.optim = optim
        self.place = place
        self.reading = reading
        self.truth = val_set.annotations
        self.categories = val_set.categories
        self.about = describe(model, val_set.categories)
        self.results: list[Result] = []
        self.seen: list[int] = []

    def on_train_epoch_start(self) -> None:
        """Another order of the pictures each epoch."""
        self.place.begin(self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Sum of the losses."""
        losses = self.model(*batch).losses
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            terms = ", ".join(f"{k} {v.item():.3g}" for k, v in losses.items())
            raise ValueError(
                f"the loss is not finite at step {self.global_step} ({terms}); begin anew with a lower "
                "--optim.lr, more --optim.warmup_steps or --optim.clip 10, and --on_existing replace"
            )
        self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, batch_size=len(batch[0]))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Detections as COCO results, and the losses."""
        output = self.model(*batch)
        self.results += to_results(output.detections, *batch, self.categories)
        self.seen += [int(target["image_id"]) for target in batch[1]]
        losses = {f"val/{k}": v for k, v in output.losses.items()}
        losses["val/loss"] = torch.stack(list(output.losses.values())).sum()
        self.log_dict(losses, batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Box and mask AP over all processes, each picture once."""
        parts = self.gather()
        figures = evaluate(self.truth, once_each(parts)) if self.global_rank == 0 else None
        figures = cast("Scores", self.trainer.strategy.broadcast(figures))
        self.results, self.seen = [], []
        scores = {"val/box_ap": figures.box["AP"], "val/mask_ap": figures.mask["AP"]}
        self.log_dict(scores, prog_bar=True, rank_zero_only=False)

    def gather(self) -> list[tuple[list[int], list[Result]]]:
        """Pictures seen and results, a part a process."""
        mine = (self.seen, self.results)
        if self.trainer.world_size == 1:
            return [mine]
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, mine)
        return parts

    def configure_optimizers(self) -> Any:
        """The optimiser and its rate at each step."""
        o = self.optim
        optimizer = build_optimizer(self.model, o.optimizer, lr=o.lr, weight_decay=o.weight_decay, momentum=o.momentum)
        per_epoch = int(self.trainer.estimated_stepping_batches) // int(self.trainer.max_epochs or 1)

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                total=per_epoch * o.epochs,
                schedule=o.schedule,
                warmup_steps=o.warmup_steps,
                warmup_from=o.warmup_from,
                milestones=o.milestones,
            )

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is needed to build the detector again, in plain types."""
        checkpoint[KEY] = self.about
        checkpoint[READING] = self.reading

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model's run."""
        check_same(checkpoint[KEY], self.about, model=self.config)


def once_each(parts: list[tuple[list[int], list[Result]]]) -> list[Result]:
    """Results without a picture's second time, as of samplers that even the processes out; ours gives each once."""
    taken: set[int] = set()
    results: list[Result] = []
    for seen, found in parts:
        fresh = set(seen) - taken
        results += [result for result in found if result["image_id"] in fresh]
        taken |= fresh
    return results
