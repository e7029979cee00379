"""Text for a page, which anybody may have written: escaped, clipped, taken apart; and numbers in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from nbhelpers.params import DEFAULT_DELIMITERS

_LONGEST = 200_000  # characters of one text in a page, whatever a model wrote
_BLANK = " \t\r\n\f\v"

# The functions down to `number` have twins in templates/browser.js, and both pass tests/data/text_cases.json.


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
        '{}\u2026<details class="more"><summary>show all {} characters</summary><div class="text">{}{}</div></details>'
    ).format(visible(text[:limit]), f"{len(text):,}", visible(text[:_LONGEST]), rest)


def segments(completion: Any, delimiters: Sequence[str] = DEFAULT_DELIMITERS) -> list[tuple[str, str, str]]:
    """A completion in pieces of (role, label, text), nothing left out: role is reasoning, solution or outside.

    This is for the eye and more tolerant than the grader: a block that never closes is shown as one, and labelled so.
    """
    text = str(completion)
    ends = {delimiters[0]: ("reasoning", delimiters[1]), delimiters[2]: ("solution", delimiters[3])}
    opening = re.compile("|".join(re.escape(start) for start in ends))
    pieces: list[tuple[str, str, str]] = []
    place = 0
    while place < len(text):
        found = opening.search(text, place)
        if outside := text[place : found.start() if found else None].strip(_BLANK):
            pieces.append(("outside", "outside the blocks", outside))
        if not found:
            break
        role, end = ends[found.group()]
        stop = text.find(end, found.end())
        label = role if stop >= 0 else f"{role} (never closed)"
        stop = len(text) if stop < 0 else stop
        pieces.append((role, label, text[found.end() : stop].strip(_BLANK)))
        place = stop + len(end)
    return pieces


def reading_order(pieces: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """`segments` with the solutions first; a solution that was not written last says so."""
    last = max((place for place, piece in enumerate(pieces) if piece[0] != "solution"), default=-1)
    solutions = [
        (role, f"{label}, before other text" if place < last else label, text)
        for place, (role, label, text) in enumerate(pieces)
        if role == "solution"
    ]
    return solutions + [piece for piece in pieces if piece[0] != "solution"]


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


def percent(share: Any, decimals: int = 1) -> str:
    """0.535 as "53.5 %"; a dash for what is no number."""
    return f"{100 * share:.{decimals}f} %" if isinstance(share, (int, float)) else "\u2013"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def chance(p: float) -> str:
    """A test's p as "= 0.031", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
