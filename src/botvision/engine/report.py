"""report.html: a run, or several beside a baseline, as one page that opens from disk."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch

from botvision.draw.charts import DASHES, Line, line_chart
from botvision.draw.curves import group_of
from botvision.draw.page import page, web
from botvision.draw.sections import Cell, Markup, Section, contents, escaped, folded, note, side_by_side, table, tiles
from botvision.engine.intervals import Interval, difference, interval, verdict
from botvision.engine.record import Record
from botvision.engine.reporter import Entry, Group, Headline, Reporter
from botvision.files import check_page, write_text

SECONDS = 60.0  # that the model of a run that has just ended looks at images, at most


class Written(NamedTuple):
    """A report that was written.

    Attributes:
        out: the file.
        megabytes: its size.
        seconds: that it took.
    """

    out: Path
    megabytes: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.out}: {self.megabytes:.1f} MB, made in {self.seconds:.1f} s; open it in a browser"


def place_of(out: Path | None, records: Sequence[Record]) -> Path:
    """The file to write: report.html in the folder of a single run, or here of several, unless another is wanted.

    Raises:
        ValueError: it is a folder, or its folder is a file.
    """
    if out is None:
        out = records[0].path / "report.html" if len(records) == 1 else Path("report.html")
    check_page(out, name="report.html")
    return out


def write_report(
    reporter: Reporter[Any],
    records: Sequence[Record],
    out: Path,
    *,
    against: Sequence[Record] = (),
    device: torch.device,
    seconds: float | None = None,
) -> Written:
    """Analyse runs and write their page.

    Args:
        reporter: of their task.
        records: the runs.
        out: the HTML file; one that is there is replaced.
        against: the baseline's runs.
        device: where models run.
        seconds: after which a model looks at no more images; none for no limit.

    Raises:
        ValueError: runs of different classes; a run twice; two runs of a kind with one seed.
    """
    started = time.monotonic()
    check_different([*records, *against])
    check_classes(reporter, [*records, *against])
    every = {record.path: entry_of(reporter, record, device, seconds) for record in (*records, *against)}
    groups = grouped([every[record.path] for record in records], [every[record.path] for record in against])
    text = assemble(reporter, groups)
    write_text(out, text)
    return Written(out, len(text.encode()) / 1e6, time.monotonic() - started)


def report_after(reporter: Reporter[Any], record: Callable[[], Record], out: Path, *, device: torch.device) -> None:
    """Write the report of a run that has just ended; whatever fails is a warning, since the run is whole."""
    try:
        written = write_report(reporter, [record()], out / "report.html", device=device, seconds=SECONDS)
        print(f"report: {written}", file=sys.stderr)
    except Exception as error:  # no report is worth a run
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        print(
            f"warning: {out / 'report.html'} could not be made ({reason}); the run itself is whole: make the report by "
            f"botvision report {out}",
            file=sys.stderr,
        )


def entry_of(reporter: Reporter[Any], record: Record, device: torch.device, seconds: float | None) -> Entry[Any]:
    """A run with its analysis, or why there is none, which is said on stderr too."""
    if record.checkpoint is None:
        return Entry(record, None, f"{record.path} has no checkpoint: the run ended before it saved one")
    try:
        return Entry(record, reporter.analyse(record, record.checkpoint, device=device, seconds=seconds))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        print(
            f"warning: the report of {record.path} is without examples and figures by class: {reason}", file=sys.stderr
        )
        return Entry(record, None, reason)


def check_different(records: Sequence[Record]) -> None:
    """Refuse a run that is given twice, and runs of one kind with the same seed.

    Raises:
        ValueError: there are such.
    """
    seen: dict[Path, Record] = {}
    kinds: dict[tuple[str, int], Record] = {}
    for record in records:
        if record.path.resolve() in seen:
            raise ValueError(f"{record.path} is given twice; give each run once")
        seen[record.path.resolve()] = record
        same = kinds.setdefault((record.kind, record.seed), record)
        if same is not record:
            raise ValueError(
                f"{same.path} and {record.path} are runs of the same options and the same seed {record.seed}; leave "
                "one out, for it says nothing of other seeds"
            )


def check_classes(reporter: Reporter[Any], records: Sequence[Record]) -> None:
    """Refuse runs of different classes, by name.

    Raises:
        ValueError: there are such.
    """
    known = [(r, list(reporter.classes(r.checkpoint))) for r in records if r.checkpoint] if len(records) > 1 else []
    for record, classes in known[1:]:
        first, own = known[0]
        if classes != own:
            apart = ", ".join(sorted(set(own) ^ set(classes))[:4]) or "the same in another order"
            raise ValueError(
                f"{first.path} and {record.path} have different classes ({apart}); compare runs of the same data"
            )


def grouped(ours: Sequence[Entry[Any]], others: Sequence[Entry[Any]]) -> list[Group]:
    """Runs by kind, the baseline's last; labelled by their models where these differ, otherwise by their folders.

    Of folders of one name as many parents are told as tell them apart.
    """
    kinds: dict[tuple[bool, str], list[Entry[Any]]] = {}
    for is_baseline, entries in ((False, ours), (True, others)):
        for entry in entries:
            kinds.setdefault((is_baseline, entry.record.kind), []).append(entry)
    models = [entries[0].record.model for entries in kinds.values()]
    by_model = len(kinds) > 1 and all(models) and len(set(models)) == len(models)
    paths = [entries[0].record.path.resolve().parts for entries in kinds.values()]
    lengths = range(1, max(map(len, paths)) + 1)
    needed = next(n for n in lengths if len({path[-n:] for path in paths}) == len(paths))
    groups = []
    for ((is_baseline, _), entries), path in zip(kinds.items(), paths, strict=True):
        label = entries[0].record.model if by_model else "/".join(path[-needed:])
        label += f" ({len(entries)} seeds)" if len(entries) > 1 else ""
        groups.append(Group(label, entries, is_baseline))
    return groups


def assemble(reporter: Reporter[Any], groups: Sequence[Group]) -> str:
    """The page as text."""
    sections = [*common_head(reporter, groups), *reporter.sections([g for g in groups if g.analysed])]
    sections += [*entropies(reporter, groups), *configuration(groups)]
    names = " and ".join(group.label for group in groups)
    title = f"Report of {names}"
    about = f'<p class="quiet">{escaped(subtitle(reporter, groups))}</p>'
    head = f"<header><div><h1>{escaped(title)}</h1>{about}</div>{THEME}</header>"
    notes = [note(entry.why_not) for group in groups for entry in group.entries if entry.why_not]
    first, *others = [one for group in groups for one in group.analysed] or [None]
    if any(reporter.other_images(first, other) for other in others):
        notes.append(note(OTHER_IMAGES))
    body = "".join([head, contents(sections), *notes, *map(str, sections), FOOTER])
    return page(title, f"<main>{body}</main>", data={}, styles=[web("botvision.draw", "report.css")])


OTHER_IMAGES = "The runs were evaluated on different validation images: differences are not the models' alone."
THEME = Markup('<button type="button" id="theme" aria-pressed="false">dark</button>')
FOOTER = Markup(
    "<footer>Made by botvision report. The file asks for nothing: mail it, open it without a network.</footer>"
)


def subtitle(reporter: Reporter[Any], groups: Sequence[Group]) -> str:
    """What was trained, and what the page was counted from."""
    if len(groups) > 1 or len(groups[0].entries) > 1:
        runs = sum(len(group.entries) for group in groups)
        return f"{runs} runs of a {reporter.kind}; pictures and matrices are of the first run of each kind."
    record, analysis = groups[0].first.record, groups[0].first.analysis
    told = [f"{record.model} {reporter.kind}".strip()]
    if "epochs" in record.summary:
        many = "" if record.summary["epochs"] == 1 else "s"
        told.append(f"{record.summary['epochs']} epoch{many} in {record.summary['wall_seconds'] / 60:.1f} min")
    else:
        told.append("the run has not ended")
    counted = getattr(analysis, "counted", "")
    return ", ".join(told) + (f"; {counted}" if counted else "") + "."


def common_head(reporter: Reporter[Any], groups: Sequence[Group]) -> Iterator[Section]:
    """Numbers and curves."""
    if reporter.headlines:
        yield Section("Result", "", numbers(reporter, groups))
    charts = [chart for title, columns in reporter.panels.items()
              for chart in curves(title, columns, groups, along=reporter.along)]  # fmt: skip
    if charts:
        yield Section("Curves", f"From {reporter.table}, over the {reporter.along}s of training.", side_by_side(charts))
    else:
        yield Section("Curves", "", note(f"{reporter.table} has no row yet: the run ended before anything was logged."))


def numbers(reporter: Reporter[Any], groups: Sequence[Group]) -> str:
    """Large numbers of a single run; a table of several."""
    known = [one for one in reporter.headlines if any(one.of(entry) is not None for g in groups for entry in g.entries)]
    if not known:
        return note("Nothing was evaluated yet: the run ended before its first evaluation.")
    if len(groups) == 1 and len(groups[0].entries) == 1:
        entry = groups[0].first
        shown = [(one, one.of(entry)) for one in known]
        return tiles([(one.text(value), one.name, one.words) for one, value in shown if value is not None])
    baseline = next((group for group in groups if group.is_baseline), None)
    rows: list[list[Cell]] = []
    for one in known:
        row: list[Cell] = [one.name, *(spread(one, group) for group in groups)]
        if baseline is not None:
            row += [compared(one, group, baseline) for group in groups if not group.is_baseline]
        rows.append(row)
    ours = [group for group in groups if not group.is_baseline]
    head = ["", *(group.label for group in groups)]
    if baseline is not None:
        head += [f"{group.label} − baseline" if len(ours) > 1 else "difference" for group in ours]
    caption = (
        "Mean ± half a 95 % t-interval over seeds, from three seeds on; fewer are listed. Differences are taken seed "
        "by seed."
    )
    words = [[one.name, one.words] for one in known]
    return table(head, rows, caption=caption) + folded(
        "What these numbers mean", f'<div class="words">{table(["", ""], words)}</div>'
    )


def values(one: Headline, group: Group) -> dict[int, float]:
    """A number of each run by its seed, where there is one."""
    found = {entry.record.seed: one.of(entry) for entry in group.entries}
    return {seed: value for seed, value in found.items() if value is not None}


def spread(one: Headline, group: Group) -> str:
    """A number over the seeds of a kind."""
    found = values(one, group)
    return shown(interval(list(found.values())), one) if found else "–"


def shown(found: Interval, one: Headline, *, sign: bool = False) -> str:
    """An interval as a table has it."""
    times, digits, unit = (100, 1, " %") if one.per_cent else (1, 3, "")
    return found.text(times=times, digits=digits, sign=sign) + unit


def compared(one: Headline, group: Group, baseline: Group) -> str:
    """A difference to the baseline over the seeds that both have, in numbers and words."""
    ours, theirs = values(one, group), values(one, baseline)
    if not ours or not theirs:
        return "–"
    found = difference(ours, theirs)
    if found is None:
        return "no common seed"
    return f"{shown(found, one, sign=True)} ({verdict(found)})"


def curves(title: str, patterns: Sequence[str], groups: Sequence[Group], *, along: str) -> Iterator[str]:
    """A panel: of one run a colour a column; of several a colour a kind, and dashes tell columns apart.

    Where there are more columns than dashes, each has a panel of its own.
    """
    runs = [(number, group, entry.record) for number, group in enumerate(groups) for entry in group.entries]
    known = dict.fromkeys(column for _, _, record in runs for row in record.rows for column in row)
    columns = [column for pattern in patterns for column in known if fnmatchcase(column, pattern)]
    alone = len(runs) == 1
    if not alone and len(columns) > len(DASHES):
        for column in columns:
            yield from curves(column, [column], groups, along=along)
        return
    lines = []
    for place, column in enumerate(columns):
        short = column.removeprefix("train/").removeprefix("loss_") if title.startswith("parts") else column
        for number, group, record in runs:
            points = record.points(column, along=along)
            label = short if alone else group.label + (f", {short}" if len(columns) > 1 else "")
            colour, dash = (place, place // 4) if alone else (number, place)
            lines.append(Line(label, points, colour, dash, dots=len(points) <= 30))
    if chart := line_chart(lines, title=title, x=along, y=""):
        yield chart


def entropies(reporter: Reporter[Any], groups: Sequence[Group]) -> Iterator[Section]:
    """Each head's entropy and distance over training, of the first run of each kind."""
    charts = []
    for group in groups:
        record = group.first.record
        for title, patterns in reporter.heads.items():
            known = dict.fromkeys(column for row in record.rows for column in row)
            columns = [column for column in known for pattern in patterns if fnmatchcase(column, pattern)]
            layers = list(dict.fromkeys(map(group_of, columns)))
            lines = []
            for column in columns:
                points = record.points(column, along=reporter.along)
                layer = group_of(column)
                label = layer.rsplit("/", 1)[-1].removesuffix(".head")
                lines.append(Line(label, points, layers.index(layer), layers.index(layer), dots=True))
            named = f"{group.label}: {title}" if len(groups) > 1 else title
            unit = (0.0, 1.0) if "log N" in title else None
            if chart := line_chart(lines, title=named, x=reporter.along, y="", y_range=unit):
                charts.append(chart)
    if charts:
        about = (
            f"A line a head, {reporter.looked_at}. Entropy 1: the head averages over the whole map; 0: it looks at one "
            "place."
        )
        yield Section("Attention heads over training", about, side_by_side(charts))


def configuration(groups: Sequence[Group]) -> Iterator[Section]:
    """Time, hardware and every option."""
    names = {"hardware": "hardware", "wall_seconds": "time, min", "peak_memory_mb": "peak memory, MiB",
             "gpu_memory_mb": "peak GPU memory, MiB", "epochs": "epochs", "seed": "seed"}  # fmt: skip
    runs = [entry.record for group in groups for entry in group.entries]
    rows: list[list[Cell]] = []
    for key, name in names.items():
        cells = [record.summary.get(key) for record in runs]
        if any(cells) or key == "seed":
            rows.append([name, *("–" if one is None else plainly(one, minutes=key == "wall_seconds") for one in cells)])
    rows.append(["checkpoint", *(str(record.checkpoint or "none") for record in runs)])
    flat = [dict(flattened(record.config)) for record in runs]
    every = list(dict.fromkeys(key for one in flat for key in one))
    differing = [key for key in every if len({str(one.get(key)) for one in flat}) > 1]
    body: str = table(["", *(record.name for record in runs)], rows)
    if len(runs) > 1:
        options: list[list[Cell]] = [[key, *(str(one.get(key, "–")) for one in flat)] for key in differing]
        body += table(["", *(record.name for record in runs)], options, caption="Options that differ")
    alike: list[list[Cell]] = [[key, str(flat[0][key])] for key in every if key not in differing and key in flat[0]]
    body += folded(
        "All options" if len(runs) == 1 else "Options that are alike",
        f'<div class="words">{table(["", ""], alike)}</div>',
    )
    yield Section("Configuration, hardware, time", "", f'<div class="words">{body}</div>')


def plainly(value: Any, *, minutes: bool) -> str:
    """A number or text of the summary."""
    return f"{value / 60:.1f}" if minutes else f"{value:,}" if isinstance(value, int | float) else str(value)


def flattened(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their flags' names."""
    if not isinstance(options, dict) or not options:
        yield prefix, options
        return
    for name, value in options.items():
        yield from flattened(value, f"{prefix}.{name}" if prefix else str(name))
