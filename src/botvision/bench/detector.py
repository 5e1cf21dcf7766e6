"""Benchmark of Mask R-CNN with different backbones, and torchvision's: training or prediction."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from botvision.bench.race import Engine, Report, Row, Setting, race
from botvision.maskrcnn.model import build_mask_rcnn

CLASSES = 10  # so few that random weights find something: masks are predicted too
OBJECTS = 4  # a side of the grid of objects in each image
PEERS: dict[str, Callable[..., Any]] = {
    "torchvision maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn,
    "torchvision maskrcnn_resnet50_fpn_v2": maskrcnn_resnet50_fpn_v2,
}


def race_detector(
    models: tuple[str, ...],
    *,
    sizes: tuple[int, ...],
    batch: int,
    preset: str,
    rounds: int,
    train: bool,
    memory: bool,
    engine: Engine,
) -> Report:
    """The races of `botvision bench detector`, which says what its arguments are."""
    if not models:
        raise ValueError("bench detector needs at least one model; e.g. resnet50 botnet50")
    if not sizes:
        raise ValueError("bench detector needs at least one size; e.g. --sizes 1024")
    rows: list[Row] = []
    for size in sizes:
        setting = Setting(size, batch, train, engine)
        rows += race(partial(build, preset=preset), models, setting, what="Mask R-CNN", rounds=rounds, memory=memory)
    note = (
        f"{CLASSES} classes, {OBJECTS**2} objects an image, random weights, channels_last, preset {preset}; "
        "rounds in random order; times include resizing, losses or masks, and when training SGD's step."
    )
    return Report("Mask R-CNN", note, str(engine), rows)


def build(name: str, setting: Setting, *, preset: str) -> Callable[[], Any]:
    """A detector's step on random images."""
    engine, size = setting.engine, setting.size
    model: Any
    if name in PEERS:
        sizes = {"min_size": size, "max_size": size}
        model = PEERS[name](weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sizes)
        body = model.backbone.body
    else:
        model = build_mask_rcnn(name, CLASSES, preset=preset, img_size=size)
        body = model.pyramid.body
    if engine.compile:
        body.compile()
    model = model.to(engine.device).to(memory_format=torch.channels_last).train(setting.train)
    images = [torch.rand(3, size, size, device=engine.device) for _ in range(setting.batch)]
    if not setting.train:
        return lambda: predicted(model, images, engine)
    mask_side = size if name in PEERS else 112
    targets = [{k: t.to(engine.device) for k, t in grid(size, mask_side).items()} for _ in images]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)  # random labels must not make it diverge
    return lambda: learnt(model, images, targets, optimizer, engine)


def grid(size: int, mask_side: int) -> dict[str, Tensor]:
    """Objects side by side: boxes, labels, and masks over the box (side 112) or the image."""
    cell = size / OBJECTS
    corners = torch.cartesian_prod(torch.arange(OBJECTS), torch.arange(OBJECTS)) * cell
    boxes = torch.cat([corners, corners + 0.8 * cell], 1).float()
    masks = torch.ones(len(boxes), mask_side, mask_side, dtype=torch.uint8)
    if mask_side == size:
        masks.zero_()
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
    return {"boxes": boxes, "labels": torch.arange(len(boxes)) % CLASSES + 1, "masks": masks}


def predicted(model: nn.Module, images: list[Tensor], engine: Engine) -> Any:
    """Images to boxes, names, scores and masks."""
    with engine.autocast():
        return model(images)


def learnt(
    model: nn.Module,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    optimizer: torch.optim.SGD,
    engine: Engine,
) -> None:
    """One training step."""
    with engine.autocast():
        found = model(images, targets)
    losses: dict[str, Tensor] = found if isinstance(found, dict) else found.losses
    optimizer.zero_grad()
    sum(losses.values(), torch.zeros((), device=engine.device)).backward()
    optimizer.step()
