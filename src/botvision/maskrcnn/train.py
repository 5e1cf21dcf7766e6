"""One run from data to pictures: fit, score, draw, and a folder that says how it went."""

import random
import resource
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm
from torch.optim.lr_scheduler import LambdaLR

from botvision.backbone import load_resnet
from botvision.draw.instances import contact_sheet, draw_instances, save_picture
from botvision.files import write_json, write_text
from botvision.maskrcnn.checkpoint import KEY, ModelConfig, describe, read_checkpoint
from botvision.maskrcnn.data import Batch, CocoInstances, DataConfig, train_loader, val_loader
from botvision.maskrcnn.history import History
from botvision.maskrcnn.model import MaskRCNN
from botvision.maskrcnn.predict import Predictor
from botvision.maskrcnn.score import Result, Scores, evaluate, to_results
from botvision.recipe import Schedule, build_optimizer, learning_rate_factor

EXAMPLES = 12  # pictures that a finished run draws


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


@dataclass(frozen=True)
class Summary:
    """How a run ended; also in `summary.json`.

    Attributes:
        box_ap, mask_ap: COCO's AP of the last weights on the val pictures, as fractions.
        wall_seconds: of all sessions of the run, scoring and drawing included.
        peak_memory_mb: of the main process; of the GPU too in gpu_memory_mb, where there is one.
    """

    box_ap: float
    mask_ap: float
    wall_seconds: float
    peak_memory_mb: float
    gpu_memory_mb: float
    seed: int
    model: str
    epochs: int
    out: Path

    def __str__(self) -> str:
        minutes = self.wall_seconds / 60
        return (
            f"box AP {self.box_ap:.3f}, mask AP {self.mask_ap:.3f} after {self.epochs} epochs ({minutes:.1f} min); "
            f"pictures at {self.out / 'predictions'}\n"
            f"next: botvision maskrcnn predict {shlex.quote(str(self.out / 'checkpoints' / 'last.ckpt'))} YOUR_PICTURE"
        )


def train(
    data: DataConfig,
    out: Path,
    *,
    model: ModelConfig = ModelConfig(),
    optim: OptimConfig = OptimConfig(),
    engine: EngineConfig = EngineConfig(),
    backbone_weights: str | None = None,
    on_existing: Literal["refuse", "resume", "replace"] = "refuse",
) -> Summary:
    """Train a Mask R-CNN, score it, draw what it finds.

    Writes to `out`: config.yaml (re-runs it), metrics.csv, curves.png, checkpoints/last.ckpt and best.ckpt,
    predictions/*.jpg, summary.json.

    Args:
        data: pictures and annotations.
        out: folder of the run, e.g. runs/maskrcnn/mine.
        model: the detector.
        optim: how it learns.
        engine: where and how it runs.
        backbone_weights: a ResNet's weights for the backbone: a file, or a timm name, which downloads.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite.
    """
    started = time.monotonic()
    last = out / "checkpoints" / "last.ckpt"
    check_numbers(optim, engine)
    config = plain_config(data, model, optim, engine, backbone_weights)
    if rank_zero_only.rank == 0:
        check_place(out, on_existing, config)
    resumed = read_checkpoint(last) if on_existing == "resume" and last.is_file() else None
    L.seed_everything(engine.seed, workers=True, verbose=False)
    with torch.device("meta"):  # the model's options are checked before much data is read
        rule = model.build(1).canvas.rule
    loaders = train_loader(data, rule), val_loader(data)
    train_set, val_set = (cast("CocoInstances", loader.dataset) for loader in loaders)
    if val_set.categories != train_set.categories:
        raise ValueError(f"{data.train_annotations} and {data.val_annotations} list different categories; use one list")
    history = History(out, log_every=engine.log_every, started=started)
    trainer = build_trainer(out, optim, engine, history)
    detector = build(model, engine, train_set, backbone_weights, synchronise=is_multi_gpu(trainer))
    task = Task(detector, model=model, optim=optim, val_set=val_set)
    if trainer.is_global_zero:  # everything is checked and built: only now is anything replaced
        if on_existing == "replace":
            clear(out)
        write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if resumed is not None:  # not the first epoch's order and jitter once more
        L.seed_everything(engine.seed + resumed["global_step"], workers=True, verbose=False)
    trainer.fit(task, *loaders, ckpt_path=None if resumed is None else str(last), weights_only=True)
    if not history.is_scored():
        trainer.validate(task, loaders[1], verbose=False)
    scored = history.last_score()
    if trainer.is_global_zero:
        draw_examples(Predictor.load(last, device=str(task.device)), val_set, out / "predictions")
    summary = Summary(
        box_ap=scored["val/box_ap"],
        mask_ap=scored["val/mask_ap"],
        wall_seconds=round(history.seconds(), 1),
        peak_memory_mb=round(peak_memory_mb()),
        gpu_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else 0,
        seed=engine.seed,
        model=model.backbone,
        epochs=trainer.current_epoch,
        out=out,
    )
    if trainer.is_global_zero:
        write_json(out / "summary.json", {**asdict(summary), "out": str(out)}, indent=2)
    return summary


def check_numbers(optim: OptimConfig, engine: EngineConfig) -> None:
    """Refuse counts below 1."""
    counts = {"optim.epochs": optim.epochs, "engine.score_every": engine.score_every}
    counts |= {"engine.log_every": engine.log_every, "engine.stop_after": engine.stop_after or 1}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")


def is_multi_gpu(trainer: L.Trainer) -> bool:
    """Whether BatchNorm has other GPUs to be synchronised with (paper section 4.1)."""
    return trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda"


def build(
    model: ModelConfig, engine: EngineConfig, data: CocoInstances, backbone_weights: str | None, *, synchronise: bool
) -> MaskRCNN:
    """The detector for this data, with its backbone's weights, in the wanted memory order."""
    detector = model.build(len(data.categories))
    if backbone_weights is not None:
        print(f"backbone: {load_resnet(detector.pyramid.body, backbone_weights)}")
    if synchronise:  # timm's own: torch's would take the activation out of timm's joint norms
        detector = convert_sync_batchnorm(detector)
    if engine.channels_last:
        detector = detector.to(memory_format=torch.channels_last)
    if engine.compile:
        detector.pyramid.compile()
    return detector


def run_files(out: Path) -> list[Path]:
    """What an earlier run has left."""
    files = [out / name for name in ("config.yaml", "metrics.csv", "curves.png", "summary.json")]
    files += [*(out / "checkpoints").glob("*.ckpt"), *(out / "predictions").glob("*.jpg")]
    return [path for path in files if path.is_file()]


def clear(out: Path) -> None:
    """Remove an earlier run, and nothing else."""
    for path in run_files(out):
        path.unlink()


def check_place(out: Path, on_existing: str, config: dict[str, Any]) -> None:
    """Refuse an `out` that holds a run, or one to resume that was begun with other settings."""
    if not run_files(out):
        return
    if on_existing == "refuse":
        raise ValueError(
            f"{out} holds a run already; add --on_existing resume to go on with it, --on_existing replace to start "
            "anew, or give another --out"
        )
    if on_existing == "resume" and (out / "config.yaml").is_file():
        old = yaml.safe_load((out / "config.yaml").read_text())
        old["data"]["workers"] = config["data"]["workers"]  # as many as the machine has
        changed = [key for key in ("data", "model", "optim") if old.get(key) != config[key]]
        if changed:
            raise ValueError(
                f"{out} was begun with other settings of {', '.join(changed)}; resume it with "
                f"--config {out / 'config.yaml'}, or give another --out"
            )


def plain_config(
    data: DataConfig, model: ModelConfig, optim: OptimConfig, engine: EngineConfig, backbone_weights: str | None
) -> dict[str, Any]:
    """Everything that `train` was given, as YAML holds it; `--config` reads it back."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    parts = {"data": data, "model": model, "optim": optim, "engine": replace(engine, stop_after=None)}
    config = {name: plain(asdict(cast("Any", part))) for name, part in parts.items()}
    return {**config, "backbone_weights": backbone_weights}


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
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest torch that we take
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


class Task(L.LightningModule):
    """What lightning needs to know: losses, rates, scores; the arithmetic is elsewhere, in plain torch."""

    def __init__(self, detector: MaskRCNN, *, model: ModelConfig, optim: OptimConfig, val_set: CocoInstances) -> None:
        super().__init__()
        self.model = detector
        self.optim = optim
        self.truth = val_set.annotations
        self.categories = val_set.categories
        self.about = describe(model, val_set.categories)
        self.results: list[Result] = []
        self.seen: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Sum of the five losses."""
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model's run."""
        if checkpoint.get(KEY) != self.about:
            raise ValueError("the checkpoint to resume is of another model or other categories; give another --out")


def once_each(parts: list[tuple[list[int], list[Result]]]) -> list[Result]:
    """Results without a picture's second time: distributed samplers repeat some to even the processes out."""
    taken: set[int] = set()
    results: list[Result] = []
    for seen, found in parts:
        fresh = set(seen) - taken
        results += [result for result in found if result["image_id"] in fresh]
        taken |= fresh
    return results


def draw_examples(predictor: Predictor, data: CocoInstances, folder: Path) -> None:
    """Draw what the model finds in some val pictures, and a sheet of them."""
    chosen = sorted(random.Random(0).sample(range(len(data)), min(EXAMPLES, len(data))))
    drawn = []
    for index in chosen:
        picture, _ = data[index]
        detections = predictor(picture)
        drawn.append(draw_instances(picture.permute(1, 2, 0).numpy(), detections, predictor.names))
        save_picture(drawn[-1], folder / f"{Path(data.record(index)[0]['file_name']).stem}.jpg")
    save_picture(contact_sheet(drawn), folder / "sheet.jpg")


def peak_memory_mb() -> float:
    """Largest memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
