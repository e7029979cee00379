"""Text for a page, which anybody may have written: escaped, clipped, taken apart; and numbers in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from nbhelpers.params import DEFAULT_DELIMITERS, counted

_LONGEST = 200_000  # characters of one text in a page, whatever a model wrote
_BLANK = " \t\r\n\f\v"

# `visible`, `clipped`, `word_diff` and `number` have twins in templates/cards.js, which pass tests/data/text_cases.json
# as well.


def visible(value: Any) -> Any:
    """Text as escaped markup; each character that is not seen but acts becomes its number in a small box."""
    from markupsafe import Markup, escape

    return Markup(
        "".join(
            f'<span class="hidden-char">U+{ord(char):04X}</span>'
            if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co")
            else char
            for char in escape(str(value))
        )
    )


def clipped(value: Any, limit: int) -> Any:
    """`visible`, with what goes beyond `limit` characters behind "show all"."""
    from markupsafe import Markup

    text = str(value)
    if len(text) <= limit * 1.2:
        return visible(text)
    rest = f"\n[{len(text) - _LONGEST:,} more characters are not shown]" if len(text) > _LONGEST else ""
    return Markup(
        '{}\u2026<details class="more"><summary>show all {}</summary><div class="text">{}{}</div></details>'
    ).format(visible(text[:limit]), counted(len(text), "character"), visible(text[:_LONGEST]), rest)


class Piece(NamedTuple):
    """A part of a completion: its role (reasoning, solution or outside), its label, which begins with the role, its
    text and where that begins.
    """

    role: str
    label: str
    text: str
    start: int


def segments(completion: Any, delimiters: Sequence[str] = DEFAULT_DELIMITERS) -> list[Piece]:
    """A completion in pieces, nothing left out.

    This is for the eye and more tolerant than the grader: a block that never closes is shown as one, and labelled so.
    """
    text = str(completion)
    ends = {delimiters[0]: ("reasoning", delimiters[1]), delimiters[2]: ("solution", delimiters[3])}
    opening = re.compile("|".join(re.escape(start) for start in ends))
    pieces: list[Piece] = []
    place = 0
    while place < len(text):
        found = opening.search(text, place)
        outside = _piece("outside", "outside the blocks", text, place, found.start() if found else len(text))
        if outside.text:
            pieces.append(outside)
        if not found:
            break
        role, end = ends[found.group()]
        stop = text.find(end, found.end())
        label = role if stop >= 0 else f"{role} (never closed)"
        stop = len(text) if stop < 0 else stop
        pieces.append(_piece(role, label, text, found.end(), stop))
        place = stop + len(end)
    return pieces


def _piece(role: str, label: str, text: str, start: int, stop: int) -> Piece:
    """The text between two places without the blanks around it."""
    tail = text[start:stop].lstrip(_BLANK)
    return Piece(role, label, tail.rstrip(_BLANK), stop - len(tail))


def reading_order(pieces: Sequence[Piece]) -> list[Piece]:
    """`segments` with the solutions first; a solution that was not written last says so."""
    last = max((place for place, piece in enumerate(pieces) if piece.role != "solution"), default=-1)
    solutions = [
        piece._replace(label=f"{piece.label}, before other text") if place < last else piece
        for place, piece in enumerate(pieces)
        if piece.role == "solution"
    ]
    return solutions + [piece for piece in pieces if piece.role != "solution"]


_WORDS = re.compile(rf"[{_BLANK}]+|\w+[{_BLANK}]*|[^\w{_BLANK}][{_BLANK}]*")


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """The words of two texts in one row of (sign, words): "=" in both, "-" in the first only, "+" in the second only.

    Of each text the first 1,200 words and marks are compared.
    """
    a, b = _WORDS.findall(before)[:1200], _WORDS.findall(after)[:1200]
    row = []
    for what, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        parts = [("=", a[i:j])] if what == "equal" else [("-", a[i:j]), ("+", b[k:m])]
        row += [(sign, "".join(words)) for sign, words in parts if words]
    return row


def number(value: Any) -> str:
    """2.0 as "2", 0.5 as "0.5", three decimals at most; None (a reward that could not judge) as "none"."""
    if value is None:
        return "none"
    if not isinstance(value, float):
        return str(value)
    return f"{round(value, 3) + 0.0:.3f}".rstrip("0").rstrip(".")  # + 0.0: no "-0"
