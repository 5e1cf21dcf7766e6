"""Sources of labelled images: class folders (ImageNet's layout), digits, timm's datasets."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from PIL import Image
from timm.data import create_dataset
from torchvision.datasets import ImageFolder

from botvision.digits import CLASSES, digit_images
from botvision.engine.loader import images_kept
from botvision.files import read_names
from botvision.inputs import image_names, is_hidden, open_image, upright

DIGITS = "digits"
TIMM_PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
STREAMED = ("hfids/", "tfds/", "wds/")  # of them, those that timm only streams
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".json")


class Source(Protocol):
    """Labelled images by number; opening one may raise ValueError or FileNotFoundError."""

    classes: list[str]

    def __len__(self) -> int: ...

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""


class Folders:
    """Class folders, as ImageNet's: torchvision's rule, with a word on what is wrong."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"no folder at {root}; give a folder of class folders, tar shards, or digits")
        try:
            folder = Visible(str(root), is_valid_file=lambda path: is_image(path, root))
        except FileNotFoundError as error:
            folders = [f for f in sorted(root.iterdir()) if f.is_dir() and not is_hidden(f, root)]
            empty = [f.name for f in folders if not has_image(f)]
            if not empty:
                raise ValueError(
                    f"{root} has no class folders; its images must lie in a folder for each class"
                ) from error
            raise ValueError(
                f"{root} has class folders without an image: {', '.join(empty[:5])} ({len(empty)} of them); "
                "fill them, or remove them from every split"
            ) from error
        if {name.lower() for name in folder.classes} <= SPLITS:
            first = next((name for name in folder.classes if name.lower().startswith("train")), folder.classes[0])
            raise ValueError(
                f"{root} holds splits ({', '.join(folder.classes)}), not classes; give each by itself, e.g. "
                f"--data.train {root / first}"
            )
        check_depth(root, folder.classes)
        check_links(root, [path for path, _ in folder.samples])
        self.classes: list[str] = folder.classes
        self.samples: list[tuple[str, int]] = folder.samples

    def __len__(self) -> int:
        return len(self.samples)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""
        path, label = self.samples[index]
        return open_image(Path(path)), label


class Visible(ImageFolder):
    """Without class folders that begin with a dot, as notebooks make them."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Names in their order, and their numbers."""
        names = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        if not names:
            raise FileNotFoundError(f"no class folder in {directory}")
        return names, {name: number for number, name in enumerate(names)}


def is_image(path: str, root: Path) -> bool:
    """Whether a file is meant as an image by its suffix, and neither it nor a folder on its way is hidden."""
    return Path(path).suffix.lower() in image_names() and not is_hidden(Path(path), root)


def check_depth(root: Path, classes: Sequence[str]) -> None:
    """Refuse a folder whose one class folder holds the class folders.

    Raises:
        ValueError: it does.
    """
    if len(classes) == 1:
        below = sorted(one.name for one in (root / classes[0]).iterdir() if one.is_dir() and has_image(one))
        if len(below) > 1:
            raise ValueError(
                f"{root} holds one class folder, {classes[0]}, which holds folders itself ({', '.join(below[:5])}); "
                f"give {root / classes[0]}"
            )


def check_links(root: Path, paths: Sequence[str]) -> None:
    """Refuse images that are found twice, through links to folders that are among them already.

    Raises:
        ValueError: they are.
    """
    found: dict[str, str] = {}
    for folder in dict.fromkeys(map(os.path.dirname, paths)):
        first = found.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            raise ValueError(
                f"{root}: {folder[-200:]} and {first[-200:]} are one folder, by a link, and its images would count "
                "twice; remove the link"
            )


def has_image(folder: Path) -> bool:
    """Whether any file in or below it is meant as an image."""
    return any(is_image(str(Path(place) / name), folder) for place, _, names in os.walk(folder) for name in names)


class Digits:
    """scikit-learn's digits, in memory."""

    classes = CLASSES

    def __init__(self, split: str) -> None:
        self.images = digit_images(split)

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""
        return self.images[index]


class TimmDataset:
    """A timm dataset that can be read by number."""

    def __init__(self, name: str, *, root: str | None, split: str, classes: Sequence[str]) -> None:
        if name.startswith(STREAMED):
            raise ValueError(f"{name} can only be streamed; give its tar shards to --data.train and --data.val instead")
        try:
            dataset: Any = create_dataset(name, root=root, split=split)
        except (AssertionError, ImportError, RuntimeError, TypeError) as error:
            raise ValueError(f"timm cannot open {name} (root {root}, split {split}): {error}") from error
        # ours turns images by their tag, and keeps the upper bits of 16
        if hasattr(dataset, "input_img_mode"):  # timm's own
            dataset.input_img_mode = ""
            dataset._max_retries = 1  # in the place of a broken image it would give the next, which then counts twice
        if hasattr(dataset, "loader"):  # torchvision's
            dataset.loader = open_image
        self.dataset, self.name = dataset, name
        own = [str(entry) for entry in getattr(dataset, "classes", [])]
        if classes and sorted(classes) == sorted(own) and list(classes) != own:
            raise ValueError(
                f"{name} numbers its classes in another order than data.class_names; leave the file out: the set names "
                f"them itself ({', '.join(own[:3])} …)"
            )
        if classes and own and len(classes) != len(own):
            raise ValueError(
                f"data.class_names has {len(classes)} names, {name} ({split}) has {len(own)} classes: "
                f"{', '.join(own[:5])}; its labels would be other classes'; leave the file out, or give both the same"
            )
        self.own = own
        self.classes = list(classes) or own
        if not self.classes:
            raise ValueError(f"{name} does not name its classes; give a file with a name a line as --data.class_names")

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""
        try:
            image, label = self.dataset[index]
        except (RuntimeError, ImportError) as error:  # ultralytics, once imported, asks for a HEIF reader
            raise ValueError(f"sample {index} of {self.name} cannot be read: {error}") from error
        return upright(image), int(label)


def read_class_names(path: Path | None) -> list[str]:
    """A name a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty line between two, behind which every number would be another class's.
    """
    if path is None:
        return []
    if not path.is_file():
        raise FileNotFoundError(f"no class names at {path}; give a text file with a name a line")
    return read_names(path)


def drawn(path: str, *, seed: int) -> str:
    """A file's place in an order by chance, which does not change when other files come or go."""
    return hashlib.sha256(f"{seed} {Path(path).parent.name}/{Path(path).name}".encode()).hexdigest()


def real_places(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of each file the real folder and name, by links of folders and of files; files themselves are not looked at."""
    folders: dict[str, tuple[str, set[str]]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder), links_in(folder or ".")
        real, links = folders[folder]
        yield os.path.split(os.path.realpath(path)) if name in links else (real, name)


def links_in(folder: str) -> set[str]:
    """Names of links in a folder; none of one that is no folder, as inside a tar."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()


def by_file(samples: Sequence[tuple[str, int]], numbers: Sequence[int]) -> list[list[int]]:
    """Numbers of samples, those of one file together, whatever names link to it."""
    files: dict[tuple[str, str], list[int]] = {}
    for number, place in zip(numbers, real_places(samples[number][0] for number in numbers), strict=True):
        files.setdefault(place, []).append(number)
    return list(files.values())


class Part:
    """A share of a source's images, drawn by a seed from each of its classes, or all the others."""

    def __init__(self, source: Source, fraction: float, *, seed: int, kept: bool) -> None:
        """`kept` is the share of `fraction`, to evaluate on.

        Raises:
            ValueError: a fraction outside 0 … 1, a source that does not tell its labels, or a class of one image.
        """
        samples = getattr(source, "samples", None)
        if samples is None:
            raise ValueError("a part can be kept of class folders alone; give --data.val")
        self.source = source
        self.classes = source.classes
        self.numbers: list[int] = []
        by_label: list[list[int]] = [[] for _ in self.classes]
        for number, (_, label) in enumerate(samples):
            by_label[label].append(number)
        for name, own in zip(self.classes, by_label, strict=True):
            if len(own) < 2:
                raise ValueError(f"class {name} has {len(own)} images, and two splits need two; add images")
            files = by_file(samples, own)
            if len(files) < 2:
                raise ValueError(
                    f"class {name} has {len(own)} images that are links to one, and two splits need two; add images"
                )
            files.sort(key=lambda numbers: min(drawn(samples[number][0], seed=seed) for number in numbers))
            share, chosen = images_kept(len(own), fraction=fraction), list[int]()
            for numbers in files[:-1]:  # all names of a file go to one side
                if len(chosen) < share:
                    chosen += numbers
            self.numbers += chosen if kept else sorted(set(own) - set(chosen))
        self.numbers.sort()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def samples(self) -> list[tuple[str, int]]:
        """Paths and labels."""
        every: list[tuple[str, int]] = cast("Any", self.source).samples
        return [every[number] for number in self.numbers]

    def open(self, index: int) -> tuple[Image.Image, int]:
        """Image and label."""
        return self.source.open(self.numbers[index])


def open_source(where: str, *, split: str, root: str | None = None, classes: Sequence[str] = ()) -> Source:
    """Images by number: digits, a timm dataset, or a folder; `split` is digits' or the dataset's."""
    if where == DIGITS:
        return Digits(split)
    if where.startswith(TIMM_PREFIXES):
        return TimmDataset(where, root=root, split=split, classes=classes)
    return Folders(Path(where))
