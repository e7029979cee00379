r"""Reads a span as a typed value: number, expression, list, interval, ratio, equation, truth or text.

>>> read(r"\frac{25}{2} cm").kind, read(r"2\sqrt{3}").kind, read("(3, -4)").kind, read("2:3").kind
('number', 'expression', 'list', 'ratio')
>>> same(read("4π + 24"), read("24+4π")), same(read("(3,-4)"), read("(-4,3)"))
(True, False)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from nbhelpers.grading.expressions import POINTS, Points, evaluate, same_points
from nbhelpers.grading.numbers import read_literal, read_quantity, side
from nbhelpers.grading.spelling import fold, text_key
from nbhelpers.grading.tables import phrase
from nbhelpers.grading.units import read_unit, units_agree


@dataclass(frozen=True, slots=True)
class Value:
    """What a span means. `points` are its evaluation, `items` the parts of a list, a ratio or an equation's sides."""

    kind: str
    key: str
    points: Points = ()
    unit: str = ""
    items: tuple[Value, ...] = ()
    brackets: str = ""

    @property
    def measurable(self) -> bool:
        """Whether this is a number or an expression, in a unit or in none."""
        return self.kind in ("number", "expression")


_ABOUT = re.compile(rf"^(?:{phrase('about')}\.?\s+|[≈=]\s*|约)(?=[^A-Za-z\s])", re.I)
_MEMBER = re.compile(r"^[^\W\d]\w*\s*∈\s*")
_UNITS = re.compile(r"\s*(?:(?:square|cubic|sq\.?)\s)?units?$")
_MATHEMATICAL = re.compile(r"[\d√π\\∞^+*/·]|\bpi\b|(?<!\w)[A-Za-z] ?- ?\w")
_TRUTHS = {"true": 1, "yes": 1, "false": 0, "no": 0}
_ENDS = {"(": ")", "[": "]", "{": "}"}
_DEEPEST = 3  # a list of equations of ratios
_LONGEST = 400  # characters of a value


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


def _enclosed(text: str) -> str:
    """The brackets around all of a text, "" for none; an interval's may differ."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if not depth:
            return text[0] + text[-1] if text[0] in "([{" and at == len(text) - 1 else ""
    return ""


def read(text: str, depth: int = 0) -> Value:
    """The meaning of a folded span, all of it: a span that says more than one value is a text."""
    bare, key = text.strip(" \"'`*_:\n").rstrip(".,;"), text_key(text)
    bare = _ABOUT.sub("", bare).strip()
    while (ends := _enclosed(bare)) and ends[1] == _ENDS[ends[0]] and len(split_at(bare[1:-1], ",;")) == 1:
        bare = bare[1:-1].strip()  # (45)
    if "∈" in bare or "+∞" in bare:
        bare = _MEMBER.sub("", bare).replace("+∞", "∞")
        key = text_key(bare)
    if key in _TRUTHS or not bare or len(bare) > _LONGEST:
        return Value("truth" if key in _TRUTHS else "text", key)
    value = _measured(bare, key)
    if value is None and depth < _DEEPEST and not re.search("[<>≤≥≠]", bare):
        compound = _chain if "=" in bare or "≈" in bare else _compound
        value = compound(bare, key, depth + 1)
    return value or Value("text", key)


def _measured(bare: str, key: str) -> Value | None:
    """A number or an expression, with the unit at its end."""
    bare = _UNITS.sub("", bare)
    number = read_literal(bare)
    if number.value is not None:
        return Value("number", key, (number.value,), number.unit)
    if not _MATHEMATICAL.search(bare) or "," in bare and number.problem == "no number":
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
    """A ratio, or a list in brackets, with commas or with `and`."""
    brackets = _enclosed(bare)
    pieces = split_at(bare[1:-1] if brackets else bare, ",;")
    if len(pieces) == 1 and not brackets and ":" in bare:
        items = tuple(read(part, depth) for part in bare.split(":")[:5])
        return Value("ratio", key, items=items) if all(item.measurable for item in items) else None
    if len(pieces) == 1 and re.fullmatch(r"[-+\d.]+(?:\s+[-+\d.]+)+", pieces[0].strip()):
        pieces = pieces[0].split()
    if len(pieces) <= 2:
        pieces = [part for piece in pieces for part in re.split(r"\s+and\s+|\s*&\s*", piece)]
    pieces = [*pieces[:-1], re.sub(r"^\s*and\s+", "", pieces[-1])]
    if len(pieces) < 2 and not brackets or not all(piece.strip() for piece in pieces) or len(pieces) > 60:
        return None
    items = tuple(read(piece, depth) for piece in pieces)
    plain = all(item.measurable or item.kind in ("list", "equation") or len(item.key) == 1 for item in items)
    return Value("list", key, items=items, brackets=brackets) if brackets or plain else None


def _chain(bare: str, key: str, depth: int) -> Value | None:
    """An equation, or the last side of a true chain of equalities; of an exact and a rounded side the exact one."""
    exact, about, rough = bare.rpartition("≈")
    if about:
        value, near = read(exact, depth), read_literal(rough).value
        value = value.items[1] if value.kind == "equation" else value
        close = near is not None and len(value.points) == 1 and abs(value.points[0] - near) <= abs(near) / 50
        return value if close else None
    *earlier, last = (part.strip() for part in split_at(bare, "="))
    if not earlier or not last or not all(earlier):
        pieces = split_at(bare, ",;")
        return _compound(bare, key, depth) if len(pieces) > 1 or _enclosed(bare) else None
    pieces = re.split(r"[,;]|\band\b", bare) if len(earlier) > 1 else []
    if len(pieces) > 1 and all("=" in piece for piece in pieces):
        return _compound(bare, key, depth)  # x = 2, y = 3
    value, sides = read(last, depth), [side(part) for part in earlier]
    if len(earlier) == 1 and (sides[0][0] != "number" or not value.measurable):
        return Value("equation", key, items=(read(earlier[0], depth), value))
    agree = all(kind in ("name", "formula") or same_points(points, value.points) for kind, points, _ in sides)
    return value if agree and value.measurable and any(kind != "formula" for kind, *_ in sides) else None


def number_in(text: str) -> Value | None:
    """The one number that a folded text states, if it does."""
    stated = read_quantity(text)
    return None if stated.value is None else Value("number", "", (stated.value,), stated.unit)


def same(one: Value, other: Value) -> bool:
    """Whether `one` answers for `other`: equal numbers or expressions in agreeing units, equal parts, equal texts.

    A number may stand for an expression (24 for 2·4·3) but no expression for a number: 90/2 is work left undone.
    """
    kinds = {one.kind, other.kind}
    if one.measurable and other.measurable:
        finished = one.kind == "number" or other.kind == "expression"
        return finished and same_points(one.points, other.points) and units_agree(one.unit, other.unit)
    if "equation" in kinds:
        return _same_equation(one, other)
    if kinds == {"ratio", "number"}:  # 5/12 for 5:12
        ratio, number = (one, other) if one.kind == "ratio" else (other, one)
        return ratio.key.replace(":", "/") == re.sub(r"\\frac\{?(\w+)\}?\{?(\w+)\}?", r"\1/\2", number.key)
    if kinds in ({"list"}, {"ratio"}):
        if other.items[0].kind == "list" and not other.brackets and len(one.items) < 9:  # points, in any order
            return len(one.items) == len(other.items) and all(any(same(a, b) for a in one.items) for b in other.items)
        bare = {one.brackets, other.brackets} == {"", "()"}
        return (bare or one.brackets == other.brackets) and same_items(one, other)
    if kinds == {"truth"}:
        return _TRUTHS[one.key] == _TRUTHS[other.key]
    return one.key == other.key and bool(one.key)


def same_items(one: Value, other: Value) -> bool:
    """Whether two lists hold the same in the same order."""
    return len(one.items) == len(other.items) and all(map(same, one.items, other.items))


def _same_equation(one: Value, other: Value) -> bool:
    """y = 2x + 1 is 2x + 1, and is 2x - y + 1 = 0: the differences of their sides stay in proportion."""
    if one.kind != other.kind:
        equation, value = (one, other) if one.kind == "equation" else (other, one)
        named = re.fullmatch(r"[^\d+*/√^-]+", equation.items[0].key)
        return bool(named) and same(*((equation.items[1], value) if one is equation else (value, equation.items[1])))
    if one.key == other.key or same_items(one, other) or all(map(same, one.items, other.items[::-1])):
        return True
    differences = []
    for equation in (one, other):
        left, right = (item.points or evaluate(item.key) or () for item in equation.items)
        if not left or not right:
            return False
        differences.append([left[at % len(left)] - right[at % len(right)] for at in range(POINTS)])
    (first, *firsts), (second, *seconds) = differences
    crossed = zip(firsts, seconds, strict=True)
    return bool(first and second) and all(same_points((a * second,), (b * first,)) for a, b in crossed)


def equation_holds(text: str) -> bool | None:
    """Whether `3 * 4 = 12` is so, to the places that its right side has and to a hundredth of it at least; None where
    a side is no number that can be worked out.
    """
    left, _, right = fold(text).rpartition("=")
    points, stated = evaluate(left), read_literal(right.strip())
    if not points or len(points) != 1 or stated.value is None:
        return None
    room = max(abs(stated.value) / 100, Decimal(10) ** -stated.places / 2) if stated.places else Decimal(0)
    return abs(points[0] - stated.value) <= room


@lru_cache(maxsize=8192)
def read_gold(text: str) -> Value:
    """A gold answer's or a choice's meaning, kept because a problem comes back every epoch."""
    return read(re.sub(r"\\boxed\{(.*)\}", r"\1", fold(text)))
