"""Benchmark of the scaled family beside EfficientNets and SENets, each at its own image size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from botvision.backbone import VARIANTS, create_model
from botvision.bench.race import Engine, Report, Setting, race

TOP1 = {  # published, ImageNet: arXiv 2101.11605 and a secondary source for it
    "botnet_s1_59@224": 81.7, "botnet_s1_110@224": 82.8, "botnet_s1_128@256": 83.5, "botnet_s1_77@320": 84.0,
    "botnet_s1_128@384": 84.7, "tf_efficientnet_b7@600": 84.7,
}  # fmt: skip
MODELS = (
    "tf_efficientnet_b7@600", "tf_efficientnet_b6@528", "tf_efficientnet_b5@456", "tf_efficientnet_b4@380",
    "botnet_s1_128@384", "botnet_s1_77@320", "botnet_s1_128@256", "botnet_s1_110@224", "botnet_s1_59@224",
    "seresnet50@224", "seresnet101@224", "seresnet152@288",
)  # fmt: skip
CLASSES = 1000


def classify(
    *,
    models: tuple[str, ...] = MODELS,
    batch: int = 1,
    rounds: int = 3,
    train: bool = False,
    memory: bool = False,
    engine: Engine = Engine(),
    out: Path | None = None,
) -> Report:
    """Time classifiers, each at its own image size, channels_last, in turn: T3 … T7 beside B4 … B7 and SENets.

    Args:
        models: timm or BoTNet names with their px, e.g. botnet_s1_59@224; the first is the yardstick.
        batch: images at a time; the paper's table has 32.
        rounds: of every contender.
        train: a training step with its optimiser; false for a forward pass in eval mode.
        memory: peak memory too, each contender in a process of its own.
        engine: device, precision, threads, compile.
        out: Markdown file for the table; every round's seconds go beside it as JSON, and the ratios as a plot.

    Raises:
        ValueError: no model, an unknown name, one without px, or a number below 1.
    """
    if not models:
        raise ValueError("bench classify needs at least one model; e.g. tf_efficientnet_b7@600 botnet_s1_128@384")
    sizes = [name_and_size(model)[1] for model in models]
    setting = Setting(max(sizes), batch, train, engine)
    rows = race(build, models, setting, what="classifiers, up to", rounds=rounds, memory=memory)
    published = ", ".join(f"{name} {TOP1[name]}" for name in models if name in TOP1)
    note = (
        f"{CLASSES} classes, random weights, channels_last; rounds in random order, each at its own px. "
        f"Published top-1, for orientation: {published or 'none of these'}."
    )
    report = Report("Classifiers", note, str(engine), rows)
    if out is not None:
        report.save(out)
    return report


def name_and_size(model: str) -> tuple[str, int]:
    """`botnet_s1_59@224` → its name and px."""
    name, _, size = model.partition("@")
    if not size.isdigit():
        raise ValueError(f"{model!r} must say its image size, e.g. {name}@224")
    return name, int(size)


def build(model: str, setting: Setting) -> Callable[[], Any]:
    """A classifier's step on random images; at most of the setting's size."""
    name, own = name_and_size(model)
    size, engine = min(own, max(setting.size, 64)), setting.engine
    options: dict[str, Any] = {"img_size": size} if name in VARIANTS else {}
    network = create_model(name, num_classes=CLASSES, **options).train(setting.train)
    network = network.to(engine.device).to(memory_format=torch.channels_last)
    images = torch.randn(setting.batch, 3, size, size, device=engine.device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (setting.batch,), device=engine.device)
    called = torch.compile(network) if engine.compile else network
    if not setting.train:
        return lambda: forward(called, images, engine)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        loss = cross_entropy(forward(called, images, engine).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def forward(network: Callable[..., Any], images: torch.Tensor, engine: Engine) -> Any:
    """Logits, in the engine's precision."""
    with engine.autocast():
        return network(images)
