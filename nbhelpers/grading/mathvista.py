"""The official protocol of MathVista (lupantech/MathVista at 53d5258) on the text of a solution, oddities included.

Plain equality after the official normalisation: a multiple-choice answer becomes the nearest choice by edit distance
(an empty one too), an integer is cut, a float rounded in binary.
"""

from __future__ import annotations

import re

# Levenshtein distance is quadratic; the official scorer has no bound, ours reads no more than this.
MAX_DISTANCE = 400

_LETTER = re.compile(r"\(([a-zA-Z])\)")


def _distance(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for at, char in enumerate(one, 1):
        last, row[0] = row[0], at
        for place, theirs in enumerate(other, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (char != theirs))
    return row[-1]


def _choice(text: str, choices: tuple[str, ...]) -> tuple[str | None, str]:
    extraction = text.strip()
    letter = _LETTER.search(extraction)
    if letter:
        extraction = letter[1].upper()
    place = ord(extraction) - ord("A") if len(extraction) == 1 else -1
    if 0 <= place < len(choices):
        return choices[place], f"letter {extraction}"
    if extraction in choices:
        return extraction, "the text of a choice"
    if len(extraction) > MAX_DISTANCE:
        return None, f"a text of {len(extraction)} characters is compared with no choice"
    return min(choices, key=lambda choice: _distance(extraction, choice)), "the nearest choice by edit distance"


def official_prediction(
    text: str, choices: tuple[str, ...] | None, places: int | None, answer_type: str | None
) -> tuple[str | None, str]:
    """What the official scorer makes of a solution's text, and how; None where it would find no number."""
    try:
        if choices:
            return _choice(text, choices)
        if answer_type == "integer":
            return str(int(float(text))), "cut to an integer"
        if answer_type == "float":
            return str(round(float(text), places or 0)), "rounded"
    except (ValueError, OverflowError):
        return None, "not a number to the official scorer"
    return text, "as it stands"
