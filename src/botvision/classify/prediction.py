"""Classify images: names with probabilities, a contact sheet and one JSON file; share the work."""

import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from botvision.classify.data import val_transform
from botvision.classify.model import Classifier
from botvision.draw.classes import draw_predictions
from botvision.engine.config import OnExisting
from botvision.engine.journal import Journal, Record, begin, everything, merged
from botvision.engine.sharing import ALONE, Part
from botvision.engine.stopping import Notice, Stopped, noticing
from botvision.files import sha256, write_json
from botvision.inputs import find_images, folder_of, open_image

SHEET = 24  # images that are drawn
NAME = "predictions"  # of the files


class Prediction(NamedTuple):
    """What `predict` did.

    Attributes:
        predictions: a dictionary an image: its file name, relative to the folder that was given, and the names and
            probabilities of the most likely classes; none where other processes have images left.
        skipped: images that could not be read, with the reason.
        out: folder of the sheet and of `predictions.json`.
        left: images that other processes have not done yet; the last of them writes the results.
    """

    predictions: list[dict[str, Any]]
    skipped: list[str]
    out: Path
    left: int = 0

    def __str__(self) -> str:
        if self.left:
            return (
                f"lines at {self.out}; other processes have {self.left} images to do, and the last of them writes the "
                "results of all"
            )
        first = self.predictions[:20]
        lines = [f"{entry['file_name']}: {entry['names'][0]} {entry['probabilities'][0]:.2f}" for entry in first]
        more = [f"… and {len(self.predictions) - 20} more"] if len(self.predictions) > 20 else []
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        count = f"{len(self.predictions)} images{skipped}"
        return "\n".join([*lines, *more, f"{count}; sheet and predictions.json at {self.out}"])


@dataclass(frozen=True)
class Output:
    """What is written, and where.

    Attributes:
        folder: of everything.
        part: of several processes, which write to one folder.
    """

    folder: Path
    part: Part = ALONE

    @property
    def results(self) -> Path:
        """The file of the results."""
        return self.folder / f"{NAME}.json"

    @property
    def sheet(self) -> Path:
        """Some images with their classes."""
        return self.folder / "sheet.jpg"


class Labeller:
    """A classifier that names images one by one."""

    def __init__(self, classifier: Classifier, *, img_size: int | None, top: int) -> None:
        """Of so many px, none for the training's; `top` classes are named.

        Raises:
            ValueError: a size that the model cannot take, or no class to name.
        """
        if top < 1:
            raise ValueError(f"top={top} must be at least 1; e.g. 5")
        self.classifier = classifier
        self.top = min(top, len(classifier.classes))
        self.size = classifier.config.img_size if img_size is None else img_size
        classifier.check_size(self.size)
        self.transform = val_transform(self.size, classifier.crop, classifier.mean, classifier.std)
        self.place = next(classifier.model.parameters()).device

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Record:
        """Names and probabilities of the most likely classes."""
        shares = self.classifier.model(self.transform(image)[None].to(self.place))[0].float().softmax(0).cpu()
        best = shares.topk(self.top)
        names = [self.classifier.classes[number] for number in best.indices.tolist()]
        return {"names": names, "probabilities": [round(p, 6) for p in best.values.tolist()]}


def predict_files(
    classifier: Classifier,
    checkpoint: Path,
    source: str,
    *,
    output: Output,
    img_size: int | None,
    top: int,
    on_existing: OnExisting,
) -> Prediction:
    """Classify an image, a folder's or a glob's; write the sheet and `predictions.json`.

    Raises:
        FileNotFoundError, ValueError, Stopped: as `botvision.classify.predict`.
    """
    label = Labeller(classifier, img_size=img_size, top=top)
    root = folder_of(source)
    images = {path.relative_to(root).as_posix(): path for path in find_images(source, out=output.folder)}
    check_sheet(output, images.values(), source)
    settings = {"checkpoint": sha256(checkpoint), "source": str(Path(source).absolute()), "img_size": label.size}
    settings |= {"top": label.top, "crop": classifier.crop}
    own = output.part.of(list(images))
    journal, done = begin(
        output.folder, NAME, output.part, settings,
        results=output.results, drawings=[output.sheet], on_existing=on_existing,
    )  # fmt: skip
    skipped: dict[str, str] = {}
    with closing(journal), noticing("image") as notice:
        for name in tqdm([name for name in own if name not in done], desc="predict", unit="image", disable=None):
            try:
                image = open_image(images[name])
            except (ValueError, FileNotFoundError) as error:
                tqdm.write(f"skipped: {error}", file=sys.stderr)
                skipped[name] = str(error)
                journal.skip(name, str(error))
            else:
                journal.add({"file_name": name, **label(image)})
            check_signal(notice, journal)
        if output.part.is_shared and journal.unread:
            journal.flush()
    return finish(images, journal, output, skipped)


def check_sheet(output: Output, images: Collection[Path], source: str) -> None:
    """Refuse a sheet that would replace an image that was given, or be taken for one the next time.

    Raises:
        ValueError: it would.
    """
    if output.sheet.resolve() in {path.resolve() for path in images}:
        raise ValueError(f"the drawing of {output.sheet} would replace the image itself; give another --out")
    is_found = Path(source).is_dir() or fnmatch(output.sheet.name, Path(source).name)
    if is_found and output.folder.resolve() in {path.parent.resolve() for path in images}:
        raise ValueError(
            f"{output.sheet}, in the images' own folder, would be taken for an image the next time; give another --out"
        )


def check_signal(notice: Notice, journal: Journal) -> None:
    """End a prediction that was stopped.

    Raises:
        Stopped: a signal came.
    """
    if notice.signum is not None:
        raise Stopped(
            notice.signum,
            f"stopped by {signal.Signals(notice.signum).name} with {journal.images} images done, their classes in "
            f"{journal.path}; the same command with --on_existing resume goes on",
        )


def finish(images: Mapping[str, Path], journal: Journal, output: Output, own: Mapping[str, str]) -> Prediction:
    """Write the results from the journals, where no process has anything left to do.

    Args:
        images: of all processes, by name.
        journal: this process's.
        output: where to.
        own: what this process could not read, with the reason.
    """
    written, skipped = everything(output.folder, NAME, journal.settings, but=journal.replaced)
    skipped |= {name: reason for name, reason in own.items() if name not in written}
    left = sum(name not in written and name not in skipped for name in images)
    if left:
        return Prediction([], list(own.values()), output.folder, left)
    if not written:
        raise ValueError(f"none of {len(skipped)} images could be read; the first: {next(iter(skipped.values()))}")
    keys = ("file_name", "names", "probabilities")
    predictions = [{key: record[key] for key in keys} for record in merged(written, images)]
    write_json(output.results, predictions, indent=2)
    draw_sheet(predictions[:SHEET], images, output.sheet)
    return Prediction(predictions, list(skipped.values()), output.folder)


def draw_sheet(predictions: Sequence[Record], images: Mapping[str, Path], path: Path) -> None:
    """Some images, small, with their likeliest classes."""
    drawn = []
    for entry in predictions:
        image = open_image(images[entry["file_name"]])
        image.thumbnail((320, 320))
        drawn.append(np.asarray(image))
    draw_predictions(drawn, [(f"{e['names'][0]} {e['probabilities'][0]:.2f}", None) for e in predictions], path)
