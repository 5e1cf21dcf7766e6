"""Parts of a report as HTML: sections, tables, bars, matrices, pictures; every text is escaped."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from botvision.draw.charts import COLOURS

NAMED = 20  # classes up to which a matrix is shown


class Markup(str):
    """HTML that is made already, and so not escaped."""

    __slots__ = ()


class Bar(NamedTuple):
    """A number of a table with a bar; `share` in 0 … 1 is its length."""

    text: str
    share: float
    colour: int = 0


Cell = str | Bar


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        name: its heading.
        about: what is shown, in plain words; empty for none.
        body: HTML.
    """

    name: str
    about: str
    body: str

    @property
    def anchor(self) -> str:
        """Where the page's list of contents leads."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())

    def __str__(self) -> str:
        about = f'<p class="about">{html.escape(self.about)}</p>' if self.about else ""
        return f'<section id="{self.anchor}"><h2>{html.escape(self.name)}</h2>{about}{self.body}</section>'


def escaped(text: str) -> str:
    """Text as HTML."""
    return str(text) if isinstance(text, Markup) else html.escape(str(text))


def note(text: str) -> Markup:
    """A sentence in the place of what cannot be shown."""
    return Markup(f'<p class="note">{html.escape(text)}</p>')


def contents(sections: Sequence[Section]) -> Markup:
    """Links to the sections."""
    links = "".join(f'<li><a href="#{one.anchor}">{html.escape(one.name)}</a></li>' for one in sections)
    return Markup(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "") -> Markup:
    """A table; each row's first cell is its heading."""
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escaped(str(first))}</th>{"".join(map(cell, rest))}</tr>' for first, *rest in rows
    )
    told = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="wide" tabindex="0"><table>{told}<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def cell(content: Cell) -> str:
    """A cell of numbers or words."""
    if not isinstance(content, Bar):
        return f"<td>{escaped(content)}</td>"
    length = 100 * min(max(content.share, 0.0), 1.0)
    bar = f'<i style="width:{length:.1f}%;background:var(--c{content.colour % COLOURS})"></i>'
    return f'<td class="bar"><span>{html.escape(content.text)}</span><b aria-hidden="true">{bar}</b></td>'


def matrix(
    counts: Sequence[Sequence[float]], truths: Sequence[str], guesses: Sequence[str], *, caption: str, corner: str
) -> Markup:
    """Counts as a table whose cells are shaded by their share of the row.

    Args:
        counts: a row a truth.
        truths, guesses: names of rows and columns.
        caption: above it.
        corner: what rows and columns are.
    """
    top = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in guesses)
    lines = []
    for name, row in zip(truths, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(shaded(count, count / total) for count in row)
        lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return Markup(
        f'<div class="wide" tabindex="0"><table class="matrix"><caption>{html.escape(caption)}</caption><thead><tr>'
        f"<th>{html.escape(corner)}</th>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def shaded(count: float, share: float) -> str:
    """A cell of a matrix."""
    if not count:
        return '<td class="none">·</td>'
    return f'<td style="--share:{55 * share:.0f}%" title="{100 * share:.0f} % of the row">{count:g}</td>'


def confused(
    counts: Sequence[Sequence[float]], truths: Sequence[str], guesses: Sequence[str], most: int = 20
) -> list[list[Cell]]:
    """Rows of a table in a matrix's place: truth, guess and count of the largest off the diagonal."""
    off = [(count, row, column) for row, line in enumerate(counts) for column, count in enumerate(line)
           if row != column and count]  # fmt: skip
    ordered = sorted(off, key=lambda one: (-one[0], one[1:]))[:most]
    return [[truths[row], guesses[column], f"{count:g}"] for count, row, column in ordered]


def tiles(figures: Sequence[tuple[str, str, str]]) -> Markup:
    """Large numbers: value, name, words."""
    parts = "".join(
        f"<div><strong>{escaped(value)}</strong><span>{html.escape(name)}</span><p>{html.escape(words)}</p></div>"
        for value, name, words in figures
    )
    return Markup(f'<div class="tiles">{parts}</div>')


def picture(url: str, caption: str) -> Markup:
    """A picture of `draw.page.as_url` with what it shows."""
    told = html.escape(caption)
    return Markup(f'<figure class="picture"><img src="{url}" alt="{told}"><figcaption>{told}</figcaption></figure>')


def card(heading: str, sentence: str, pictures: Sequence[str]) -> Markup:
    """Pictures side by side under a heading and a sentence."""
    return Markup(
        f'<article><h3>{html.escape(heading)}</h3><p>{html.escape(sentence)}</p><div class="row">{"".join(pictures)}'
        "</div></article>"
    )


def side_by_side(parts: Sequence[str]) -> Markup:
    """Charts or tables in as many columns as there is room for."""
    return Markup(f'<div class="columns">{"".join(parts)}</div>')


def folded(summary: str, body: str) -> Markup:
    """What is shown when it is asked for."""
    return Markup(f"<details><summary>{html.escape(summary)}</summary>{body}</details>")
