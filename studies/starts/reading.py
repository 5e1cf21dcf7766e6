"""One trial: a backbone is trained with a linear classifier at the objects' centres, and read on images never seen."""

# B images, S side, n objects, K classes

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, grid_sample
from tqdm import tqdm

from botvision.attention import HeadStatistics, MHSA2d, attention_statistics
from botvision.files import whole_file
from botvision.maskrcnn.resize import MEAN, STD
from botvision.optim import build_optimizer, learning_rate_factor
from botvision.scenes.make import JPEG, draw_scene
from botvision.scenes.material import Pixels, load_material
from botvision.scenes.world import CATEGORIES, World, build_world
from studies.starts.contenders import CONTENDERS, SMALL, Contender
from studies.starts.forms import Gated

TRAIN, VAL = 2000, 400  # images
SIZE = 192  # px
WORLDS: dict[str, dict[str, Any]] = {
    "pair_near": {"task": "pair", "scale": (0.1, 0.13), "distance": (0.22, 0.27)},
    "pair_far": {"task": "pair", "scale": (0.1, 0.13), "distance": (0.37, 0.42)},
    "match": {"task": "match", "scale": (0.16, 0.22), "distance": (0.4, 0.6), "digits": (4, 4)},
    "plain": {"task": "plain", "scale": (0.16, 0.3), "digits": (2, 5)},
}
KEY: dict[str, Any] = {"task": "key", "scale": (0.16, 0.22), "distance": (0.4, 0.6), "digits": (3, 4)}
SCENES = {**WORLDS, "key": KEY}  # all that can be drawn
STEPS, BATCH, WARMUP, CLIP = 500, 16, 100, 5.0
POSITIONS = {"rel_h", "rel_w", "head_h", "head_w", "v", "gate"}  # parameters
LOOKED_AT = 8  # validation images that attention is looked at on


class Setting(NamedTuple):
    """How large images and backbones are, and where they are trained.

    Attributes:
        size: px of an image's side.
        images: to train on and to validate on.
        base: options of every backbone.
        batch: images a step.
        device: "cpu" or "cuda".
    """

    size: int = SIZE
    images: tuple[int, int] = (TRAIN, VAL)
    base: Mapping[str, Any] = SMALL
    batch: int = BATCH
    device: str = "cpu"


class Recipe(NamedTuple):
    """AdamW's base rate and weight decay."""

    rate: float = 2e-3
    decay: float = 0.05


class Objects(NamedTuple):
    """Images of a split (B, S, S, 3), and of each object its image's number, centre in pixels (n, 2) and class.

    And the distance to its partner in pixels; 0 where it has none.
    """

    images: Tensor
    image: Tensor
    centre: Tensor
    label: Tensor
    distance: Tensor

    def of(self, chosen: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch: normalised images (b, 3, S, S), and their objects' images, centres and classes."""
        place = torch.full((len(self.images),), -1).scatter(0, chosen, torch.arange(len(chosen)))[self.image]
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
        images = (self.images[chosen].to(device).permute(0, 3, 1, 2).float() / 255 - mean) / std
        here = place >= 0
        return images, place[here].to(device), self.centre[here].to(device), self.label[here].to(device)


class Reader(nn.Module):
    """A backbone and a linear classifier of its last map at a place, by bilinear interpolation."""

    def __init__(self, body: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(channels, classes)

    def no_weight_decay(self) -> set[str]:
        """All that belongs to positions, in whatever form."""
        return {name for name, _ in self.named_parameters() if name.split(".")[-1] in POSITIONS}

    def forward(self, images: Tensor, image: Tensor, centre: Tensor) -> Tensor:
        """Logits (n, K) of objects at these centres of these images."""
        with torch.autocast(images.device.type, torch.bfloat16):
            (last,) = self.body(images.contiguous(memory_format=torch.channels_last))
        grid = (centre / images.shape[-1] * 2 - 1)[:, None, None]  # n 1 1 2
        at = grid_sample(last.float()[image], grid, align_corners=False, padding_mode="border")
        return self.head(at.flatten(1))


def open_world(world: str, seed: int, folder: Path, setting: Setting | None = None) -> tuple[Objects, Objects]:
    """Training and validation images of a world, drawn where they are not there yet; a folder holds one setting's."""
    path = folder / f"{world}_seed{seed}.pt"
    if not path.is_file():
        size, (train, val) = (setting or Setting())[:2]
        options = build_world(size=size, seed=seed, clutter=0, **SCENES[world])
        splits = (("train", train), ("val", val))
        drawn = {
            split: draw_split(split, count, options, np.random.default_rng([seed, number]))._asdict()
            for number, (split, count) in enumerate(splits)
        }
        with whole_file(path) as unfinished:
            torch.save(drawn, unfinished)
    found = torch.load(path, weights_only=True)
    return Objects(**found["train"]), Objects(**found["val"])


def draw_split(split: str, count: int, world: World, rng: np.random.Generator) -> Objects:
    """The images that `make_scenes` draws, and objects whose class is asked for: those with a partner, else all."""
    material, names = load_material(split), CATEGORIES[world.task]
    images, rows = [], []
    for number in tqdm(range(count), desc=f"{world.task} {split}", unit="image", disable=None):
        image, objects = draw_scene(material, world, rng)
        images.append(as_jpeg(image))
        asked = [one for one in objects if one.partner is not None] or objects
        for one in asked:
            down, across = np.nonzero(one.mask)
            centre = [(side.min() + side.max() + 1) / 2 for side in (across, down)]
            rows.append([number, *centre, names.index(one.category), round(one.distance or 0, 1)])
    table = torch.tensor(rows)
    return Objects(
        torch.from_numpy(np.stack(images)), table[:, 0].long(), table[:, 1:3].float(), table[:, 3].long(), table[:, 4]
    )


def as_jpeg(image: Pixels) -> Pixels:
    """As it is read back from a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG)
    return np.asarray(Image.open(file))


class Training(NamedTuple):
    """A trained reader, its losses, the seconds of its steps, and its heads before (see `look`)."""

    reader: Reader
    losses: list[float]
    seconds: list[float]
    before: list[list[float]]


def trial(world: str, contender: str, seed: int, *, scenes: Path, steps: int = STEPS) -> dict[str, Any]:
    """Train one contender in one world and count what it names right; the same images in the same order for all."""
    splits = open_world(world, seed, scenes)
    done = trained(CONTENDERS[contender], splits, seed, steps=steps)
    about = {"world": world, "contender": contender, "seed": seed, "steps": steps}
    return about | measured(done, splits[1])


def measured(done: Training, val: Objects) -> dict[str, Any]:
    """What is filed of a training."""
    right = names_right(done.reader.eval(), val)
    return {
        "right": round(float(right.float().mean()), 4),
        "loss": round(float(np.mean(done.losses[-50:])), 4),
        "curve": [round(float(np.mean(done.losses[n : n + 25])), 4) for n in range(0, len(done.losses), 25)],
        "step_ms": round(1000 * float(np.median(done.seconds)), 1),
        "parameters": sum(p.numel() for p in done.reader.body.parameters()),
        "before": done.before,
        "after": look(done.reader, val),
    }


def untrained(contender: Contender, seed: int, *, classes: int, setting: Setting | None = None) -> Reader:
    """A contender as its training begins."""
    size, _, base, _, device = setting or Setting()
    torch.manual_seed(seed)
    body: Any = contender.build(size, base)
    channels: int = body.feature_info.channels()[-1]
    return Reader(body, channels, classes).to(device).to(memory_format=torch.channels_last)


def trained(
    contender: Contender,
    splits: tuple[Objects, Objects],
    seed: int,
    *,
    steps: int,
    recipe: Recipe | None = None,
    setting: Setting | None = None,
) -> Training:
    """Train one contender; with no steps, as it begins. The usual recipe and setting unless others are given."""
    train, val = splits
    rate, decay = recipe or Recipe()
    _, _, _, batch, device = setting or Setting()
    model = untrained(contender, seed, classes=int(train.label.max()) + 1, setting=setting)
    optimizer = build_optimizer(model, "adamw", lr=rate, weight_decay=decay)
    before = look(model, val)
    order = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    losses: list[float] = []
    seconds: list[float] = []
    for step in range(steps):
        begun = time.perf_counter()
        if len(queue) < batch:
            queue = torch.randperm(len(train.images), generator=order).tolist()
        chosen, queue = torch.tensor(queue[:batch]), queue[batch:]
        images, *where, label = train.of(chosen, device)
        factor = learning_rate_factor(step, total=steps, schedule="cosine", warmup_steps=WARMUP, warmup_from=0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        loss = cross_entropy(model(images, *where), label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begun)
    return Training(model, losses, seconds, before)


@torch.no_grad()
def answers(model: Reader, val: Objects) -> Tensor:
    """The class (n,) that each object of the validation images gets."""
    given = torch.empty_like(val.label)
    device = model.head.weight.device
    for chosen in torch.arange(len(val.images)).split(50):
        images, *where, _ = val.of(chosen, device)
        given[torch.isin(val.image, chosen)] = model(images, *where).argmax(1).cpu()
    return given


def names_right(model: Reader, val: Objects) -> Tensor:
    """Whether each validation object (n,) gets its own class."""
    return answers(model, val) == val.label


def look(model: Reader, val: Objects) -> list[list[float]]:
    """Entropy / log N, distance, and mean offset down and right of each head, in cells; none without attention."""
    layers = [module for module in model.modules() if isinstance(module, MHSA2d)]
    if not layers or any(isinstance(layer, Gated) for layer in layers):  # a gated one's weights are of no one softmax
        return []
    images = val.of(torch.arange(LOOKED_AT), model.head.weight.device)[0]
    found: list[HeadStatistics] = attention_statistics(model.body, images)
    return [[round(value, 4) for value in (h.entropy, h.distance, h.down, h.right)] for h in found]
