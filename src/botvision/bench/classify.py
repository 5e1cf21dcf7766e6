"""Benchmark of the scaled family beside EfficientNets and SENets, each at its own image size."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from botvision.backbone import VARIANTS, create_model
from botvision.backbone.registry import check_name
from botvision.bench.race import Engine, Report, Setting, race

TOP1 = {  # published, ImageNet: arXiv 2101.11605 and a secondary source for it
    "botnet_s1_59@224": 81.7, "botnet_s1_110@224": 82.8, "botnet_s1_128@256": 83.5, "botnet_s1_77@320": 84.0,
    "botnet_s1_128@384": 84.7, "tf_efficientnet_b7@600": 84.7,
}  # fmt: skip
CLASSES = 1000


def race_classify(
    models: tuple[str, ...], *, batch: int, rounds: int, train: bool, memory: bool, engine: Engine
) -> Report:
    """The races of `botvision bench classify`, which says what its arguments are."""
    if not models:
        raise ValueError("bench classify needs at least one model; e.g. tf_efficientnet_b7@600 botnet_s1_128@384")
    for model in models:
        check_name(name_and_size(model)[0])
    sizes = [name_and_size(model)[1] for model in models]
    setting = Setting(max(sizes), batch, train, engine)
    rows = race(build, models, setting, what="classifiers, up to", rounds=rounds, memory=memory)
    published = ", ".join(f"{name} {TOP1[name]}" for name in models if name in TOP1)
    note = (
        f"{CLASSES} classes, random weights, channels_last; rounds in random order, each at its own px. "
        f"Published top-1, for orientation: {published or 'none of these'}."
    )
    return Report("Classifiers", note, str(engine), rows)


def name_and_size(model: str) -> tuple[str, int]:
    """`botnet_s1_59@224` → its name and px."""
    name, _, size = model.partition("@")
    if not size.isdecimal():
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
