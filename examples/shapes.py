"""A small set of images to try your own data with: triangles, squares and stars, in COCO's layout. Writes shapes/."""

import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDES = {"triangle": (3, 1.0), "square": (4, 1.0), "star": (10, 0.45)}  # corners, and how far in every second one lies


def corners(kind: str, x: float, y: float, radius: float, turn: float) -> list[float]:
    """A shape's outline as x, y, x, y and so on."""
    count, inner = SIDES[kind]
    radii = [radius * (inner if number % 2 else 1.0) for number in range(count)]
    angles = [turn + 2 * math.pi * number / count for number in range(count)]
    places = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
    return [round(value, 2) for place in places for value in place]


def scene(chance: random.Random) -> tuple[Image.Image, list[tuple[str, list[float]]]]:
    """An image of 180 to 420 px with one to five shapes of any colour, turned by any angle."""
    width, height = chance.randint(180, 420), chance.randint(180, 420)
    noise = np.random.default_rng(chance.randrange(2**32))
    coarse = noise.uniform(40, 215, (4, 4, 3)).astype(np.uint8)  # a background of soft colours
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    drawer, placed, shapes = ImageDraw.Draw(image), [], []
    for _ in range(chance.randint(1, 5)):
        radius = chance.uniform(0.08, 0.22) * min(width, height)
        x, y = (chance.uniform(radius, side - radius) for side in (width, height))
        if any(math.dist((x, y), (px, py)) < radius + pr for px, py, pr in placed):
            continue
        placed.append((x, y, radius))
        kind, colour = chance.choice(list(SIDES)), tuple(chance.randrange(256) for _ in range(3))
        outline = corners(kind, x, y, radius, chance.uniform(0, 2 * math.pi))
        drawer.polygon(outline, fill=colour)
        shapes.append((kind, outline))
    grainy = np.asarray(image) + noise.normal(0, 8, (height, width, 3))
    return Image.fromarray(grainy.clip(0, 255).astype(np.uint8)), shapes


def make_shapes(folder: Path, *, train: int = 64, val: int = 24, seed: int = 0) -> None:
    """Images and annotations of both splits."""
    names = list(SIDES)
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            image, shapes = scene(random.Random(f"{seed} {split} {number}"))
            name = f"{number:04}.jpg"
            image.save(folder / split / name, quality=92)
            images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
            for kind, outline in shapes:
                x1, y1 = min(outline[::2]), min(outline[1::2])
                box = [x1, y1, max(outline[::2]) - x1, max(outline[1::2]) - y1]
                own = {"id": len(annotations) + 1, "image_id": number, "category_id": names.index(kind) + 1}
                annotations.append(
                    {**own, "bbox": box, "segmentation": [outline], "area": box[2] * box[3] / 2, "iscrowd": 0}
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    make_shapes(Path("shapes"))
    print("shapes: 64 + 24 images with annotations in COCO's layout")
