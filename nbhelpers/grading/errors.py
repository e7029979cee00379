"""What went wrong with an answer: kinds of error, told by rules that can be read. The first rule that fits names it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nbhelpers.grading.read import equation_holds

_EQUATION = re.compile(
    r"-?\d+(?:\.\d+)?(?:\s*(?:[-+*/\u00d7\u00f7\u00b7\u2212]|\\times|\\cdot|\\div)\s*-?\d+(?:\.\d+)?)+"
    r"\s*=\s*-?\d+(?:\.\d+)?"
)


def equations(text: str) -> list[bool]:
    """Whether each sum, difference, product or quotient of plain numbers that a text works out is right."""
    verdicts = (equation_holds(found) for found in _EQUATION.findall(text[:20_000]))
    return [holds for holds in verdicts if holds is not None]


def _worked(row: Mapping[str, Any]) -> list[bool]:
    return equations(str(row.get("completion") or ""))


def _found(row: Mapping[str, Any]) -> str | None:
    """The answer: where it was looked for everywhere, as in evaluation, that one; else the one that was handed in."""
    return row.get("parsed_anywhere", row.get("parsed"))


ERRORS: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "cut off": ("it did not end within the completion's length", lambda row: bool(row.get("truncated"))),
    "no answer": ("no answer is found in it, wherever one looks", lambda row: _found(row) is None),
    "format": ("the right answer stands in it, but was not handed in", lambda row: bool(row.get("correct_anywhere"))),
    "arithmetic": ("an equation that it writes is false", lambda row: not all(_worked(row))),
    "wrong object": (
        "its equations hold: what it put in was misread, or another thing's",
        lambda row: bool(_worked(row)),
    ),
    "no work shown": ("a wrong answer without a calculation", lambda row: True),
}


def error_kind(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row of `samples.jsonl` or `predictions.jsonl`, a key of `ERRORS`; None where nothing is or
    it was not judged.
    """
    if row.get("correct") in (True, None):
        return None
    return next(name for name, (_, fits) in ERRORS.items() if fits(row))


def count_errors(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many predictions have each kind of error; every kind is named, the right ones are not counted."""
    counts = Counter(map(error_kind, rows))
    return {name: counts[name] for name in ERRORS}
