"""Classify images: names with probabilities, a contact sheet and one JSON file."""

import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from botvision.classify.data import val_transform
from botvision.classify.model import Classifier
from botvision.draw.classes import draw_predictions
from botvision.files import check_free, write_json
from botvision.inputs import find_images, open_image

SHEET = 24  # images that are drawn
RESULTS, DRAWN = "predictions.json", "sheet.jpg"


class Prediction(NamedTuple):
    """What `predict` did.

    Attributes:
        predictions: a dictionary an image: its file name, and the names and probabilities of the most likely classes.
        skipped: images that could not be read, with the reason.
        out: folder of the sheet and of `predictions.json`.
    """

    predictions: list[dict[str, Any]]
    skipped: list[str]
    out: Path

    def __str__(self) -> str:
        first = self.predictions[:20]
        lines = [f"{entry['file_name']}: {entry['names'][0]} {entry['probabilities'][0]:.2f}" for entry in first]
        more = [f"… and {len(self.predictions) - 20} more"] if len(self.predictions) > 20 else []
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        count = f"{len(self.predictions)} images{skipped}"
        return "\n".join([*lines, *more, f"{count}; sheet and predictions.json at {self.out}"])


def predict_files(
    classifier: Classifier,
    source: str,
    *,
    out: Path,
    img_size: int | None,
    top: int,
    on_existing: Literal["refuse", "replace"],
) -> Prediction:
    """Classify an image, a folder's or a glob's; write the sheet and `predictions.json`.

    Raises:
        FileNotFoundError, ValueError: as `botvision.classify.predict`.
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1; e.g. 5")
    device = next(classifier.model.parameters()).device
    size = classifier.config.img_size if img_size is None else img_size
    classifier.check_size(size)
    transform = val_transform(size, classifier.crop, classifier.mean, classifier.std)
    paths, predictions, skipped = find_images(source), list[dict[str, Any]](), list[str]()
    check_free([out / RESULTS, out / DRAWN], on_existing=on_existing)
    drawn: list[tuple[Image.Image, str]] = []
    for path in tqdm(paths, desc="predict", unit="image", disable=None):
        try:
            image = open_image(path)
        except (ValueError, FileNotFoundError) as error:
            print(f"skipped: {error}", file=sys.stderr)
            skipped.append(str(error))
            continue
        with torch.inference_mode():
            shares = classifier.model(transform(image)[None].to(device))[0].float().softmax(0).cpu()
        best = shares.topk(min(top, len(shares)))
        names = [classifier.classes[number] for number in best.indices.tolist()]
        predictions.append(
            {"file_name": path.name, "names": names, "probabilities": [round(p, 6) for p in best.values.tolist()]}
        )
        if len(drawn) < SHEET:
            image.thumbnail((320, 320))
            drawn.append((image, f"{names[0]} {float(best.values[0]):.2f}"))
    if not predictions:
        raise ValueError(f"none of {len(skipped)} images could be read; the first: {skipped[0]}")
    write_json(out / RESULTS, predictions, indent=2)
    draw_predictions([np.asarray(image) for image, _ in drawn], [(text, None) for _, text in drawn], out / DRAWN)
    return Prediction(predictions, skipped, out)
