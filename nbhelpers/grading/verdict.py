"""The door of the wing: one completion, one problem, one verdict."""

from __future__ import annotations

import math
from typing import Any

from nbhelpers.grading.benchmarks import OFFICIAL, official_prediction
from nbhelpers.grading.blocks import DEFAULT_DELIMITERS, Delimiters, find_solutions
from nbhelpers.grading.compare import Verdict, judge, read_problem

PROTOCOLS = ("strict", "mathvista", *OFFICIAL)
# The columns of a problem, in the order in which samples and predictions are written.
PROBLEM_COLUMNS = ("question", "choices", "unit", "precision", "answer", "question_type", "answer_type")
# What a grader takes beside completion and answer; a reward gets them as keyword lists.
GRADING_COLUMNS = tuple(column for column in PROBLEM_COLUMNS if column not in ("question", "answer"))


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    return value if isinstance(value, str) else str(value)


def _as_places(precision: Any) -> int | None:
    """Decimals as data frames hold them; None for none, for nonsense and for a negative number."""
    try:
        places = int(precision)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(places, 20) if places >= 0 else None


def _as_choices(choices: Any, question_type: str | None) -> tuple[str, ...] | None:
    if choices is None or isinstance(choices, (str, float)) or question_type == "free_form":
        return None
    return tuple(map(str, choices)) or None


def asked(answer, choices=None, unit=None, precision=None, question_type=None, answer_type=None) -> tuple:
    """A problem's columns as `read_problem` takes them."""
    return _as_text(answer), _as_choices(choices, question_type), unit, _as_places(precision), answer_type


def can_grade(answer: Any, **columns: Any) -> bool:
    """Whether there is a gold answer of the kind that is asked for, given the columns that `grade` takes.

    Without one no completion can be judged.
    """
    gold = read_problem(*asked(answer, **columns))
    return bool(gold.answer) and gold.known


def grade(
    completion: str,
    answer: Any,
    *,
    choices: Any = None,
    unit: str | None = None,
    precision: Any = None,
    question_type: str | None = None,
    answer_type: str | None = None,
    delimiters: Delimiters = DEFAULT_DELIMITERS,
    protocol: str = "strict",
) -> Verdict:
    """Whether `completion` answers the problem.

    Args:
        completion: What the policy wrote, blocks and all.
        answer: The gold answer: a choice's text (or letter), a number or a list as text, or a text.
        choices: The choices of a multiple-choice problem, shown to the policy as (A), (B), ...
        unit: The unit that the question asks for; another known unit is wrong, a missing one is not.
        precision: Decimals to which a float is compared; without it, those that the answer has.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list"; without it, what the answer looks like.
        delimiters: The marks of the blocks.
        protocol: "strict", or "mathvista", "mathverse", "mathvision" or "wemath" for the behaviour of that benchmark's
            scorer on the solution text.

    Returns:
        The verdict. `parsed` is None when nothing could be read, in either protocol; the official scorer may call
        such a completion right all the same (nearest choice to an empty text).

    Raises:
        ValueError: `protocol` is none of these. Nothing else raises, whatever the completion holds.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is unknown: use one of {', '.join(PROTOCOLS)}")
    text = completion if isinstance(completion, str) else ""
    solutions, problem = find_solutions(text, delimiters)
    columns = asked(answer, choices, unit, precision, question_type, answer_type)
    if protocol == "mathvista":
        solution = solutions[0] if solutions else ""
        gold, options, _, places, _ = columns
        prediction, how = official_prediction(solution, options, places, answer_type)
        correct = prediction == gold
        if not solution:
            return Verdict(correct, None, f"{problem or 'the solution is empty'}; official rule: {how}")
        return Verdict(correct, prediction, f"{how}: {prediction!r} {'is' if correct else 'is not'} {gold!r}")
    if problem:
        return Verdict(False, None, problem)
    if protocol in OFFICIAL:
        correct, prediction, how = OFFICIAL[protocol](solutions[0], columns[0], columns[1])
        return Verdict(correct, prediction, f"{how}: {prediction!r} {'is right' if correct else 'is wrong'}")
    gold = read_problem(*columns)
    verdict = judge(solutions[0], gold)
    if not all(verdict.correct and judge(other, gold).correct for other in solutions[1:]):
        return Verdict(False, None, "several different solutions")
    return verdict


def same_answer(one: str, other: str, *, protocol: str = "strict", **columns: Any) -> bool:
    """Whether two answers that were read from completions (`Verdict.parsed`) are one.

    Args:
        columns: of the problem, as `grade` takes them.

    The grader decides: with either as the gold answer, the other is right. The official protocols compare text.
    """
    if one == other or protocol != "strict":
        return one == other
    return any(
        judge(said, read_problem(*asked(gold, **columns))).correct for said, gold in ((one, other), (other, one))
    )
