"""What went wrong with an answer: kinds of error, told by rules that can be read. The first rule that fits names it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nbhelpers.grading import equation_holds

_EQUATION = re.compile(
    r"-?\d+(?:\.\d+)?(?:\s*(?:[-+*/\u00d7\u00f7\u00b7\u2212]|\\times|\\cdot|\\div)\s*-?\d+(?:\.\d+)?)+"
    r"\s*=\s*-?\d+(?:\.\d+)?"
)


def equations(text: str) -> list[bool]:
    """Whether each sum, difference, product or quotient of plain numbers that a text works out is right."""
    verdicts = (equation_holds(found) for found in _EQUATION.findall(text[:20_000]))
    return [holds for holds in verdicts if holds is not None]


def _worked(row: Mapping[str, Any]) -> list[bool]:
    return equations(row["completion"])


RULES: dict[str, tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    "cut off": ("it did not end within the completion's length", lambda row: bool(row["truncated"])),
    "no answer": ("no answer is found in it, wherever one looks", lambda row: row.get("parsed_anywhere") is None),
    "format": ("the right answer stands in it, but was not handed in", lambda row: bool(row.get("correct_anywhere"))),
    "arithmetic": ("an equation that it writes is false", lambda row: not all(_worked(row))),
    "wrong object": (
        "its equations hold: what it put in was misread, or another thing's",
        lambda row: bool(_worked(row)),
    ),
    "no work shown": ("a wrong answer without a calculation", lambda row: True),
}


def error_kind(row: Mapping[str, Any]) -> str | None:
    """The kind of error of a prediction, a key of `RULES`; None where it is right."""
    return None if row["correct"] else next(name for name, (_, fits) in RULES.items() if fits(row))


def count_errors(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many predictions have each kind of error; every kind is named, the right ones are not counted."""
    counts = Counter(map(error_kind, rows))
    return {name: counts[name] for name in RULES}


def not_taught(result: Mapping[str, Any], below: float = 0.5) -> list[dict[str, Any]]:
    """The kinds of problem that the policy mostly fails after training, the worst first.

    Args:
        result: the dict of `evaluation.json`.
        below: accuracies under this are listed.

    Returns:
        Rows {"kind", "n", "before", "after", "mostly": the most frequent kind of error}, and where it was sampled
        "pass@k before" and "pass@k after" with the largest k: a kind at 0 there was never sampled right, so there was
        nothing to reinforce.
    """
    curves = result.get("pass_at_k") or {}
    table = []
    for kind, group in result["by_group"].items():
        if group["after"] is None or group["after"] >= below:
            continue
        row = {"kind": kind, "n": group["n"], "before": group.get("before"), "after": group["after"]}
        for phase in ("before", "after"):
            values = (curves.get(phase) or {}).get("by_group", {}).get(kind)
            if values:
                row[f"pass@{curves[phase]['k'][-1]} {phase}"] = values[-1]
        errors = group.get("errors") or {}
        table.append(row | {"mostly": max(errors, key=errors.__getitem__) if any(errors.values()) else None})
    return sorted(table, key=lambda row: row["after"])
