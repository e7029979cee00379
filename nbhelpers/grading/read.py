r"""Reads a span as a typed value: number, expression, list, interval, ratio, equation, truth or text.

>>> read(r"\frac{25}{2} cm").kind, read(r"2\sqrt{3}").kind, read("(3, -4)").kind, read("2:3").kind
('number', 'expression', 'list', 'ratio')
>>> same(read(r"\pi + 24"), read(r"24+\pi")), same(read("(3,-4)"), read("(-4,3)"))
(True, False)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from nbhelpers.grading.expressions import evaluate, same_points
from nbhelpers.grading.numbers import read_literal, side
from nbhelpers.grading.spelling import fold, text_key
from nbhelpers.grading.units import read_unit, units_agree


@dataclass(frozen=True, slots=True)
class Value:
    """What a span means. `points` are its evaluation, `items` the parts of a list, a ratio or an equation's sides."""

    kind: str
    key: str
    points: tuple[Decimal, ...] = ()
    unit: str = ""
    items: tuple[Value, ...] = ()
    brackets: str = ""

    @property
    def measurable(self) -> bool:
        return self.kind in ("number", "expression")


_APPROXIMATELY = re.compile(
    r"^(?:(?:around|about|approximately|approx\.?|roughly|circa)\s+|≈\s*|=\s*|约)(?=[^A-Za-z\s])", re.I
)
_TRUE = {"true": True, "yes": True, "false": False, "no": False}
_ENDS = {"(": ")", "[": "]", "{": "}"}
_MEMBER = re.compile(r"^[^\W\d]\w*\s*∈\s*")
_DEEPEST = 3  # a list of equations of ratios
_COMPARED = re.compile(r"[<>≤≥≠]")


def _dressed(text: str) -> str:
    text = text.strip(" \"'`*_:\n").rstrip(".,;")
    return _APPROXIMATELY.sub("", text, count=1).strip() if text[:1] in "aArRcC≈=约" else text


def split_at(text: str, marks: str) -> list[str]:
    """`text` cut at every mark that stands outside all brackets; a bracket that closes nothing closes nothing."""
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(depth - 1, 0)
        elif char in marks and not depth:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


def _enclosed(text: str) -> bool:
    """Whether the first bracket closes at the very end (whichever closing bracket that is: an interval's may differ)."""
    if text[:1] not in ("(", "[", "{") or text[-1:] not in (")", "]", "}"):
        return False
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if not depth:
            return at == len(text) - 1
    return False


def read(text: str, depth: int = 0) -> Value:
    """The meaning of a folded span, all of it: a span that says more than one value is a text."""
    bare = _dressed(text)
    key = text_key(text)
    while len(bare) > 2 and _enclosed(bare) and bare[-1] == _ENDS[bare[0]] and len(split_at(bare[1:-1], ",;")) == 1:
        bare = bare[1:-1].strip()  # (45)
    if "∈" in bare or "+∞" in bare:
        bare = _MEMBER.sub("", bare).replace("+∞", "∞")
        key = text_key(bare)
    if key in _TRUE:
        return Value("truth", key, (Decimal(_TRUE[key]),))
    if not bare or len(bare) > 400:
        return Value("text", key)
    value = _measured(bare, key)
    if value is None and depth < _DEEPEST and _COMPARED.search(bare) is None:
        value = _compound(bare, key, depth + 1)
    return value or Value("text", key)


def _measured(bare: str, key: str) -> Value | None:
    bare = re.sub(r"\s*(?:(?:square|cubic|sq\.?)\s)?units?$", "", bare)
    number = read_literal(bare)
    if number.value is not None:
        return Value("number", key, (number.value,), number.unit)
    if (
        not re.search(r"[\d√π\\∞^+*/·]|\bpi\b|(?<!\w)[A-Za-z] ?- ?\w", bare)
        or "," in bare
        and number.problem == "no number"
    ):
        return None
    for match in re.finditer(r"(?<=[\d)}π°%\s])[^\W\d_π]|[°%]", bare):
        unit, stop = read_unit(bare[match.start() :])
        if unit and not bare[match.start() + stop :].strip(" .)"):
            points = evaluate(bare[: match.start()])
            if points and (stop > 1 or len(points) == 1):  # the h of 2πr h is no hour
                return Value("expression", key, points, unit)
            break
    points = evaluate(bare)
    return Value("expression", key, points) if points else None


def _compound(bare: str, key: str, depth: int) -> Value | None:
    if "=" in bare or "≈" in bare:
        return _chain(bare, key, depth)
    brackets = bare[0] + bare[-1] if _enclosed(bare) else ""
    inner = bare[1:-1] if brackets else bare
    pieces = split_at(inner, ",;")
    if len(pieces) == 1 and not brackets:
        parts = bare.split(":")
        if 2 <= len(parts) <= 4:
            items = tuple(read(part, depth) for part in parts)
            return Value("ratio", key, items=items) if all(item.measurable for item in items) else None
    if len(pieces) <= 2 and not brackets:
        pieces = [part for piece in pieces for part in re.split(r"\s+and\s+|\s*&\s*", piece)]
    elif len(pieces) > 1:
        pieces = pieces[:-1] + [re.sub(r"^\s*and\s+", "", pieces[-1])]
    pieces = [piece.strip() for piece in pieces]
    if len(pieces) < 2 and not brackets or not all(pieces) or len(pieces) > 60:
        return None
    items = tuple(read(piece, depth) for piece in pieces)
    if not brackets and not all(item.measurable or len(item.key) == 1 or item.kind == "list" for item in items):
        return None
    return Value("list", key, items=items, brackets=brackets)


def _chain(bare: str, key: str, depth: int) -> Value | None:
    """An equation, or the last side of a true chain of equalities; of an exact and a rounded side the exact one."""
    exact, about, rough = bare.rpartition("≈")
    if about:
        value, near = read(exact, depth), read_literal(rough).value
        value = value.items[1] if value.kind == "equation" else value
        close = near is not None and len(value.points) == 1 and abs(value.points[0] - near) <= abs(near) / 50
        return value if close else None
    *earlier, last = [part.strip() for part in split_at(bare, "=")]
    if not earlier or not last or not all(earlier):
        return None
    value, sides = read(last, depth), [side(part) for part in earlier]
    if len(earlier) == 1 and (sides[0][0] != "number" or not value.measurable):
        return Value("equation", key, items=(read(earlier[0], depth), value))
    agree = all(kind in ("name", "formula") or same_points(points, value.points) for kind, points, _ in sides)
    return value if agree and value.measurable and any(kind != "formula" for kind, *_ in sides) else None


def same(one: Value, other: Value) -> bool:
    """Whether `one` answers for `other`: equal numbers or expressions in agreeing units, equal parts, equal texts.

    A number may stand for an expression (24 for 2·4·3) but no expression for a number: 90/2 is work left undone.
    """
    if one.measurable and other.measurable:
        finished = one.kind == "number" or other.kind == "expression"
        return finished and same_points(one.points, other.points) and units_agree(one.unit, other.unit)
    if one.kind == other.kind == "list":
        marks = (
            one.brackets == other.brackets
            or "" in (one.brackets, other.brackets)
            and "()" in (one.brackets, other.brackets)
        )
        if other.items[0].kind == "list" and not other.brackets and len(one.items) < 9:  # points in any order
            return len(one.items) == len(other.items) and all(any(same(a, b) for a in one.items) for b in other.items)
        return marks and _all_same(one.items, other.items)
    if one.kind == other.kind == "ratio":
        return _all_same(one.items, other.items)
    if {one.kind, other.kind} == {"ratio", "number"}:
        ratio, number = (one, other) if one.kind == "ratio" else (other, one)
        return len(ratio.items) == 2 and re.sub(
            r"\\frac\{?(\w+)\}?\{?(\w+)\}?", r"\1/\2", number.key
        ) == ratio.key.replace(":", "/")
    if "equation" in (one.kind, other.kind):
        return _same_equation(one, other)
    if one.kind == other.kind == "truth":
        return one.points == other.points
    return one.key == other.key and bool(one.key)


def _all_same(ones: tuple[Value, ...], others: tuple[Value, ...]) -> bool:
    return len(ones) == len(others) and all(same(one, other) for one, other in zip(ones, others, strict=True))


def _same_equation(one: Value, other: Value) -> bool:
    """y = 2x + 1 is 2x + 1, and is 2x - y + 1 = 0: the differences of their sides stay in proportion."""
    if one.kind != other.kind:
        equation, value = (one, other) if one.kind == "equation" else (other, one)
        name = re.fullmatch(r"[^\d+*/√^-]+", equation.items[0].key)
        return name is not None and same(equation.items[1], value)
    if _all_same(one.items, other.items) or _all_same(one.items, other.items[::-1]) or one.key == other.key:
        return True
    differences = []
    for equation in (one, other):
        left, right = (item.points or evaluate(item.key) or () for item in equation.items)
        differences.append(
            [a - b for a, b in zip(left * (3 // max(len(left), 1)), right * (3 // max(len(right), 1)), strict=False)]
        )
    first, second = differences
    if len(first) != 3 or len(second) != 3 or not all(first) or not all(second):
        return False
    return all(same_points((a * second[0],), (b * first[0],)) for a, b in zip(first[1:], second[1:], strict=True))


@lru_cache(maxsize=8192)
def read_gold(text: str) -> Value:
    """A gold answer's or a choice's meaning, kept because a problem comes back every epoch."""
    return read(re.sub(r"\\boxed\{(.*)\}", r"\1", fold(text)))
