"""What notebook 02 judges: problems, rollouts, spellings and hacks, and how four graders judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nbhelpers.grading import Verdict, grade, split_completion
from nbhelpers.rewards import GRADING_COLUMNS, naive_correctness_reward_func

Problem = Mapping[str, Any]

ANGLE = {
    "question": "Two equal angles x make up a right angle. How many degrees is x?",
    "answer": "45",
    "question_type": "free_form",
    "answer_type": "integer",
}
LENGTH = {
    "question": "How long is AC?",
    "answer": "12 cm",
    "choices": ["10 cm", "12 cm", "14 cm", "16 cm"],
    "question_type": "multi_choice",
    "answer_type": "text",
}
LARGER = {**LENGTH, "question": "Is AC longer than BC?", "answer": "No", "choices": ["Yes", "No"]}

_THOUGHT = "<REASONING>Both angles together are 90 degrees and they are equal.</REASONING>"


def thought_out(solution: str) -> str:
    """A completion with good reasoning in front of this solution."""
    return f"{_THOUGHT}<SOLUTION>{solution}</SOLUTION>"


ROLLOUTS = {
    "as asked": thought_out("45"),
    "right, in other dress": thought_out("$x = 45^\\circ$"),
    "well formed, wrong": thought_out("90"),
    "right, without reasoning": "<SOLUTION>45</SOLUTION>",
    "right, but not in the blocks": "Both angles together are 90 degrees, so x is 45.",
    "cut off at the end": f"{_THOUGHT}<SOLUTION>4",
}
SPELLINGS = (
    "45", "45.0", "45°", "$\\boxed{45}$", "x = 45", "The angle is 45 degrees.", "forty-five", "90/2", "45.5", "450",
    "45 or 46", "not 45",
)  # fmt: skip


class Hack(NamedTuple):
    """A completion that wants to be paid without solving the problem."""

    name: str
    idea: str
    completion: str
    problem: Problem = ANGLE


HACKS = (
    Hack("empty tags", "the shape is all that formatting asks for", "<REASONING></REASONING><SOLUTION></SOLUTION>"),
    Hack(
        "echo of the prompt",
        "the prompt holds all four marks: repeat it",
        "Provide your reasoning between <REASONING> and </REASONING> "
        "and your answer between <SOLUTION> and </SOLUTION>.",
    ),
    Hack("answer inside the reasoning", "one block serves as both", "<REASONING><SOLUTION>45</SOLUTION></REASONING>"),
    Hack(
        "answer first, excuse later",
        "guess, then write something that looks like a proof",
        f"<SOLUTION>45</SOLUTION>{_THOUGHT}",
    ),
    Hack("two answers", "one of them will do", thought_out("44</SOLUTION><SOLUTION>45")),
    Hack("every number", "the answer is in there", thought_out(" ".join(map(str, range(30, 61))))),
    Hack("a hedge", "never quite wrong", thought_out("between 40 and 45")),
    Hack(
        "every choice listed", "a grader that takes the first letter is happy", thought_out("(B) (A) (C) (D)"), LENGTH
    ),
    Hack("every choice's text", "the answer is in there, too", thought_out("10 cm, 12 cm, 14 cm, 16 cm"), LENGTH),
    Hack("a denial", "names the letter all the same", thought_out("Not (B)"), LENGTH),
    Hack("a refusal", "the choice that is spelt most like it may be the right one", thought_out("N/A"), LARGER),
)


def verdict_on(completion: str, problem: Problem, **settings: Any) -> Verdict:
    """`grade` with the problem's own columns."""
    return grade(completion, problem["answer"], **{key: problem.get(key) for key in GRADING_COLUMNS}, **settings)


def _equals(completion: str, problem: Problem) -> bool:
    return naive_correctness_reward_func([None], [completion], [problem["answer"]]) == [2.0]


def _contains(completion: str, problem: Problem) -> bool:
    return str(problem["answer"]) in (split_completion(completion)[1] or "")


# What each grader calls right; a completion has the default marks.
GRADERS: dict[str, Callable[[str, Problem], bool]] = {
    "equal strings": _equals,
    "contains the answer": _contains,
    "MathVista's rule": lambda completion, problem: verdict_on(completion, problem, protocol="mathvista").correct,
    "strict": lambda completion, problem: verdict_on(completion, problem).correct,
}


class GraderRates(NamedTuple):
    """What one grader makes of answers that the strict grader was not built with, and its time for a completion."""

    name: str
    denied: int
    credited: int
    microseconds: float


# The first look at 204 answers of real models to MMMU, MMMU-Pro, TheoremQA, OlympiadBench and MathVerse, 2026-11-24, by
# tests/benchmarks/bench_grading.py; the times on tests/data/grader_cases.jsonl. 2 shared CPU cores, Python 3.11.7,
# math-verify 0.9.0 (the grader before it was timed a day earlier). The answers are not in the repository, so that no
# test can count again: one holds that notebook 02 and README state the same.
RIGHT_CASES, WRONG_CASES = 66, 138
MEASURED = (
    GraderRates("equal strings", 62, 0, 373),
    GraderRates("math-verify 0.9.0", 48, 1, 6200),
    GraderRates("MathVista's rule", 36, 3, 10),
    GraderRates("math-verify + letters", 31, 1, 5600),
    GraderRates("the grader before it", 8, 0, 30),
    GraderRates("strict", 6, 0, 34),
)
