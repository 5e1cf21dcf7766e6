"""Predictions as they come, a JSON line an image: what another process goes on from."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from botvision.engine.sharing import Part
from botvision.files import FULL, check_free, clear_leftovers, fcntl, no_space

Record = dict[str, Any]
HEAD = b'{"settings": '  # how the first line begins


class Written(NamedTuple):
    """Where an image's line is, or the first one of a video's frames, and what it counts for.

    Attributes:
        path: of the journal.
        offset: bytes before it.
        images: one, or the video's frames.
        objects: in these, where objects are found.
    """

    path: Path
    offset: int
    images: int
    objects: int


class Lines(NamedTuple):
    """What a journal holds.

    Frames count when the line at their video's end is there: a video that was not finished is done again.

    Attributes:
        done: images and videos whose predictions are written, by name.
        skipped: those that could not be read, with the reason.
        size: bytes up to what is not whole.
    """

    done: dict[str, Written]
    skipped: dict[str, str]
    size: int


class OtherSettingsError(ValueError):
    """A journal of another prediction."""


class TakenError(ValueError):
    """A journal that another process writes."""


def read_lines(path: Path, settings: Record) -> Lines:
    """A journal's lines; what is not whole at its end is left out: its process may be writing it, or was killed.

    Raises:
        ValueError: damaged, no lines of ours, or those of other settings.
    """
    lines = Lines({}, {}, 0)
    begin = end = whole = frames = objects = 0  # begin of an unfinished video's frames, and what these count for
    with path.open("rb") as stream:
        for number, line in enumerate(stream):
            record = parsed(line, path, number=number)
            if record is None:
                break
            end += len(line)
            if number == 0:
                check_settings(record["settings"], settings, path)
            elif "frame" in record:
                frames, objects = frames + 1, objects + len(record["objects"])
                continue
            elif "skipped" in record:
                lines.skipped[record["file_name"]] = record["skipped"]
            elif "frames" in record:
                lines.done[record["file_name"]] = Written(path, begin, frames, objects)
            else:
                lines.done[record["file_name"]] = Written(path, end - len(line), 1, len(record.get("objects", ())))
            begin = whole = end
            frames = objects = 0
    return lines._replace(size=whole)


def parsed(line: bytes, path: Path, *, number: int) -> Record | None:
    """A line, or None for the last one where it was cut short.

    Raises:
        ValueError: a line before the last one that is no JSON, or a file that does not begin as ours do.
    """
    try:
        record: Record = json.loads(line)
        whole = line.endswith(b"\n")
    except ValueError:
        record, whole = {}, False
    if number == 0 and not line.endswith(b"\n") and line[: len(HEAD)] == HEAD[: len(line)]:
        return None  # its process was ended as it began
    if number == 0 and not (whole and isinstance(record, dict) and "settings" in record):
        raise ValueError(f"{path} is no list of predictions of ours; give another --out")
    if not whole and line.endswith(b"\n"):
        raise ValueError(f"{path} is damaged at line {number + 1}; remove it, and its images are done again")
    return record if whole else None


def check_settings(saved: Record, own: Record, path: Path) -> None:
    """Refuse lines of other settings."""
    other = [name for name, value in own.items() if saved.get(name) != value]
    if other:
        was = ", ".join(f"{name} {saved.get(name)}" for name in other)
        raise OtherSettingsError(
            f"{path} was begun with other settings ({was}); give these again, or another --out, or "
            "--on_existing replace"
        )


def journal_path(folder: Path, name: str, part: Part) -> Path:
    """Where a process writes its lines: `predictions.jsonl`, or of several e.g. `predictions.0-of-8.jsonl`."""
    return folder / (f"{name}.{part}.jsonl" if part.is_shared else f"{name}.jsonl")


def journals(folder: Path, name: str) -> list[Path]:
    """The journals of a folder, of one process or of however many."""
    return sorted([*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}.*-of-*.jsonl")])


def merged(written: Mapping[str, Written], names: Iterable[str]) -> Iterator[Record]:
    """What was found in each image and frame, in the order of the names and numbered by it, whoever wrote it."""
    number = 0
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in {one.path for one in written.values()}}
        for name in names:
            if name not in written:
                continue
            lines = files[written[name].path]
            lines.seek(written[name].offset)
            for _ in range(written[name].images):
                number += 1
                yield {**json.loads(lines.readline()), "image_id": number}


class Journal:
    """The lines of a process: its settings first, then an image each, then a line at the end of each video.

    Attributes:
        done: names of the images and videos whose predictions are written.
        images: images and frames that are written; the next one's image_id is one more.
        objects: in these.
    """

    def __init__(self, path: Path, settings: Record, *, stale: Iterable[Path]) -> None:
        """Of a prediction with these settings; nothing is written before the first line.

        Args:
            path: of the lines.
            settings: of the prediction.
            stale: an older prediction's files, which go when other lines are begun.
        """
        self.path = path
        self.stale = list(stale)
        self.settings = settings
        self.done: set[str] = set()
        self.images = self.objects = 0
        self.unread: list[Record] = []
        self.file: IO[str] | None = None
        self.resumes = False
        self.begun = False
        self.size = 0

    def resume(self) -> None:
        """Go on with the lines that are there, if there are any; what is not whole at their end will be cut off.

        Raises:
            ValueError: the lines of other settings, or no lines of ours.
        """
        if not self.path.exists():
            return
        lines = read_lines(self.path, self.settings)
        self.done = set(lines.done)
        self.images = sum(one.images for one in lines.done.values())
        self.objects = sum(one.objects for one in lines.done.values())
        self.size = lines.size
        self.resumes = lines.size > 0

    def add(self, record: Record) -> None:
        """Write an image's or a frame's line."""
        self.write(record)
        self.images += 1
        self.objects += len(record.get("objects", ()))

    def end_video(self, name: str, frames: int) -> None:
        """Write that a video's frames are all there."""
        self.write({"file_name": name, "frames": frames})

    def skip(self, name: str, reason: str) -> None:
        """Note what could not be read, for the line after it: a prediction that reads nothing writes nothing."""
        self.unread.append({"file_name": name, "skipped": reason})

    def write(self, record: Record) -> None:
        """A line, which survives the process from here on."""
        self.unread.append(record)
        self.flush()

    def flush(self) -> None:
        """Write what was noted.

        Raises:
            OSError: it cannot be; of a full disk the line says what to do.
            TakenError: another process writes these lines.
        """
        try:
            self.put()
        except (OSError, ValueError) as error:
            with suppress(OSError):  # what is buffered cannot be written either
                self.close()
            self.file = None
            if isinstance(error, OSError) and error.errno in FULL:
                raise no_space(self.path) from error
            raise

    def put(self) -> None:
        """Open the file, if it is not, and write."""
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", encoding="utf-8")
            claim(self.file, self.path)
            self.begun = True
            if not self.resumes:
                self.file.truncate(0)
                for path in self.stale:
                    path.unlink(missing_ok=True)
                self.file.write(json.dumps({"settings": self.settings}) + "\n")
            elif os.fstat(self.file.fileno()).st_size != self.size:  # cut off what is not whole
                self.file.truncate(read_lines(self.path, self.settings).size)
        for record in self.unread:
            self.file.write(json.dumps(record) + "\n")
        self.unread.clear()
        self.file.flush()

    @property
    def replaced(self) -> Path | None:
        """The file of an earlier prediction that was to be replaced, and of which no line has been."""
        return None if self.begun or self.resumes else self.path

    def close(self) -> None:
        """Nothing more is written."""
        if self.file is not None:
            self.file.close()
            self.file = None


def claim(file: IO[str], path: Path) -> None:
    """Keep a journal to this process as long as its file is open.

    Raises:
        TakenError: another process writes it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TakenError(f"another process is writing {path}; give each its own --part, or let that one end") from None
    except OSError:  # a file system that has no locks
        return


def begin(
    folder: Path, name: str, part: Part, settings: Record, *, results: Path, drawings: Iterable[Path], on_existing: str
) -> tuple[Journal, set[str]]:
    """A process's journal, begun or gone on with, and the names of what any process has done.

    Args:
        folder: of the journals.
        name: of these.
        part: which process of how many.
        settings: of the prediction.
        results: the file that is written of all lines at the end.
        drawings: files that this process may write.
        on_existing: refuse, resume or replace.

    Raises:
        ValueError: files that would be overwritten; lines that are damaged, not ours, or of other settings.
    """
    path, drawings = journal_path(folder, name, part), list(drawings)
    foreign = [other for other in journals(folder, name) if not is_peer(other, name, part)]
    if on_existing == "resume" and journals(folder, name):
        journal = Journal(path, settings, stale=[])
        journal.resume()
        for place in {folder, *(drawing.parent for drawing in drawings)}:
            clear_leftovers(place, stale=0)
        return journal, {done for path in journals(folder, name) for done in read_lines(path, settings).done}
    policy = "refuse" if on_existing == "resume" else on_existing
    check_free([results, path, *foreign, *drawings], on_existing=policy)
    return Journal(path, settings, stale=[results, *foreign]), set()


def is_peer(journal: Path, name: str, part: Part) -> bool:
    """Whether a journal is of one of as many processes."""
    return journal.stem.endswith(f"-of-{part.count}") if part.is_shared else journal.stem == name


def everything(
    folder: Path, name: str, settings: Record, *, but: Path | None = None
) -> tuple[dict[str, Written], dict[str, str]]:
    """What all processes have written, each image once, and what they could not read; `but` is left out."""
    written: dict[str, Written] = {}
    skipped: dict[str, str] = {}
    for path in journals(folder, name):
        if path == but:
            continue
        try:
            lines = read_lines(path, settings)
        except OtherSettingsError:  # of an earlier prediction, which its process has not replaced yet
            continue
        written = lines.done | written
        skipped |= lines.skipped
    return written, {one: reason for one, reason in skipped.items() if one not in written}
