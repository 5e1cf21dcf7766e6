"""Our blocks in ultralytics' yaml reader, in memory: none of its files is touched."""

import difflib
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
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER, checks, dist
from ultralytics.utils.callbacks.base import default_callbacks

from botvision import attention
from botvision.files import whole_file
from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d

TESTED = ("8.3.203", "8.4.60", "8.4.190")  # `make test-yolo-versions` runs the tests on each
BLOCKS: dict[str, type[nn.Module]] = {
    "MHSA2d": ResidualMHSA2d,
    "BoTBottleneck": BoTBottleneck,
    "C3BoT": C3BoT,
    "C3k2BoT": C3k2BoT,
    "C2BoT": C2BoT,
}
SNIPPET = "MHSA"  # what the snippet that YOLO forks share calls its row
SNIPPET_HEADS = 4  # the snippet's own default
INSTALLS = "YOLO_AUTOINSTALL"  # the environment's word on that
CHANNELS_BEFORE = "c2"  # the reader's own name for the channels of the row before
Reader = Callable[..., Any]


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
    # workers of newer versions get the callbacks by pickle, and import this package with them
    default_callbacks["on_pretrain_routine_start"].append(imported)
    allow_safe_loading()
    no_silent_installs()
    warn_outside(ultralytics.__version__)


def reading(parse: Reader) -> Reader:
    """The yaml reader, given rows that it can read, and telling the row that cannot be built."""

    @functools.wraps(parse)
    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
        try:
            return parse(readable(d), ch, verbose)
        except (AssertionError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            if (row := row_in(error)) is None:
                raise
            raise ValueError(f"{told(d, row)}: {str(error) or type(error).__name__}") from error

    parse_model.by_botvision = True  # type: ignore[attr-defined]
    return parse_model


def readable(given: dict[str, Any]) -> dict[str, Any]:
    """A copy of a yaml's content in which every row names a block that exists, with arguments that it takes.

    Raises:
        ValueError: an unknown name, or arguments that one of our blocks does not take.
    """
    d = deepcopy(given)
    for number, row in enumerate([*d["backbone"], *d["head"]]):
        check_name(row[2], number)
        if row[2] == SNIPPET:
            LOGGER.warning(
                f"WARNING row {number} [{SNIPPET}, {row[3]}]: the sizes are ignored, since this layer takes any; "
                "its positions are relative, where the snippet's are absolute and transposed"
            )
            row[2], row[3] = "MHSA2d", [heads_of_snippet(row[3], told(given, number))]
        if row[2] == "MHSA2d":
            if row[0] != -1:
                raise ValueError(
                    f"{told(given, number)}: MHSA2d follows the row before; its from must be -1, got {row[0]}"
                )
            row[3] = [CHANNELS_BEFORE, *row[3]]
        if row[2] in BLOCKS:
            check_arguments(row, told(given, number))
    return d


def heads_of_snippet(arguments: list[Any], shown: str) -> int:
    """The heads in the arguments of the post's row: width and height, before them perhaps its width in channels.

    Raises:
        ValueError: another number of arguments.
    """
    if len(arguments) not in {2, 3, 4}:
        raise ValueError(f"{shown}: {SNIPPET} takes [width, height, heads]; got {len(arguments)} arguments")
    return int(arguments[-1]) if len(arguments) > 2 else SNIPPET_HEADS


def check_name(name: str, number: int) -> None:
    """Refuse a name that the reader would not find, and suggest the nearest."""
    if name == SNIPPET or name.startswith(("nn.", "torchvision.ops.")) or hasattr(tasks, name):
        return
    known = [key for key, value in vars(tasks).items() if isinstance(value, type) and issubclass(value, nn.Module)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"ours are {', '.join(BLOCKS)}"
    raise ValueError(f"row {number} names {name!r}, which ultralytics {ultralytics.__version__} does not know; {hint}")


def check_arguments(row: list[Any], shown: str) -> None:
    """Refuse arguments that one of our blocks cannot be called with."""
    block = BLOCKS[row[2]]
    given = row[3][1:]
    names = list(inspect.signature(block).parameters)
    taken = names[1:] if row[2] == "MHSA2d" else [name for name in names[2:] if name != "n"]
    form = ", ".join(taken if row[2] == "MHSA2d" else ["channels", *taken])
    if not isinstance(row[0], int):
        raise ValueError(f"{shown}: {row[2]} reads one row; its from must be a number, got {row[0]}")
    if not row[3] or len(given) > len(taken):
        raise ValueError(f"{shown}: {row[2]} takes [{form}]; got {len(given) if row[3] else 0} arguments")
    check_types(block, taken, given, shown)
    if row[2] != "MHSA2d" and (not isinstance(row[3][0], int) or row[3][0] < 8):
        raise ValueError(f"{shown}: {row[2]} takes [{form}]; got channels {row[3][0]!r}, e.g. 1024")


def check_types(block: type[nn.Module], taken: list[str], given: list[Any], shown: str) -> None:
    """Refuse an argument of another kind than a block's signature says."""
    for name, value in zip(taken, given, strict=False):
        kind = inspect.signature(block).parameters[name].annotation
        fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not fits:
            raise ValueError(f"{shown}: {name} must be of type {kind.__name__}; got {value!r}")


def told(d: dict[str, Any], number: int) -> str:
    """A row by its number and content."""
    source, repeats, name, arguments = [*d["backbone"], *d["head"]][number]
    return f"row {number} [{source}, {repeats}, {name}, {arguments}]"


def row_in(error: BaseException) -> int | None:
    """The row that the reader was at when building a block failed."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "parse_model" and "layers" in frame.f_locals:
            return frame.f_locals.get("i")
        trace = trace.tb_next
    return None


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


def imported(trainer: Any) -> None:
    """Do nothing: a worker that unpickles this function has imported this package, and so registered."""


def allow_safe_loading() -> None:
    """Our blocks among the classes that ULTRALYTICS_SAFE_LOAD opens.

    By name, since a set would take a class that equals another for it.
    """
    allowed = [*BLOCKS.values(), attention.MHSA2d]
    torch.serialization.add_safe_globals([(block, f"{block.__module__}.{block.__qualname__}") for block in allowed])


def no_silent_installs() -> None:
    """Keep ultralytics from running pip by itself, unless the user has said something about it."""
    if INSTALLS not in os.environ:
        os.environ[INSTALLS] = "false"  # for the processes that it starts
        utils.AUTOINSTALL = checks.AUTOINSTALL = False  # and here, where it has read it already


def warn_outside(version: str) -> None:
    """Say so where an ultralytics is older or newer than those that the tests ran on."""
    if not numbers(TESTED[0]) <= numbers(version) <= numbers(TESTED[-1]):
        LOGGER.warning(f"WARNING botvision-yolo was tested on ultralytics {', '.join(TESTED)}; this is {version}")


def numbers(version: str) -> tuple[int, ...]:
    """A version's leading numbers."""
    parts = []
    for part in version.split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


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
