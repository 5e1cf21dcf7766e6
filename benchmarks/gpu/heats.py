"""Races of a stage, one after the other: each on file when it ends; one that fails does not end the others."""

import gc
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import InexactError, restart
from botvision.bench.race import Build, DeviceLostError, Report, Row, Setting, heat_name, race


class Heat(NamedTuple):
    """A race to be run.

    Attributes:
        what: is compared.
        build: makes a contender's step.
        names: of the contenders, the baseline first.
        setting: what all of them get.
        smaller: batches to try where memory does not hold the setting's.
    """

    what: str
    build: Build
    names: Sequence[str]
    setting: Setting
    smaller: tuple[int, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """What its rows have in common, and no other heat's."""
        size, batch, train, engine = self.setting
        how = {"precision": engine.precision, "compile": engine.compile}
        return {"what": self.what, "size": size, "asked_batch": batch, "train": train, **how}


def run_heats(results: Results, heats: Iterable[Heat], *, rounds: int) -> str:
    """Run the heats that are not on file.

    Returns:
        One line on what was run.

    Raises:
        InexactError: a heat failed; the others are on file.
    """
    failed = []
    for heat in heats:
        if results.has(**heat.key):
            continue
        begun = time.perf_counter()
        try:
            rows = raced(results, heat, rounds=rounds)
        except DeviceLostError as error:
            if error.name == heat.names[0]:
                raise
            results.left_out[error.name] = error.why_not
            results.save()
            restart()
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{heat_name(heat.what, heat.setting)}: {error}".partition("\n")[0])
            continue
        finally:
            cleared(heat.setting)
        results.add(*rows)
        engine = heat.setting.engine
        print(Report(heat.what, "", f"{engine.precision}{', compiled' if engine.compile else ''}", as_rows(rows)))
        print(f"({time.perf_counter() - begun:.0f} s)\n")
    if failed:
        raise InexactError(f"{len(failed)} failed, the first: {failed[0]}")
    refused = sum(bool(row["why_not"]) for row in results.rows)
    return f"{len(results.rows)} rows on file, {refused} of them contenders that could not run"


def raced(results: Results, heat: Heat, *, rounds: int) -> list[dict[str, Any]]:
    """The rows of one heat; at a smaller batch where memory holds no more."""
    names = [name for name in heat.names if name not in results.left_out]
    batches = (heat.setting.batch, *heat.smaller)
    for batch in batches:
        setting = heat.setting._replace(batch=batch)
        memory = setting.engine.device.type != "cpu"  # on a CPU it takes a process each: seconds, for a toy's figure
        try:
            rows = race(heat.build, names, setting, what=heat.what, rounds=rounds, memory=memory)
        except torch.OutOfMemoryError:
            if batch == batches[-1]:
                raise
            cleared(setting)
            continue
        if batch == batches[-1] or not any("out of memory" in row.why_not for row in rows):
            break
        cleared(setting)
    told = heat_name(heat.what, setting)
    rows += [Row(told, name, [], None, None, results.left_out[name]) for name in heat.names if name not in names]
    return [{**heat.key, "batch": batch, **row._asdict()} for row in rows]


def as_rows(rows: Iterable[dict[str, Any]]) -> list[Row]:
    """What is on file, as the benchmarks' tables have it."""
    return [Row(**{field: row[field] for field in Row._fields}) for row in rows]


def cleared(setting: Setting) -> None:
    """Give back what a heat has held: memory, and graphs compiled for its sizes."""
    torch.compiler.reset()
    gc.collect()
    if setting.engine.device.type == "cuda":
        torch.cuda.empty_cache()
