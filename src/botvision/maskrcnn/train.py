"""One run from data to pictures: fit, score, draw, and a folder that says how it went."""

import random
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from timm.layers import convert_sync_batchnorm

from botvision.backbone import load_resnet
from botvision.draw.instances import contact_sheet, draw_instances, save_picture
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
from botvision.maskrcnn.checkpoint import ModelConfig, carry_over
from botvision.maskrcnn.data import CocoInstances, DataConfig, train_loader, val_loader
from botvision.maskrcnn.model import MaskRCNN
from botvision.maskrcnn.predict import Predictor
from botvision.maskrcnn.task import OptimConfig, Task

EXAMPLES = 12  # pictures that a finished run draws
PANELS = {
    "loss": ("train/loss", "val/loss"),
    "AP": ("val/box_ap", "val/mask_ap"),
    "parts of the loss": (
        "train/loss_objectness",
        "train/loss_rpn_box_reg",
        "train/loss_classifier",
        "train/loss_box_reg",
        "train/loss_mask",
        "train/loss_auxiliary",
    ),
    "learning rate": ("lr",),
}


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
    init_from: Path | None = None,
    on_existing: OnExisting = "refuse",
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
        init_from: a trained detector's checkpoint to begin from, e.g. the ResNet twin's: all that has a place is
            carried over, and what stays fresh is said.
        on_existing: where `out` holds a run already: refuse, resume it, or replace it.

    Raises:
        FileNotFoundError, ValueError: data, options or an existing run that do not fit; a loss that is not finite.
        Stopped: by SIGINT or SIGTERM, after a step, saved.
    """
    started = time.monotonic()
    last = out / "checkpoints" / "last.ckpt"
    check_counts(engine, **{"optim.epochs": optim.epochs, "data.batch_size": data.batch_size})
    check_precision(engine.precision)
    if backbone_weights is not None and init_from is not None:
        raise ValueError("backbone_weights and init_from both bring the backbone's weights; give one of them")
    origin = {"backbone_weights": backbone_weights, "init_from": init_from}
    config = plain_config(engine, data=data, model=model, optim=optim, **origin)
    if getattr(rank_zero_only, "rank", 0) == 0:
        check_place(out, on_existing, config, fixed={"data": data, "model": model, "optim": optim})
    resumed = newest_whole(last.parent, house="maskrcnn") if on_existing == "resume" else None
    L.seed_everything(engine.seed, workers=True, verbose=False)
    with torch.device("meta"):  # the model's options are checked before much data is read
        rule = model.build(1).canvas.rule
    history = History(out, panels=PANELS, score="val/box_ap", log_every=engine.log_every, started=started)
    trainer = build_trainer(out, Course(optim.epochs, "val/mask_ap", clip=optim.clip, ema=optim.ema), engine, history)
    check_launch(trainer)
    share = Share(data.batch_size, True, Place(), engine.seed, trainer.global_rank, trainer.world_size)
    loaders = train_loader(data, rule, share), val_loader(data, share._replace(train=False, place=Place()))
    train_set, val_set = (cast("CocoInstances", loader.dataset) for loader in loaders)
    if val_set.categories != train_set.categories:
        raise ValueError(f"{data.train_annotations} and {data.val_annotations} list different categories; use one list")
    begun = init_from if resumed is None else None  # a resumed run's weights come from its own checkpoint
    detector = build(model, engine, train_set, backbone_weights, begun, synchronise=is_multi_gpu(trainer))
    reading = [engine.seed, share.world]
    task = Task(detector, model=model, optim=optim, val_set=val_set, place=share.place, reading=reading)
    if resumed is not None:
        share.place.begin(*where_it_ended(resumed[1], reading))
    if trainer.is_global_zero:  # everything is checked and built: only now is anything replaced
        if on_existing == "replace":
            clear(out)
        clear_unfinished(out)
        write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    steps_before = 0 if resumed is None else resumed[1]["global_step"]
    seed_process(engine.seed, steps_before=steps_before, rank=share.rank)
    begin = None if resumed is None else resumed[0]
    scored = fit(trainer, task, loaders, begin=begin, go_on=resume_command("maskrcnn", out))
    if trainer.is_global_zero:
        draw_examples(Predictor.load(last, device=str(trainer.strategy.root_device)), val_set, out / "predictions")
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


def check_precision(precision: object) -> None:
    """Refuse true 16 bits: lightning would round the true boxes too, by pixels.

    Raises:
        ValueError: bf16-true, 16-true and the like.
    """
    if str(precision).endswith("-true") and not str(precision).startswith(("32", "64")):
        raise ValueError(
            f"engine.precision={precision} rounds boxes to 16 bits, by pixels on a large canvas; use bf16-mixed, which "
            "computes boxes in float32"
        )


def build(
    model: ModelConfig,
    engine: EngineConfig,
    data: CocoInstances,
    backbone_weights: str | None = None,
    init_from: Path | None = None,
    *,
    synchronise: bool,
) -> MaskRCNN:
    """The detector for this data, with the weights that it begins from, in the wanted memory order."""
    detector = model.build(len(data.categories))
    if init_from is not None:
        print(f"detector: {carry_over(detector, init_from)}")
    if backbone_weights is not None:
        print(f"backbone: {load_resnet(detector.pyramid.body, backbone_weights)}")
    if synchronise:  # timm's own: torch's would take the activation out of timm's joint norms
        detector = convert_sync_batchnorm(detector)
    if engine.channels_last:
        detector = detector.to(memory_format=torch.channels_last)
    if engine.compile:
        detector.pyramid.compile()
    return detector


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
