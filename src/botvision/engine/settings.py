"""Options as plain values for YAML and checkpoints; read back when some were added or renamed."""

from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

Group = TypeVar("Group")
ALIASES = 100  # of a YAML file; a few hundred that name each other stand for more than any memory holds
MOST_TEXT = 2**26  # bytes of a YAML file
RENAMED = {"canvas": "img_size", "score_every": "evaluate_every"}  # options by their names before 0.1


def plain(value: Any) -> Any:
    """Settings as YAML holds them: lists for tuples, text for paths."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def renamed(old: Any) -> Any:
    """Plain settings of an older run by today's names."""
    return {RENAMED.get(name, name): value for name, value in old.items()} if isinstance(old, dict) else old


def completed(old: Any, group: Any) -> Any:
    """Plain settings of an older run, with the defaults of the options of `group` that are younger than it."""
    if not isinstance(old, dict) or not is_dataclass(group):
        return old
    known = renamed(old)
    for field in fields(group):
        if field.name in known:
            known[field.name] = completed(known[field.name], getattr(group, field.name))
        elif field.default is not MISSING:
            known[field.name] = plain(field.default)
        elif field.default_factory is not MISSING:
            known[field.name] = plain(field.default_factory())
    return known


def built(kind: type[Group], saved: Any, path: Path) -> Group:
    """A group of settings as a checkpoint tells it; what it lacks is younger than it, and at its default.

    Raises:
        ValueError: options that are not ours: a younger version's, or not a checkpoint's at all.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    saved = renamed(saved)
    strange = sorted(map(str, set(saved) - names)) if isinstance(saved, dict) else [repr(saved)]
    if strange:
        raise ValueError(
            f"{path} was made with options that this version does not know: {', '.join(strange)}; update botvision"
        )
    try:
        return kind(**saved)
    except TypeError as error:
        raise ValueError(f"{path} does not say what it is of: {error}; give a .ckpt that a run has written") from error


def check_same(saved: dict[str, Any], own: dict[str, Any], *, model: Any) -> None:
    """Refuse to go on with the run of another model.

    Args:
        saved: what the checkpoint says of itself.
        own: what this run would say.
        model: this run's, as its dataclass.

    Raises:
        ValueError: they differ in more than options that are younger than the checkpoint.
    """
    saved = {"task" if name == "house" else name: value for name, value in plain(saved).items()}
    if {**saved, "model": completed(saved.get("model"), model)} != plain(own):
        raise ValueError("the checkpoint to resume is of another model or other classes; give another --out")


def read_yaml(path: Path, *, what: str) -> Any:
    """Read a YAML file of plain values; `what` names it in the error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, too large, or so many aliases that it may stand for more than the memory holds.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}; give a YAML file that exists")
    if path.stat().st_size > MOST_TEXT:
        raise ValueError(f"{path} has more than {MOST_TEXT >> 20} MiB, which is too much for YAML; write less into it")
    try:
        text = path.read_text(encoding="utf-8")
        few = text.count("*") <= ALIASES or sum(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text)) <= ALIASES
        content = yaml.safe_load(text) if few else None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML: {reason:.300}; correct or remove it") from error
    if not few:
        raise ValueError(f"{path} has more than {ALIASES} aliases (*name), which may fill the memory; write them out")
    return content
