"""Files of predictions, written from their journal: COCO results, CSV, Parquet."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from botvision.engine.journal import Record
from botvision.files import whole_file
from botvision.maskrcnn.coco import Category

Format = Literal["coco", "csv", "parquet"]
SUFFIXES: dict[Format, str] = {"coco": ".json", "csv": ".csv", "parquet": ".parquet"}
ROWS = 10_000  # of a table that are held at a time
COLUMNS = {  # of a table, by pyarrow's types
    "image_id": "int64", "file_name": "string", "frame": "int64", "time": "float64", "track_id": "int64",
    "category_id": "int64", "category": "string", "score": "float64",
    "x": "float64", "y": "float64", "width": "float64", "height": "float64",
    "image_width": "int64", "image_height": "int64", "rle": "string",
}  # fmt: skip


def check_format(form: Format) -> None:
    """Refuse a format before anything is predicted.

    Raises:
        ValueError: unknown, or it needs a package that is not installed.
    """
    if form not in SUFFIXES:
        raise ValueError(f"format={form!r} is unknown; use {', '.join(SUFFIXES)}")
    if form == "parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            raise ValueError(
                "format=parquet needs pyarrow: pip install 'botvision[parquet]'; or use --format csv"
            ) from error


def write_predictions(path: Path, form: Format, records: Iterable[Record], categories: Sequence[Category]) -> None:
    """Write a file of predictions whole, an image at a time.

    Args:
        path: where to.
        form: its format.
        records: of the journal.
        categories: for names.
    """
    writers: dict[Format, Callable[[Path, Iterable[Record], dict[int, str]], None]] = {
        "coco": write_coco, "csv": write_csv, "parquet": write_parquet,
    }  # fmt: skip
    with whole_file(path, sync=True) as unfinished:
        writers[form](unfinished, records, {category.id: category.name for category in categories})


def write_coco(path: Path, records: Iterable[Record], names: dict[int, str]) -> None:  # noqa: ARG001
    """COCO results: one JSON list of objects, with file_name, and frame and time in videos."""
    with path.open("w", encoding="utf-8") as out:
        out.write("[")
        for number, result in enumerate(coco_results(records)):
            out.write((",\n" if number else "") + json.dumps(result))
        out.write("]\n")


def coco_results(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """An object each."""
    for record in records:
        about: Record = {key: record[key] for key in ("file_name", "frame", "time") if key in record}
        for found in record["objects"]:
            yield {"image_id": record["image_id"], **found, **about}


def table(records: Iterable[Record], names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """A row an object; the mask is the counts of COCO's RLE, of an image of image_width by image_height."""
    for record in records:
        about = {key: record.get(key) for key in ("image_id", "file_name", "frame", "time")}
        about["file_name"] = record["file_name"].encode("utf-8", "backslashreplace").decode()  # a name of other bytes
        size = {"image_width": record["width"], "image_height": record["height"]}
        for found in record["objects"]:
            yield {
                **about,
                "track_id": found.get("track_id"),
                "category_id": found["category_id"],
                "category": names[found["category_id"]],
                "score": found["score"],
                **dict(zip(("x", "y", "width", "height"), found["bbox"], strict=True)),
                **size,
                "rle": found["segmentation"]["counts"] if "segmentation" in found else None,
            }


def write_csv(path: Path, records: Iterable[Record], names: dict[int, str]) -> None:
    """A table with a head."""
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.DictWriter(out, COLUMNS)
        rows.writeheader()
        rows.writerows(table(records, names))


def write_parquet(path: Path, records: Iterable[Record], names: dict[int, str]) -> None:
    """The same table, typed and compressed."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    rows = table(records, names)
    with parquet.ParquetWriter(path, schema) as out:
        while some := list(islice(rows, ROWS)):
            out.write_table(arrow.Table.from_pylist(some, schema=schema))
