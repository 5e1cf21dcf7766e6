"""LightningModule of any task: order of epochs, rates, steps that are left out, checkpoints."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from botvision.engine.checkpoint import KEY
from botvision.engine.config import Schedule
from botvision.engine.doubts import slow_start
from botvision.engine.history import is_evaluated
from botvision.engine.loader import READING, RULE, SEEDING, ResumableLoader, await_evaluation, seed_draws
from botvision.engine.settings import check_same
from botvision.optim import learning_rate_factor

IN_A_ROW = 10  # steps that may be left out before a run ends


class Unreadable:
    """Images of a process that could not be read: each said once, and counted up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[str, None] = {}  # in their order, each once

    def count(self, reasons: Sequence[str]) -> None:
        """Say what is new.

        Raises:
            ValueError: more than the limit.
        """
        for reason in reasons:
            if reason not in self.reasons:
                print(f"skipped: {reason}", file=sys.stderr)
                self.reasons[reason] = None
        if len(self.reasons) > self.limit:
            raise ValueError(
                f"{len(self.reasons)} images could not be read, more than --data.bad_limit {self.limit} allows: "
                f"{'; '.join(self.reasons)}"
            )

    def gather(self) -> None:
        """Those of all processes, in each of them, where there are several."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, list(self.reasons))
        self.reasons = dict.fromkeys(reason for reasons in gathered for reason in reasons)


class TaskModule(L.LightningModule):
    """What every task's module does; a task adds its steps, its metrics and its optimiser.

    Attributes:
        model: what is trained.
        about: what its checkpoints say of it, in plain types.
        config: the model's options, as a dataclass.
        loader: of the training data.
        bad: images that could not be read; at the end of a training those of all processes.
    """

    def __init__(
        self, model: nn.Module, *, about: dict[str, Any], config: Any, loader: ResumableLoader, bad_limit: int = 10
    ) -> None:
        super().__init__()
        self.model = model
        self.about = about
        self.config = config
        self.loader = loader
        self.bad = Unreadable(bad_limit)
        self.left_out = 0

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave a step out whose gradients are not finite: it would make every weight so.

        Raises:
            ValueError: too many in a row.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:  # which looks itself, in 16-mixed
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            self.left_out = 0
            return
        self.left_out += 1
        if self.left_out > IN_A_ROW:
            raise ValueError(
                f"gradients were not finite in {self.left_out} steps in a row, up to step {self.global_step}; the "
                "weights are those before; begin anew with a lower learning rate or a longer warm-up, and "
                "--on_existing replace"
            )
        optimizer.zero_grad()
        if self.global_rank == 0:
            print(f"step {self.global_step}: gradients are not finite; the step is left out", file=sys.stderr)

    def on_train_epoch_start(self) -> None:
        """Another order of the images each epoch."""
        self.loader.share.position.begin(self.current_epoch)

    def nothing(self, forward: Callable[[], Tensor]) -> Tensor:
        """A loss of 0 where no image could be read: every process must have one, with a gradient for each weight.

        Norms that are synchronised wait for each other in the forward pass, which is then gone through.

        Args:
            forward: of black images; a number.
        """
        loss = torch.stack([p.sum() for p in self.model.parameters()]).sum() * 0.0
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.model.modules()):
            loss = loss + forward() * 0.0
        return loss

    def on_train_end(self) -> None:
        """Count the unreadable images of every process."""
        self.bad.gather()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Random numbers of this step alone: dropout, mixing and sampling go on the same whenever a run is resumed."""
        share = self.loader.share
        seed_draws("step", share.seed, self.current_epoch, batch_idx, share.rank)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Those of an evaluation, the same in each: a detector's losses are of proposals drawn at random."""
        share = self.loader.share
        seed_draws("evaluation", share.seed, batch_idx, share.rank)

    def scheduled(
        self,
        optimizer: Optimizer,
        *,
        total: int,
        schedule: Schedule,
        warmup_steps: int,
        warmup_from: float,
        milestones: Sequence[float],
        warmup: float | None = None,
    ) -> Any:
        """An optimiser with `learning_rate_factor` at each of its steps, as lightning takes both.

        `warmup` is a share of `total` in place of `warmup_steps`; the others are as there.
        """
        if warmup is not None:
            warmup_steps = round(warmup * total)
        if self.global_rank == 0 and (warning := slow_start(warmup_steps=warmup_steps, total=total)):
            print(warning, file=sys.stderr)

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                total=total,
                schedule=schedule,
                warmup_steps=warmup_steps,
                warmup_from=warmup_from,
                milestones=milestones,
            )

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is needed to build the model again, in plain types."""
        checkpoint[KEY] = self.about
        checkpoint[READING] = self.loader.reading
        checkpoint[SEEDING] = RULE

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model's run; an evaluation that a stopped run had before it comes first."""
        check_same(checkpoint[KEY], self.about, model=self.config)
        if is_evaluated(self.trainer, checkpoint["epoch"]):
            await_evaluation(checkpoint)
