"""Variants of the installed yamls, made when they are asked for: nothing of ultralytics is copied."""

import difflib
import functools
import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import ultralytics
from ultralytics.utils import ROOT, USER_CONFIG_DIR, YAML

from botvision.attention import STARTS
from botvision.files import write_text
from botvision_yolo.reader import BLOCKS, options_of

TASKS = ("", "-seg", "-cls", "-pose", "-obb", "-sem", "-depth")
# The CSP blocks of a last stage, and what takes their place: the depth is the row's, C3k2's `c3k` is kept
CSP = {"C3k2": "C3k2BoT", "C2f": "C3k2BoT", "C2fCIB": "C3k2BoT", "A2C2f": "C3k2BoT", "C3": "C3BoT"}
POOLS = ("SPPF", "SPP")
OWN_ATTENTION = ("C2PSA", "PSA")
OTHER_HEADS = ("WorldDetect", "RTDETRDecoder")  # of classes of their own beside YOLO
Content = dict[str, Any]


class Variant(NamedTuple):
    """One way to put BoTNet's attention into a YOLO: what it is, and the change to a yaml's content."""

    about: str
    change: Callable[[Content], Content]


def derive(
    content: Content,
    variant: str,
    *,
    start: str = "paper",
    qkv_std: float | None = None,
    position_std: float | None = None,
) -> Content:
    """A yaml's content with BoTNet's attention in its last stage.

    Args:
        content: what a model's yaml holds, e.g. `model.model.yaml`.
        variant: one of `VARIANTS`.
        start, qkv_std, position_std: initial weights of the attention, as in `MHSA2d`.

    Returns:
        A changed copy; absolute row numbers follow an inserted row.

    Raises:
        ValueError: an unknown variant, content that has our blocks already, or none of the blocks it changes.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; use one of {', '.join(VARIANTS)}")
    if there := [row[2] for row in content["backbone"] if row[2] in BLOCKS]:
        raise ValueError(f"this model has {there[0]} already; derive from the yaml without it")
    derived = VARIANTS[variant].change(deepcopy(content))
    for row in derived["backbone"]:
        if row[2] in BLOCKS:
            row[3] = with_options(row, start=start, qkv_std=qkv_std, position_std=position_std)
    return derived


def with_options(row: list[Any], **wanted: Any) -> list[Any]:
    """A row's arguments with options set, those between them written out, and no default behind the last."""
    options, first = options_of(row[2]), 0 if row[2] == "MHSA2d" else 1
    values = [option.default for option in options.values()]
    values[: len(row[3]) - first] = row[3][first:]
    values = [wanted.get(name, value) for name, value in zip(options, values, strict=True)]
    changed = [n for n, option in enumerate(options.values()) if values[n] != option.default]
    return [*row[3][:first], *values[: max([len(row[3]) - first, *(n + 1 for n in changed)])]]


def replace_stage(content: Content) -> Content:
    """The paper's rule: attention for the 3×3 convolutions of the last stage."""
    row = content["backbone"][last_stage(content)]
    channels, *rest = row[3]
    rest = [bool(rest[0]) if rest else False, *rest[1:2]] if row[2] == "C3k2" else [True] if row[2] == "A2C2f" else []
    row[2], row[3] = CSP[row[2]], [channels, *rest]
    return content


def insert_block(content: Content) -> Content:
    """The paper's insertion: one more block behind the last stage, which keeps its convolutions."""
    place = last_stage(content)
    return insert_row(content, place + 1, [-1, 1, "BoTBottleneck", [content["backbone"][place][3][0]]])


def insert_layer(content: Content) -> Content:
    """The post's way: the bare layer, here with a residual and a norm, behind the pooling or the last stage."""
    pools = [number for number, row in enumerate(content["backbone"]) if row[2] in POOLS]
    return insert_row(content, (pools[-1] if pools else last_stage(content)) + 1, [-1, 1, "MHSA2d", []])


def replace_attention(content: Content) -> Content:
    """The paper's blocks for YOLO11's own attention behind the last stage."""
    own = [row for row in content["backbone"] if row[2] in OWN_ATTENTION]
    if not own:
        raise ValueError(f"this yaml has no {' or '.join(OWN_ATTENTION)} to replace; use botnet, insert or mhsa")
    own[-1][2], own[-1][3] = "C2BoT", own[-1][3][:1]
    return content


VARIANTS: dict[str, Variant] = {
    "botnet": Variant("the paper's rule: the last stage's 3×3 convolutions become attention", replace_stage),
    "insert": Variant("the paper's insertion: a BoT block more behind the last stage", insert_block),
    "mhsa": Variant(
        "as in widely shared YOLO tutorials, a layer after SPPF; here residual and of any size", insert_layer
    ),
    "c2bot": Variant("C2PSA's attention and feed-forward become BoT blocks", replace_attention),
}


def last_stage(content: Content) -> int:
    """The row of the last stage's block: the deepest CSP block of the backbone.

    Raises:
        ValueError: there is none that this package knows.
    """
    found = [number for number, row in enumerate(content["backbone"]) if row[2] in CSP]
    strided = [n for n, row in enumerate(content["backbone"]) if row[2] == "Conv" and row[3][1:3] == [3, 2]]
    if not found or (strided and found[-1] < strided[-1]):
        names = sorted({row[2] for row in content["backbone"]})
        raise ValueError(f"no CSP block ({', '.join(CSP)}) in this yaml's last stage; it has {', '.join(names)}")
    return found[-1]


def insert_row(content: Content, place: int, row: list[Any]) -> Content:
    """Put a row into the backbone; whoever read the row before it, or one behind it, by number reads one further on."""
    rows = [*content["backbone"], *content["head"]]
    for number, other in enumerate(rows[place:], place):  # a row before it reads none that moves
        sources = [other[0]] if isinstance(other[0], int) else other[0]
        absolute = [source if source >= 0 or source == -1 else number + source for source in sources]
        moved = [source + 1 if source >= place - 1 and source != -1 else source for source in absolute]
        other[0] = moved[0] if isinstance(other[0], int) else moved
    content["backbone"].insert(place, row)
    return content


def write_yaml(
    name: str, folder: Path | None = None, *, qkv_std: float | None = None, position_std: float | None = None
) -> Path:
    """A derived yaml as a file, by a name such as `yolo11n-botnet.yaml` or `yolo11s-mhsa-directional-seg.yaml`.

    Args:
        name: an installed yaml's, with `-` and a variant before its task, and perhaps `-` and a start behind that.
        folder: where to write it, for a user to change; by default within ultralytics' folder of settings.
        qkv_std, position_std: of the attention's initial weights, as in `MHSA2d`.

    Returns:
        The file's path; it bears the name, from which ultralytics reads the scale.

    Raises:
        ValueError: a name that is not of this form, or whose yaml ultralytics does not have, with the nearest; another
            file of that name in `folder`.
    """
    base, variant, start = split(name)
    content = YAML.load(installed_path(base))
    derived = derive(content, variant, start=start, qkv_std=qkv_std, position_std=position_std)
    own = USER_CONFIG_DIR / "botvision" / ultralytics.__version__ / Path(name).stem  # older ones read neighbours
    path = (own if folder is None else folder) / Path(name).name.lower()
    text = as_yaml(
        derived, f"{VARIANTS[variant].about}; from {base} of ultralytics {ultralytics.__version__}, AGPL-3.0"
    )
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return path
    if path.exists() and folder is not None:
        raise ValueError(f"{path} holds something else; give another folder, or remove it")
    write_text(path, text)
    return path


def split(name: str) -> tuple[str, str, str]:
    """Yaml, variant and start of a name: `yolo11n-botnet-seg.yaml` → `yolo11n-seg.yaml`, `botnet`, `paper`."""
    stem, suffix = Path(name).stem.lower(), Path(name).suffix.lower()
    found = re.fullmatch(rf"(.+?)-({'|'.join(VARIANTS)})(?:-({'|'.join(STARTS)}))?((?:-\w+)*)", stem)
    if found and suffix in {".yaml", ".yml"} and is_installed(f"{found[1]}{found[4]}"):
        return f"{found[1]}{found[4]}.yaml", found[2], found[3] or "paper"
    near = difflib.get_close_matches(f"{stem}{suffix}", known_names(scale_of(stem)), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "e.g. yolo11n-botnet.yaml; bot-yolo models lists them all"
    raise ValueError(f"no yaml {name!r} in ultralytics {ultralytics.__version__}; {hint}")


@functools.cache
def supported() -> dict[str, list[str]]:
    """The variants of each yaml that ultralytics brings, by the file's name: without scale, but of v10."""
    found: dict[str, list[str]] = {}
    for base in installed():
        content = YAML.load(installed_path(base))
        found[base] = [variant for variant in VARIANTS if is_derivable(content, variant)]
    return found


def is_derivable(content: Content, variant: str) -> bool:
    """Whether a yaml has the place that a variant changes, and is a `YOLO`'s."""
    try:
        derive(content, variant)
    except ValueError:
        return False
    return content["head"][-1][2] not in OTHER_HEADS


def known_names(scale: str = "") -> list[str]:
    """Every variant's file name that there is, with a scale where the yaml's own name has none."""
    names = []
    for base, variants in supported().items():
        stem, dash, rest = base.partition("-")
        scaled = with_scale(stem, scale) if scale and not re.match(r"yolov?\d+[a-z]", stem) else stem
        starts = ["", *(f"-{start}" for start in STARTS if start != "paper")]
        names += [f"{scaled}-{variant}{start}{dash}{rest}.yaml" for variant in variants for start in starts]
    return names


def family_and_task(base: str) -> tuple[str, str]:
    """A yaml's name without its task, and the task: `yolov8-pose-p6` → `yolov8-p6`, `-pose`."""
    task = next((task for task in TASKS if task and f"{task}-" in f"{base}-"), "")
    return f"{base}-".replace(f"{task}-", "-", 1).removesuffix("-"), task


def models() -> str:
    """What this ultralytics has variants of, by family and task, as Markdown."""
    families: dict[str, dict[str, list[str]]] = {}
    for base, variants in supported().items():
        family, task = family_and_task(re.sub(r"^(yolov10)[a-z]$", r"\1", base))
        families.setdefault(family, {})[task] = variants
    lines, none = ["| family | tasks | variants |", "|---|---|---|"], []
    for family, tasks in sorted(families.items()):
        groups: dict[str, list[str]] = {}
        for task in sorted(tasks, key=TASKS.index):
            groups.setdefault(", ".join(tasks[task]), []).append(task or "detect")
        none += [family] if not any(tasks.values()) else []
        lines += [f"| {family} | {', '.join(those)} | {variants} |" for variants, those in groups.items() if variants]
    return "\n".join([*lines, f"| {', '.join(none)} | | none |"])


def is_derived(name: str) -> bool:
    """Whether a bare name is a yaml's with a variant's name, or nearly so, in it."""
    stem = Path(name).stem.lower()
    if Path(name).name != name:
        return False  # a path means that file
    if Path(name).suffix.lower() not in {".yaml", ".yml"} or is_installed(stem):
        return False
    parts = stem.split("-")[1:]
    return any(difflib.get_close_matches(part, VARIANTS, n=1, cutoff=0.7) for part in parts)


def users_own(name: str) -> Path | None:
    """The file of that name in the working folder, as ultralytics looks for it: as given, then without the scale."""
    unscaled = re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", name)
    return next((path for path in (Path(name), Path(unscaled)) if path.is_file()), None)


def installed() -> list[str]:
    """Names of the yamls that ultralytics brings, without scale and suffix."""
    return sorted(path.stem for path in (ROOT / "cfg" / "models").rglob("yolo*.yaml") if "yoloe" not in path.stem)


def installed_path(base: str) -> Path:
    """The file that ultralytics brings for a yaml's name, with or without a scale."""
    stems = (Path(base).stem, without_scale(Path(base).stem))
    found = [path for stem in stems for path in (ROOT / "cfg" / "models").rglob(f"{stem}.yaml")]
    return found[0]


def is_installed(stem: str) -> bool:
    """Whether ultralytics brings a yaml for a name, with or without a scale."""
    return stem in installed() or without_scale(stem) in installed()


def without_scale(stem: str) -> str:
    """A name without the letter after its number."""
    return re.sub(r"(\d+)[nslmx](?=-|$)", r"\1", stem, count=1)


def scale_of(stem: str) -> str:
    """The letter after a name's number, which is its scale."""
    found = re.match(r"yolov?\d+([nslmx])", stem)
    return found[1] if found else ""


def with_scale(base: str, scale: str) -> str:
    """A yaml's name with a scale behind its number."""
    return re.sub(r"(yolov?\d+)", rf"\1{scale}", base, count=1)


def as_yaml(content: Content, note: str) -> str:
    """A yaml's content as text, a row a line."""
    lines = [f"# {note}"]
    for key, value in content.items():
        if key in {"backbone", "head"}:
            lines += [f"{key}:", *(f"  - {json.dumps(row)}" for row in value)]
        elif isinstance(value, dict):
            lines += [f"{key}:", *(f"  {name}: {json.dumps(entry)}" for name, entry in value.items())]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"
