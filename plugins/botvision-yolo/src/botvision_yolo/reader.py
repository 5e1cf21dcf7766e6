"""ultralytics' yaml reader, given rows that it can read, and naming the row that cannot be built."""

import difflib
import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import ultralytics
from torch import nn
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d

BLOCKS: dict[str, type[nn.Module]] = {
    "MHSA2d": ResidualMHSA2d,
    "BoTBottleneck": BoTBottleneck,
    "C3BoT": C3BoT,
    "C3k2BoT": C3k2BoT,
    "C2BoT": C2BoT,
}
SNIPPET = "MHSA"  # what the snippet that YOLO forks share calls its row
SNIPPET_HEADS = 4  # the snippet's own default
CHANNELS_BEFORE = "c2"  # the reader's own name for the channels of the row before
Reader = Callable[..., Any]


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
    layer = row[2] == "MHSA2d"
    given = row[3][1:]
    options = options_of(row[2])
    form = ", ".join(options if layer else ["channels", *options])
    if not isinstance(row[0], int):
        raise ValueError(f"{shown}: {row[2]} reads one row; its from must be a number, got {row[0]}")
    if not row[3] or len(given) > len(options):
        raise ValueError(f"{shown}: {row[2]} takes [{form}]; got {len(row[3]) - layer} arguments")
    for name, value in zip(options, given, strict=False):
        check_kind(name, value, options[name].annotation, shown)
    channels = row[3][0]
    if not layer and (not isinstance(channels, int) or isinstance(channels, bool) or channels < 8):
        raise ValueError(f"{shown}: {row[2]} takes [{form}]; got channels {channels!r}, e.g. 1024")


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """What a row of ours takes, behind the channels where it has them: parameters by name, in order."""
    parameters = inspect.signature(BLOCKS[name]).parameters
    return {key: value for key, value in parameters.items() if key not in {"dim", "c1", "c2", "n"}}


def check_kind(name: str, value: Any, kind: Any, shown: str) -> None:
    """Refuse an argument of another kind than a block's signature says; a truth value is no number."""
    numbers = {float: int | float, float | None: int | float | None}
    if not isinstance(value, numbers.get(kind, kind)) or (isinstance(value, bool) and kind is not bool):
        wanted = {bool: "true or false", int: "a whole number", str: "a word"}.get(kind, "a number")
        raise ValueError(f"{shown}: {name} must be {wanted}; got {value!r}")


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
