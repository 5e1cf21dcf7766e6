"""Our blocks in ultralytics, in memory: none of its files is touched."""

import functools
import inspect
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics import utils
from ultralytics.engine.model import Model
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER, checks, dist
from ultralytics.utils.callbacks.base import default_callbacks

from botvision import attention
from botvision.files import whole_file
from botvision_yolo.blocks import BoTBottleneck, ResidualMHSA2d
from botvision_yolo.reader import BLOCKS, reading

TESTED = ("8.3.203", "8.4.60", "8.4.190")  # `make test-yolo-versions` runs the tests on each
INSTALLS = "YOLO_AUTOINSTALL"  # the environment's word on that


def register() -> None:
    """Publish the blocks, and check that the reader treats them as meant; a second call changes nothing.

    Raises:
        ValueError: ultralytics has another block by one of the names.
        RuntimeError: this ultralytics reads a yaml otherwise than the tested ones.
    """
    if getattr(tasks.parse_model, "by_botvision", False):
        return
    for name in BLOCKS:
        if (existing := getattr(tasks, name, None)) is not None:
            raise ValueError(
                f"ultralytics has a block {name} already, {existing!r}; remove it from ultralytics.nn.tasks"
            )
    given = tasks.parse_model
    vars(tasks).update(BLOCKS)
    tasks.parse_model = reading(given)
    try:
        check_reader()
    except RuntimeError:
        tasks.parse_model = given
        for name in BLOCKS:
            delattr(tasks, name)
        raise
    dist.generate_ddp_file = importing_us(dist.generate_ddp_file)
    Model.reset_weights = resetting(Model.reset_weights)
    # workers of newer versions get the callbacks by pickle, and import this package with them
    default_callbacks["on_pretrain_routine_start"].append(imported)
    allow_safe_loading()
    no_silent_installs()
    warn_outside(ultralytics.__version__)


def check_reader() -> None:
    """Read a few rows, and see that channels, width and depth reach our blocks as they reach ultralytics' own.

    Raises:
        RuntimeError: they do not.
    """
    rows = [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 4, "C3k2BoT", [128, True]],
        [-1, 1, "MHSA2d", []],
        [-1, 2, "C2BoT", [128]],
    ]
    d = {"nc": 1, "depth_multiple": 0.5, "width_multiple": 0.5, "backbone": rows, "head": []}
    cause: Exception | None = None
    try:
        _, csp, layer, c2 = tasks.parse_model(d, 3, verbose=False)[0]
        read = str([len(csp.m), csp.cv1.conv.in_channels, csp.cv2.conv.out_channels, layer.mhsa.dim, len(c2.m)])
    except Exception as error:  # whatever changed in the reader
        read, cause = repr(error), error
    if read != "[2, 32, 64, 64, 1]":
        raise RuntimeError(
            f"ultralytics {ultralytics.__version__} reads a yaml otherwise than botvision-yolo expects (got {read}); "
            f"tested are {', '.join(TESTED)}; install one of those"
        ) from cause


def importing_us(generate: Callable[[Any], str]) -> Callable[[Any], str]:
    """The worker file of a multi-GPU run, made to import this package and to begin with the model that it is given.

    Newer versions send their workers objects. Older ones send names: a model that was changed or loaded in memory would
    be built anew from its first file, so it is saved for the workers as `weights/start.pt` of the run.
    """
    if "cloudpickle" in inspect.getsource(generate):
        return generate

    @functools.wraps(generate)
    def generate_ddp_file(trainer: Any) -> str:
        named = trainer.args.model, trainer.args.pretrained
        if isinstance(trainer.model, nn.Module) and not trainer.resume:
            trainer.wdir.mkdir(parents=True, exist_ok=True)
            with whole_file(trainer.wdir / "start.pt") as unfinished:
                torch.save({"model": deepcopy(trainer.model).half(), "train_args": {}}, unfinished)
            trainer.args.model, trainer.args.pretrained = str(trainer.wdir / "start.pt"), True
        try:
            path = Path(generate(trainer))
        finally:
            trainer.args.model, trainer.args.pretrained = named
        path.write_text(f"import {__package__}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
        return str(path)

    return generate_ddp_file


def resetting(reset: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`reset_weights` that leaves our blocks at their start: it resets parents first, so parts would undo theirs."""

    @functools.wraps(reset)
    def reset_weights(self: Any) -> Any:
        found = reset(self)
        for block in self.model.modules():
            if isinstance(block, BoTBottleneck | ResidualMHSA2d):
                block.reset_parameters()
        return found

    return reset_weights


def imported(trainer: Any) -> None:
    """Do nothing: a worker that unpickles this function has imported this package, and so registered."""


def allow_safe_loading() -> None:
    """Our blocks among the classes that ULTRALYTICS_SAFE_LOAD opens."""
    torch.serialization.add_safe_globals([*BLOCKS.values(), attention.MHSA2d])


def no_silent_installs() -> None:
    """Keep ultralytics from running pip by itself, unless the user has said something about it."""
    if INSTALLS not in os.environ:
        os.environ[INSTALLS] = "false"  # for the processes that it starts
        utils.AUTOINSTALL = checks.AUTOINSTALL = False  # and here, where it has read it already


def warn_outside(version: str) -> None:
    """Say so where an ultralytics is older or newer than those that the tests ran on."""
    if not checks.check_version(version, f">={TESTED[0]},<={TESTED[-1]}"):
        LOGGER.warning(f"botvision-yolo was tested on ultralytics {', '.join(TESTED)}; this is {version}")
