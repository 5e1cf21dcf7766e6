"""What an evaluation is counted against: a COCO file and its images, or a whole folder."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import normpath
from pathlib import Path

from botvision.engine.folder import NO_RUN, data_of_run
from botvision.files import write_json
from botvision.maskrcnn.coco import forget, read_document
from botvision.maskrcnn.layouts import find_splits

LARGEST = 2**26  # bytes of annotations that are read to look for images trained on


@contextmanager
def truth_of(annotations: Path, images: Path | None, *, out: Path | None) -> Iterator[tuple[Path, Path]]:
    """The COCO file and the folder of its images; those of a folder are its validation split, or all that it has.

    Args:
        annotations: a COCO file, or a folder.
        images: of the file; none of a folder, which brings them.
        out: folder that keeps a file which had to be converted; none for one that goes away.

    Raises:
        FileNotFoundError, ValueError: a file without its images, a folder with other ones; as `find_splits`.
    """
    if not annotations.is_dir():
        if not annotations.exists():
            raise FileNotFoundError(f"no annotations at {annotations}; give a COCO file, or the folder of a dataset")
        if images is None:
            raise ValueError(f"{annotations} is a file alone; give the folder of its images behind it, or by --images")
        yield annotations, images
        return
    if images is not None:
        raise ValueError(f"{annotations} is a folder and brings its images; leave {images} out, or give its COCO file")
    found = find_splits(annotations)
    split = found.val or found.train
    count = len(split.document()["images"])
    which = f"{count} images of its validation split" if found.val else f"no validation split, so all {count} images"
    print(f"data: {found.layout} at {annotations}: {which}", file=sys.stderr)
    if isinstance(split.annotations, Path):
        yield split.annotations, split.images
        return
    with tempfile.TemporaryDirectory() as temporary:
        path, document = split.placed("val", Path(temporary) if out is None else out)
        write_json(path, document)
        yield path, split.images


def warn_of_trained_images(checkpoint: Path, annotations: Path, images: Path) -> None:
    """Say on stderr how many of the images a checkpoint's run has trained on, where its folder tells soon.

    Args:
        checkpoint: in the folder of its run.
        annotations, images: what it is evaluated on.
    """
    try:
        data = data_of_run(checkpoint)
        trained = Path(data["train_annotations"])
        if trained.stat().st_size > LARGEST and trained.resolve() != annotations.resolve():
            return
        own = paths_of(annotations, images)
        both = paths_of(trained, Path(data["train_images"])) & own
        forget(trained)
    except NO_RUN:
        return  # the annotations are checked when they are opened
    if both:
        which = "these images" if both == own else f"{len(both)} of these {len(own)} images"
        print(f"warning: {checkpoint} was trained on {which}: the figures say nothing of others", file=sys.stderr)


def paths_of(annotations: Path, images: Path) -> set[str]:
    """A COCO file's images by their paths."""
    folder = images.resolve()
    return {normpath(folder / entry["file_name"]) for entry in read_document(annotations)["images"]}
