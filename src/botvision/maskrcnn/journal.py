"""Predictions as they come, a JSON line an image: what a stopped prediction goes on from."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Record = dict[str, Any]


class Journal:
    """The lines of a prediction: its settings first, then an image each, then a line at the end of each video.

    Frames count when the line at their video's end is there: a video that was not finished is done again.

    Attributes:
        done: names of the images and videos whose predictions are written.
        images: images and frames that are written; the next one's image_id is one more.
        objects: in these.
    """

    def __init__(self, path: Path, settings: Record, *, stale: Path) -> None:
        """Of a prediction with these settings; nothing is written before the first line.

        Args:
            path: of the lines.
            settings: of the prediction.
            stale: an older prediction's results, which go when other lines are begun.
        """
        self.path = path
        self.stale = stale
        self.settings = settings
        self.done: set[str] = set()
        self.images = self.objects = 0
        self.file: IO[str] | None = None
        self.resumes = False

    def resume(self) -> None:
        """Go on with the lines that are there, if there are any; what is not whole at their end is cut off.

        Raises:
            ValueError: the lines of other settings, or no lines of ours.
        """
        if not self.path.exists():
            return
        whole = end = 0
        pending = [0, 0]  # frames of the video that is not finished, and their objects
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines):
                record = self.parsed(line, number=number)
                if record is None:
                    break
                if number == 0:
                    self.check(record)
                elif "frame" in record:
                    pending = [pending[0] + 1, pending[1] + len(record["objects"])]
                    end += len(line)
                    continue
                else:
                    self.count(record, pending)
                    pending = [0, 0]
                end += len(line)
                whole = end
        os.truncate(self.path, whole)
        self.resumes = whole > 0

    def parsed(self, line: bytes, *, number: int) -> Record | None:
        """A line, or None for the last one where it was cut short.

        Raises:
            ValueError: a line before the last one that is no JSON, or a file that does not begin as ours do.
        """
        try:
            record: Record = json.loads(line)
            whole = line.endswith(b"\n")
        except ValueError:
            record, whole = {}, False
        if number == 0 and not (whole and isinstance(record, dict) and "settings" in record):
            raise ValueError(f"{self.path} is no list of predictions of ours; give another --out")
        if not whole and line.endswith(b"\n"):
            raise ValueError(f"{self.path} is damaged at line {number + 1}; begin anew with --on_existing replace")
        return record if whole else None

    def check(self, record: Record) -> None:
        """Refuse lines of other settings."""
        other = [name for name, value in self.settings.items() if record["settings"].get(name) != value]
        if other:
            was = ", ".join(f"{name} {record['settings'].get(name)}" for name in other)
            raise ValueError(
                f"{self.path} was begun with other settings ({was}); give these again, or another --out, or "
                "--on_existing replace"
            )

    def count(self, record: Record, pending: list[int]) -> None:
        """An image, or a finished video with its frames and their objects."""
        self.done.add(record["file_name"])
        self.images += pending[0] if "frames" in record else 1
        self.objects += pending[1] if "frames" in record else len(record["objects"])

    def add(self, record: Record) -> None:
        """Write an image's or a frame's line."""
        self.write(record)
        self.images += 1
        self.objects += len(record["objects"])

    def end_video(self, name: str, frames: int) -> None:
        """Write that a video's frames are all there."""
        self.write({"file_name": name, "frames": frames})

    def write(self, record: Record) -> None:
        """A line, which survives the process from here on."""
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a" if self.resumes else "w", encoding="utf-8")
            if not self.resumes:
                self.stale.unlink(missing_ok=True)
                self.file.write(json.dumps({"settings": self.settings}) + "\n")
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Nothing more is written."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def records(self) -> Iterator[Record]:
        """What was found in each image and frame, in the order in which it was written."""
        if self.path.exists():
            with self.path.open(encoding="utf-8") as lines:
                yield from (record for record in map(json.loads, lines) if "objects" in record)
