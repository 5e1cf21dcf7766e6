"""Turns stage 1's and 2's results into the table that `auto` reads: python benchmarks/gpu/table.py RESULTS."""

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botvision.files import read_json, write_text

TABLE = Path(__file__).parents[2] / "src" / "botvision" / "attention" / "measured.json"
TIE = 1.05  # times within which the backend that holds less memory comes first

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a folder of results, write its architecture's part of the table, print what it says and leaves out.

    Returns:
        The exit code: 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder that hour.sh wrote")
    parser.add_argument("--out", type=Path, default=TABLE, help="table to write into (default: the package's)")
    given = parser.parse_args(arguments)
    try:
        raced = read_json(given.results / "2_attention.json", what="results of stage 2")
        checked = read_json(given.results / "1_exactness.json", what="results of stage 1")
        if raced["toy"] or checked["toy"]:
            raise ValueError(f"{given.results} is of a toy run, which proves the script alone; run it on a GPU")
        for field in ("architecture", "commit"):
            if raced[field] != checked[field]:
                raise ValueError(f"stages 1 and 2 differ in their {field}: {checked[field]}, {raced[field]}")
        exact = exact_backends(checked["rows"])
        part = made(raced["rows"], exact)
        if not part:
            raise ValueError(f"{given.results} has no core that was timed and is exact; run stages 1 and 2 again")
        whole = read_json(given.out, what="table") if given.out.is_file() else {}
    except (ValueError, OSError) as error:
        print(f"table: {error}", file=sys.stderr)
        return 2
    write_text(given.out, json.dumps(dict(sorted({**whole, raced["architecture"]: part}.items())), indent=1) + "\n")
    print(told(raced["architecture"], part))
    print(*(f"not in the table: {line}" for line in left_out(raced["rows"], exact)), sep="\n")
    return 0


def exact_backends(rows: Sequence[Row]) -> dict[str, set[str]]:
    """By dtype, the backends that stage 1 found exact in every shape they take."""
    ran: dict[tuple[str, str], bool] = {}
    for row in rows:
        refused = not row["exact"] and "forward" not in row and "failed" not in row
        key = row["dtype"], row["backend"]
        if refused:
            continue
        ran[key] = ran.get(key, True) and row["exact"]
    found: dict[str, set[str]] = {}
    for (dtype, backend), is_exact in ran.items():
        if is_exact:
            found.setdefault(dtype, set()).add(backend)
    return found


def backend_of(row: Row) -> str | None:
    """The backend that a row timed; none for a contender that `auto` cannot choose."""
    is_ours = row["what"] == "core" and row["name"].startswith("attend ") and not row["compile"]
    name = row["name"].removeprefix("attend ")
    return name if is_ours and name != "auto" else None


def made(rows: Sequence[Row], exact: dict[str, set[str]]) -> dict[str, dict[str, list[Row]]]:
    """One architecture's part: dtype → "training" or "forward" → rows of `up_to` tokens and backends by speed."""
    timed: dict[tuple[str, str], dict[int, dict[int, list[Row]]]] = {}  # by tokens and batch
    for row in rows:
        backend = backend_of(row)
        if backend is None or not row["seconds"] or backend not in exact.get(row["precision"], ()):
            continue
        by_tokens = timed.setdefault((row["precision"], "training" if row["train"] else "forward"), {})
        by_tokens.setdefault(row["size"] ** 2, {}).setdefault(row["batch"], []).append(row)
    part: dict[str, dict[str, list[Row]]] = {}
    for (dtype, which), by_tokens in timed.items():
        sizes = sorted(by_tokens)
        orders = [by_speed(by_tokens[tokens][max(by_tokens[tokens])]) for tokens in sizes]  # the batch that fills it
        bounds = [*(round(math.sqrt(a * b)) for a, b in itertools.pairwise(sizes)), None]
        part.setdefault(dtype, {})[which] = merged(bounds, orders)
    return part


def by_speed(rows: Sequence[Row]) -> list[str]:
    """Backends from the fastest on; of those about as fast as the fastest, first the one that holds least."""
    times = {row["name"]: statistics.median(row["seconds"]) for row in rows}
    best = min(times.values())

    def rank(row: Row) -> tuple[bool, float]:
        time = times[row["name"]]
        if time > TIE * best:
            return True, time
        return False, math.inf if row["peak_mb"] is None else row["peak_mb"]

    return [row["name"].removeprefix("attend ") for row in sorted(rows, key=rank)]


def merged(bounds: Sequence[int | None], orders: Sequence[list[str]]) -> list[Row]:
    """Rows; neighbours of one order become one."""
    rows: list[Row] = []
    for bound, order in zip(bounds, orders, strict=True):
        if rows and rows[-1]["backends"] == order:
            rows[-1]["up_to"] = bound
        else:
            rows.append({"up_to": bound, "backends": order})
    return rows


def told(architecture: str, part: dict[str, dict[str, list[Row]]]) -> str:
    """The part as Markdown."""
    lines = [
        f"| compute capability {architecture} | pass | tokens | `auto` takes, in this order |",
        "|---|---|---|---|",
    ]
    for dtype, which in part.items():
        for name, rows in which.items():
            for row in rows:
                upto = "more" if row["up_to"] is None else f"up to {row['up_to']:,}"
                lines.append(f"| {dtype} | {name} | {upto} | {', '.join(row['backends'])} |")
    return "\n".join(lines)


def left_out(rows: Sequence[Row], exact: dict[str, set[str]]) -> list[str]:
    """Backends that were timed and are not in the table, and why."""
    lines = {
        f"{backend} in {row['precision']}: stage 1 did not find it exact"
        for row in rows
        if (backend := backend_of(row)) and row["seconds"] and backend not in exact.get(row["precision"], ())
    }
    lines |= {
        f"{backend} in {row['precision']} at {row['size']}²: {row['why_not']}"
        for row in rows
        if (backend := backend_of(row)) and row["why_not"]
    }
    return sorted(lines)


if __name__ == "__main__":
    sys.exit(main())
