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

import itertools
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
_LETTER = r"(?:\*\*)?\(?([A-H])\)?(?:\*\*)?"
_CHOSEN = re.compile(  # "option B is correct", "the right choice is B", "which corresponds to (B)"
    rf"(?:\b(?:option|choice)\s+{_LETTER}|\({_LETTER}\)|\b([A-H]))\s+(?:is|would be|must be)\s+(?:the\s+)?"
    r"(?:correct|right|best)\b"
    rf"|\b(?:correct|right)\s+(?:option|choice)\s+(?:is|would be)\s*:?\s*{_LETTER}(?![\w'])"
    rf"|\bcorresponds\s+to\s+(?:option|choice|answer)?\s*{_LETTER}(?![\w'])"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_CONDITION = re.compile(r"\b(?:if|when|unless)\b", re.I)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
# What is added to a statement and does not conclude, as "which makes 12" would.
_ADDED = re.compile(r",?\s+(?:with|because|since|as|whose|including|namely|that (?:have|has|are|were))\b")
_OPTION = re.compile(r"\s*\(?([A-Z])[).:]\s")


def _places(text: str, marks: Delimiters, choices: bool) -> Iterator[tuple[str, str]]:
    """Where an answer may stand and the text there, the surest place first; of `choices` a letter may be announced."""
    solution = split_completion(text, marks)[1]
    if solution is not None:
        yield "the solution block", solution.strip()
    for mark in marks:
        text = text.replace(mark, "\n")
    text = text.strip()[-_MOST_READ:]
    announced = [_ANNOUNCED, _CHOSEN] if choices else [_ANNOUNCED]
    for name, patterns in (("boxed", [_BOXED]), ("announced", announced), ("in bold", [_BOLD])):
        matches = sorted((one for pattern in patterns for one in pattern.finditer(text)), key=lambda one: one.start())
        if found := [one[one.lastindex].strip() for one in matches if not _supposed(text, one.start())]:
            yield name, found[-1]
            if name == "announced":
                yield name, SENTENCE_END.split(found[-1], maxsplit=1)[0]
    lines = [line for line in _without_options(text) if line and not _CONDITION.match(line)]
    if len(lines) == 1 or lines and len(lines[-1]) < 80:
        yield "the last line", lines[-1]
    sentences = [piece.strip() for line in lines for piece in SENTENCE_END.split(line) if piece and piece.strip()]
    for sentence in sentences[:-4:-1]:
        yield "one of the last sentences", sentence
        if (main := _ADDED.split(sentence, maxsplit=1)[0]) != sentence:
            yield "one of the last sentences", main


def _without_options(text: str) -> list[str]:
    """The lines without those that list the options: (A) 3, (B) 4, one below the other."""
    lines = [line.strip() for line in text.splitlines()]
    letters = [found[1] if (found := _OPTION.match(f"{line} ")) else "" for line in lines]
    pairs = enumerate(itertools.pairwise(letters))
    first = {place for place, (one, other) in pairs if one and other and ord(other) == ord(one) + 1}
    return [line for place, line in enumerate(lines) if place not in first and place - 1 not in first]


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
    for place, span in _places(text, delimiters, gold.kind == "choice"):
        verdict = judge(span, gold)
        if verdict.parsed is not None and not (gold.kind == "text" and place.endswith("sentences")):
            return Verdict(verdict.correct, verdict.parsed, f"{place}: {verdict.reason}")
    text = text[-_MOST_READ:]
    if gold.kind == "number" and not _ANNOUNCED.search(text) and (numbers := _NUMBER.findall(text)):
        verdict = judge(numbers[-1], gold)
        return Verdict(verdict.correct, verdict.parsed, f"the last number: {verdict.reason}")
    return Verdict(False, None, "no answer anywhere")
