"""ultralytics' `YOLO`, which also knows our variants' names and keeps pretrained weights."""

from pathlib import Path
from typing import Any

import ultralytics
from ultralytics.engine import tuner
from ultralytics.utils import LOGGER

from botvision_yolo.trainer import TRAINERS, has_ours, rows_named
from botvision_yolo.transfer import load_pretrained, telling_forks
from botvision_yolo.variants import is_derived, users_own, write_yaml


class YOLO(ultralytics.YOLO):
    """ultralytics' `YOLO`; everything it does, this does.

    Args:
        model: as there, or one of our variants, e.g. "yolo11n-botnet.yaml", "yolo11s-mhsa-seg.yaml".
        task, verbose: as there.

    Raises:
        ValueError: a name near one of ours that is none, with the nearest; a fork's checkpoint, with how to convert it.
    """

    def __init__(
        self, model: str | Path | Any = "yolo11n-botnet.yaml", task: str | None = None, verbose: bool = False
    ) -> None:
        if isinstance(model, str | Path):
            model = derived_or_own(str(model)) or model
        with telling_forks(model):
            super().__init__(model=model, task=task, verbose=verbose)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """ultralytics', with trainers that align pretrained rows."""
        known = super().task_map
        return {task: {**parts, "trainer": TRAINERS.get(task, parts["trainer"])} for task, parts in known.items()}

    def load(self, weights: Any) -> "YOLO":
        """Load weights by aligned rows; `train` starts from them.

        Args:
            weights: a `.pt` file, a `YOLO`, an ultralytics model, or a checkpoint's content.
        """
        self._check_is_pytorch_model()
        load_pretrained(self.model, weights)
        self.overrides.pop("pretrained", None)
        self.ckpt, self.ckpt_path, self.predictor = {"model": self.model}, None, None
        return self

    def train(self, trainer: Any = None, **options: Any) -> Any:
        """Train as ultralytics does; `model=` takes our names, `pretrained=` a file, `freeze=` names too.

        `pretrained` goes by aligned rows. `freeze` may be "backbone" for its rows without attention of ours, or classes
        of rows with commas, since an inserted row moves the numbers of all behind it.

        Raises:
            ValueError: of several data sets some could not be trained on; ultralytics goes on with the next.
        """
        if path := derived_or_own(str(options.get("model", ""))):
            options["model"] = str(path)
        several = isinstance(options.get("data"), list | tuple)
        if several and trainer is None:  # otherwise ultralytics starts commands of its own, with its own trainers
            trainer = self._smart_load("trainer")
        files = [options[name] for name in ("pretrained", "model") if isinstance(options.get(name), str | Path)]
        with telling_forks(" or ".join(map(str, files))):
            done = super().train(trainer, **options)
        if several and (failed := [name for name, metrics in done.items() if metrics is None]):
            names = ", ".join(failed)
            raise ValueError(f"{len(failed)} of {len(done)} data sets could not be trained on: {names}; see above")
        return done

    def tune(self, *arguments: Any, **options: Any) -> Any:
        """Tune as ultralytics does; `pretrained` goes by aligned rows.

        Raises:
            ValueError: a yaml or `pretrained=` a file, on versions whose tuner runs commands, which do not know our
                blocks and align no rows.
        """
        file = options["pretrained"] if isinstance(options.get("pretrained"), str | Path) else None
        if hasattr(tuner, "subprocess"):
            if has_ours(self.model) and (not self.ckpt or file):
                raise ValueError(
                    f"ultralytics {ultralytics.__version__} tunes by commands that know no block of ours in a yaml and "
                    "align no rows; write a seed and tune that: bot-yolo init yolo11n-botnet.pt weights=yolo11n.pt"
                )
        elif file:  # the commands that it trains by would load it by the rows' numbers
            self.load(options.pop("pretrained"))
        if isinstance(options.get("freeze"), str):  # it may train by commands that know no names
            options["freeze"] = rows_named(self.model, options["freeze"])
        return super().tune(*arguments, **options)


def derived_or_own(name: str) -> Path | None:
    """The file of a variant's name, a user's own before one that is derived, with a line that says which; or None."""
    if not is_derived(name):
        return None
    if own := users_own(name):
        LOGGER.info(f"{name}: your own file {own.resolve()}, not the variant of that name")
        return None  # ultralytics opens it by the same rule, and takes the scale from the name
    path = write_yaml(name)
    LOGGER.info(f"{name}: derived from the yaml that ultralytics {ultralytics.__version__} brings, {path}")
    return path
