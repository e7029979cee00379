"""Compares what a solution commits to with the gold answer, like with like, under its type, unit and precision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache

from nbhelpers.grading.choices import LETTERS, YES_OR_NO, pick, read_choices
from nbhelpers.grading.commit import commit, wordings
from nbhelpers.grading.expressions import ARITHMETIC, same_points
from nbhelpers.grading.numbers import UNSOLVED, Quantity, read_literal, read_quantity, rounded
from nbhelpers.grading.read import number_in, read, read_gold, same
from nbhelpers.grading.spelling import fold
from nbhelpers.grading.units import units_agree
from nbhelpers.params import counted

# Longer solutions are no answers; the bound also keeps every reading of one inside a few milliseconds.
MAX_SOLUTION = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a completion is right, what was read from it (None: nothing could be read), and why."""

    correct: bool
    parsed: str | None
    reason: str


class Gold:
    """What one problem asks for, read once: its kind, its value and how exactly it is compared."""

    def __init__(
        self, answer: str, choices: tuple[str, ...] | None, unit: str | None, places: int | None, wanted: str | None
    ):
        self.answer, self.unit, self.places = answer.strip(), unit, places
        self.choices, self.value = read_choices(choices) if choices else None, read_gold(self.answer)
        if self.choices:
            self.kind, self.place = "choice", self.choices.spelt(fold(self.answer))
            if self.place is None and re.fullmatch(r"\(?[A-Z]\)?", self.answer):
                self.place = self.choices.label(self.answer.strip("()"))  # a data set that keeps the letter
            self.known = self.place is not None
        elif wanted == "list" or wanted != "text" and self.answer[:1] + self.answer[-1:] == "[]":
            self.kind, self.known = "list", self.value.kind == "list"
        elif wanted in ("integer", "float") and self.value.kind != "expression" or self.value.kind == "number":
            self._read_number(wanted)
        else:
            letter = re.fullmatch(r"\W*([A-Za-z])\W*", self.answer)
            self.kind, self.known = "choice" if letter else "text", bool(self.value.key)
            if letter:
                self.choices = read_choices(LETTERS)
                self.place = self.choices.label(letter[1])

    def _read_number(self, wanted: str | None) -> None:
        stated = read_literal(fold(self.answer))
        if stated.value is None:
            stated = read_quantity(fold(self.answer))
        self.kind, self.number, self.known = "number", stated.value, stated.value is not None
        self.unit = self.unit or stated.unit or None
        if self.places is None and wanted != "text" and (stated.places or wanted == "float"):
            self.places = stated.places
        if wanted == "integer":
            self.places = None  # whole numbers are compared exactly

    def says(self, right: bool, shown: str, how: str = "") -> Verdict:
        """The verdict on what was read, in a sentence."""
        return Verdict(right, shown, f"{shown} is {'the answer' if right else f'not {self.answer}'}{how}")


# A problem comes back with every completion of its group and every epoch, so its gold is kept.
read_problem = lru_cache(maxsize=8192)(Gold)


def _shown(value: Decimal) -> str:
    short = Context(prec=15, traps=[]).plus(value).normalize(ARITHMETIC)
    return format(short, "f") if -12 < short.adjusted() < 30 else str(short)


def _judge_number(span: str, gold: Gold) -> Verdict:
    stated = Quantity(None)
    for wording in wordings(span):
        if stated.problem == UNSOLVED and "=" not in wording:
            continue
        stated = read_quantity(wording, decimal_comma=gold.places is not None, asked=gold.unit)
        if stated.value is not None or stated.problem not in ("no number", "several numbers", UNSOLVED):
            break  # else the end of the statement may say which number, or the last sentence which equation
    if stated.value is None:
        return Verdict(False, None, f"no single number: {stated.problem}")
    shown = _shown(stated.value)
    percent = stated.unit == "%" and gold.unit is None
    if not percent and not units_agree(stated.unit, gold.unit):
        return Verdict(False, shown, f"{shown} is in {stated.unit}, not in {gold.unit}")
    if gold.places is None:
        return gold.says(same_points((stated.value,), (gold.number,)), shown)
    value = _share(stated, gold.places) if percent else stated.value
    right = rounded(value, gold.places) == rounded(gold.number, gold.places)
    return gold.says(right, shown, f" to {counted(gold.places, 'decimal')}")


def _share(stated: Quantity, places: int) -> Decimal:
    """A percentage where no unit is asked: 75 % is 0.75 if the precision can hold it, and 7.5 % is 7.5 where it cannot.

    Which of the two is decided without a look at the gold answer, so that no two of them are paid for one text.
    """
    share = ARITHMETIC.scaleb(stated.value, -2)
    kept = rounded(share, places)
    held = kept == share or stated.places < places and kept and kept.adjusted() >= 1 - places
    return share if held or abs(stated.value) < 1 else stated.value


def _judge_list(span: str, gold: Gold) -> Verdict:
    for wording in wordings(span):
        value = read(wording)
        if value.kind == "list":
            items = [item.items[1] if item.kind == "equation" else item for item in value.items]
            items = [item.kind == "text" and number_in(item.key) or item for item in items]
            shown = "[" + ", ".join(_shown(item.points[0]) if item.points else item.key for item in items) + "]"
            right = len(items) == len(gold.value.items) and all(map(same, items, gold.value.items))
            return gold.says(right, shown)
    return Verdict(False, None, "not one list")


def _judge_text(span: str, gold: Gold) -> Verdict:
    for wording in wordings(span):
        value = read(wording)
        if same(value, gold.value):
            return gold.says(True, wording[:200])
        if gold.places is not None and value.kind == "number" and len(gold.value.points) == 1:
            right = rounded(value.points[0], gold.places) == rounded(gold.value.points[0], gold.places)
            return gold.says(
                right and units_agree(value.unit, gold.value.unit), wording, f" to {counted(gold.places, 'decimal')}"
            )
        if gold.value.kind == "truth" and (said := YES_OR_NO.fullmatch(wording)):
            return gold.says(same(read(said[1]), gold.value), said[1])
        if value.kind not in ("text", "equation") and gold.value.kind != "equation":
            break
    return Verdict(False, span[:200], f"{'another text' if value.kind == 'text' else value.kind} than the answer")


def _judge_choice(span: str, gold: Gold) -> Verdict:
    at, how = pick(span, gold.choices)
    if at is None:
        return Verdict(False, None, how)
    chosen, right = gold.choices.texts[at], gold.choices.same(at, gold.place)
    return Verdict(right, chosen, f"{how}: {chosen!r} is {'the answer' if right else f'not {gold.answer!r}'}")


_JUDGES = {"choice": _judge_choice, "number": _judge_number, "list": _judge_list}


def judge(solution: str, gold: Gold) -> Verdict:
    """The verdict on one solution: every span that it commits to must be the answer."""
    if not solution:
        return Verdict(False, None, "the solution is empty")
    if len(solution) > MAX_SOLUTION:
        return Verdict(False, None, f"a solution of {len(solution)} characters is no answer")
    if not gold.known:
        return Verdict(False, None, "the problem has no gold answer of its kind")
    if gold.kind == "number" and solution == gold.answer:
        return gold.says(True, solution)
    text = fold(solution)
    if len(text) > MAX_SOLUTION * 5 // 4:  # ½ unfolds to four characters
        return Verdict(False, None, "too many characters that stand for several")
    spans, problem = commit(text)
    if problem:
        return Verdict(False, None, f"no answer: {problem}")
    verdicts = [_JUDGES.get(gold.kind, _judge_text)(span, gold) for span in spans]
    return next((verdict for verdict in verdicts if not verdict.correct), verdicts[0])
