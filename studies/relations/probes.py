"""What a trained reader's answer rests on: pairs swapped and keys taken away, and where its heads look."""

# n digits, M heads, S side

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from botvision.attention import MHSA2d, watch
from botvision.scenes.make import draw_thing
from botvision.scenes.material import Material, Pixels, draw_background, load_material, scrambled
from botvision.scenes.relations import KEYS, Thing, lay_out
from botvision.scenes.world import CATEGORIES, World, build_world
from studies.relations.protocol import FORMS, draws
from studies.starts.reading import SCENES, Objects, Reader, answers, untrained

COUNT = 200  # scenes
LOOKED_AT = 50  # of them that attention is looked at on
Edit = Callable[[Thing], Thing]


def as_they_are(key: Thing) -> Thing:
    """The keys untouched."""
    return key


def swapped(key: Thing) -> Thing:
    """A 0 where a 1 stood, and the other way round: every answer must turn."""
    return key._replace(digit=KEYS[1] if key.digit == KEYS[0] else KEYS[0])


def taken_away(key: Thing) -> Thing:
    """A scrambled digit in a key's place: nothing is left to answer by."""
    return key._replace(digit=-1)


class Scene(NamedTuple):
    """An image (S, S, 3), and its things."""

    image: Pixels
    things: list[Thing]


def scene(material: Material, world: World, number: int, edit: Edit) -> Scene:
    """A scene of *pair* whose keys are edited; all else is the same to the pixel whatever the edit."""
    rng = np.random.default_rng([world.seed, 2, number])
    canvas = draw_background(material, world.size, rng)
    things = [edit(thing) if thing.digit in KEYS else thing for thing in lay_out(world, rng)]
    noise = rng.normal(0, 3, canvas.shape)
    for place, thing in enumerate(things):
        own = np.random.default_rng([world.seed, 3, number, place])
        paint = np.random.default_rng([world.seed, 4, number, place])
        if thing.digit < 0:
            image = scrambled(material.images[int(own.integers(len(material.labels)))], own)
        else:
            image = material.images[material.specimen(thing.digit, own)]
        canvas, _ = draw_thing(canvas, thing, image, paint)
    return Scene(np.clip(canvas + noise, 0, 255).astype(np.uint8), things)


def scenes(world: str, seed: int, edit: Edit, *, size: int, count: int = COUNT) -> tuple[Objects, list[list[Thing]]]:
    """Scenes as a reader takes them, with what stands in each; the class asked for is that before the edit."""
    options = build_world(size=size, seed=seed, clutter=0, **SCENES[world])
    material = load_material("val")
    names = CATEGORIES["pair"]
    made = [scene(material, options, number, edit) for number in range(count)]
    asked = [(n, thing) for n, one in enumerate(made) for thing in one.things if thing.partner is not None]
    return (
        Objects(
            torch.from_numpy(np.stack([one.image for one in made])),
            torch.tensor([n for n, _ in asked]),
            torch.tensor([[thing.x, thing.y] for _, thing in asked]),
            torch.tensor([names.index(thing.category) for _, thing in asked]),
            torch.tensor([thing.distance(made[n].things[thing.partner or 0]) for n, thing in asked]),
        ),
        [one.things for one in made],
    )


def probe(model: Reader, world: str, seed: int, *, size: int, count: int = COUNT) -> dict[str, Any]:
    """Shares of the digits of fresh scenes of *pair*.

    Returns:
        right: named right; turned: whose answer turns with the keys; without_keys: named right when these are gone;
        attention: attention weight of each head on the digit's two keys, `even` if it were spread evenly; without
        attention none.
    """
    whole, things = scenes(world, seed, as_they_are, size=size, count=count)
    first = answers(model, whole)
    other, none = (scenes(world, seed, edit, size=size, count=count)[0] for edit in (swapped, taken_away))
    turned = answers(model, other) == 1 - first
    blind = answers(model, none) == whole.label
    shares = {"right": first == whole.label, "turned": turned & (first < 2), "without_keys": blind}
    return {name: round(float(share.float().mean()), 4) for name, share in shares.items()} | attention_on_keys(
        model, whole, things
    )


def before_training(world: str, variant: str, seed: int, draw: int, *, form: str = "cpu") -> list[float]:
    """What the heads of a trial's last block put on the keys before it is trained; empty without attention."""
    setting = FORMS[form].setting
    contender = draws(variant)[draw].contender(variant, form)
    whole, things = scenes(world, seed, as_they_are, size=setting.size, count=LOOKED_AT)
    model = untrained(contender, seed, classes=2, setting=setting)
    weights: list[float] = attention_on_keys(model, whole, things).get("attention", [])
    return weights


class Seen(NamedTuple):
    """What a digit's place attends to in the last block.

    Attributes:
        scene: its number.
        digit, keys: the digit and the two that its class stands in.
        weights: of each head, over the map (M, H, W).
        mask: 1 where a cell meets a key (H, W).
    """

    scene: int
    digit: Thing
    keys: tuple[Thing, Thing]
    weights: Tensor
    mask: Tensor


@torch.no_grad()
def attention_maps(model: Reader, whole: Objects, things: list[list[Thing]]) -> Iterator[Seen]:
    """Of each digit of the first scenes; none without attention."""
    if not any(isinstance(module, MHSA2d) for module in model.modules()):
        return
    chosen = torch.arange(min(LOOKED_AT, len(whole.images)))
    with watch(model.body) as watching:
        model.body(whole.of(chosen, model.head.weight.device)[0])
    *_, last = watching
    side, size = last.size[1], whole.images.shape[1]
    for number in chosen.tolist():
        for digit in things[number]:
            if digit.partner is None:
                continue
            keys = (things[number][digit.partner], things[number][digit.partner + 1])
            column, row = (int(value / size * side) for value in (digit.x, digit.y))
            weights = last.attention_row(row, column, image=number).cpu()
            mask = torch.zeros(side, side)
            for key in keys:
                low, high = ((np.array([key.y, key.x]) + sign * key.side / 2) / size * side for sign in (-1, 1))
                mask[int(low[0]) : int(np.ceil(high[0])), int(low[1]) : int(np.ceil(high[1]))] = 1
            yield Seen(number, digit, keys, weights, mask)


def attention_on_keys(model: Reader, whole: Objects, things: list[list[Thing]]) -> dict[str, Any]:
    """Weight on the keys' cells, seen from their digit: a mean over the digits, by head; none without attention."""
    seen = list(attention_maps(model, whole, things))
    if not seen:
        return {}
    heads = torch.stack([(one.weights * one.mask).sum((-2, -1)) for one in seen]).mean(0)
    even = np.mean([float(one.mask.mean()) for one in seen])
    return {"attention": [round(float(weight), 4) for weight in heads], "even": round(float(even), 4)}
