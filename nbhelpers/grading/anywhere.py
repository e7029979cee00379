"""The answer wherever it stands: a tolerant extraction, for telling "did not hand it in" from "did not know it".

It is no reward: a policy would learn to name many answers. Tried in order, the first place in which an answer can be
read decides, whether it is right or not: the solution block, closed or not; what is boxed, announced or in bold; the
last line; the last sentence that holds a number or names a choice.

>>> grade_anywhere("There are 3 rows of 4, so the total is 12.", "12", answer_type="integer").correct
True
>>> grade_anywhere("It is 12. No, it is 13.", "12", answer_type="integer").correct
False
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nbhelpers.grading.blocks import split_completion
from nbhelpers.grading.commit import SENTENCE_END
from nbhelpers.grading.compare import Verdict, judge, read_problem
from nbhelpers.grading.verdict import asked
from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters

_MOST_READ = 4000  # characters from the end of a completion
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANNOUNCED = re.compile(
    r"(?:\banswer|\bans|答案)\b\s*(?:(?:to|for)\s[^.\n:]{0,60})?(?:\s*\*+)?\s*"
    r"(?:is|are|would be|will be|must be|=|:|是|为|：)\s*:?\s*([^\n]+)",
    re.I,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_CONDITION = re.compile(r"\b(?:if|when|unless)\b", re.I)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def _places(text: str, marks: Delimiters) -> Iterator[tuple[str, str]]:
    """Where an answer may stand and the text there, the surest place first."""
    solution = split_completion(text, marks)[1]
    if solution is not None:
        yield "the solution block", solution.strip()
    for mark in marks:
        text = text.replace(mark, "\n")
    text = text.strip()[-_MOST_READ:]
    for name, pattern in (("boxed", _BOXED), ("announced", _ANNOUNCED), ("in bold", _BOLD)):
        if found := [match[1].strip() for match in pattern.finditer(text) if not _supposed(text, match.start())]:
            yield name, found[-1]
            if name == "announced":
                yield name, SENTENCE_END.split(found[-1], maxsplit=1)[0]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _CONDITION.match(line.strip())]
    if len(lines) == 1 or lines and len(lines[-1]) < 80:
        yield "the last line", lines[-1]
    sentences = [piece.strip() for line in lines for piece in SENTENCE_END.split(line) if piece and piece.strip()]
    for sentence in sentences[:-4:-1]:
        yield "one of the last sentences", sentence


def _supposed(text: str, at: int) -> bool:
    """Whether what stands at `at` is said under a condition: "if it is odd, the answer is 3"."""
    return bool(_CONDITION.search(re.split(r"[.!?\n]", text[max(0, at - 300) : at])[-1]))


def grade_anywhere(
    completion: str, answer: Any, *, delimiters: Delimiters = DEFAULT_DELIMITERS, **columns: Any
) -> Verdict:
    """The verdict on the answer wherever it stands; `reason` begins with the place.

    Args:
        columns: of the problem, as `grade` takes them. The protocol is always the strict one.
    """
    gold = read_problem(*asked(answer, **columns))
    text = completion if isinstance(completion, str) else ""
    for place, span in _places(text, delimiters):
        verdict = judge(span, gold)
        if verdict.parsed is not None and not (gold.kind == "text" and place.endswith("sentences")):
            return Verdict(verdict.correct, verdict.parsed, f"{place}: {verdict.reason}")
    text = text[-_MOST_READ:]
    if gold.kind == "number" and not _ANNOUNCED.search(text) and (numbers := _NUMBER.findall(text)):
        verdict = judge(numbers[-1], gold)
        return Verdict(verdict.correct, verdict.parsed, f"the last number: {verdict.reason}")
    return Verdict(False, None, "no answer anywhere")
