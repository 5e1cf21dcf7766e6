"""ultralytics' yaml reader, given rows that it can read, and naming the row that cannot be built."""

import ast
import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import ultralytics
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv
from ultralytics.utils import LOGGER

from botvision_yolo.blocks import BoTBottleneck, C2BoT, C3BoT, C3k2BoT, ResidualMHSA2d
from botvision_yolo.likeness import reading_ours

BLOCKS: dict[str, type[nn.Module]] = {
    "MHSA2d": ResidualMHSA2d,
    "BoTBottleneck": BoTBottleneck,
    "C3BoT": C3BoT,
    "C3k2BoT": C3k2BoT,
    "C2BoT": C2BoT,
}
EARLIER = {"C2f", "C2fCIB", "C3"}  # CSP blocks of YOLOs before 11: another head goes with them, and no c3k
SNIPPET = "MHSA"  # what the snippet that YOLO forks share calls its row
SNIPPET_HEADS = 4  # the snippet's own default
CHANNELS_BEFORE = "c2"  # the reader's own name for the channels of the row before
Reader = Callable[..., Any]


def reading(parse: Reader) -> Reader:
    """The yaml reader, given rows that it can read, and telling the row that cannot be built."""

    @functools.wraps(parse)
    def parse_model(d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
        try:
            rows = readable(d)
            if not rows.get("scales") and not rows.get("scale"):
                rows["scale"] = "-"  # older readers look a scale up in a text, none too
            with reading_ours(alone=is_eleven(rows) and "C3k2" not in names_of(rows)), activation_kept():
                return parse(rows, ch, verbose)
        except (AssertionError, TypeError, ValueError, IndexError, ZeroDivisionError, SyntaxError) as error:
            if (row := row_in(error)) is None:
                raise
            raise ValueError(f"{told(d, row)}: {str(error) or type(error).__name__}") from error

    parse_model.by_botvision = True  # type: ignore[attr-defined]
    return parse_model


def names_of(d: dict[str, Any]) -> set[str]:
    """The blocks that a yaml's rows name."""
    return {row[2] for row in [*d["backbone"], *d["head"]]}


def is_eleven(d: dict[str, Any]) -> bool:
    """Whether rows are YOLO11's or a later one's: by a `C3k2` in them the reader tells which head is meant.

    `C3k2BoT` counts as one, unless it stands among the blocks of an earlier YOLO.
    """
    named = names_of(d)
    return "C3k2" in named or ("C3k2BoT" in named and not named & EARLIER)


@contextmanager
def activation_kept() -> Iterator[None]:
    """Give models built later their own activation where a row fails: the reader sets it for the whole process."""
    before = Conv.default_act
    try:
        yield
    except BaseException:
        Conv.default_act = before
        raise


def readable(given: dict[str, Any]) -> dict[str, Any]:
    """A copy of a yaml's content in which every row names a block that exists, with arguments that it takes.

    Raises:
        ValueError: no rows, a row of another form, an unknown name, or arguments that a block does not take.
    """
    for part in ("backbone", "head"):
        if not isinstance(given.get(part), list):
            raise ValueError(f"a model's yaml has rows under backbone and head; got {part}: {given.get(part)!r}")
    d, snippets = deepcopy(given), []
    for number, row in enumerate([*d["backbone"], *d["head"]]):
        check_form(row, number)
        check_name(row[2], number)
        if row[2] == SNIPPET and (own := getattr(tasks, SNIPPET, None)):  # a patched ultralytics
            LOGGER.info(f"{told(given, number)}: {own.__module__}.{SNIPPET} of your ultralytics; ours is MHSA2d")
        elif row[2] == SNIPPET:
            snippets.append(told(given, number))
            row[2], row[3] = "MHSA2d", of_snippet(row[3], snippets[-1])
        if row[2] == "MHSA2d":
            if row[0] != -1:
                raise ValueError(
                    f"{told(given, number)}: MHSA2d follows the row before; its from must be -1, got {row[0]}"
                )
            row[3] = [CHANNELS_BEFORE, *row[3]]
        if row[2] in BLOCKS:
            row[3] = [unquoted(value) for value in row[3]]
            check_arguments(row, told(given, number))
    scales = d.get("scales")
    if scales and str(d.get("scale") or next(iter(scales))) in "mlx" and is_eleven(d):
        for row in [*d["backbone"], *d["head"]]:
            if row[2] == "C3k2BoT":
                row[3] = [row[3][0], True, *row[3][2:]]  # as the reader does with C3k2
    if snippets:
        LOGGER.warning(
            f"{'; '.join(snippets)}: read as MHSA2d. The sizes are ignored, since this layer takes any; positions are "
            "relative, where the snippet's are absolute and transposed; and it becomes residual, x + BN(attention(x)) "
            "with a zero-initialised BN, so that it starts as identity. Bare, residual=False, it is "
            "[-1, 1, MHSA2d, [4, relative, False]]"
        )
    return d


def check_form(row: Any, number: int) -> None:
    """Refuse what is no row: [from, repeats, module, arguments]."""
    form = f"row {number} {row!r}: a row is [from, repeats, module, arguments]"
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise ValueError(f"{form}; e.g. [-1, 1, MHSA2d, []]")
    source, repeats, name, arguments = row
    sources = source if isinstance(source, list | tuple) else [source]
    if not sources or not all(is_whole(n) for n in sources):
        raise ValueError(f"{form}; from must be a row's number or a list of them, got {source!r}")
    if not isinstance(repeats, int | float) or isinstance(repeats, bool) or repeats < 0:
        raise ValueError(f"{form}; repeats must be a number of at least 0, got {repeats!r}")
    if not isinstance(name, str):
        raise ValueError(f"{form}; module must be a name, got {name!r}")
    if not isinstance(arguments, list | tuple):
        raise ValueError(f"{form}; arguments must be a list, got {arguments!r}; write [] for none")


def of_snippet(arguments: list[Any], shown: str) -> list[Any]:
    """The post's row as one of `MHSA2d`: its heads, and no positions where it says so.

    The snippet is `MHSA(n_dims, width=14, height=14, heads=4, pos_emb=False)`. Rows give `[]`, `[width, height]`,
    `[width, height, heads]`, each with `pos_emb` behind the heads or n_dims before the width; numbers may be quoted.

    Raises:
        ValueError: arguments of another form.
    """
    form = f"{shown}: {SNIPPET} takes [], [width, height], [width, height, heads] or [width, height, heads, pos_emb]"
    given = [unquoted(value) for value in arguments]
    positions = given.pop() if given and isinstance(given[-1], bool) else None
    if positions is not None and len(given) < 3:
        raise ValueError(f"{form}; pos_emb stands behind width, height and heads")
    if len(given) not in {0, 2, 3, 4}:
        raise ValueError(f"{form}; got {len(arguments)} arguments")
    if wrong := [value for value in given if not is_whole(value) or value < 1]:
        raise ValueError(f"{form}, whole numbers of at least 1; got {wrong[0]!r}")
    heads = given[-1] if len(given) > 2 else SNIPPET_HEADS
    return [heads] if positions in {None, True} else [heads, "none"]


def unquoted(value: Any) -> Any:
    """A number or truth value that a yaml gives as a text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


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
        if name == "e" and value <= 0:
            raise ValueError(f"{shown}: e, the share of channels inside, must be above 0; got {value}; e.g. 0.5")
    channels = row[3][0]
    if not layer and (not is_whole(channels) or channels < 8):
        raise ValueError(f"{shown}: {row[2]} takes [{form}]; got channels {channels!r}, e.g. 1024")


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """What a row of ours takes, behind the channels where it has them: parameters by name, in order."""
    parameters = inspect.signature(BLOCKS[name]).parameters
    return {key: value for key, value in parameters.items() if key not in {"dim", "c1", "c2", "n"}}


def check_kind(name: str, value: Any, kind: Any, shown: str) -> None:
    """Refuse an argument of another kind than a block's signature says; a truth value is no number."""
    numbers = {float: int | float, float | None: int | float | None}
    fits = isinstance(value, numbers.get(kind, kind)) and (kind is not str or value.isidentifier())
    if not fits or (isinstance(value, bool) and kind is not bool):
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
