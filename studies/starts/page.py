"""The page on the directional start: its words are in page.md.jinja, its numbers in the result files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from botvision.files import write_text
from studies.pages import NOT_RUN, listed, render, table
from studies.starts.contenders import CONTENDERS
from studies.starts.reading import BATCH, RATE, SIZE, STEPS, TRAIN, VAL, WARMUP, WORLDS
from studies.starts.results import by_seed, half_interval, mean_interval, read_results

STRONG = ("se", "deep")  # baselines that any claim over a ResNet is held against
Shares = Mapping[tuple[str, str], Mapping[int, float]]  # (contender, world) → seed → % named right


def write_page(results: Path, page: Path) -> None:
    """The Markdown of all trials that are filed."""
    write_text(page, build_page(results))


def build_page(results: Path) -> str:
    """The page's text: of the results alone, so that the same results always give the same page."""
    found = read_results(results)
    shares = by_seed(found)
    worlds = [world for world in WORLDS if any(key[1] == world for key in shares)]
    return render(
        Path(__file__).with_name("page.md.jinja"),
        shares=share_table(shares, worlds, found),
        differences=difference_table(shares, worlds),
        heads=head_table(found, worlds),
        trials=len(found),
        seeds=sorted({one["seed"] for one in found}),
        hardware=sorted({one["hardware"] for one in found}),
        missing=missing(shares),
        commits=sorted({one["commit"] for one in found}),
        setting={
            "size": SIZE,
            "steps": STEPS,
            "batch": BATCH,
            "rate": RATE,
            "train": TRAIN,
            "val": VAL,
            "warmup": WARMUP,
        },
    )


def share_table(shares: Shares, worlds: Sequence[str], found: Sequence[dict[str, Any]]) -> str:
    """Contenders × worlds: % named right."""
    sizes = {one["contender"]: f"{one['parameters'] / 1e6:.2f}M" for one in found}
    rows = [
        [one.title, sizes[name], *(mean_interval(list(shares.get((name, world), {}).values())) for world in worlds)]
        for name, one in CONTENDERS.items()
        if name in sizes
    ]
    return table(["", "parameters", *(f"*{world}*" for world in worlds)], rows)


def difference_table(shares: Shares, worlds: Sequence[str]) -> str:
    """Paired differences of the directional start, and what they say."""
    rows = []
    for world in worlds:
        strongest = max(STRONG, key=lambda name: mean(shares.get((name, world), {}).values()))
        for other in ("paper", "resnet", strongest):
            ours, theirs = shares.get(("directional", world), {}), shares.get((other, world), {})
            both = sorted(set(ours) & set(theirs))
            rows.append(
                [f"*{world}*: directional − {CONTENDERS[other].title}", *verdict([ours[s] - theirs[s] for s in both])]
            )
    return table(["difference of the share named right, in points", "mean ± 95 %", ""], rows)


def verdict(differences: Sequence[float]) -> tuple[str, str]:
    """A paired difference with its interval, and where that lies."""
    if len(differences) < 3:
        return ", ".join(f"{value:+.1f}" for value in differences) or NOT_RUN, "too few seeds to tell"
    middle, half = mean(differences), half_interval(differences)
    said = "above" if middle - half > 0 else "below" if middle + half < 0 else "no difference can be told"
    return f"{middle:+.1f} ± {half:.1f} (n = {len(differences)})", said


def mean(values: Any) -> float:
    """Of any numbers; minus infinity of none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else float("-inf")


def head_table(found: Sequence[dict[str, Any]], worlds: Sequence[str]) -> str:
    """Entropy / log N and mean distance of the heads, before and after training: mean over heads and seeds."""
    rows = []
    for name, one in CONTENDERS.items():
        for world in worlds:
            own = [each for each in found if (each["contender"], each["world"]) == (name, world) and each["before"]]
            if own:
                cells = [
                    f"{mean(head[column] for each in own for head in each[when]):.{digits}f}"
                    for when in ("before", "after")
                    for column, digits in ((0, 3), (1, 1))
                ]
                rows.append([one.title, f"*{world}*", *cells])
    return table(
        ["", "", "entropy / log N before", "distance before, cells", "entropy / log N after", "distance after, cells"],
        rows,
    )


def missing(shares: Shares) -> list[str]:
    """Contenders with the worlds in which they have no trial yet."""
    lacking = {one.title: [w for w in WORLDS if (name, w) not in shares] for name, one in CONTENDERS.items()}
    return [
        title if len(worlds) == len(WORLDS) else f"{title} in {listed([f'*{world}*' for world in worlds])}"
        for title, worlds in lacking.items()
        if worlds
    ]
