"""One self-contained HTML page: sections with a list of contents, tables that sort, figures that scroll where a window
is narrow. Whatever text comes in is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
ABOVE = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
"""Where a legend stands."""
_LEAST = 300  # pixels a figure needs, or one of several side by side


@dataclass
class Page:
    """A page in the making.

    Attributes:
        title: what it is called.
        sections: (heading, HTML) in order.
    """

    title: str
    sections: list[tuple[str, str]] = field(default_factory=list)
    _figures: int = 0

    def add(self, heading: str, *content: str) -> None:
        """A section; `content` is HTML from this module."""
        self.sections.append((heading, "\n".join(content)))

    def figure(self, heading: str, figure: Any) -> None:
        """A section with a plotly figure; its layout may say `meta` as `ensembles.figures` describes."""
        import plotly.io as pio

        if figure.layout.legend.orientation is None and figure.layout.legend.x is None:
            figure.update_layout(legend=ABOVE)  # at the side it takes what a narrow window has
        # the first figure brings the library along: the page needs no network
        drawn = pio.to_html(
            figure,
            config={"responsive": True, "displaylogo": False},
            include_plotlyjs=not self._figures,
            full_html=False,
            default_height="460px",
            div_id=f"figure-{self._figures}",
        )
        self._figures += 1
        meta = figure.layout.meta or {}
        notes = meta.get("notes", {})
        below = "".join(
            f"<li><b>{text(name)}</b>{text(f': {words}' if words else '')}</li>" for name, words in notes.items()
        )
        width = meta.get("least_width") or _LEAST * _beside(figure)
        self.add(
            heading,
            f'<div class="wide"><div class="figure" style="min-width: {int(width)}px">{drawn}</div></div>',
            f'<ol class="notes">{below}</ol>' if below else "",
        )

    def html(self) -> str:
        """The whole page."""
        contents = "".join(f'<li><a href="#s{n}">{text(name)}</a></li>' for n, (name, _) in enumerate(self.sections))
        body = "\n".join(
            f'<section id="s{n}"><h2>{text(name)}</h2>\n{content}</section>'
            for n, (name, content) in enumerate(self.sections)
        )
        style, script = (_HERE.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>{text(self.title)}</title>\n<style>\n{style}</style></head>\n<body><h1>{text(self.title)}</h1>\n"
            f'<nav aria-label="contents"><ol>{contents}</ol></nav>\n{body}\n<script>\n{script}</script></body></html>\n'
        )


def _beside(figure: Any) -> int:
    """How many plots of a figure stand side by side."""
    starts = {round(float(axis.domain[0]), 3) for axis in figure.select_xaxes() if axis.domain}
    starts |= {round(float(scene.domain.x[0]), 3) for scene in figure.select_scenes() if scene.domain.x}
    return min(3, max(1, len(starts)))


def text(value: Any) -> str:
    """Anything as HTML text."""
    return html.escape(str(value))


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def commands(lines: Iterable[str]) -> str:
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def facts(rows: Iterable[tuple[Any, Any]]) -> str:
    """What -> how much."""
    lines = "".join(f'<tr><th scope="row">{text(what)}</th><td>{text(value)}</td></tr>' for what, value in rows)
    return f'<table class="facts">{lines}</table>'


def definitions(words: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{text(w)}</dt><dd>{text(means)}</dd>' for w, means in words.items())}</dl>"


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide rows"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def sortable(
    name: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    marked: int | None = None,
    sorted_by: tuple[str, str] | None = None,
    bars: str | None = None,
) -> str:
    """A table that sorts by a click on a column's head: numbers as numbers, empty cells last.

    Args:
        name: for who hears the page read.
        rows: cells; None and NaN are empty.
        marked: the row that stands out.
        sorted_by: the column it is sorted by already and how, "ascending" or "descending".
        bars: a column of shares, 0 to 1, that is drawn, too.
    """
    columns = [[None if _empty(row[n]) else row[n] for row in rows] for n in range(len(head))]
    known = [[cell for cell in column if cell is not None] for column in columns]
    numbers = [bool(cells) and all(map(_number, cells)) for cells in known]
    heads = []
    for title, is_number in zip(head, numbers, strict=True):
        order = f' aria-sort="{sorted_by[1]}"' if sorted_by and sorted_by[0] == title else ""
        kind = ' class="number"' if is_number else ""
        heads.append(f'<th scope="col"{kind}{order}><button type="button">{text(title)}</button></th>')
    lines = []
    for index in range(len(rows)):
        cells = "".join(
            _cell(column[index], is_number, title == bars)
            for title, column, is_number in zip(head, columns, numbers, strict=True)
        )
        lines.append(f'<tr class="ensemble">{cells}</tr>' if index == marked else f"<tr>{cells}</tr>")
    return (
        f'<div class="wide rows"><table class="sortable" aria-label="{text(name)}">'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: Any, number: bool, bar: bool) -> str:
    if value is None:
        return "<td></td>"
    if number:
        drawn = f' <meter value="{float(value):.4f}"></meter>' if bar else ""
        return f'<td class="number" data-value="{_exact(value)}">{_short(value)}{drawn}</td>'
    words = text(value)
    return f'<td class="words">{words}</td>' if len(words) > 60 else f"<td>{words}</td>"


def _exact(value: Any) -> str:
    """A number as JavaScript reads it."""
    return repr(float(value)) if math.isfinite(float(value)) else f"{'-' * (value < 0)}Infinity"


def _short(value: Any) -> str:
    if math.isinf(float(value)):
        return f"{'−' * (value < 0)}∞"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__float__") and not math.isnan(float(value))
