"""`botvision bench`: commands, and Python functions; they load torch when they are called."""

from pathlib import Path
from typing import TYPE_CHECKING

from botvision.bench.config import Engine
from botvision.files import check_writable
from botvision.maskrcnn.config import PresetName

if TYPE_CHECKING:
    from botvision.bench.race import Report

CLASSIFIERS = (
    "tf_efficientnet_b7@600", "tf_efficientnet_b6@528", "tf_efficientnet_b5@456", "tf_efficientnet_b4@380",
    "botnet_s1_128@384", "botnet_s1_77@320", "botnet_s1_128@256", "botnet_s1_110@224", "botnet_s1_59@224",
    "seresnet50@224", "seresnet101@224", "seresnet152@288",
)  # fmt: skip
DEPLOYED = (
    "eager", "channels_last", "fused", "compiled", "channels_last bf16", "onnxruntime", "OpenVINO", "OpenVINO bf16",
    "onnxruntime int8", "OpenVINO int8",
)  # fmt: skip


def attention(
    *,
    sides: tuple[int, ...] = (14, 32, 64),
    rounds: int = 7,
    train: bool = False,
    memory: bool = False,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> "Report":
    """Time BoTNet's attention beside position-free attention and beside other ports' arithmetic.

    Contenders run in turn, round after round, so a machine whose speed drifts treats them alike.

    Args:
        sides: side lengths of the square maps; up to 14 run with batch 8, the others with batch 1.
        rounds: how often every contender runs.
        train: forward and backward instead of forward alone.
        memory: measure peak memory too, on a CPU each contender in a process of its own.
        engine: device, precision, threads.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: no round, or a side below 1.
    """
    check_out(out)
    from botvision.bench.attention import race_attention

    return saved(race_attention(sides, rounds=rounds, train=train, memory=memory, engine=engine), out)


def backbone(
    *,
    models: tuple[str, ...] = (
        "resnet50",
        "botnet50",
        "botnet50 with timm's layer",
        "resnet50 fused",
        "botnet50 fused",
    ),
    sizes: tuple[int, ...] = (1024,),
    batch: int = 1,
    rounds: int = 5,
    train: bool = False,
    memory: bool = False,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> "Report":
    """Time whole backbones without classifier, channels_last, in turn.

    Args:
        models: timm or BoTNet names; the first is the baseline. A name may end in " fused" (BatchNorms folded; left
            out where models train) or, a BoTNet's, in " with timm's layer" (timm's BottleneckAttn at the same places,
            fixed size).
        sizes: px of the square images.
        batch: images at a time.
        rounds: how often every contender runs.
        train: forward and backward, instead of forward in eval mode.
        memory: measure peak memory too, on a CPU each contender in a process of its own.
        engine: device, precision, threads, compile.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: an unknown name, a fused baseline to train, timm's layer in no BoTNet, a size or number below 1.
    """
    check_out(out)
    from botvision.bench.backbone import race_backbone

    return saved(
        race_backbone(models, sizes=sizes, batch=batch, rounds=rounds, train=train, memory=memory, engine=engine), out
    )


def classify(
    *,
    models: tuple[str, ...] = CLASSIFIERS,
    batch: int = 1,
    rounds: int = 3,
    train: bool = False,
    memory: bool = False,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> "Report":
    """Time classifiers, each at its own image size, channels_last, in turn: T3 … T7 beside B4 … B7 and SENets.

    Args:
        models: timm or BoTNet names with their px, e.g. botnet_s1_59@224; the first is the baseline.
        batch: images at a time; the paper's table has 32.
        rounds: how often every contender runs.
        train: a training step with its optimiser; false for a forward pass in eval mode.
        memory: measure peak memory too, on a CPU each contender in a process of its own.
        engine: device, precision, threads, compile.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: no model, an unknown name, one without px, or a number below 1.
    """
    check_out(out)
    from botvision.bench.classify import race_classify

    return saved(race_classify(models, batch=batch, rounds=rounds, train=train, memory=memory, engine=engine), out)


def detector(
    *,
    models: tuple[str, ...] = ("resnet50", "botnet50", "torchvision maskrcnn_resnet50_fpn"),
    sizes: tuple[int, ...] = (1024,),
    batch: int = 1,
    preset: PresetName = "paper",
    rounds: int = 3,
    train: bool = True,
    memory: bool = False,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> "Report":
    """Time Mask R-CNN: a training step with its optimiser, or a prediction, with random weights and images.

    Args:
        models: backbones by timm's or BoTNet's name, or "torchvision maskrcnn_resnet50_fpn" or "… _v2" for
            torchvision's own detector; the first is the baseline.
        sizes: px of the square images and of the batch.
        batch: images at a time.
        preset: sizes behind our backbones: paper, torchvision_v2, tiny or nano.
        rounds: how often every contender runs.
        train: a training step; false for a prediction.
        memory: measure peak memory too, on a CPU each contender in a process of its own.
        engine: device, precision, threads; compile takes the backbone alone.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: an unknown name, no model, or a number below 1.
    """
    check_out(out)
    from botvision.bench.detector import race_detector

    return saved(
        race_detector(
            models, sizes=sizes, batch=batch, preset=preset, rounds=rounds, train=train, memory=memory, engine=engine
        ),
        out,
    )


def deploy(
    *,
    models: tuple[str, ...] = ("resnet50@224", "botnet50@224", "detector:resnet26@128", "detector:botnet26@128"),
    ways: tuple[str, ...] = DEPLOYED,
    batch: int = 1,
    preset: PresetName = "tiny",
    rounds: int = 5,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> "Report":
    """Time every way to run a model: eager torch, channels_last, fused, compiled, onnxruntime, OpenVINO; bf16, int8.

    Args:
        models: with their px: a classifier's name (botnet50@224), a detector's backbone (detector:botnet26@512) or a
            detector's checkpoint (runs/…/best.ckpt@512).
        ways: to run each; eager is the baseline.
        batch: images at a time; 1 for latency.
        preset: sizes behind the detectors' backbones: paper, torchvision_v2, tiny or nano.
        rounds: how often every way runs.
        engine: threads; the device is the CPU.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: an unknown name or way, a model without px, or a number below 1.
    """
    check_out(out)
    from botvision.bench.deploy import race_deploy

    report = race_deploy(models, ways=ways, batch=batch, preset=preset, rounds=rounds, engine=engine)
    return saved(report, out)


def check_out(out: Path | None) -> None:
    """Refuse a place for the table before anything is timed.

    Raises:
        ValueError: a folder, one that cannot be written into, or the name of one of the files that go beside it.
    """
    if out is None:
        return
    if out.is_dir() or out.suffix in (".json", ".png"):
        raise ValueError(f"out={str(out)!r} must be a Markdown file, beside which a .json and a .png go; e.g. bench.md")
    check_writable(out.parent)


def saved(report: "Report", out: Path | None) -> "Report":
    """The report, written to `out` where that is given."""
    if out is not None:
        report.save(out)
    return report
