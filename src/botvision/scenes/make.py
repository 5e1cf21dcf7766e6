"""Make the synthetic dataset: images drawn, annotated and written whole."""

# S image side, all geometry in pixels

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from botvision.files import read_json, whole_folder, write_json, write_text
from botvision.scenes.material import (
    Floats,
    Material,
    Pixels,
    draw_background,
    load_material,
    opacity,
    painted,
    random_side,
    scrambled,
)
from botvision.scenes.relations import Thing, lay_out
from botvision.scenes.world import CATEGORIES, TaskName, World, build_world

JPEG = 92  # quality of the images
CREDITS = """The digits are scikit-learn's copy of the UCI Optical Recognition of Handwritten Digits
(E. Alpaydin, C. Kaynak).
The photographs are scikit-learn's china.jpg (danielbuechele, CC BY 2.0) and flower.jpg (vultilion, CC BY 2.0),
cropped and resized, with digits drawn on them.
"""


class Drawn(NamedTuple):
    """An object of an image: its class, visible mask (S, S) and, in a relation, its partner and their distance."""

    category: str
    mask: Pixels
    partner: int | None = None
    distance: float | None = None


def make_scenes(
    out: Path,
    *,
    task: TaskName = "plain",
    train: int = 1100,
    val: int = 200,
    size: int = 128,
    digits: tuple[int, int] | None = None,
    scale: tuple[float, float] | None = None,
    overlap: float | None = None,
    distance: tuple[float, float] | None = None,
    clutter: int = 0,
    seed: int = 0,
) -> str:
    """Write a COCO instance-segmentation dataset: real digits on real photographs.

    Digits and photograph regions of val never occur in train. The same arguments always make the same images.

    Args:
        out: folder to make; one that holds the same scenes already is left as it is.
        task: "plain": the class is the digit. "key": a digit is "under 0" or "under 1", whichever of these is in the
            image. "match": it is "paired" where the same digit stands elsewhere in the image, from another sample,
            otherwise "single". "pair": it stands exactly between a 0 and a 1 and is "0 left" or "1 left", by a coin;
            as many rows of a 0 and a 1 alone have the two the other way round, so that no count and no mean over the
            image tells anything. "side": it is "left" or "right" of the image's "key", a 0; it proves nothing about
            attention, since at far distances the key's half of the image tells the class of every digit in it. But for
            "plain", a digit's own pixels tell nothing of its class; annotations bear their `partner`'s id and the
            `distance` to it in pixels, centre to centre.
        train: images to train on.
        val: images to evaluate on.
        size: side of an image in pixels.
        digits: fewest and most digits asked for in an image, the key counted; by default [2, 7], match [4, 6],
            pair [10, 10], else [2, 4]; those of "match" come in couples, of "pair" in fives. A later one that finds no
            place is left out: of 192 px images of "key" and "side" with digits [3, 4], distance [0.4, 0.6] and scale
            [0.16, 0.22], 50 % hold 2, 47 % hold 3 and 3 % hold 4. Images of "pair" are always whole.
        scale: smallest and largest digit as a share of the side, drawn log-uniformly, so small ones are common; by
            default [0.2, 0.5], in a relation [0.15, 0.22], pair [0.12, 0.16].
        overlap: largest share of a digit that later digits may hide, by default 0.1; in a relation none is hidden.
        distance: nearest and farthest partner as a share of the side, by default [0.3, 0.6], pair [0.22, 0.3]; for a
            relation.
        clutter: scrambled digits an image, which are nothing to find.
        seed: of everything that is drawn.

    Returns:
        A line that says what was made.

    Raises:
        ValueError: `out` holds something else, or a number out of its range.
    """
    out = Path(out)
    if min(train, val) < 1:
        raise ValueError(f"train={train} and val={val} must be at least 1; e.g. 1100 and 200")
    given = {"digits": digits, "scale": scale, "overlap": overlap, "distance": distance}
    world = build_world(task, size=size, seed=seed, clutter=clutter, **given)
    wanted = as_json({"train": train, "val": val, **world._asdict()})
    if out.exists() and any(out.iterdir()):
        made = out / "annotations" / "train.json"
        if made.is_file():
            found = read_json(made, what="annotations").get("info", {}).get("world")
            if found is not None and as_json(World._field_defaults) | found == wanted:
                return f"scenes are already at {out}"
        raise ValueError(f"{out} holds something else; give a folder that is empty or not there yet")
    with whole_folder(out) as unfinished:
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            rng = np.random.default_rng([world.seed, number])
            write_split(unfinished, split, count, world, rng, info={"world": wanted})
        write_text(unfinished / "CREDITS.txt", CREDITS)
    kind = "" if task == "plain" else f"{task} "
    return f"{train} + {val} {kind}scenes of {world.size} px at {out}"


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Pairs as lists, as JSON reads them back."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def write_split(
    out: Path, split: str, count: int, world: World, rng: np.random.Generator, *, info: dict[str, Any]
) -> None:
    """Draw one split's images and its COCO file."""
    from pycocotools import mask as rle

    material = load_material(split)
    names = CATEGORIES[world.task]
    (out / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in tqdm(range(1, count + 1), desc=f"scenes {split}", unit="image", disable=None):
        image, objects = draw_scene(material, world, rng)
        name = f"{number:06d}.jpg"
        Image.fromarray(image).save(out / split / name, quality=JPEG)
        images.append({"id": number, "file_name": name, "height": world.size, "width": world.size})
        first = len(annotations) + 1
        for drawn in objects:
            code = rle.encode(np.asfortranarray(drawn.mask))
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": names.index(drawn.category) + 1,
                "bbox": [float(side) for side in rle.toBbox(code)],
                "area": float(rle.area(code)),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                "iscrowd": 0,
            }
            if drawn.partner is not None and drawn.distance is not None:
                annotation |= {"partner": first + drawn.partner, "distance": round(drawn.distance, 1)}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / f"{split}.json", document)


def draw_scene(material: Material, world: World, rng: np.random.Generator) -> tuple[Pixels, list[Drawn]]:
    """One image (S, S, 3) and its objects."""
    canvas = draw_background(material, world.size, rng)
    draw = draw_plain if world.task == "plain" else draw_relation
    canvas, objects = draw(canvas, material, world, rng)
    noise = rng.normal(0, 3, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), objects


def draw_plain(
    canvas: Floats, material: Material, world: World, rng: np.random.Generator
) -> tuple[Floats, list[Drawn]]:
    """Digits anywhere, in any size, each named by itself."""
    for _ in range(world.clutter):
        alpha = place_digit(scrambled(material.images[int(rng.integers(len(material.labels)))], rng), world, rng)
        canvas = painted(canvas, alpha, visible_mask(alpha), rng)
    objects: list[Drawn] = []
    full: list[Pixels] = []  # masks as if nothing lay over them
    for _ in range(int(rng.integers(world.digits[0], world.digits[1] + 1))):
        index = int(rng.integers(len(material.labels)))
        for _attempt in range(20):
            alpha = place_digit(material.images[index], world, rng)
            mask = visible_mask(alpha)
            visible = [old.mask & (1 - mask) for old in objects]
            hides = [1 - new.sum() / max(1, whole.sum()) for new, whole in zip(visible, full, strict=True)]
            if mask.any() and max(hides, default=0.0) <= world.overlap:
                canvas = painted(canvas, alpha, mask, rng)
                objects = [old._replace(mask=new) for old, new in zip(objects, visible, strict=True)]
                objects.append(Drawn(str(material.labels[index]), mask))
                full.append(mask)
                break
    return canvas, objects


def draw_relation(
    canvas: Floats, material: Material, world: World, rng: np.random.Generator
) -> tuple[Floats, list[Drawn]]:
    """Digits as `lay_out` says, each in a colour of its own; partners are never the same sample of a digit."""
    things = lay_out(world, rng)
    objects: list[Drawn] = []
    drawn: dict[int, int] = {}  # samples by number of the thing
    for number, thing in enumerate(things):
        if thing.category:
            partners = None if thing.partner is None else drawn.get(thing.partner)
            drawn[number] = material.specimen(thing.digit, rng, other_than=partners)
            image = material.images[drawn[number]]
        else:
            image = scrambled(material.images[int(rng.integers(len(material.labels)))], rng)
        canvas, mask = draw_thing(canvas, thing, image, rng)
        if thing.category:
            distance = None if thing.partner is None else thing.distance(things[thing.partner])
            objects.append(Drawn(thing.category, mask, thing.partner, distance))
    return canvas, objects


def draw_thing(canvas: Floats, thing: Thing, image: Floats, rng: np.random.Generator) -> tuple[Floats, Pixels]:
    """One digit, or a scrambled one, in its square."""
    top, left = (round(middle - thing.side / 2) for middle in (thing.y, thing.x))
    alpha = opacity(image, len(canvas), top=top, left=left, side=thing.side)
    mask = visible_mask(alpha)
    return painted(canvas, alpha, mask, rng), mask


def place_digit(digit: Floats, world: World, rng: np.random.Generator) -> Floats:
    """Opacity (S, S) of one digit at a random place and scale."""
    side = random_side(world.size, world.scale, rng)
    top, left = (int(v) for v in rng.integers(0, world.size - side + 1, 2))
    return opacity(digit, world.size, top=top, left=left, side=side)


def visible_mask(alpha: Floats) -> Pixels:
    """Where a digit covers more than it lets through."""
    return (alpha > 0.5).astype(np.uint8)
