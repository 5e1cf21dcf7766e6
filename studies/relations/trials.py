"""One trial: a variant trained with one of its draws in a world, from a seed."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from botvision.backbone.counts import count
from botvision.files import write_json
from studies.hardware import commit, hardware
from studies.relations.probes import probe
from studies.relations.protocol import FORMS, SEARCH_SEED, draws
from studies.starts.reading import SCENES, Objects, measured, names_right, open_world, trained


class Trial(NamedTuple):
    """A training."""

    world: str
    variant: str
    seed: int
    draw: int

    def file(self, results: Path) -> Path:
        """Where its result is filed."""
        kind = f"search{self.draw}" if self.seed == SEARCH_SEED else f"seed{self.seed}"
        return results / f"{self.world}_{self.variant}_{kind}.json"


def carry_out(one: Trial, *, results: Path, scenes: Path, jobs: int, form: str = "cpu") -> None:
    """Train, measure and file, in a process of its own."""
    torch.set_num_threads(1)
    setting = FORMS[form].setting
    size, steps = setting.size, FORMS[form].steps
    splits = open_world(one.world, one.seed, scenes, setting)
    draw = draws(one.variant)[one.draw]
    contender = draw.contender(one.variant, form)
    done = trained(contender, splits, one.seed, steps=steps, recipe=draw.recipe, setting=setting)
    result: dict[str, Any] = {
        **one._asdict(),
        "recipe": {**draw.recipe._asdict(), **draw.options},
        "steps": steps,
        **measured(done, splits[1]),
        "madds": count(done.reader.body, (size, size)).madds,
        "by_distance": by_distance(names_right(done.reader, splits[1]), splits[1], one.world, size=size),
    }
    if one.world.startswith("pair") and one.seed != SEARCH_SEED:
        result["probe"] = probe(done.reader, one.world, one.seed, size=size)
    write_json(one.file(results), result | {"hardware": hardware(jobs), "commit": commit()})


def by_distance(right: torch.Tensor, val: Objects, world: str, *, size: int) -> list[dict[str, float]]:
    """Share named right in three steps of the distance to the partner in px; none where there is no partner."""
    if "distance" not in SCENES[world]:
        return []
    low, high = (size * share for share in SCENES[world]["distance"])
    edges = [round(float(edge), 1) for edge in np.linspace(low, high, 4)]
    parts = []
    for least, most in pairwise(edges):
        inside = (val.distance >= least) & (val.distance < most + (most == edges[-1]))
        if inside.any():
            share = float(right[inside].float().mean())
            parts.append({"low": least, "high": most, "objects": int(inside.sum()), "right": round(share, 4)})
    return parts
