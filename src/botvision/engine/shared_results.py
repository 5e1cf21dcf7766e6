"""Results of an evaluation that several processes share: by the files of one folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from botvision.engine.journal import (
    Journal,
    OtherSettingsError,
    Record,
    Written,
    everything,
    journal_path,
    merged,
)
from botvision.engine.sharing import Part

NAME = "results"


class EvaluatedPart(NamedTuple):
    """A process's part of an evaluation, while others have not ended.

    Attributes:
        images: of which it has written the results.
        left: images that other processes have not done yet; the last of them counts the metrics.
        out: folder of the lines.
    """

    images: int
    left: int
    out: Path

    def __str__(self) -> str:
        return (
            f"results of {self.images} images at {self.out}; other processes have {self.left} to do, and the last of "
            "them counts the metrics of all"
        )


def folder_for(part: Part, out: Path | None) -> Path:
    """Where processes put their results together.

    Raises:
        ValueError: nowhere.
    """
    if out is None:
        raise ValueError(f"part {part.number}/{part.count} is put together by the files of a folder; give --out")
    return Path(out)


class SharedResults:
    """Lines of `results.0-of-8.jsonl` …; a part that is begun again goes on after its lines."""

    def __init__(self, out: Path, part: Part, settings: Record) -> None:
        """Of an evaluation with these settings; lines of another one are begun anew.

        Raises:
            ValueError: a journal that is damaged.
        """
        self.out = out
        self.part = part
        self.settings = settings
        figures = [out / name for name in ("metrics.json", "results.json")]  # of an evaluation with other settings
        self.journal = Journal(journal_path(out, NAME, part), settings, stale=figures)
        try:
            self.journal.resume()
        except OtherSettingsError:
            return

    def own(self, names: Sequence[str]) -> list[int]:
        """Places in `names`, which all processes have alike, of what is this process's to do."""
        done = self.written()
        return [place for place in self.part.of(range(len(names))) if names[place] not in done]

    def add(self, name: str, **found: object) -> None:
        """Write what was found under a name, where that is nothing too."""
        self.journal.add({"file_name": name, **found})

    def written(self) -> dict[str, Written]:
        """What any process has done."""
        return everything(self.out, NAME, self.settings)[0]

    def together(self, names: Iterable[str]) -> list[Record]:
        """Records of all processes in the order of the names; of those that are missing none."""
        self.journal.close()
        return list(merged(self.written(), names))
