"""What a training takes in: files found in a folder, told in lines, drawn as trained on."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from botvision.deploy.masks import paste
from botvision.draw.instances import Pixels, contact_sheet, draw_instances
from botvision.maskrcnn.config import FILES, DataConfig
from botvision.maskrcnn.data import Bad, CocoInstances
from botvision.maskrcnn.layouts import Split, find_splits, split_by_image

SAMPLES = 9  # images of samples.jpg
NAMED = 12  # classes of which the counts are told


def settle_data(data: DataConfig, out: Path, *, seed: int) -> tuple[DataConfig, dict[Path, Any]]:
    """Data that names its four files, and the content of those that lie in `out`: converted, or one split of a file.

    Raises:
        FileNotFoundError, ValueError: as `find_splits`; a folder and files both given.
    """
    if data.root is not None:
        if any(getattr(data, name) is not None for name in FILES):
            raise ValueError(
                f"data.root={data.root} brings its own files; leave data.{', data.'.join(FILES)} out, and a recipe "
                "that names them: --recipe finetune names none"
            )
        found = find_splits(data.root)
        print(f"data: {found.layout} at {data.root}", file=sys.stderr)
        train, val = found.train, found.val
    else:
        train, val = Split(*data.training_files), None
        if data.val_annotations is not None or data.val_images is not None:
            if data.val_annotations is not None and data.val_images is None:
                data = replace(data, val_images=data.train_images)
            val = Split(*data.validation_files)
    if val is None:
        train, val = split_by_image(train, fraction=data.val_fraction, seed=seed)
        counts = [len(split.document()["images"]) for split in (train, val)]
        print(
            f"data: no validation split; {counts[1]} of {sum(counts)} images are kept to evaluate on", file=sys.stderr
        )
    files: dict[Path, Any] = {}
    named: dict[str, Path | None] = {"root": None}
    for name, split in (("train", train), ("val", val)):
        path = split.annotations
        if not isinstance(path, Path):
            path, content = split.placed(name, out)
            files[path] = content
        named |= {f"{name}_annotations": path, f"{name}_images": split.images}
    return replace(data, **named), files  # type: ignore[arg-type]


def told(train: CocoInstances, val: CocoInstances, *, most: int) -> Iterator[str]:
    """A line on each split, and one on categories that are left out; `most` objects are found in an image."""
    for name, dataset in (("train", train), ("val", val)):
        sizes, empty, small, counts = [], 0, 0, []
        for index in range(len(dataset)):
            entry, annotations = dataset.record(index)
            small += vanishing(dataset, entry, annotations)
            sizes.append((entry["width"], entry["height"]))
            empty += not annotations
            counts.append(len(annotations))
        width, height = ([size[side] for size in sizes] for side in (0, 1))
        classes = [f"{category.name} {dataset.counts[category.id]}" for category in dataset.categories]
        more = [f"and {len(classes) - NAMED} more"] if len(classes) > NAMED else []
        objects = f"{dataset.counts.total()} objects with {'masks' if dataset.masks else 'boxes'}"
        yield (
            f"{name}: {len(dataset)} images of {min(width)}×{min(height)} to {max(width)}×{max(height)} px, "
            f"{empty} without objects; {objects}: {', '.join(classes[:NAMED] + more)}"
        )
        if small:
            yield f"warning: {small} of these objects are under 1 px after resizing, and are not trained on"
        if crowded := sum(count > most / 2 for count in counts):
            yield (
                f"warning: {crowded} of these images have more than {most // 2} objects, up to {max(counts)}; at most "
                f"{most} are found in one, fewer where regions overlap; give --model.max_objects {2 * max(counts)}"
            )
    if train.left_out:
        yield f"left out: categories without an object: {', '.join(train.left_out)}"


def vanishing(dataset: CocoInstances, entry: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> int:
    """How many objects of an image that is trained on have a side under 1 px at the image size."""
    if dataset.jitter is None:
        return 0
    fitted = dataset.jitter.rule.fit(entry["height"], entry["width"])
    shrink = (fitted[1] / entry["width"], fitted[0] / entry["height"])
    return sum(min(a["bbox"][2] * shrink[0], a["bbox"][3] * shrink[1]) < 1 for a in annotations)


def unlearnable(train: CocoInstances, val: CocoInstances) -> Iterator[str]:
    """Warnings of classes that only one split has, and of images that both have."""
    both = files_of(train) & files_of(val)
    if both:
        yield (
            f"warning: {len(both)} of {len(val)} validation images are trained on, e.g. {sorted(both)[0]}: AP says "
            "nothing of others; give other images, or keep a part by --data.val_fraction"
        )
    unseen = [category.name for category in train.categories if not train.counts[category.id]]
    if unseen:
        yield (
            f"warning: no training image has {', '.join(unseen[:NAMED])}, so AP counts them as missed; add images, or "
            "leave the class out of both files"
        )
    untested = [category.name for category in val.categories if not val.counts[category.id]]
    if untested:
        yield f"warning: no validation image has {', '.join(untested[:NAMED])}, so AP says nothing of them"


def files_of(dataset: CocoInstances) -> set[str]:
    """Its images, by their paths."""
    return {str((dataset.images / dataset.record(index)[0]["file_name"]).resolve()) for index in range(len(dataset))}


def samples_sheet(train: CocoInstances) -> Pixels | None:
    """The first images as they are trained on, with their labels; none where none of them can be read."""
    drawn = []
    for sample in map(train.attempt, range(min(SAMPLES, len(train)))):
        if isinstance(sample, Bad):  # training counts them
            continue
        image, target = sample
        height, width = image.shape[-2:]
        boxes = target["boxes"].numpy().reshape(-1, 4)
        dense = None
        if "masks" in target and len(boxes):
            pairs = zip(target["masks"], target["boxes"], strict=True)
            dense = np.stack([paste(crop, box, height=height, width=width) for crop, box in pairs]).astype(bool)
        labelled = sv.Detections(xyxy=boxes, mask=dense, class_id=target["labels"].numpy() - 1)
        names = [category.name for category in train.categories]
        drawn.append(draw_instances(image.permute(1, 2, 0).numpy(), labelled, names))
    return contact_sheet(drawn) if drawn else None
