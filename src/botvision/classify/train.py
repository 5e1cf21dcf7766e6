"""One run from pictures to accuracies: fit, score, draw, and a folder that says how it went."""

import shlex
import time
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm
from timm.optim import list_optimizers
from torch import nn

from botvision.backbone import load_resnet
from botvision.classify.data import (
    DataConfig,
    Loader,
    build_loader,
    check_classes,
    train_transform,
    val_transform,
)
from botvision.classify.model import ModelConfig, describe, load_classifier, normalisation
from botvision.classify.score import judge, to_picture
from botvision.classify.task import OptimConfig, Task
from botvision.draw.classes import draw_confusion, draw_said
from botvision.engine.checkpoint import newest_whole
from botvision.engine.fit import fit
from botvision.engine.folder import (
    OnExisting,
    check_place,
    clear,
    clear_unfinished,
    peak_memory_mb,
    plain_config,
    resume_command,
)
from botvision.engine.history import History
from botvision.engine.loader import Place, Share, where_it_ended
from botvision.engine.trainer import (
    Course,
    EngineConfig,
    build_trainer,
    check_counts,
    check_launch,
    is_multi_gpu,
    seed_process,
)
from botvision.files import write_json, write_text

EXAMPLES = 12  # pictures that a finished run draws
PANELS = {"loss": ("train/loss", "val/loss"), "accuracy": ("val/top1", "val/top5"), "learning rate": ("lr",)}


@dataclass(frozen=True)
class Summary:
    """How a run ended; also in `summary.json`.

    Attributes:
        top1, top5: of the last weights on the val pictures, as fractions.
        wall_seconds: of all sessions of the run, scoring and drawing included.
        unreadable: different pictures that the first process skipped in the last session.
        peak_memory_mb: of the main process; of the GPU too in gpu_memory_mb, where there is one.
    """

    top1: float
    top5: float
    wall_seconds: float
    unreadable: int
    peak_memory_mb: float
    gpu_memory_mb: float
    seed: int
    model: str
    epochs: int
    out: Path

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.4f}, top-5 {self.top5:.4f} after {self.epochs} epochs ({self.wall_seconds / 60:.1f} "
            f"min); pictures at {self.out / 'predictions'}\n"
            f"next: botvision classify predict {shlex.quote(str(self.out / 'checkpoints' / 'last.ckpt'))} YOUR_PICTURE"
        )


def train(
    data: DataConfig,
    out: Path,
    *,
    model: ModelConfig = ModelConfig(),
    optim: OptimConfig = OptimConfig(),
    engine: EngineConfig = EngineConfig(),
    backbone_weights: str | None = None,
    save_every: int | None = None,
    on_existing: OnExisting = "refuse",
) -> Summary:
    """Train a classifier, score it, draw what it says.

    Writes to `out`: config.yaml (re-runs it), metrics.csv, curves.png, confusion.png, checkpoints/last.ckpt and
    best.ckpt, predictions/sheet.jpg, summary.json.

    Args:
        data: pictures and how they are augmented.
        out: folder of the run, e.g. runs/classify/mine.
        model: the classifier.
        optim: how it learns.
        engine: where and how it runs.
        backbone_weights: a ResNet's weights for a BoTNet: a file, or a timm name, which downloads.
        save_every: steps between saves inside an epoch, from which the run can go on; none saves at its end.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite; more
            unreadable pictures than the limit.
        Stopped: by SIGINT or SIGTERM, after a step, saved.
    """
    started = time.monotonic()
    last = out / "checkpoints" / "last.ckpt"
    check_options(data, optim, engine, save_every=save_every)
    given = {"data": data, "model": model, "optim": optim, "backbone_weights": backbone_weights}
    config = plain_config(engine, **given, save_every=save_every)
    if getattr(rank_zero_only, "rank", 0) == 0:
        check_place(out, on_existing, config, fixed={"data": data, "model": model, "optim": optim})
    resumed = newest_whole(last.parent, house="classify") if on_existing == "resume" else None
    L.seed_everything(engine.seed, workers=True, verbose=False)
    history = History(out, panels=PANELS, score="val/top1", log_every=engine.log_every, started=started)
    course = Course(optim.epochs, "val/top1", clip=optim.clip, ema=optim.ema, accumulate=optim.accumulate)
    trainer = build_trainer(out, course, engine, history, *inside_epochs(out, save_every))
    check_launch(trainer)
    share = Share(data.batch_size, True, Place(), engine.seed, trainer.global_rank, trainer.world_size)
    train_set, val_set = open_splits(data, model, share)
    network = build(model, engine, train_set, backbone_weights, synchronise=is_multi_gpu(trainer))
    about = describe(model, train_set.classes, network, crop=data.crop)
    reading = [engine.seed, share.world, data.workers]
    task = Task(network, about=about, model_config=model, reading=reading, optim=optim, data=data, train=train_set)
    if resumed is not None:
        train_set.place.begin(*where_it_ended(resumed[1], reading))
    if trainer.is_global_zero:  # everything is checked and built: only now is anything replaced
        if on_existing == "replace":
            clear(out)
        clear_unfinished(out)
        write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    steps_before = 0 if resumed is None else resumed[1]["global_step"]
    seed_process(engine.seed, steps_before=steps_before, rank=share.rank)
    begin = None if resumed is None else resumed[0]
    batches = (train_set.batches, val_set.batches)
    scored = fit(trainer, task, batches, begin=begin, go_on=resume_command("classify", out))
    if trainer.is_global_zero:
        draw_end(last, data, out, device=trainer.strategy.root_device)  # lightning has moved the task to the CPU
    summary = Summary(
        top1=scored["val/top1"],
        top5=scored["val/top5"],
        wall_seconds=round(history.seconds(), 1),
        unreadable=len(task.bad),
        peak_memory_mb=round(peak_memory_mb()),
        gpu_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else 0,
        seed=engine.seed,
        model=model.name,
        epochs=trainer.current_epoch,
        out=out,
    )
    if trainer.is_global_zero:
        write_json(out / "summary.json", {**asdict(summary), "out": str(out)}, indent=2)
    return summary


def check_options(data: DataConfig, optim: OptimConfig, engine: EngineConfig, *, save_every: int | None) -> None:
    """Refuse an unknown optimiser, and counts below 1."""
    if optim.optimizer not in list_optimizers():
        near = ", ".join(get_close_matches(optim.optimizer, list_optimizers(), n=3)) or "momentum, adamw, lamb"
        raise ValueError(f"unknown optimizer {optim.optimizer!r}; timm knows {near} and others")
    counts = {"optim.epochs": optim.epochs, "optim.accumulate": optim.accumulate, "save_every": save_every or 1}
    check_counts(engine, **counts, **{"data.batch_size": data.batch_size})


def open_splits(data: DataConfig, model: ModelConfig, share: Share) -> tuple[Loader, Loader]:
    """Training pictures, augmented, and val pictures as they are, of the same classes."""
    with torch.device("meta"):  # a wrong name is said before much data is read
        mean, std = normalisation(model.build(2))
    augmented = train_transform(data, model.img_size, mean, std)
    as_is = val_transform(model.img_size, data.crop, mean, std)
    train_set = build_loader(data.train, data, augmented, share)
    val_set = build_loader(data.val, data, as_is, share._replace(train=False, place=Place()))
    check_classes(train_set, val_set, data)
    return train_set, val_set


def inside_epochs(out: Path, save_every: int | None) -> list[ModelCheckpoint]:
    """Saves of last.ckpt between the ends of epochs."""
    if save_every is None:
        return []
    folder = out / "checkpoints"
    return [ModelCheckpoint(folder, "last", every_n_train_steps=save_every, enable_version_counter=False)]


def build(
    model: ModelConfig, engine: EngineConfig, data: Loader, backbone_weights: str | None, *, synchronise: bool
) -> nn.Module:
    """The classifier for this data, with a ResNet's weights, in the wanted memory order."""
    network = model.build(len(data.classes), pretrained=model.pretrained)
    if backbone_weights is not None:
        print(f"backbone: {load_resnet(network, backbone_weights)}")
    if synchronise:  # timm's own: torch's would take the activation out of timm's joint norms
        network = convert_sync_batchnorm(network)
    if engine.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if engine.compile:
        network.compile()
    return network


def draw_end(checkpoint: Path, data: DataConfig, out: Path, *, device: torch.device) -> None:
    """Who was taken for whom, and some val pictures with what was said of them."""
    classifier = load_classifier(checkpoint, device=device)
    judged = judge(classifier, data, size=classifier.config.img_size, keep=EXAMPLES)
    title = f"{classifier.config.name}, top-1 {judged.top1:.4f} of {judged.pictures}"
    draw_confusion(judged.confusion.numpy(), classifier.classes, out / "confusion.png", title=title)
    pictures = [to_picture(image, classifier) for image in judged.examples]
    said = []
    for is_, named, sure in judged.said:
        name, truth = classifier.classes[named], classifier.classes[is_]
        said.append((f"{name} {sure:.2f}" + ("" if is_ == named else f" (is {truth})"), is_ == named))
    draw_said(pictures, said, out / "predictions" / "sheet.jpg")
