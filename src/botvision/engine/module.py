"""LightningModule of any task: order of epochs, rates, steps that are left out, checkpoints."""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from botvision.engine.checkpoint import KEY
from botvision.engine.config import Schedule
from botvision.engine.doubts import slow_start
from botvision.engine.history import is_evaluated
from botvision.engine.loader import READING, RULE, SEEDING, ResumableLoader, await_evaluation, end_epoch, seed_draws
from botvision.engine.settings import check_same
from botvision.optim import learning_rate_factor

IN_A_ROW = 10  # steps that may be left out before a run ends
TOTAL = "botvision_total"  # in a checkpoint: steps of the whole run, by which its rates go


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
        """Those of all processes, in each of them."""
        self.reasons = dict.fromkeys(reason for reasons in of_all(list(self.reasons)) for reason in reasons)


def of_all(own: Any) -> list[Any]:
    """What each process has, in the order of their ranks; of a single process its own."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def check_together(epoch: int, step: int) -> None:
    """Refuse, in every process, to train where one goes on from another checkpoint than the others.

    Raises:
        ValueError: they differ.
    """
    places = of_all((epoch, step))
    other = next((rank for rank, place in enumerate(places) if place != places[0]), None)
    if other is not None:
        first, second = (f"process {rank} at epoch {places[rank][0]}, step {places[rank][1]}" for rank in (0, other))
        raise ValueError(
            f"processes go on from different checkpoints: {first}, {second}; give an --out on a disk that all machines "
            "share"
        )


def go_on_at(optimizer: Optimizer, scheduler: LambdaLR, rates: Sequence[float], *, step: int) -> None:
    """Have a schedule go on at its own step, with base rates of its own, after another run's were loaded."""
    scheduler.base_lrs = list(rates)
    scheduler.last_epoch = step
    for group, rate, factor in zip(optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True):
        group["initial_lr"] = rate
        group["lr"] = rate * factor(step)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


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
        self.total: int = 0
        self.total_before: int | None = None
        self.base_rates: list[float] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As averaged weights take one: without a copy of the data."""
        memo.update({id(kept): kept for kept in self.not_copied()})
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def not_copied(self) -> list[Any]:
        """What a copy of the module has in common with it."""
        return [self.loader]

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

    def on_train_start(self) -> None:
        """Of several processes, see that all go on from the same place; of another number, have the rates go on there.

        Raises:
            ValueError: they do not.
        """
        check_together(self.trainer.current_epoch, self.trainer.global_step)
        before, scheduler = self.total_before, cast("LambdaLR | None", self.lr_schedulers())
        if before in (None, self.total) or scheduler is None:
            return
        step = round(scheduler.last_epoch * self.total / before)
        go_on_at(self.trainer.optimizers[0], scheduler, self.base_rates, step=step)
        if self.global_rank == 0:
            told = f"the whole run has {self.total} steps on these devices, and had {before}"
            print(f"{told}: the rates go on as at step {step}", file=sys.stderr)

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
        self.total = total
        self.base_rates = [group["lr"] for group in optimizer.param_groups]

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
        checkpoint[TOTAL] = self.total

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model's run; an evaluation that a stopped run had before it comes first."""
        check_same(checkpoint[KEY], self.about, model=self.config)
        self.total_before = checkpoint.get(TOTAL)
        if is_evaluated(self.trainer, checkpoint["epoch"]):
            await_evaluation(checkpoint)
        else:
            end_epoch(checkpoint)
