"""All tasks on which both starts were trained, in one table: the linear readings, Mask R-CNN, the recipes, YOLO."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from botvision.engine.intervals import Interval, difference, interval
from studies.pages import NOT_RUN, table
from studies.starts.contenders import CONTENDERS

BASELINES = ("resnet", "se", "deep", "dilated")  # contenders and variants without attention
RECIPES = "starts_recipes_2-core-cpu_2026-11-30.json"  # runs by the product's own recipes
YOLO = "yolo_starts_2-core-cpu_2026-11-29.json"
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Task:
    """What was trained, what was measured, and each model's figure by seed, as a share of one."""

    title: str
    metric: str
    paper: BySeed
    directional: BySeed
    without: Mapping[str, BySeed]  # models without BoT attention, by their titles
    key: str = ""  # for the page's words

    def strongest(self) -> str | None:
        """The model without attention whose mean is highest."""
        return max(self.without, key=lambda title: fmean(self.without[title].values()), default=None)

    @property
    def beside(self) -> BySeed:
        """Figures of the strongest model without attention."""
        return self.without.get(self.strongest() or "", {})

    @property
    def to_paper(self) -> Interval | None:
        """Directional minus the paper's start."""
        return difference(self.directional, self.paper)

    @property
    def to_other(self) -> Interval | None:
        """Directional minus the strongest model without attention."""
        return difference(self.directional, self.beside)

    def row(self) -> list[str]:
        """As the table has it."""
        figures = (self.paper, self.directional, self.beside)
        paper, ours, other = (told(interval(list(runs.values())) if runs else None) for runs in figures)
        own = f"{name}: {other}" if (name := self.strongest()) else NOT_RUN
        return [self.title, self.metric, paper, ours, compared(self.to_paper), own, compared(self.to_other)]


def told(found: Interval | None) -> str:
    """A mean with its interval and the number of seeds."""
    return NOT_RUN if found is None else f"{found.text()} ({found.seeds})"


def compared(found: Interval | None) -> str:
    """A paired difference, in bold where its interval excludes zero."""
    if found is None:
        return NOT_RUN
    return f"**{found.text(sign=True)}**" if found.excludes_zero else found.text(sign=True)


def summary_table(tasks: list[Task]) -> str:
    """Tasks × starts, beside the strongest model without attention."""
    head = ["trained on", "in %", "the paper's start", "directional", "directional − the paper's"]
    return table([*head, "best without attention", "directional − it"], [task.row() for task in tasks])


def linear_tasks(shares: Mapping[tuple[str, str], BySeed], worlds: list[str]) -> list[Task]:
    """Small backbones read linearly."""
    return [
        Task(
            f"*{world}*, linear classifier",
            "accuracy",
            shares.get(("paper", world), {}),
            shares.get(("directional", world), {}),
            {CONTENDERS[name].title: shares[name, world] for name in BASELINES if shares.get((name, world))},
        )
        for world in worlds
    ]


def recipe_tasks(results: Path) -> list[Task]:
    """Runs by the product's recipes, and YOLO's variants; nothing where they are not filed."""
    found = []
    if (results / RECIPES).is_file():
        for one in json.loads((results / RECIPES).read_text())["tasks"]:
            runs = {name: {int(seed): value for seed, value in own.items()} for name, own in one["runs"].items()}
            without = {name: own for name, own in runs.items() if name not in ("paper", "directional")}
            found.append(Task(one["title"], one["metric"], runs["paper"], runs["directional"], without, one["key"]))
    if (results / YOLO).is_file():
        runs = {}
        for one in json.loads((results / YOLO).read_text())["runs"]:
            runs.setdefault(one["model"], {})[one["seed"]] = one["metrics"]["box"]
        for name in ("yolo11n-botnet", "yolo11n-insert"):
            title = f"scenes, `{name}`"
            found.append(
                Task(title, "box mAP", runs[name], runs[f"{name}-directional"], {"`yolo11n`": runs["yolo11n"]})
            )
    return found
