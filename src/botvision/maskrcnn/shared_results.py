"""Results of an evaluation that several processes share: by the files of one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from botvision.engine.sharing import Part
from botvision.maskrcnn.journal import (
    Journal,
    OtherSettingsError,
    Record,
    Written,
    journal_path,
    journals,
    merged,
    read_lines,
)
from botvision.maskrcnn.results import Result

NAME = "results"


class EvaluatedPart(NamedTuple):
    """A process's part of an evaluation, while others have not ended.

    Attributes:
        images: of which it has written the results.
        left: images that other processes have not done yet; the last of them counts the AP.
        out: folder of the lines.
    """

    images: int
    left: int
    out: Path

    def __str__(self) -> str:
        return (
            f"results of {self.images} images at {self.out}; other processes have {self.left} to do, and the last of "
            "them counts the AP of all"
        )


class SharedResults:
    """Lines of `results.0-of-8.jsonl` …, an image each; a part that is begun again goes on after its lines."""

    def __init__(self, out: Path, part: Part, settings: Record) -> None:
        """Of an evaluation with these settings; lines of another one are begun anew.

        Raises:
            ValueError: a journal that is damaged.
        """
        self.out = out
        self.part = part
        self.settings = settings
        self.journal = Journal(journal_path(out, NAME, part), settings, stale=[])
        try:
            self.journal.resume()
        except OtherSettingsError:
            return

    def own(self, ids: Sequence[int]) -> list[int]:
        """Places in `ids` of the images that are this process's to do."""
        done = self.written()
        return [place for place in self.part.of(range(len(ids))) if str(ids[place]) not in done]

    def add(self, results: Sequence[Result], ids: Sequence[int]) -> None:
        """Write the results of some images, those without a finding too."""
        for image_id in ids:
            found = [result for result in results if result["image_id"] == image_id]
            self.journal.add({"file_name": str(image_id), "objects": found})

    def written(self) -> dict[str, Written]:
        """Images that any process has done."""
        found: dict[str, Written] = {}
        for path in journals(self.out, NAME):
            try:
                found = read_lines(path, self.settings).done | found
            except OtherSettingsError:  # of an earlier evaluation
                continue
        return found

    def together(self, ids: Sequence[int]) -> list[Result] | EvaluatedPart:
        """Results of all processes in the images' order; this one's part alone, where others have images left."""
        self.journal.close()
        done = self.written()
        left = sum(str(image_id) not in done for image_id in ids)
        if left:
            return EvaluatedPart(self.journal.images, left, self.out)
        return [result for record in merged(done, map(str, ids)) for result in record["objects"]]
