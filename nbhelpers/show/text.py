"""TODO."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

DELIMITERS = ("<REASONING>", "</REASONING>", "<SOLUTION>", "</SOLUTION>")


_LONGEST = 200_000  # characters of one text in a page, whatever a model wrote


def visible(value: Any) -> Any:
    """Text as escaped markup; each character that is not seen but acts becomes its number in a small box."""
    from markupsafe import Markup, escape

    pieces, plain = [], []
    for char in str(value):
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co"):
            plain.append(char)
            continue
        pieces.append(escape("".join(plain)))
        pieces.append(Markup(f'<span class="hidden-char">U+{ord(char):04X}</span>'))
        plain = []
    pieces.append(escape("".join(plain)))
    return Markup("").join(pieces)


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


def segments(completion: Any, delimiters: Sequence[str] = DELIMITERS) -> list[tuple[str, str, str]]:
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
        outside = text[place : found.start() if found else len(text)]
        if outside.strip():
            pieces.append(("outside", "outside the blocks", outside.strip()))
        if not found:
            break
        role, end = ends[found.group()]
        stop = text.find(end, found.end())
        label = role if stop >= 0 else f"{role} (never closed)"
        stop = len(text) if stop < 0 else stop
        pieces.append((role, label, text[found.end() : stop].strip()))
        place = stop + len(end)
    return pieces


def number(value: Any) -> str:
    """2.0 as "2", 0.5 as "0.5", None (a reward that could not judge) as "none"."""
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)
