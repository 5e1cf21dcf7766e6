"""ultralytics' `YOLO`, which also knows our variants' names and keeps pretrained weights."""

from pathlib import Path
from typing import Any

import ultralytics
from ultralytics.nn import tasks

from botvision_yolo.trainer import TRAINERS
from botvision_yolo.transfer import load_pretrained, unwrapped
from botvision_yolo.variants import is_derived, write_yaml


class YOLO(ultralytics.YOLO):
    """ultralytics' `YOLO`; everything it does, this does.

    Args:
        model: as there, or one of our variants, e.g. "yolo11n-botnet.yaml", "yolo11s-mhsa-seg.yaml".
        task, verbose: as there.

    Raises:
        ValueError: a name near one of ours that is none, with the nearest.
    """

    def __init__(
        self, model: str | Path | Any = "yolo11n-botnet.yaml", task: str | None = None, verbose: bool = False
    ) -> None:
        if isinstance(model, str | Path) and is_derived(str(model)):
            model = write_yaml(str(model))
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
        if isinstance(weights, str | Path):
            source, checkpoint = tasks.load_checkpoint(weights)
        else:
            source, checkpoint = unwrapped(weights), {"model": self.model}
        load_pretrained(self.model, source)
        self.overrides.pop("pretrained", None)
        self.ckpt, self.ckpt_path, self.predictor = checkpoint, getattr(source, "pt_path", None), None
        return self
