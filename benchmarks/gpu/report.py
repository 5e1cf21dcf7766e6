"""Results of the hour as one Markdown page, goals first: python benchmarks/gpu/report.py RESULTS [--out PAGE]."""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botvision.files import read_json, write_text

RACES = ("2_attention", "3_detector", "4_family", "5_prediction", "7_tiles")
ON_DEMAND = "7_tiles"
NOT_MEASURED = "not measured"
SDPA, TIMM = "torch SDPA, no positions", "timm BottleneckAttn"

Row = dict[str, Any]


class Goal(NamedTuple):
    """A goal and the figure that checks it.

    Attributes:
        goal: in words.
        figure: what was measured; none where it was not.
        met: whether it is met; none where it was not measured, or where there is no bound.
    """

    goal: str
    figure: str | None = None
    met: bool | None = None

    def __str__(self) -> str:
        said = "" if self.met is None else ", met" if self.met else ", **missed**"
        return f"| {self.goal} | {self.figure or NOT_MEASURED}{said} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or write it.

    Returns:
        The exit code: 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder that hour.sh wrote")
    parser.add_argument("--out", type=Path, help="Markdown file to write instead")
    given = parser.parse_args(arguments)
    try:
        text = page(given.results)
        if given.out is None:
            print(text, end="")
        else:
            write_text(given.out, text)
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


def page(folder: Path) -> str:
    """Origin, goals, exactness, races, evidence; what has no file is named as not run.

    Raises:
        ValueError: nothing is there, or stages come from different machines or commits.
    """
    found = {path.stem: read_json(path, what="results of a stage") for path in sorted(folder.glob("[1-7]_*.json"))}
    if not found:
        raise ValueError(f"{folder} holds no results of a stage; give a folder that hour.sh wrote")
    origins = {(one["machine"], one["commit"], one["toy"]) for one in found.values()}
    if len(origins) > 1:
        raise ValueError(f"{folder} holds results of different machines or commits: {sorted(map(str, origins))}")
    machine, commit, toy = origins.pop()
    rows = {name: found[name]["rows"] if name in found else [] for name in ("1_exactness", *RACES, "6_evidence")}
    title = "A toy run: it proves the script, and nothing else" if toy else "One hour on a GPU"
    date = min(one["date"] for one in found.values())
    not_run = [name for name, own in rows.items() if not own and name != ON_DEMAND]
    capability = next(iter(found.values()))["architecture"]
    parts = [
        f"# {title}",
        f"{machine}, compute capability {capability}; commit {commit or 'unknown'}; {date}. "
        "`benchmarks/gpu/hour.sh`; medians of rounds in random order."
        + (f" Not run: {', '.join(not_run)}." if not_run else ""),
    ]
    if not toy:
        parts.append("\n".join(["| goal | measured |", "|---|---|", *map(str, goals(rows))]))
    if rows["1_exactness"]:
        parts += ["## 1_exactness", "\n".join(exactness_table(rows["1_exactness"]))]
    for name in RACES:
        if rows[name]:
            parts += [f"## {name}", found[name]["note"], "\n".join(race_table(rows[name], own=name == "5_prediction"))]
    if rows["6_evidence"]:
        told = [
            f"- {row['file'].removesuffix('.json')}: {100 * row['right']:.1f} % named right, {row['step_ms']} ms a step"
            for row in rows["6_evidence"]
        ]
        parts += ["## 6_evidence", "\n".join(told)]
    return "\n\n".join(part for part in parts if part) + "\n"


def goals(rows: dict[str, list[Row]]) -> Iterator[Goal]:
    """What the hour was asked for, each from one figure of one stage."""
    races = rows["2_attention"]
    for side in (32, 64):
        yield core_goal(races, side)
    for train in (False, True):
        yield from layer_goals(races, train=train)
    for compiled, how in ((False, ""), (True, ", compiled")):
        own = pick(rows["3_detector"], compile=compiled)
        goal = f"Mask R-CNN step at 1024 px{how}, BoT50 / ResNet-50 ≤ 1.15 (paper, TPU: 1.313)"
        yield ratio_goal(goal, named(own, "botnet50"), named(own, "resnet50"), at_most=1.15)
    for compiled, how in ((False, ""), (True, ", compiled")):
        own = pick(rows["4_family"], train=True, compile=compiled)
        t7, b7 = named(own, "botnet_s1_128@384"), named(own, "tf_efficientnet_b7@600")
        yield ratio_goal(f"training step{how}, B7 / T7 ≥ 2.33 (paper, TPU: 1.64)", b7, t7, at_least=2.33)


def core_goal(rows: Sequence[Row], side: int) -> Goal:
    """The fastest of ours in training beside torch's attention without positions."""
    own = pick(rows, what="core", size=side, batch=8, train=True, precision="bfloat16", compile=False)
    ours = fastest(row for row in own if row["name"].startswith("attend "))
    goal = f"core at {side}², training, ours / torch's without positions ≤ 1.3"
    return ratio_goal(goal, ours, named(own, SDPA), at_most=1.3)


def layer_goals(rows: Sequence[Row], *, train: bool) -> Iterator[Goal]:
    """Ours beside timm's layer at 64²: time and memory."""
    own = pick(rows, what="layer", size=64, batch=8, train=train, precision="bfloat16", compile=False)
    ours, theirs = fastest(row for row in own if row["name"].startswith("MHSA2d ")), named(own, TIMM)
    which = "training" if train else "forward"
    yield ratio_goal(f"layer at 64², {which}, timm's / ours ≥ 3", theirs, ours, at_least=3)
    goal = f"layer at 64², {which}, timm's memory / ours ≥ 10"
    if ours is None or theirs is None or not ours["peak_mb"] or not theirs["peak_mb"]:
        yield Goal(goal)
        return
    share = theirs["peak_mb"] / ours["peak_mb"]
    yield Goal(goal, f"{share:.1f} ({ours['name']}: {ours['peak_mb']:.0f} MB)", share >= 10)


def ratio_goal(
    goal: str, above: Row | None, below: Row | None, *, at_most: float | None = None, at_least: float | None = None
) -> Goal:
    """Two contenders' times of the same rounds."""
    if above is None or below is None:
        return Goal(goal)
    ratio = statistics.median(a / b for a, b in zip(above["seconds"], below["seconds"], strict=True))
    met = ratio <= at_most if at_most is not None else ratio >= (at_least or 0)
    return Goal(goal, f"{ratio:.2f} ({above['name']} / {below['name']}, batch {above['batch']})", met)


def pick(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """Rows with these fields."""
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def named(rows: Sequence[Row], name: str) -> Row | None:
    """The row of a contender that ran."""
    return next((row for row in rows if row["name"] == name and row["seconds"]), None)


def fastest(rows: Iterator[Row]) -> Row | None:
    """The row of least median time."""
    return min((row for row in rows if row["seconds"]), key=lambda row: statistics.median(row["seconds"]), default=None)


def exactness_table(rows: Sequence[Row]) -> Iterator[str]:
    """The largest deviations of each backend and dtype over all shapes."""
    yield "| backend | dtype | cases exact | largest deviation, output | gradients | same bits twice | refused |"
    yield "|---|---|---|---|---|---|---|"
    for backend, dtype in dict.fromkeys((row["backend"], row["dtype"]) for row in rows):
        own = pick(rows, backend=backend, dtype=dtype)
        ran = [row for row in own if "forward" in row]
        why_not = next((row["why_not"] for row in own if "why_not" in row), "")
        figures = "| | |"
        if ran:
            out, gradient = max(row["forward"] for row in ran), max(max(row["gradients"]) for row in ran)
            figures = f"{out:.1e} | {gradient:.1e} | {'yes' if all(row['repeatable'] for row in ran) else 'no'}"
        yield f"| {backend} | {dtype} | {sum(row['exact'] for row in own)} of {len(own)} | {figures} | {why_not} |"


def race_table(rows: Sequence[Row], *, own: bool) -> Iterator[str]:
    """Every heat, its baseline first; the precision is the heat's, or each contender's `own`, which its name says."""
    yield "| comparison | precision | what ran | median ms | spread ms | × baseline | peak MB |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        how = "" if own else f"{row['precision']}{', compiled' if row['compile'] else ''}"
        if not row["seconds"]:
            yield f"| {row['heat']} | {how} | {row['name']} | {row['why_not']} | | | |"
            continue
        middle, best, worst = (1e3 * f(row["seconds"]) for f in (statistics.median, min, max))
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        times = f"{middle:.2f} | {best:.2f} … {worst:.2f} | {row['ratio']:.2f}"
        yield f"| {row['heat']} | {how} | {row['name']} | {times} | {peak} |"


if __name__ == "__main__":
    sys.exit(main())
