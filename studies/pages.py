"""Generated pages: Markdown templates that hold the words, filled with numbers and tables."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

NOT_RUN = "not run"


def render(template: Path, **given: Any) -> str:
    """A template filled in; a line that it leaves empty is no gap between paragraphs."""
    loader = FileSystemLoader(template.parent)
    # not autoescape: this is Markdown, not HTML
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"listed": listed, "plural": plural}
    text = environment.get_template(template.name).render(NOT_RUN=NOT_RUN, **given)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def listed(names: Sequence[str]) -> str:
    """Names with an "and" before the last."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
