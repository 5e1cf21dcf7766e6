"""A grid in YAML: worlds × variants × seeds, one recipe for all; every run of it by name."""

from argparse import ArgumentError
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from jsonargparse import ArgumentParser

from botvision.engine.config import EngineConfig
from botvision.maskrcnn.config import DataConfig, ModelConfig, OptimConfig
from botvision.scenes import make_scenes
from botvision.scenes.world import RELATION

SHIPPED = Path(__file__).with_name("grids")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Variant:
    """A model of the grid.

    Attributes:
        title: what it is, for tables.
        backbone, options: of the detector, as `botvision.maskrcnn.ModelConfig` takes them.
        paper: row of the paper's COCO tables (`studies/paper/published.py`) that it is the small counterpart of.
        first: variant that is trained first, with the first `share` of the epochs; this one begins from its weights.
        share: of the epochs that `first` gets.
        train: settings of its training that differ from the grid's, by part.
    """

    title: str
    backbone: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: str | None = None
    first: str | None = None
    share: float = 0.5
    train: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """What is trained, on what, and how.

    Attributes:
        name: of the packaged grid, or the file's.
        baseline: variant that the others are compared with.
        seeds: of scenes, weights and order alike: a seed's runs see the same images.
        scenes: options of `botvision.scenes.make_scenes` for every world.
        worlds: options of `make_scenes` by the world's name.
        variants: by name.
        train: options of the data, model, optim and engine that `botvision.maskrcnn.train` takes, by part; the
            same for all that do not say otherwise.
        note: what a reader should know of the recipe, for the page.
        heading: what is compared, for the page's title.
        finding: what its runs show, and what they do not, for the page's head.
        remarks: what a reader should know of a world's runs before their figures, by the world's name.
    """

    name: str
    baseline: str
    seeds: list[int]
    scenes: dict[str, Any]
    worlds: dict[str, dict[str, Any]]
    variants: dict[str, Variant]
    train: dict[str, dict[str, Any]]
    heading: str = "BoTNet, ResNet and controls"
    note: str = ""
    finding: str = ""
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def has_paper(self) -> bool:
        """Whether any variant has a counterpart among the paper's rows."""
        return any(variant.paper for variant in self.variants.values())

    def label(self, variant: str, seeds: Collection[int]) -> str:
        """A variant's title, with its seeds where they are not all of the grid's."""
        title = self.variants[variant].title
        if set(seeds) == set(self.seeds):
            return title
        return f"{title} (seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, sorted(seeds)))})"

    def relations(self) -> list[str]:
        """Tasks of its worlds in which a digit's class needs another digit."""
        tasks = {options.get("task", "plain") for options in self.worlds.values()}
        return [task for task in RELATION if task in tasks]

    def runs(
        self, *, worlds: Sequence[str] = (), variants: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> list["Run"]:
        """Runs in their order, each seed's variants together, so that a sweep that stops leaves whole comparisons.

        Raises:
            ValueError: a name that the grid does not have.
        """
        for what, asked, known in (
            ("world", worlds, list(self.worlds)),
            ("variant", variants, list(self.variants)),
            ("seed", seeds, self.seeds),
        ):
            strange = [one for one in asked if one not in known]
            if strange:
                names = ", ".join(map(str, known))
                raise ValueError(f"grid {self.name} has no {what} {strange[0]!r}; it has {names}")
        return [
            Run(self, world, variant, seed)
            for world in self.worlds
            for seed in self.seeds
            for variant in self.variants
            if (not worlds or world in worlds)
            and (not variants or variant in variants)
            and (not seeds or seed in seeds)
        ]


class Configs(NamedTuple):
    """What a training is given, in `train`'s own words."""

    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    engine: EngineConfig


class Run(NamedTuple):
    """One training: a variant in a world, from a seed."""

    grid: Grid
    world: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.world}_{self.variant}_seed{self.seed}"

    @property
    def scenes(self) -> dict[str, Any]:
        """Options of `make_scenes`."""
        return {**self.grid.scenes, **self.grid.worlds[self.world], "seed": self.seed}

    @property
    def stages(self) -> list[tuple[Variant, int]]:
        """Models trained one after the other, each from the one before, with their epochs."""
        own, epochs = self.grid.variants[self.variant], int(self.train["optim"]["epochs"])
        if own.first is None:
            return [(own, epochs)]
        before = max(1, round(own.share * epochs))
        return [(self.grid.variants[own.first], before), (own, epochs - before)]

    @property
    def settings(self) -> dict[str, Any]:
        """All that makes it what it is, as JSON holds it."""
        stages = [{"backbone": v.backbone, "options": v.options, "epochs": epochs} for v, epochs in self.stages]
        return {"scenes": self.scenes, "stages": stages, "train": self.train, "seed": self.seed}

    @property
    def train(self) -> dict[str, dict[str, Any]]:
        """Settings of its trainings: the grid's, and the variant's own over them."""
        own = self.grid.variants[self.variant].train
        return {part: {**options, **own.get(part, {})} for part, options in self.grid.train.items()}


def read_grid(name: str) -> Grid:
    """A shipped grid by its name, or one's own YAML by its path.

    Raises:
        FileNotFoundError: neither.
        ValueError: not a grid: an unknown or missing key, a value of another kind, a variant that is not there.
    """
    shipped = {path.stem: path for path in SHIPPED.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no grid {name!r}; give one of {', '.join(sorted(shipped))}, or a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"grid {path} is not YAML: {str(error).splitlines()[0]}; mend the file") from error
    wanted = {f.name for f in fields(Grid)} - {"name"}
    check_keys(content, wanted, needed=wanted - {"heading", "note", "finding", "remarks"}, what=f"grid {path}")
    check_keys(content.get("remarks", {}), set(content["worlds"]), what=f"grid {path}, remarks")
    drawn = set(signature(make_scenes).parameters) - {"out", "seed"}
    for world, options in [("scenes", content["scenes"]), *content["worlds"].items()]:
        check_keys(options, drawn, what=f"grid {path}, {world}")
    check_numbers(content["seeds"], least=0, what=f"grid {path}, seeds")
    counts = {"train": 1, "val": 1, "size": 1, "clutter": 0}
    for world, options in [("scenes", content["scenes"]), *content["worlds"].items()]:
        for count in set(counts) & set(options):
            check_numbers([options[count]], least=counts[count], what=f"grid {path}, {world}.{count}")
    check_keys(content["train"], set(Configs._fields), needed={"model", "optim"}, what=f"grid {path}, train")
    check_keys(content["train"]["optim"], None, needed={"epochs"}, what=f"grid {path}, train.optim")
    about = {f.name for f in fields(Variant)}
    for variant, options in content["variants"].items():
        check_keys(options, about, needed={"title", "backbone"}, what=f"grid {path}, variant {variant}")
        check_keys(options.get("train", {}), set(content["train"]), what=f"grid {path}, {variant}.train")
    variants = {variant: Variant(**options) for variant, options in content["variants"].items()}
    grid = Grid(**{**content, "name": path.stem, "variants": variants})
    named = [("baseline", grid.baseline), *((n, v.first) for n, v in variants.items() if v.first is not None)]
    for variant, other in named:
        if other not in variants:
            raise ValueError(f"grid {path}: {variant} names variant {other!r}; it has {', '.join(variants)}")
    for run in grid.runs(worlds=[*grid.worlds][:1], seeds=grid.seeds[:1]):
        what = f"grid {path}, {run.variant}, train"
        for stage in run.settings["stages"]:
            epochs = build_configs(run.settings, stage, Path(), what=what).optim.epochs
            if not isinstance(epochs, int) or epochs < 1:
                raise ValueError(f"{what}: {run.variant} has a stage without an epoch; raise train.optim.epochs")
    return grid


def build_configs(settings: Mapping[str, Any], stage: Mapping[str, Any], scenes: Path, *, what: str) -> Configs:
    """What `train` is given for a stage of a run.

    Args:
        settings: of the run.
        stage: one of the settings' stages.
        scenes: folder of the run's scenes.
        what: whose settings they are, for messages.

    Raises:
        ValueError: an option that `train` does not have, or a value of another kind.
    """
    paths = {f"{split}_annotations": scenes / "annotations" / f"{split}.json" for split in ("train", "val")}
    paths |= {f"{split}_images": scenes / split for split in ("train", "val")}
    own: dict[str, dict[str, Any]] = {
        "data": {name: str(path) for name, path in paths.items()},
        "model": {"backbone": stage["backbone"], "backbone_options": stage["options"] or None},
        "optim": {"epochs": stage["epochs"]},
        "engine": {"seed": settings["seed"], "progress": False},
    }
    parts = Configs.__annotations__.items()
    train = settings["train"]
    return Configs(*[build_config(kind, train.get(part, {}), own[part], what=f"{what}.{part}") for part, kind in parts])


def build_config(kind: type[Config], given: Mapping[str, Any], own: Mapping[str, Any], *, what: str) -> Config:
    """A dataclass of a grid's options and the run's own, each of the kind that its field says."""
    check_keys(given, {f.name for f in fields(kind)}, what=what)  # type: ignore[arg-type]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "config")
    try:
        made: Config = parser.instantiate_classes(parser.parse_object({"config": {**given, **own}})).config
    except ArgumentError as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}; mend the grid") from error
    return made


def check_keys(content: Any, known: set[str] | None, *, needed: Collection[str] = (), what: str) -> None:
    """Refuse a mapping with a key too many (none: any are known) or too few."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} is no mapping; it takes the keys {', '.join(sorted(known or needed))}")
    if known is not None and (strange := sorted(set(content) - known)):
        raise ValueError(f"{what} has an unknown key {strange[0]!r}; it takes {', '.join(sorted(known))}")
    if missing := sorted(set(needed) - set(content)):
        raise ValueError(f"{what} lacks {missing[0]!r}; add it")


def check_numbers(values: Any, *, least: int, what: str) -> None:
    """Refuse what is no list of whole numbers, or a list without any."""
    if not isinstance(values, list) or not values or not all(type(value) is int and value >= least for value in values):
        said = values[0] if isinstance(values, list) and len(values) == 1 else values
        raise ValueError(f"{what}: whole numbers of at least {least} are needed; got {said!r}; mend the grid")


def as_pairs(options: Mapping[str, Any]) -> dict[str, Any]:
    """YAML's lists as the pairs that scenes are made of."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
