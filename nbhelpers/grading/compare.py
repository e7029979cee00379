"""Compares what a solution commits to with the gold answer: like with like, under the problem's type, unit and precision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache

from nbhelpers.grading.choices import Choices, pick, read_choices
from nbhelpers.grading.commit import HEDGE, commit, wordings
from nbhelpers.grading.expressions import ARITHMETIC, same_points
from nbhelpers.grading.numbers import UNSOLVED, Quantity, read_literal, read_quantity, rounded
from nbhelpers.grading.read import Value, read, read_gold, same, split_at
from nbhelpers.grading.spelling import fold, text_key
from nbhelpers.grading.units import units_agree

# Longer solutions are no answers; the bound also keeps every reading of one inside a few milliseconds.
MAX_SOLUTION = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a completion is right, what was read from it (None: nothing could be read), and why."""

    correct: bool
    parsed: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What one problem asks for, as plain values: the key under which its reading is kept."""

    answer: str
    choices: tuple[str, ...] | None = None
    unit: str | None = None
    precision: int | None = None
    answer_type: str | None = None


class Gold:
    """What one problem asks for, read once: its kind, its value and how exactly it is compared."""

    def __init__(self, problem: Problem) -> None:
        self.answer, self.unit = problem.answer.strip(), problem.unit
        self.choices: Choices | None = read_choices(problem.choices) if problem.choices else None
        self.value: Value = read_gold(self.answer)
        self.number: Decimal | None = None
        self.place: int | None = None
        wanted = problem.answer_type if problem.answer_type in ("integer", "float", "list", "text") else None
        if self.choices:
            self.kind, self.place = "choice", self.choices.spelt(self.answer)
            if self.place is None and re.fullmatch(r"\(?[A-Z]\)?", self.answer):
                self.place = self.choices.label(self.answer.strip("()"))  # a data set that keeps the letter
            self.known = self.place is not None
        elif wanted == "list" or wanted is None and self.answer[:1] + self.answer[-1:] == "[]":
            self.kind, self.items = "list", _items(fold(self.answer)) or ()
            self.known = bool(self.items)
        elif wanted in ("integer", "float") or self.value.kind == "number":
            self._read_number(problem, wanted)
        else:
            self.kind = "letter" if re.fullmatch(r"\W*[A-Za-z]\W*", self.answer) else "text"
            self.known = bool(self.value.key)
            if self.kind == "letter":
                self.value = read_gold(re.sub(r"\W", "", self.answer))

    def _read_number(self, problem: Problem, wanted: str | None) -> None:
        stated = read_literal(fold(self.answer))
        if stated.value is None and wanted != "text":
            stated = read_quantity(fold(self.answer))
        self.kind, self.number, self.known = "number", stated.value, stated.value is not None
        self.unit = self.unit or stated.unit or None
        self.places = problem.precision
        if self.places is None and wanted != "text" and (stated.places or wanted == "float"):
            self.places = stated.places
        if wanted == "integer":
            self.places = None  # whole numbers are compared exactly


@lru_cache(maxsize=8192)
def read_problem(problem: Problem) -> Gold:
    """The gold of a problem, kept because a problem comes back with every completion of its group and every epoch."""
    return Gold(problem)


_TO_SHOW = Context(prec=15, traps=[])


def _shown(value: Decimal) -> str:
    if len(value.as_tuple().digits) > 15:
        value = _TO_SHOW.plus(value)
    text = format(value, "f") if -12 < value.adjusted() < 30 else str(value)
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text


def _judge_number(span: str, gold: Gold) -> Verdict:
    stated = Quantity(None)
    for wording in wordings(span):
        if stated.problem == UNSOLVED and "=" not in wording:
            continue
        stated = read_quantity(wording, decimal_comma=gold.places is not None, asked=gold.unit)
        if stated.value is not None or stated.problem not in ("several numbers", UNSOLVED):
            break  # else the end of the statement may say which number, or the last sentence which equation
    if stated.value is None:
        return Verdict(False, None, f"no single number: {stated.problem}")
    shown = _shown(stated.value)
    percent = stated.unit == "%" and gold.unit is None
    if not percent and not units_agree(stated.unit, gold.unit):
        return Verdict(False, shown, f"{shown} is in {stated.unit}, not in {gold.unit}")
    if gold.places is None:
        right = same_points((stated.value,), (gold.number,))
        return Verdict(right, shown, f"{shown} is {'the answer' if right else f'not {gold.answer}'}")
    value = _share(stated, gold.places) if percent else stated.value
    right = rounded(value, gold.places) == rounded(gold.number, gold.places)
    return Verdict(
        right, shown, f"{shown} is {'the answer' if right else f'not {gold.answer}'} to {gold.places} decimals"
    )


def _share(stated: Quantity, places: int) -> Decimal:
    """A percentage where no unit is asked: 75 % is 0.75 if the precision can hold it, and 7.5 % is 7.5 where it cannot.

    Which of the two is decided without a look at the gold answer, so that no two of them are paid for one text.
    """
    share = ARITHMETIC.scaleb(stated.value, -2)
    kept = rounded(share, places)
    if abs(stated.value) < 1 or kept == share or stated.places < places and kept and kept.adjusted() >= 1 - places:
        return share
    return stated.value


def _items(span: str) -> tuple[Value, ...] | None:
    """The items of an ordered list, None when the span is not one list."""
    bare = span.strip(" .`*$\n")
    inside = re.findall(r"[\[({]([^\[\](){}]*)[\])}]", bare)
    if inside:
        outside = re.sub(r"[\[({][^\[\](){}]*[\])}]", "", bare, count=1).strip(" .:")
        if len(inside) > 1 or re.search(r"[\[\](){}\d^]|\b(?:or|not|nor|except|maybe)\b", outside, re.I):
            return None
        bare = inside[0]
    elif re.search(r"[\[\](){}]", bare):
        return None
    pieces = [piece.strip() for part in split_at(bare, ",;") for piece in re.split(r"\s+and\s+|^\s*and\s+", part)]
    if len(pieces) > 2 and not pieces[-2]:
        del pieces[-2]  # "1, 2, and 3"
    if len(pieces) == 1 and re.fullmatch(r"[-+\d.]+(?:\s+[-+\d.]+)+", pieces[0]):
        pieces = pieces[0].split()
    items = []
    for piece in pieces:
        value = read(piece)
        if value.kind == "equation":
            value = value.items[1]
        if value.kind == "text" and (stated := read_quantity(piece)).value is not None:
            value = Value("number", value.key, (stated.value,), stated.unit)
        if not piece or value.kind == "expression" or value.kind == "text" and re.search(r"\d", piece):
            return None
        items.append(value)
    return tuple(items)


def _judge_list(span: str, gold: Gold) -> Verdict:
    items = _items(span)
    if items is None:
        return Verdict(False, None, "not one list")
    shown = "[" + ", ".join(_shown(item.points[0]) if item.points else item.key for item in items) + "]"
    right = len(items) == len(gold.items) and all(map(same, items, gold.items))
    return Verdict(right, shown, f"{shown} is {'the answer' if right else f'not {gold.answer}'}")


_LABEL = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?|[(\[]([A-Za-z])[)\]](?!.*[(\[][A-Za-z][)\]]).*", re.S)
_NAMED_LETTER = re.compile(r"(?<=\w )([A-Z])(?![\w'])")


def _judge_letter(span: str, gold: Gold) -> Verdict:
    """A gold answer that is one letter: the span's label, or the one capital that its sentence names."""
    for wording in wordings(span):
        label = _LABEL.fullmatch(wording)
        letter = label and (label[1] or label[2])
        if letter is None and len(named := set(_NAMED_LETTER.findall(wording))) == 1 and not HEDGE.search(wording):
            letter = named.pop()
        if letter:
            right = letter.casefold() == gold.value.key
            return Verdict(right, letter, f"letter {letter} is {'the answer' if right else f'not {gold.answer}'}")
    return Verdict(False, None, "names no letter")


def _judge_text(span: str, gold: Gold) -> Verdict:
    for wording in wordings(span):
        value = read(wording)
        if same(value, gold.value):
            how = "the answer's text" if gold.value.kind == "text" else f"worth {gold.answer}"
            return Verdict(True, gold.answer, how)
        if value.kind not in ("text", "equation") and gold.value.kind != "equation":
            return Verdict(False, wording[:200], f"{value.kind} {wording[:80]} is not {gold.answer}")
        if gold.value.kind == "truth" and (said := re.match(r"(true|false|yes|no)\s*[,.;:!-]\s", wording, re.I)):
            right = same(read(said[1]), gold.value)
            return Verdict(right, said[1], f"{said[1]} is {'the answer' if right else f'not {gold.answer}'}")
    return Verdict(False, span[:200], "another text than the answer")


def _judge_choice(span: str, gold: Gold) -> Verdict:
    at, how = pick(span, gold.choices)
    if at is None:
        return Verdict(False, None, how)
    chosen = gold.choices.texts[at]
    if gold.choices.same(at, gold.place):
        return Verdict(True, chosen, f"{how}: {chosen!r} is the answer")
    return Verdict(False, chosen, f"{how}: {chosen!r} is not {gold.answer!r}")


_JUDGES = {
    "choice": _judge_choice,
    "number": _judge_number,
    "list": _judge_list,
    "text": _judge_text,
    "letter": _judge_letter,
}


def judge(solution: str, problem: Problem) -> Verdict:
    """The verdict on one solution: every span that it commits to must be the answer."""
    gold = read_problem(problem)
    if not solution:
        return Verdict(False, None, "the solution is empty")
    if len(solution) > MAX_SOLUTION:
        return Verdict(False, None, f"a solution of {len(solution)} characters is no answer")
    if gold.kind == "number" and solution == gold.answer:
        return Verdict(True, solution, f"{solution} is the answer")
    text = fold(solution)
    judge_span = _JUDGES[gold.kind]
    commitment = commit(text)
    if commitment.problem:
        return Verdict(False, None, f"no answer: {commitment.problem}")
    verdicts = [judge_span(span, gold) for span in commitment.spans]
    readable = any(verdict.parsed is not None for verdict in verdicts)
    for verdict in verdicts:
        if not verdict.correct:
            return verdict
    return verdicts[0]
