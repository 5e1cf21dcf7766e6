"""Detect objects in many images, videos or a camera, at constant memory; resume; share the work."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from botvision.draw.instances import draw_instances, save_image
from botvision.engine.config import OnExisting
from botvision.engine.journal import Journal, Record, TakenError, begin, everything, merged
from botvision.engine.sharing import ALONE, Part
from botvision.engine.stopping import Notice, Stopped, noticing
from botvision.files import sha256
from botvision.inputs import find_images, folder_of, is_url, is_video, lots, stream
from botvision.maskrcnn.formats import SUFFIXES, Format, check_format, write_predictions
from botvision.maskrcnn.prediction import Predictor
from botvision.maskrcnn.results import image_results, to_supervision
from botvision.video import Frame, camera_name, read_video, video_info, video_writer

NAME = "predictions"
FAINT = 0.1  # lowest score of an object that a tracker may go on with


class Prediction(NamedTuple):
    """What `predict` did.

    Attributes:
        images: images and frames with results, those of before included.
        skipped: images and videos that could not be read, with the reason.
        objects: objects found in all of them.
        out: folder of the drawings and of the results.
        results: name of the file of the results.
        drawn: whether drawings are there too.
        left: images and videos that other processes have not done yet; the last of them writes the results.
        undrawn: images and videos with results and without a drawing, done by an earlier command with draw=false.
    """

    images: int
    skipped: list[str]
    objects: int
    out: Path
    results: str
    drawn: bool
    left: int = 0
    undrawn: int = 0

    def __str__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        if self.left:
            return (
                f"{self.objects} objects in {self.images} images{skipped}, in {self.results} at {self.out}; other "
                f"processes have {self.left} to do, and the last of them writes the results of all"
            )
        written = f"{self.results} and drawings" if self.drawn else self.results
        without = f", {self.undrawn} without a drawing; --on_existing replace draws all" if self.undrawn else ""
        return f"{self.objects} objects in {self.images} images{skipped}; {written} at {self.out}{without}"


@dataclass(frozen=True)
class Output:
    """What is written, and where.

    Attributes:
        folder: of everything.
        format: of the results.
        draw: write drawings: images as JPEG, videos as MP4.
        track: follow objects through a video or a camera's frames.
        part: of several processes, which write to one folder.
    """

    folder: Path
    format: Format = "coco"
    draw: bool = True
    track: bool = False
    part: Part = ALONE

    @property
    def results(self) -> Path:
        """The file of the results."""
        return self.folder / f"{NAME}{SUFFIXES[self.format]}"


class Media(NamedTuple):
    """An image, a video or a camera.

    Attributes:
        place: path, or URL of an image.
        name: its file_name in results: relative to the folder that was given.
        drawing: where it is drawn.
        moves: a video or a camera.
        camera: by `camera_name`.
    """

    place: str | Path
    name: str
    drawing: Path
    moves: bool
    camera: str | None = None


def predict_files(
    predictor: Predictor, checkpoint: Path, source: str, *, output: Output, on_existing: OnExisting
) -> Prediction:
    """Find objects in images, videos or a camera; write drawings and results as they come.

    Raises:
        FileNotFoundError, ValueError, Stopped: as `botvision.maskrcnn.predict`.
    """
    check_format(output.format)
    media = find_media(source, output.folder)
    if output.draw:
        check_drawings(media, source, output.folder)
    if output.track and not any(item.moves for item in media):
        raise ValueError("track follows objects through a video or a camera, and here are images alone; leave it out")
    if output.track:
        byte_track()
    if output.part.is_shared and any(item.camera for item in media):
        raise ValueError("a camera's frames cannot be shared among processes; start one, without part or torchrun")
    settings = settings_of(predictor, checkpoint, source, media, output)
    own = output.part.of(media)
    journal, done = begin(
        output.folder, NAME, output.part, settings,
        results=output.results, drawings=[item.drawing for item in own] if output.draw else [], on_existing=on_existing,
    )  # fmt: skip
    with closing(journal):
        work = Work(predictor, output, journal)
        with noticing("batch") as work.notice:
            work.do([item for item in own if item.name not in done])
    return work.finish(media)


def settings_of(predictor: Predictor, checkpoint: Path, source: str, media: list[Media], output: Output) -> Record:
    """What must be the same for a prediction to be gone on with."""
    place = source if media[0].camera is not None or is_url(source) else str(Path(source).absolute())
    return {"checkpoint": sha256(checkpoint), "source": place, "threshold": predictor.threshold, "track": output.track}


class Work:
    """A prediction that goes on: the predictor, what it writes, and the signal that ends it."""

    def __init__(self, predictor: Predictor, output: Output, journal: Journal) -> None:
        self.predictor = predictor
        self.output = output
        self.journal = journal
        self.skipped: dict[str, str] = {}
        self.broken: list[str] = []
        self.notice = Notice()

    def do(self, media: list[Media]) -> None:
        """Images in batches, videos one after another, until all is done or a signal came."""
        for moves, some in groupby(media, key=lambda item: item.moves):
            for step in [[item] for item in some] if moves else [list(some)]:
                if self.notice.signum is None:
                    self.video(step[0]) if moves else self.images(step)

    def finish(self, media: list[Media]) -> Prediction:
        """Write the results from the journals, where no process has anything left to do.

        Args:
            media: of all processes; a signal ends a camera as it is meant to.
        """
        if media[0].camera is None:
            self.check_signal()
        output, journal = self.output, self.journal
        if output.part.is_shared and journal.unread:
            journal.flush()
        journal.close()
        written, skipped = everything(output.folder, NAME, journal.settings, but=journal.replaced)
        skipped |= {name: reason for name, reason in self.skipped.items() if name not in written}
        left = sum(item.name not in written and item.name not in skipped for item in media)
        if left:
            reasons = [*self.skipped.values(), *self.broken]
            path = journal.path.name
            return Prediction(journal.images, reasons, journal.objects, output.folder, path, output.draw, left)
        if skipped and not written:
            raise ValueError(f"none of {len(media)} images could be read; the first: {next(iter(skipped.values()))}")
        records = merged(written, [item.name for item in media])
        write_predictions(output.results, output.format, records, self.predictor.detector.categories)
        images, objects = (sum(getattr(one, what) for one in written.values()) for what in ("images", "objects"))
        reasons = [*skipped.values(), *self.broken]
        undrawn = sum(item.name in written and not item.drawing.exists() for item in media) if output.draw else 0
        return Prediction(images, reasons, objects, output.folder, output.results.name, output.draw, undrawn=undrawn)

    def check_signal(self) -> None:
        """End a prediction that was stopped.

        Raises:
            Stopped: a signal came.
        """
        signum = self.notice.signum
        if signum is not None:
            raise Stopped(
                signum,
                f"stopped by {signal.Signals(signum).name} with {self.journal.images} images done, their results in "
                f"{self.journal.path}; the same command with --on_existing resume goes on",
            )

    def images(self, media: list[Media]) -> None:
        """Images, in batches."""
        read = zip(media, stream([item.place for item in media], ahead=self.predictor.batch_size), strict=True)
        with progress(len(media), "predict", "image") as bar:
            for some in lots(read, self.predictor.batch_size):
                whole = [(item, image) for item, (_, image, _) in some if image is not None]
                for item, (_, image, reason) in some:
                    if image is None:
                        self.skip(item, reason)
                found = self.predictor.find([image for _, image in whole])
                for (item, image), own in zip(whole, found, strict=True):
                    record = self.record(own, image, item.name)
                    if self.output.draw:
                        save_image(self.drawn(image, record), item.drawing)
                    self.journal.add(record)
                bar.update(len(some))
                if self.notice.signum is not None:
                    return

    def video(self, item: Media) -> None:
        """A video or a camera, frame by frame."""
        try:
            info = video_info(item.place) if item.camera is None else None
            self.frames(item, None if info is None else info.frames, 25.0 if info is None else info.rate)
        except TakenError:
            raise
        except ValueError as error:
            self.skip(item, str(error))

    def frames(self, item: Media, total: int | None, rate: float) -> None:
        """The frames of a video, found, tracked, drawn and written; a video that breaks off ends there."""
        size = self.predictor.batch_size if item.camera is None else 1  # a camera's frame is not kept waiting
        track = byte_track()(frame_rate=rate) if self.output.track else None
        drawing = video_writer(item.drawing, rate=rate) if self.output.draw else nullcontext()
        threshold = min(FAINT, self.predictor.threshold) if track is not None else None
        frames = self.unbroken(read_video(item.place, camera=item.camera))
        count = 0
        with progress(total, item.name, "frame") as bar, drawing as writer:
            for some in lots(frames, size):
                found = self.predictor.find([frame.image for frame in some], threshold=threshold)
                for frame, own in zip(some, found, strict=True):
                    record = self.record(own, frame.image, item.name, frame=frame.number, time=round(frame.time, 6))
                    if track is not None:
                        self.follow(track, record)
                    if writer is not None:
                        writer.write(self.drawn(frame.image, record), frame.time)
                    self.journal.add(record)
                count += len(some)
                bar.update(len(some))
                if self.notice.signum is not None:
                    break
            if item.camera is None:
                self.check_signal()  # half a video is not kept
        self.journal.end_video(item.name, count)

    def unbroken(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames before a break, with a line that says so; one without any is not opened."""
        some = False
        try:
            for frame in frames:
                yield frame
                some = True
        except ValueError as error:
            if not some:
                raise
            self.broken.append(f"the rest of a video: {error}")
            tqdm.write(f"skipped: {self.broken[-1]}", file=sys.stderr)

    def record(self, found: dict[str, Tensor], image: Tensor, name: str, **when: float) -> Record:
        """An image's or a frame's line."""
        height, width = image.shape[-2:]
        number = self.journal.images + 1
        results = image_results(found, self.predictor.detector.categories, image_id=number, size=(height, width))
        objects = [{key: value for key, value in result.items() if key != "image_id"} for result in results]
        return {"image_id": number, "file_name": name, "width": width, "height": height, **when, "objects": objects}

    def follow(self, track: Any, record: Record) -> None:
        """Give a frame's objects their track_id; of those below the threshold, only tracked ones are kept."""
        detections = self.detections(record, with_masks=False)
        detections.data["number"] = np.arange(len(detections))
        tracked = track.update(detections)
        for found in record["objects"]:
            found["track_id"] = None
        for number, track_id in zip(tracked.data.get("number", ()), tracked.tracker_id, strict=True):
            record["objects"][int(number)]["track_id"] = int(track_id) if track_id >= 0 else None
        lowest = self.predictor.threshold
        record["objects"] = [f for f in record["objects"] if f["score"] >= lowest or f["track_id"] is not None]

    def detections(self, record: Record, *, with_masks: bool) -> Any:
        """A line's objects as `supervision.Detections`."""
        categories, size = self.predictor.detector.categories, (record["height"], record["width"])
        return to_supervision(record["objects"], categories, size=size, with_masks=with_masks)

    def drawn(self, image: Tensor, record: Record) -> Any:
        """The image with its objects, (H, W, 3)."""
        detections = self.detections(record, with_masks=True)
        return draw_instances(image.permute(1, 2, 0).numpy(), detections, self.predictor.names)

    def skip(self, item: Media, reason: str) -> None:
        """Say what could not be read, and note it for the other processes."""
        tqdm.write(f"skipped: {reason}", file=sys.stderr)
        self.skipped[item.name] = reason
        self.journal.skip(item.name, reason)


@contextmanager
def progress(total: int | None, what: str, unit: str) -> Iterator[Any]:
    """A bar with the rate, where somebody sees it."""
    with tqdm(total=total, desc=what, unit=unit, disable=None) as bar:
        yield bar


def byte_track() -> Callable[..., Any]:
    """ByteTrack (Zhang et al. 2022) of the package `trackers`, where supervision's has gone.

    Raises:
        ValueError: it is not installed.
    """
    try:
        tracker: Callable[..., Any] = import_module("trackers").ByteTrackTracker
    except ImportError as error:
        raise ValueError("track needs the package trackers: pip install 'botvision[track]'; or leave it out") from error
    return tracker


def find_media(source: str, out: Path) -> list[Media]:
    """What there is to predict on, in order, and where it is drawn.

    Raises:
        FileNotFoundError: nothing there.
    """
    camera = camera_name(source)
    if camera is not None:
        name = f"camera-{Path(camera).name}"
        return [Media(f"camera:{camera}", name, out / f"{name}.mp4", moves=True, camera=camera)]
    if is_url(source):
        name = Path(source.partition("?")[0]).name or "image"
        return [Media(source, name, out / f"{Path(name).stem}.jpg", moves=False)]
    paths, root = find_images(source, videos=True, out=out), folder_of(source)
    names = [path.relative_to(root) for path in paths]
    drawings = drawing_names(names, out)
    media = zip(paths, names, drawings, strict=True)
    return [Media(path, name.as_posix(), drawing, moves=is_video(path)) for path, name, drawing in media]


def drawing_names(names: list[Path], out: Path) -> list[Path]:
    """Where each is drawn: a.png at a.jpg, but beside an a.bmp at a.png.jpg; a video at a.mp4."""
    ends = [".mp4" if is_video(name) else ".jpg" for name in names]
    short = [name.with_suffix(end) for name, end in zip(names, ends, strict=True)]
    times = Counter(str(name).casefold() for name in short)
    whole = zip(names, short, ends, strict=True)
    return [out / (brief if times[str(brief).casefold()] == 1 else f"{name}{end}") for name, brief, end in whole]


def check_drawings(media: list[Media], source: str, folder: Path) -> None:
    """Refuse drawings that would be lost, make something else lost, or be taken for images the next time.

    Raises:
        ValueError: a drawing would take the place of what was given, or of another drawing; the drawings' folder is the
            images'.
    """
    own = {item.place.resolve() for item in media if isinstance(item.place, Path)}
    lost = [item.drawing for item in media if item.drawing.resolve() in own]
    if lost:
        raise ValueError(f"the drawing of {lost[0]} would replace the image itself; give another --out")
    if Path(source).is_dir() and folder.resolve() == Path(source).resolve():
        raise ValueError(
            f"drawings in {folder}, the images' own folder, would be taken for images the next time; give another --out"
        )
    times = Counter(str(item.drawing).casefold() for item in media)
    twice = [item.drawing for item in media if times[str(item.drawing).casefold()] > 1]
    if twice:
        raise ValueError(f"two files would be drawn as {twice[0]}; rename one, or add --draw false")
