"""How a run learns and where it runs: the options, and lightning's Trainer made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from botvision.maskrcnn.history import History
from botvision.recipe import Schedule


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


@dataclass(frozen=True)
class EngineConfig:
    """Where and how it runs.

    Args:
        seed: of weights, order and jitter.
        accelerator: auto, cpu, gpu, …: as lightning names them.
        devices: how many a node, or auto.
        num_nodes: nodes under torchrun or SLURM.
        precision: 32-true, bf16-mixed, …: as lightning names them; auto is bf16-mixed where the hardware multiplies it.
        channels_last: memory order that convolutions are fastest in.
        compile: torch.compile for the backbone and pyramid; wants a square canvas.
        score_every: epochs between scores; the last epoch is always scored.
        log_every: steps between rows of metrics.csv.
        progress: show a progress bar.
        stop_after: end this session after so many epochs, to be resumed later; none runs to the end.
    """

    seed: int = 0
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    precision: Any = "32-true"
    channels_last: bool = True
    compile: bool = False
    score_every: int = 1
    log_every: int = 10
    progress: bool = True
    stop_after: int | None = None


def check_numbers(optim: OptimConfig, engine: EngineConfig) -> None:
    """Refuse counts below 1."""
    counts = {"optim.epochs": optim.epochs, "engine.score_every": engine.score_every}
    counts |= {"engine.log_every": engine.log_every, "engine.stop_after": engine.stop_after or 1}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")


def build_trainer(out: Path, optim: OptimConfig, engine: EngineConfig, history: History) -> L.Trainer:
    """Lightning's Trainer with our callbacks."""
    folder = out / "checkpoints"
    callbacks: list[Callback] = [
        history,
        ModelCheckpoint(
            folder, "best", monitor="val/mask_ap", mode="max", save_weights_only=True, enable_version_counter=False
        ),
        ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if optim.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=optim.ema))
    return L.Trainer(
        accelerator=engine.accelerator,
        devices=engine.devices,
        num_nodes=engine.num_nodes,
        precision=pick_precision() if engine.precision == "auto" else engine.precision,
        max_epochs=optim.epochs if engine.stop_after is None else min(optim.epochs, engine.stop_after),
        check_val_every_n_epoch=engine.score_every,
        gradient_clip_val=optim.clip,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=engine.progress,
        enable_model_summary=False,
        default_root_dir=out,
    )


def pick_precision() -> Any:
    """bf16-mixed where the GPU or the CPU has instructions for it; elsewhere it would be slower than float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    known = getattr(torch.cpu, "get_capabilities", None)  # younger than the oldest torch that we take
    capabilities: dict[str, Any] = known() if known else {}
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


def is_multi_gpu(trainer: L.Trainer) -> bool:
    """Whether BatchNorm has other GPUs to be synchronised with (paper section 4.1)."""
    return trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda"
