"""The evidence page's images: scenes, curves, what the models find, receptive fields."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from PIL import Image, ImageDraw

from botvision.draw.instances import Pixels, contact_sheet, draw_instances, save_image
from botvision.engine.intervals import interval
from botvision.files import read_json
from botvision.maskrcnn import masks
from botvision.maskrcnn.data import CocoInstances
from botvision.maskrcnn.labels import corners
from botvision.scenes.make import Drawn, draw_scene
from botvision.scenes.material import load_material
from botvision.scenes.world import CATEGORIES, World, build_world
from studies.charts import Point, draw_intervals
from studies.grid import Grid, as_pairs
from studies.receptive_field import draw_fields

EXAMPLES = 4  # scenes of a task
FOUND = 2  # validation images with predictions
SURE = 0.5
PERCENT = (0.0, 100.0)
COIN = 50.0  # % of the right names that a coin gives
CELL = 400  # side of an image on a sheet
WINDOW = 9  # rows of training loss that a curve's point is the mean of
Result = dict[str, Any]
Found = Mapping[str, Mapping[str, Mapping[int, Result]]]


def draw_images(grid: Grid, found: Found, folder: Path, *, place: Path, field: Path) -> None:
    """All that there are results for; what a training shows is left as it is where the training is not at hand."""
    stem = page_name(grid)
    for task in grid.relations():
        draw_examples(grid, task, folder / f"{stem}_{task}.jpg")
    distances = {f"{world}: box AP": by_distance(grid, found, world, "box") for world in found}
    right = {f"{world}: named right, %": by_distance(grid, found, world, "named") for world in found}
    draw_intervals(
        distances | right,
        folder / f"{stem}_distance.png",
        along="distance to the partner, px",
        within=PERCENT,
        levels=dict.fromkeys(right, COIN),
    )
    curves = {}
    for world in found:
        curves[f"{world}: training loss"] = curve(grid, found, world, losses)
        scored = curve(grid, found, world, box_aps)
        if any(len(points) > 1 for points in scored.values()):  # the last score alone is in the tables
            curves[f"{world}: box AP of all classes, val"] = scored
    draw_intervals(curves, folder / f"{stem}_curves.png", along="step", within=PERCENT)
    draw_found(grid, found, folder / f"{stem}_found.jpg", place=place)
    if field.is_file():
        fields = read_json(field, what="receptive fields")["fields"]
        draw_fields({f["name"]: (f["map"], f["share"]) for f in fields}, folder / f"{stem}_field.png")


def page_name(grid: Grid) -> str:
    """Of a grid's page, and what its images' names begin with."""
    return "evidence" if grid.name == "cpu" else f"evidence-{grid.name}"


def draw_examples(grid: Grid, task: str, path: Path) -> None:
    """The first val scenes of a task, named, on a sheet; of the grid's first world of the task, if it has one."""
    worlds = [options for options in grid.worlds.values() if options.get("task") == task]
    world = world_of({**grid.scenes, **(worlds[0] if worlds else {"task": task})})
    material, rng = load_material("val"), np.random.default_rng([0, 1])
    drawn = []
    for _ in range(EXAMPLES):
        image, objects = draw_scene(material, world, rng)
        drawn.append(draw_instances(image, as_detections(objects, task), CATEGORIES[task]))
    save_image(contact_sheet(drawn, columns=EXAMPLES, side=CELL), path)


def world_of(options: Mapping[str, Any]) -> World:
    """The world that `make_scenes` would draw from."""
    own = as_pairs({"task": "plain", "size": 128, "clutter": 0, **options, "seed": 0})
    return build_world(**{name: value for name, value in own.items() if name not in {"train", "val"}})


def as_detections(objects: list[Drawn], task: str) -> sv.Detections:
    """A scene's truth, to be drawn."""
    dense = np.stack([drawn.mask.astype(bool) for drawn in objects])
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(dense).astype(np.float32),
        mask=dense,
        class_id=np.array([CATEGORIES[task].index(drawn.category) for drawn in objects]),
    )


def by_distance(grid: Grid, found: Found, world: str, what: str) -> dict[str, list[Point]]:
    """A number of each variant, in per cent, by the middle of its distances; a world without partners has none."""
    lines = {}
    for variant, results in found[world].items():
        parts = [result["by_distance"] for result in results.values() if result.get("by_distance")]
        columns = zip(*parts, strict=False)
        lines[legend(grid, variant, len(results))] = [
            Point((column[0]["low"] + column[0]["high"]) / 2, *interval([100 * p[what] for p in column])[:2])
            for column in columns
            if all(p[what] is not None for p in column)
        ]
    return {name: points for name, points in lines.items() if points}


def curve(
    grid: Grid, found: Found, world: str, pick: Callable[[Result], list[tuple[int, float]]]
) -> dict[str, list[Point]]:
    """Means over the seeds at the steps that all of them have."""
    lines = {}
    for variant, results in found[world].items():
        rows = [dict(pick(result)) for result in results.values()]
        common = sorted(set.intersection(*(set(row) for row in rows)))
        lines[legend(grid, variant, len(results))] = [
            Point(step, *interval([row[step] for row in rows])[:2]) for step in common
        ]
    return lines


def legend(grid: Grid, variant: str, seeds: int) -> str:
    """A variant's title, with the number of its seeds where it lacks some."""
    title = grid.variants[variant].title
    return title if seeds == len(grid.seeds) else f"{title}, n = {seeds}"


def losses(result: Result) -> list[tuple[int, float]]:
    """Training loss, smoothed."""
    rows = result["loss"]
    values = [value for _, value in rows]
    half = WINDOW // 2
    means = [float(np.mean(values[max(0, n - half) : n + half + 1])) for n in range(len(values))]
    return [(int(step), mean) for (step, _), mean in zip(rows, means, strict=True)]


def box_aps(result: Result) -> list[tuple[int, float]]:
    """Box AP in per cent, as the training evaluated it."""
    return [(int(step), 100 * box) for step, box, _ in result["ap"]]


def draw_found(grid: Grid, found: Found, path: Path, *, place: Path) -> None:
    """Truth and predictions of the first seed's variants, in the first world whose trainings are at hand."""
    for world, variants in found.items():
        seed = grid.seeds[0]
        ran = {v: place / "runs" / f"{world}_{v}_seed{seed}" / "evaluation" / "results.json" for v in variants}
        ran = {variant: file for variant, file in ran.items() if file.is_file()}
        scenes = place / "scenes" / f"{world}_seed{seed}"
        if grid.baseline in ran and len(ran) > 1 and scenes.is_dir():
            val = CocoInstances(scenes / "annotations" / "val.json", scenes / "val", on_bad="skip")
            counts = [len(val.record(n)[1]) for n in range(len(val))]
            many = [n for n, count in enumerate(counts) if count > 2]
            chosen = many or [n for n, count in enumerate(counts) if count]
            save_image(found_sheet(grid, val, ran, chosen[:FOUND]), path)
            return


def found_sheet(grid: Grid, val: CocoInstances, ran: Mapping[str, Path], chosen: Sequence[int]) -> Pixels:
    """A row an image: the truth, then each variant's findings."""
    names = [category.name for category in val.categories]
    results = {variant: read_json(file, what="results") for variant, file in ran.items()}
    cells = []
    for index in chosen:
        entry, annotations = val.record(index)
        image = val[index][0].permute(1, 2, 0).numpy()
        cells.append(titled(draw_instances(image, from_coco(annotations, val, image), names), "truth"))
        for variant, found in results.items():
            own = [r for r in found if r["image_id"] == entry["id"] and r["score"] >= SURE]
            drawn = draw_instances(image, from_coco(own, val, image), names)
            cells.append(titled(drawn, grid.variants[variant].title))
    return contact_sheet(cells, columns=len(results) + 1, side=CELL)


def from_coco(entries: list[dict[str, Any]], val: CocoInstances, image: Pixels) -> sv.Detections:
    """COCO annotations or results of one image, to be drawn."""
    height, width = image.shape[:2]
    if not entries:
        return sv.Detections.empty()
    dense = [masks.decode(entry["segmentation"], height=height, width=width) for entry in entries]
    return sv.Detections(
        xyxy=np.array([corners(entry["bbox"]) for entry in entries], np.float32),
        mask=np.stack(dense).astype(bool),
        class_id=np.array([val.label_of[entry["category_id"]] - 1 for entry in entries]),
        confidence=np.array([entry["score"] for entry in entries]) if "score" in entries[0] else None,
    )


def titled(image: Pixels, title: str) -> Pixels:
    """An image under a line of text."""
    sheet = Image.new("RGB", (image.shape[1], image.shape[0] + 36), "white")
    sheet.paste(Image.fromarray(image), (0, 36))
    ImageDraw.Draw(sheet).text((6, 4), title, fill="black", font_size=24)
    return np.array(sheet)
