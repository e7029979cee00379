"""The project's pages and parts of pages: their templates, and whether anybody is there to look at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from nbhelpers.params import counted, percent, points
from nbhelpers.runs import earned_the_same, is_interactive  # noqa: F401 (handed on by the face)
from nbhelpers.show.text import clipped, number, reading_order, segments, visible
from nbhelpers.show.typeset import is_set, markup, typeset

TEMPLATES = Path(__file__).resolve().parent / "templates"


def _pieces(completion: object, delimiters: Sequence[str]) -> list[tuple[str, str, str, object, bool]]:
    """(role, label, text, text as markup, whether it was set) of each piece of a completion, solutions first."""
    found = []
    for role, label, text, _ in reading_order(segments(completion, delimiters)):
        tree = typeset(text)
        found.append((role, label, text, _shown(tree, text, 2000), is_set(tree, text)))
    return found


def _set(value: object, limit: int) -> object:
    """A short text with its formulas set; `clipped` where it is long or there is nothing to set."""
    text = str(value)
    return _shown(typeset(text) if len(text) <= limit * 1.2 else [], text, limit)


def _shown(tree: list, text: str, limit: int) -> object:
    return markup(tree) if is_set(tree, text) else clipped(text, limit)


@lru_cache(maxsize=1)
def _environment():
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "visible": visible,
        "clipped": clipped,
        "set": _set,
        "pieces": _pieces,
        "number": number,
        "percent": percent,
        "points": points,
        "counted": counted,
        "signed": lambda value: f"{value:+.2f}",
        "letter": lambda place: chr(65 + place) if place < 26 else str(place + 1),
        "flat": earned_the_same,
    }
    return found


def template(name: str):
    """A jinja2 template of the project's pages, with autoescape on."""
    return _environment().get_template(name)


def macro(name: str) -> Callable[..., str]:
    """A macro of `samples.html`: `problem`, `completion` or `group`."""
    return getattr(template("samples.html").module, name)


def style_of(*parts: str) -> str:
    """The style sheets of these names, one after the other."""
    return "".join((TEMPLATES / f"{part}.css").read_text(encoding="utf-8") for part in parts)


def in_notebook(body: str) -> str:
    style = style_of("notebook", "samples", "live", "lesson", "words")
    # The two classes keep MathJax (3 in JupyterLab, 2 in nbconvert's pages) from typesetting "$5 and $6" as a formula.
    return f'<style>{style}</style><div class="nbh mathjax_ignore tex2jax_ignore">{body}</div>'


class Page:
    """HTML that a notebook shows as the last expression of a cell; `str(page)` is the markup."""

    def __init__(self, body: str):
        self.body = body

    def __str__(self) -> str:
        return in_notebook(self.body)

    _repr_html_ = __str__

    def __repr__(self) -> str:
        return f"<Page of {len(self.body):,} characters>"


def note(message: str) -> str:
    return f'<p class="note">{visible(message)}</p>'
