"""What a training of a classifier takes in: told in a line a split, drawn as it is trained on."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botvision.classify.data import Bad, ImageDataset
from botvision.classify.evaluation import to_image
from botvision.classify.sources import real_places
from botvision.draw.classes import draw_predictions
from botvision.engine.loader import ResumableLoader

SAMPLES = 8  # images of samples.jpg
NAMED = 12  # classes of which the counts are told


def told(name: str, loader: ResumableLoader, names: Sequence[str]) -> str:
    """A split's images and classes in a line; of class folders with the images of each class."""
    dataset: Any = loader.source
    labelled = getattr(dataset.source, "samples", None) if isinstance(dataset, ImageDataset) else None
    counts = Counter(label for _, label in labelled or ())
    classes = [f"{own} {counts[label]}" if labelled else own for label, own in enumerate(names)]
    images = len(dataset) if isinstance(dataset, ImageDataset) else dataset.samples
    more = [f"and {len(classes) - NAMED} more"] if len(classes) > NAMED else []
    return f"{name}: {images} images of {len(classes)} classes: {', '.join(classes[:NAMED] + more)}"


def trained_on(train: ResumableLoader, val: ResumableLoader) -> str:
    """A warning where validation images are trained on; empty where none is, or where files are not known."""
    own, others = (files_of(loader) for loader in (train, val))
    both = own & others
    if not both:
        return ""
    folder, name = min(both)
    return (
        f"warning: {len(both)} of {len(others)} validation images are trained on, e.g. {Path(folder) / name}: "
        "the accuracy says nothing of others; give other images, or leave --data.val out, which keeps a part"
    )


def files_of(loader: ResumableLoader) -> set[tuple[str, str]]:
    """Its images, by their real folder and name."""
    source: Any = getattr(loader.source, "source", None)
    dataset = getattr(source, "dataset", None)  # timm's or torchvision's
    places = (source, dataset, getattr(dataset, "reader", None))
    samples: Any = next((own for own in (getattr(place, "samples", None) for place in places) if own), ())
    return set(real_places(str(path) for path, *_ in samples))


def save_samples(
    loader: ResumableLoader, names: Sequence[str], path: Path, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Some training images as they are trained on, under their classes; nothing of shards, which are streamed."""
    dataset = loader.source
    if not isinstance(dataset, ImageDataset):
        return
    chosen = range(0, len(dataset), -(-len(dataset) // SAMPLES))
    good = [sample for sample in (dataset[number] for number in chosen) if not isinstance(sample, Bad)]
    if good:
        images = [to_image(image, mean=mean, std=std) for image, _ in good]
        draw_predictions(images, [(names[label], None) for _, label in good], path)
