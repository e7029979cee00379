"""The official rules of four benchmarks on the text of a solution, oddities included, without judge models.

- MathVista (lupantech/MathVista at 53d5258): plain equality after its normalisation: a multiple-choice answer becomes
  the nearest choice by edit distance (an empty one too), an integer is cut, a float rounded in binary.
- MathVerse (ZrrSkywalker/MathVerse, `score_answer_s2.py`): the extracted answer is judged by GPT-4, or, with
  `--quick_match`, has to equal the answer (a letter where there are choices). This is the second.
- MATH-Vision (mathllm/MATH-V, `evaluate.py` and `utils.py`): a letter at the end or alone on the first line, what is
  boxed, what follows "the answer is", then the part after the last "="; without case, blanks and units it has to equal
  the letter or the choice, or a number that is the same to two decimals (theirs is read by latex2sympy, ours by this
  wing, which also reads a degree sign).
- We-Math (We-Math/We-Math, `accuracy.py`): the first character after the last "Answer", without `<>:.`, if it is one
  of A to H.

Their prompts are others than ours, and their extraction reads the whole response where ours reads the solution block.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal

from nbhelpers.grading.expressions import ARITHMETIC, evaluate

# Levenshtein distance is quadratic; the official scorer has no bound, ours reads no more than this.
MAX_DISTANCE = 400
_CHOSEN = re.compile(r"\(([a-zA-Z])\)")

Verdict3 = tuple[bool, str | None, str]
MAX_READ = 2_000  # characters; the official rules have no bound

_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
_DROPPED = re.compile(
    r"\\text|\\mbox|\\left|\\right|\^\{\\circ\}|\^\\circ|\\,|\\!|\{?m\}?\^3|\{units\}|units|\{km\}|km|\\?\$|\\?%|\s"
)


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
    letter = _CHOSEN.search(extraction)
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


def _letter(gold: str, choices: tuple[str, ...] | None) -> str:
    """The gold answer as the official files have it: the letter of a choice."""
    return chr(ord("A") + choices.index(gold)) if choices and gold in choices else gold


def mathverse(text: str, gold: str, choices: tuple[str, ...] | None) -> Verdict3:
    """Plain equality with the letter or, without choices, with the answer."""
    wanted = _letter(gold, choices)
    return text.strip() == wanted, text.strip(), f"compared with {wanted!r} as it stands"


def wemath(text: str, gold: str, choices: tuple[str, ...] | None) -> Verdict3:
    """The first letter after the last "Answer"."""
    said = re.sub(r"[<>:.]", "", text[-MAX_READ:].split("Answer")[-1].strip()).strip()
    letter = said[0] if said and said[0] in "ABCDEFGH" else None
    return letter == _letter(gold, choices), letter, "the first character after the last 'Answer'"


def mathvision(text: str, gold: str, choices: tuple[str, ...] | None) -> Verdict3:
    """The letter, the choice, or a number that is the same to two decimals."""
    said = _mathvision_answer(text[-MAX_READ:])
    letter = _letter(gold, choices).lower()
    for wanted in (letter, gold.lower()):
        if said and (said == wanted.strip() or said == _stripped(wanted)):
            return True, said, "equal without case, blanks and units"
    own, theirs = evaluate(said), evaluate(_stripped(gold.lower()))
    same = bool(own and theirs) and len(own) == len(theirs) == 1 and _two_places(own[0]) == _two_places(theirs[0])
    return same, said or None, "equal to two decimals" if same else "neither the letter nor the value"


def _two_places(value: Decimal) -> Decimal:
    """Two decimals, a tie to the even one; a number with more figures than that leaves room for is itself."""
    short = value.quantize(Decimal("0.01"), ROUND_HALF_EVEN, ARITHMETIC)
    return value if short.is_nan() else short


def _mathvision_answer(text: str) -> str:
    said = text.strip()
    for letter in "ABCDE":
        ends, begins = (f" {letter}.", f" ({letter})."), (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if said.endswith(ends) or said.startswith(begins):
            said = letter
    if "oxed{" in said:
        said = said.split("oxed{")[-1].rpartition("}")[0] or said.split("oxed{")[-1]
    else:
        for flag in _FLAGS:
            for form in (flag, flag.capitalize()):
                if form in said:
                    said = said.split(form)[-1].strip().split("\n")[0].split(". ")[0]
    said = _stripped(said.lower().split("=")[-1].split("\\approx")[-1]).rstrip(".").lstrip(":")
    return said[1:-1] if re.fullmatch(r"[({][a-e][)}]", said) else said


def _stripped(text: str) -> str:
    return _DROPPED.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac")


OFFICIAL: dict[str, Callable[[str, str, tuple[str, ...] | None], Verdict3]] = {
    "mathverse": mathverse,
    "mathvision": mathvision,
    "wemath": wemath,
}
