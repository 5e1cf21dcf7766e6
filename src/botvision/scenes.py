"""A small offline world in COCO form: real handwritten digits on real photographs."""

# S picture side, all geometry in pixels

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from botvision.digits import load_digits
from botvision.files import read_json, whole_folder, write_json, write_text

CREDITS = """The digits are scikit-learn's copy of the UCI Optical Recognition of Handwritten Digits
(E. Alpaydin, C. Kaynak).
The photographs are scikit-learn's china.jpg (danielbuechele, CC BY 2.0) and flower.jpg (vultilion, CC BY 2.0),
cropped and resized, with digits drawn on them.
"""
Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]


class World(NamedTuple):
    """What scenes are made of; kept in the annotation files. See `make_scenes` for each number."""

    size: int
    digits: tuple[int, int]
    scale: tuple[float, float]
    overlap: float
    seed: int


class Material(NamedTuple):
    """One split's digits and photograph regions; nothing is shared between splits."""

    images: Floats  # (N, 8, 8) in 0 … 1
    labels: NDArray[np.int64]
    photos: list[Picture]


def make_scenes(
    out: Path,
    *,
    train: int = 1100,
    val: int = 200,
    size: int = 128,
    digits: tuple[int, int] = (2, 7),
    scale: tuple[float, float] = (0.2, 0.5),
    overlap: float = 0.1,
    seed: int = 0,
) -> str:
    """Write a COCO instance-segmentation dataset: real digits on real photographs.

    Digits and photograph regions of val never occur in train. The same arguments always make the same pictures.

    Args:
        out: folder to make; one that holds the same scenes already is left as it is.
        train: pictures to train on.
        val: pictures to score on.
        size: side of a picture in pixels.
        digits: fewest and most digits a picture.
        scale: smallest and largest digit as a share of the side, drawn log-uniformly, so small ones are common.
        overlap: largest share of a digit that later digits may hide.
        seed: of everything that is drawn.

    Returns:
        A line that says what was made.

    Raises:
        ValueError: `out` holds something else, or a number out of its range.
    """
    world = World(size, digits, scale, overlap, seed)
    check_world(world, train=train, val=val)
    wanted = {"train": train, "val": val, **world._asdict()}
    wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in wanted.items()}
    if out.exists() and any(out.iterdir()):
        made = out / "annotations" / "train.json"
        if made.is_file() and read_json(made, what="annotations")["info"].get("world") == wanted:
            return f"scenes are already at {out}"
        raise ValueError(f"{out} holds something else; give a folder that is empty or not there yet")
    with whole_folder(out) as unfinished:
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            rng = np.random.default_rng([world.seed, number])
            write_split(unfinished, split, count, world, rng, info={"world": wanted})
        write_text(unfinished / "CREDITS.txt", CREDITS)
    return f"{train} + {val} scenes of {world.size} px at {out}"


def check_world(world: World, *, train: int, val: int) -> None:
    """Refuse numbers out of their range."""
    if min(train, val) < 1:
        raise ValueError(f"train={train} and val={val} must be at least 1; e.g. 1100 and 200")
    if world.size < 32:
        raise ValueError(f"size={world.size} must be at least 32 pixels; e.g. 128")
    if not 0 < world.scale[0] <= world.scale[1] <= 0.9:
        raise ValueError(f"scale={world.scale} must be 0 < smallest ≤ largest ≤ 0.9; e.g. [0.2, 0.5]")
    if not 1 <= world.digits[0] <= world.digits[1]:
        raise ValueError(f"digits={world.digits} must be 1 ≤ fewest ≤ most; e.g. [2, 7]")
    if not 0 <= world.overlap < 1:
        raise ValueError(f"overlap={world.overlap} must be 0 ≤ overlap < 1; e.g. 0.1")


def write_split(
    out: Path, split: str, count: int, world: World, rng: np.random.Generator, *, info: dict[str, Any]
) -> None:
    """Draw one split's pictures and its COCO file."""
    from pycocotools import mask as rle

    material = load_material(split)
    (out / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in tqdm(range(1, count + 1), desc=f"scenes {split}", unit="picture", disable=None):
        picture, objects = draw_scene(material, world, rng)
        name = f"{number:06d}.jpg"
        Image.fromarray(picture).save(out / split / name, quality=92)
        images.append({"id": number, "file_name": name, "height": world.size, "width": world.size})
        for digit, mask in objects:
            code = rle.encode(np.asfortranarray(mask))
            box = [float(side) for side in rle.toBbox(code)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": digit + 1,
                    "bbox": box,
                    "area": float(rle.area(code)),
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": 0,
                }
            )
    categories = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    write_json(out / "annotations" / f"{split}.json", document)


def load_material(split: str) -> Material:
    """Digits of a split and its half of scikit-learn's photographs: every second column is val's."""
    images, labels = load_digits(split)
    from sklearn.datasets import load_sample_images

    columns = [np.array_split(photo, 4, axis=1) for photo in load_sample_images().images]
    photos = [column for photo in columns for column in photo[split == "val" :: 2]]
    return Material(images, labels, photos)


def draw_scene(material: Material, world: World, rng: np.random.Generator) -> tuple[Picture, list[tuple[int, Picture]]]:
    """One picture (S, S, 3) and its objects: digit and visible mask (S, S)."""
    canvas = draw_background(material, world.size, rng)
    objects: list[tuple[int, Picture]] = []
    full: list[Picture] = []  # masks as if nothing lay over them
    for _ in range(int(rng.integers(world.digits[0], world.digits[1] + 1))):
        index = int(rng.integers(len(material.labels)))
        for _attempt in range(20):
            alpha = place_digit(material.images[index], world, rng)
            mask = (alpha > 0.5).astype(np.uint8)
            visible = [old & (1 - mask) for _, old in objects]
            hides = [1 - new.sum() / max(1, whole.sum()) for new, whole in zip(visible, full, strict=True)]
            if mask.any() and max(hides, default=0.0) <= world.overlap:
                canvas = canvas + alpha[..., None] * (contrasting_colour(canvas, mask, rng) - canvas)
                objects = [(digit, new) for (digit, _), new in zip(objects, visible, strict=True)]
                objects.append((int(material.labels[index]), mask))
                full.append(mask)
                break
    noise = rng.normal(0, 3, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), objects


def draw_background(material: Material, size: int, rng: np.random.Generator) -> Floats:
    """A random square of a random photograph, mirrored half the time."""
    photo = material.photos[int(rng.integers(len(material.photos)))]
    side = int(rng.integers(min(photo.shape[:2]) // 2, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(0, whole - side + 1)) for whole in photo.shape[:2])
    square = Image.fromarray(photo[top : top + side, left : left + side])
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def place_digit(digit: Floats, world: World, rng: np.random.Generator) -> Floats:
    """Opacity (S, S) of one digit at a random place and scale."""
    low, high = np.log(world.scale[0]), np.log(world.scale[1])
    side = max(4, round(world.size * float(np.exp(rng.uniform(low, high)))))
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    top, left = (int(v) for v in rng.integers(0, world.size - side + 1, 2))
    alpha = np.zeros((world.size, world.size), np.float32)
    alpha[top : top + side, left : left + side] = np.clip(np.asarray(large) * 1.6 - 0.3, 0, 1)
    return alpha


def contrasting_colour(canvas: Floats, mask: Picture, rng: np.random.Generator) -> Floats:
    """A random colour that can be seen on what the digit covers."""
    behind = canvas[mask.astype(bool)].mean(0)
    colours = rng.uniform(0, 255, (8, 3))
    return np.asarray(colours[np.abs(colours - behind).sum(1).argmax()], dtype=np.float32)
