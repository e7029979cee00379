r"""A small parser of LaTeX and plain mathematics, evaluated to 40 digits; variables stand for fixed odd numbers.

>>> same_value(evaluate(r"\frac{\sqrt{12}}{2}"), evaluate("sqrt(3)"))
True
>>> same_value(evaluate("2(x + 1)"), evaluate("2 + 2x")), same_value(evaluate("x^2"), evaluate("2x"))
(True, False)
>>> evaluate("forty") is None
True

Nothing is passed to `eval`. The parser goes through its tokens once and nests at most MAX_DEPTH deep; powers and
factorials are bounded by the arithmetic context, so the time is linear in the text.
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from zlib import crc32

# No traps: what cannot be done gives NaN, which equals nothing, instead of raising.
ARITHMETIC = Context(prec=50, rounding=ROUND_HALF_UP, traps=[], Emax=99_999, Emin=-99_999)
MAX_DEPTH, MAX_TOKENS = 24, 200
_POINTS = 3  # how many values each variable takes
_CLOSE = Decimal("1e-40")
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_HALF_PI = ARITHMETIC.divide(_PI, 2)
_DEGREE = ARITHMETIC.divide(_PI, 180)
_E = Decimal("2.71828182845904523536028747135266249775724709369995957496696763")

Points = list[Decimal]


class NotAnExpression(Exception):
    """The text is no expression that this parser knows; stays inside the module."""


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?![\w.]))?|\.\d+)"
    r"|(?P<name>(?:\\[A-Za-z]+|[A-Za-zα-ορ-ωΑ-Ω]+)(?:_(?:\{[^{}]*\}|\w))?'*)"
    r"|(?P<mark>\*\*|[-+*·×/÷^!(){}\[\]|√π±∞°%]))"
)
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi ell hbar".split()
)
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_OPAQUE = frozenset("fghFGHP")  # f(x) is a function of x, no product


def _map(function: Callable[..., Decimal], *arguments: Points) -> Points:
    size = max(map(len, arguments))
    return [function(*(points[at % len(points)] for points in arguments)) for at in range(size)]


def _add(one: Decimal, other: Decimal) -> Decimal:
    """A sum in which no part is lost to rounding: 3^1008 - 1 is not 3^1008, and no value to this parser."""
    if one and other and abs(one.adjusted() - other.adjusted()) > 40:
        return Decimal("NaN")
    return ARITHMETIC.add(one, other)


def _sine(angle: Decimal) -> Decimal:
    """Sine by its series, after taking away whole turns and dividing by 3^6."""
    if not angle.is_finite() or angle.adjusted() > 12:
        return Decimal("NaN")
    with localcontext(ARITHMETIC):
        x = angle.remainder_near(2 * _PI) / 729
        term = total = x
        for step in range(2, 32, 2):
            term = -term * x * x / (step * (step + 1))
            total += term
        for _ in range(6):
            total *= 3 - 4 * total * total
        return total if abs(total) > _CLOSE else Decimal(0)


def _cosine(angle: Decimal) -> Decimal:
    return _sine(ARITHMETIC.add(angle, _HALF_PI))


def _arctangent(x: Decimal) -> Decimal:
    """Newton's steps from the machine's own value: 16 digits, 32, 64."""
    if not x.is_finite():
        return Decimal("NaN")
    y = Decimal(math.atan(float(x)))
    for _ in range(2):
        sine, cosine = _sine(y), _cosine(y)
        y = ARITHMETIC.add(y, ARITHMETIC.multiply(ARITHMETIC.subtract(ARITHMETIC.multiply(x, cosine), sine), cosine))
    return y


def _arcsine(x: Decimal) -> Decimal:
    if not abs(x) <= 1:
        return Decimal("NaN")
    rest = ARITHMETIC.sqrt(ARITHMETIC.subtract(1, ARITHMETIC.multiply(x, x)))
    return _arctangent(ARITHMETIC.divide(x, rest)) if rest else ARITHMETIC.multiply(_HALF_PI, x)


def _quotient(top: Callable, bottom: Callable) -> Callable[[Decimal], Decimal]:
    return lambda x: ARITHMETIC.divide(top(x), bottom(x))


def _one(_: Decimal) -> Decimal:
    return Decimal(1)


def _raised(base: Decimal, exponent: Decimal) -> Decimal:
    if exponent.is_finite() and exponent.adjusted() > 6:
        return Decimal("NaN")
    value = ARITHMETIC.power(base, exponent)
    if value.is_nan() and base < 0 and exponent:  # an odd root of a negative number
        degree = ARITHMETIC.divide(1, exponent)
        if degree == degree.to_integral_value() and degree % 2:
            return -ARITHMETIC.power(-base, exponent)
    return value


def _factorial(x: Decimal) -> Decimal:
    whole = x.is_finite() and 0 <= x <= 200 and x == x.to_integral_value()
    return Decimal(math.factorial(int(x))) if whole else Decimal("NaN")


_FUNCTIONS: dict[str, Callable[[Decimal], Decimal]] = {
    "sin": _sine,
    "cos": _cosine,
    "tan": _quotient(_sine, _cosine),
    "cot": _quotient(_cosine, _sine),
    "sec": _quotient(_one, _cosine),
    "csc": _quotient(_one, _sine),
    "arcsin": _arcsine,
    "arccos": lambda x: ARITHMETIC.subtract(_HALF_PI, _arcsine(x)),
    "arctan": _arctangent,
    "ln": ARITHMETIC.ln,
    "log": ARITHMETIC.log10,
    "lg": ARITHMETIC.log10,
    "exp": ARITHMETIC.exp,
    "abs": abs,
    "sqrt": ARITHMETIC.sqrt,
}


class _Parser:
    """One expression's tokens, gone through from left to right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth, self.in_function = [*tokens, ("end", "")], 0, 0, 0

    def accept(self, *marks: str) -> str:
        kind, text = self.tokens[self.at]
        if kind == "mark" and text in marks:
            self.at += 1
            return text
        return ""

    def sum(self) -> Points:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        total = self.product()
        while sign := self.accept("+", "-", "±"):
            right = self.product()
            if sign == "±":
                right = _map(ARITHMETIC.multiply, right, _sample("±"))
            total = _map(_add, total, _map(ARITHMETIC.minus, right) if sign == "-" else right)
        self.depth -= 1
        return total

    def product(self, implicit: bool = False) -> Points:
        if sign := self.accept("-", "+", "±"):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise NotAnExpression
            value = self.product(implicit)
            self.depth -= 1
            return value if sign == "+" else _map(ARITHMETIC.multiply, value, [Decimal(-1)] if sign == "-" else _sample("±"))
        value = self.power()
        while True:
            kind, text = self.tokens[self.at]
            if not implicit and (mark := self.accept("*", "·", "×", "/", "÷")):
                right = self.signed_power()
                value = _map(ARITHMETIC.divide if mark in "/÷" else ARITHMETIC.multiply, value, right)
            elif kind == "name" and not (implicit and _function_name(text)) or kind == "mark" and text in "({[√π∞":
                value = _map(ARITHMETIC.multiply, value, self.power())
            elif kind == "number" and self.tokens[self.at - 1] in (("mark", ")"), ("mark", "]")):
                value = _map(ARITHMETIC.multiply, value, self.power())
            else:
                return value

    def signed_power(self) -> Points:
        sign = self.accept("-", "+")
        value = self.power()
        return _map(ARITHMETIC.minus, value) if sign == "-" else value

    def power(self) -> Points:
        value = self.atom()
        while mark := self.accept("!", "°"):
            if mark == "!":
                value = _map(_factorial, value)
            elif self.in_function:
                value = _map(lambda x: ARITHMETIC.multiply(x, _DEGREE), value)
        if self.accept("^", "**"):
            value = _map(_raised, value, self.exponent())
        return value

    def exponent(self) -> Points:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        value = self.signed_power()
        self.depth -= 1
        return value

    def atom(self) -> Points:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return self.mixed(Decimal(text.replace(",", "")))
        if kind == "name":
            return self.named(text)
        if text in _CLOSING:
            value = self.sum()
            if not self.accept(_CLOSING[text]):
                raise NotAnExpression
            return value
        if text == "|":
            value = self.sum()
            if not self.accept("|"):
                raise NotAnExpression
            return _map(abs, value)
        if text == "√":
            return self.root()
        if text == "π":
            return [_PI]
        if text == "∞":
            return _sample("∞")
        raise NotAnExpression

    def mixed(self, whole: Decimal) -> Points:
        """A literal, with the fraction that may make it a mixed number: 22\\frac{1}{2} is a sum."""
        kinds = [kind if kind != "mark" else text for kind, text in self.tokens[self.at : self.at + 7]]
        texts = [text for _, text in self.tokens[self.at : self.at + 7]]
        if kinds[:3] == ["number", "/", "number"]:
            top, bottom, used = texts[0], texts[2], 3
        elif texts[:1] == ["\\frac"] and kinds[1:] == ["{", "number", "}", "{", "number", "}"]:
            top, bottom, used = texts[2], texts[5], 7
        else:
            return [whole]
        if not (top.isdigit() and bottom.isdigit() and int(top) < int(bottom)) or whole != whole.to_integral_value():
            raise NotAnExpression
        self.at += used
        return [ARITHMETIC.add(whole, ARITHMETIC.divide(Decimal(top), Decimal(bottom)))]

    def argument(self) -> Points:
        """One argument of \\frac or √: a group, or a single digit or letter."""
        kind, text = self.tokens[self.at]
        if kind == "number" and len(text) > 1 and text.isdigit() and self.tokens[self.at - 1][1] != "√":
            self.tokens[self.at] = ("number", text[1:])  # \frac12 is one half
            return [Decimal(text[0])]
        if kind == "number":
            self.at += 1
            return [Decimal(text.replace(",", ""))]
        return self.atom()

    def root(self) -> Points:
        degree = Decimal(2)
        if self.accept("["):
            points = self.sum()
            if not self.accept("]") or len(points) > 1:
                raise NotAnExpression
            degree = points[0]
        value = self.argument()
        if degree == 2:
            return _map(ARITHMETIC.sqrt, value)
        return _map(_raised, value, [ARITHMETIC.divide(1, degree)])

    def named(self, text: str) -> Points:
        if text == "\\frac":
            top = self.argument()
            return _map(ARITHMETIC.divide, top, self.argument())
        function = _function_name(text)
        if function:
            return self.function(function, text)
        if text == "e":
            return [_E]
        if text == "pi":
            return [_PI]
        if text.lstrip("\\").split("_")[0].rstrip("'") in _OPAQUE and self.tokens[self.at] == ("mark", "("):
            raise NotAnExpression
        return _sample(text.replace("{", "").replace("}", "").replace(" ", ""))

    def function(self, name: str, text: str) -> Points:
        base = text.partition("_")[2].strip("{}")
        power = self.exponent() if self.accept("^") else None
        if name == "sqrt":
            return self.root()
        self.in_function += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        grouped = self.tokens[self.at][1] in ("(", "{", "|")
        value = self.atom() if grouped else self.product(implicit=True)
        self.depth -= 1
        self.in_function -= 1
        if power == [Decimal(-1)] and name in ("sin", "cos", "tan"):
            name, power = "arc" + name, None
        result = _map(_FUNCTIONS[name], value)
        if base:
            if name != "log" or not base.isdigit():
                raise NotAnExpression
            result = _map(lambda x: ARITHMETIC.divide(x, ARITHMETIC.log10(Decimal(base))), result)
        return _map(_raised, result, power) if power else result


def _function_name(text: str) -> str:
    name = text.lstrip("\\").partition("_")[0]
    return name if name in _FUNCTIONS else ""


def _sample(name: str) -> Points:
    """The same odd numbers between 1 and 3 for a variable wherever it occurs."""
    return [1 + Decimal(crc32(f"{name} {point}".encode()) % 10**9 * 2 + 1) / 10**9 for point in range(_POINTS)]


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > MAX_TOKENS:
            raise NotAnExpression
        kind, piece = match.lastgroup, match[match.lastgroup]
        letters = piece.partition("_")[0].rstrip("'")
        if kind != "name" or len(letters) == 1 or _function_name(piece) or letters in ("pi", "\\frac"):
            tokens.append((kind, piece))
        elif letters[0] == "\\":
            if letters[1:] not in _GREEK:
                raise NotAnExpression
            tokens.append((kind, piece))
        else:  # 2ab is a product; a word is none
            attached = match.start(kind) == at and at > 0
            if len(letters) > 3 or not attached or letters != piece:
                raise NotAnExpression
            tokens.extend((kind, letter) for letter in letters)
        at = match.end()
    return tokens


def evaluate(text: str) -> tuple[Decimal, ...] | None:
    """The value of a folded text: one number, or one for each sample point if it has variables; None for no expression."""
    try:
        parser = _Parser(_tokens(text.strip()))
        values = parser.sum()
        if parser.tokens[parser.at][0] != "end" or not all(value.is_finite() for value in values):
            return None
    except NotAnExpression:
        return None
    return tuple(values)


def same_value(one: tuple[Decimal, ...] | None, other: tuple[Decimal, ...] | None) -> bool:
    """Whether two evaluations agree at every point, to 40 digits."""
    if not one or not other:
        return False
    if len(one) == len(other) == 1 and one[0] == other[0]:
        return True
    pairs = zip(one * (_POINTS // len(one)), other * (_POINTS // len(other)), strict=True)
    return all(abs(a - b) <= _CLOSE * max(abs(a), abs(b), _CLOSE) for a, b in pairs)
