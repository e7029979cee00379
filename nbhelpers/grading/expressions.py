r"""A small parser of LaTeX and plain mathematics, evaluated to 40 digits; variables stand for fixed odd numbers.

>>> same_points(evaluate(r"\frac{\sqrt{12}}{2}"), evaluate("sqrt(3)")), same_points(evaluate("x^2"), evaluate("2x"))
(True, False)
>>> same_points(evaluate("2(x + 1)"), evaluate("2 + 2x")), evaluate("forty")
(True, None)

Nothing is passed to `eval`. The parser goes through its tokens once and nests at most MAX_DEPTH deep; powers and
factorials are bounded, so the time is linear in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from zlib import crc32

from nbhelpers.grading.tables import words

# No traps: what cannot be done gives NaN, which equals nothing, instead of raising.
ARITHMETIC = Context(prec=50, rounding=ROUND_HALF_UP, traps=[], Emax=99_999, Emin=-99_999)
MAX_DEPTH, MAX_TOKENS = 40, 200
POINTS = 3  # how many values each variable takes
_CLOSE, _NO_VALUE = Decimal("1e-40"), Decimal("NaN")
_PI = Decimal("3.1415926535897932384626433832795028841971693993751")
_E = Decimal("2.7182818284590452353602874713526624977572470936999")

Points = tuple[Decimal, ...]


class NotAnExpression(Exception):
    """The text is no expression that this parser knows; stays inside the module."""


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?![\w.]))?|\.\d+)"
    r"|(?P<name>(?:\\[A-Za-z]+|[A-Za-zα-ορ-ωΑ-Ω]+)(?:_(?:\{[^{}]*\}|\w))?'*)|(?P<mark>\*\*|[-+*·×/÷^!(){}\[\]|√π±∞°]))"
)
_GREEK = frozenset(words("latex", "greek"))
_CLOSING = {"(": ")", "{": "}", "[": "]", "|": "|"}


def _sine(angle: Decimal) -> Decimal:
    """Sine by its series, after taking away whole turns."""
    if not angle.is_finite() or angle.adjusted() > 12:
        return _NO_VALUE
    term = total = x = angle.remainder_near(2 * _PI)
    for step in range(2, 72, 2):
        term *= -x * x / (step * (step + 1))
        total += term
    return total if abs(total) > _CLOSE else Decimal(0)


def _cosine(angle: Decimal) -> Decimal:
    return _sine(angle + _PI / 2)


def _arctangent(x: Decimal) -> Decimal:
    """Newton's steps from the machine's own value: 16 digits, 32, 64."""
    y = Decimal(math.atan(float(x))) if x.is_finite() else _NO_VALUE
    for _ in range(2):
        y += (x * _cosine(y) - _sine(y)) * _cosine(y)
    return y


def _arcsine(x: Decimal) -> Decimal:
    rest = (1 - x * x).sqrt()
    return _arctangent(x / rest) if rest else _PI / 2 * x


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    if exponent.is_finite() and exponent.adjusted() > 6:
        return _NO_VALUE
    value, degree = base**exponent, 1 / exponent
    odd_root = value.is_nan() and base < 0 and degree == degree.to_integral_value() and degree % 2
    return -((-base) ** exponent) if odd_root else value


def _factorial(x: Decimal) -> Decimal:
    return Decimal(math.factorial(int(x))) if 0 <= x <= 200 and x == x.to_integral_value() else _NO_VALUE


_FUNCTIONS: dict[str, Callable[[Decimal], Decimal]] = {
    **{"sin": _sine, "cos": _cosine, "tan": lambda x: _sine(x) / _cosine(x), "cot": lambda x: _cosine(x) / _sine(x)},
    **{"sec": lambda x: 1 / _cosine(x), "csc": lambda x: 1 / _sine(x), "arcsin": _arcsine, "arctan": _arctangent},
    **{"arccos": lambda x: _PI / 2 - _arcsine(x), "ln": Decimal.ln, "log": Decimal.log10, "lg": Decimal.log10},
    **{"exp": Decimal.exp, "abs": abs, "sqrt": Decimal.sqrt},
}


def _function_name(text: str) -> str:
    name = text.lstrip("\\").partition("_")[0]
    return name if name in _FUNCTIONS else ""


class _Parser:
    """One expression's tokens, gone through from left to right; variables take the values of one point."""

    def __init__(self, tokens: list[tuple[str, str]], point: int) -> None:
        self.tokens, self.at, self.depth, self.in_function = [*tokens, ("end", "")], 0, 0, False
        self.point, self.sampled = point, False

    def accept(self, marks: str) -> str:
        kind, text = self.tokens[self.at]
        if kind != "mark" or text[0] not in marks:
            return ""
        self.at += 1
        return text

    def within(self, read: Callable[..., Decimal], *arguments: bool) -> Decimal:
        """One level deeper; the only way down, so that the depth is bounded."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotAnExpression
        value = read(*arguments)
        self.depth -= 1
        return value

    def variable(self, name: str) -> Decimal:
        """The same odd number between 1 and 3 wherever a variable occurs."""
        self.sampled = True
        name = re.sub(r"[{}\s]", "", name)
        return 1 + Decimal(crc32(f"{name} {self.point}".encode()) % 10**9 * 2 + 1) / 10**9

    def sum(self) -> Decimal:
        total = self.product()
        while sign := self.accept("+-±"):
            term = self.signed(sign, self.product())
            if total and term and abs(total.adjusted() - term.adjusted()) > 40:
                raise NotAnExpression  # no part is lost to rounding: 3^1008 - 1 is not 3^1008
            total += term
        return total

    def signed(self, sign: str, value: Decimal) -> Decimal:
        return -value if sign == "-" else value * self.variable(sign) if sign == "±" else value

    def product(self, implicit: bool = False) -> Decimal:
        """Factors, joined by a sign or standing side by side; with `implicit` only the latter, as in sin 2x."""
        if sign := self.accept("-+±"):
            return self.signed(sign, self.within(self.product, implicit))
        value = self.power()
        while True:
            kind, text = self.tokens[self.at]
            grouped = self.tokens[self.at - 1][1] in (")", "]")
            beside = kind == "name" and not (implicit and _function_name(text)) or kind == "number" and grouped
            if not implicit and (mark := self.accept("*·×/÷")):
                factor = self.exponent()
                value = value / factor if mark in "/÷" else value * factor
            elif beside or kind == "mark" and text in "({[√π∞":
                value *= self.power()
            else:
                return value

    def power(self) -> Decimal:
        value = self.atom()
        while mark := self.accept("!°"):
            if mark == "!" or self.in_function:
                value = _factorial(value) if mark == "!" else value * _PI / 180
        return _power(value, self.within(self.exponent)) if self.accept("^") else value

    def exponent(self) -> Decimal:
        return self.signed(self.accept("-+"), self.power())

    def atom(self) -> Decimal:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            following = [text for _, text in self.tokens[self.at : self.at + 4]]
            if following[:2] == ["\\frac", "{"] and following[3:] == ["}"] and following[2].isdigit():
                raise NotAnExpression  # a mixed number is a literal, and nothing else
            return Decimal(text.replace(",", ""))
        if kind == "name":
            return self.named(text)
        if text in _CLOSING:
            value = self.within(self.sum)
            if not self.accept(_CLOSING[text]):
                raise NotAnExpression
            return abs(value) if text == "|" else value
        if text == "√":
            return self.root()
        if text in ("π", "∞"):
            return _PI if text == "π" else self.variable(text)
        raise NotAnExpression

    def argument(self) -> Decimal:
        r"""One argument of \frac: a group, or a single digit or letter."""
        kind, text = self.tokens[self.at]
        if kind == "number" and text.isdigit():
            self.tokens[self.at] = (kind, text[1:])  # \frac12 is one half
            self.at += len(text) == 1
            return Decimal(text[0])
        return self.within(self.atom)

    def root(self) -> Decimal:
        degree = self.within(self.sum) if self.accept("[") else 2
        self.accept("]")
        value = self.within(self.atom)
        return value.sqrt() if degree == 2 else _power(value, 1 / degree)

    def named(self, text: str) -> Decimal:
        if text == "\\frac":
            return self.argument() / self.argument()
        if _function_name(text):
            return self.function(_function_name(text), text.partition("_")[2].strip("{}"))
        if text[0] in "fghFGHP" and self.tokens[self.at] == ("mark", "("):
            raise NotAnExpression  # f(x) is a function of x, no product
        return _E if text == "e" else _PI if text == "pi" else self.variable(text)

    def function(self, name: str, base: str) -> Decimal:
        power = self.within(self.exponent) if self.accept("^") else 1
        if name == "sqrt":
            return self.root()
        outside, self.in_function = self.in_function, True
        grouped = self.tokens[self.at][1] in ("(", "{", "|")
        value = self.within(self.atom) if grouped else self.within(self.product, True)
        self.in_function = outside
        if power == -1 and f"arc{name}" in _FUNCTIONS:
            name, power = f"arc{name}", 1
        if base and (name != "log" or not base.isdigit()):
            raise NotAnExpression
        result = _FUNCTIONS[name](value) / (Decimal(base).log10() if base else 1)
        return result if power == 1 else _power(result, power)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at, text = 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) > MAX_TOKENS:
            raise NotAnExpression
        kind, piece = match.lastgroup, match[match.lastgroup]
        letters = piece.partition("_")[0].rstrip("'")
        known = len(letters) == 1 or _function_name(piece) or letters in ("pi", "\\frac") or letters[1:] in _GREEK
        if kind != "name" or known:
            tokens.append((kind, "^" if piece == "**" else piece))
        elif letters[0] != "\\" and len(letters) < 4 and 0 < at == match.start(kind) and letters == piece:
            tokens.extend((kind, letter) for letter in letters)  # 2ab is a product; a word is none
        else:
            raise NotAnExpression
        at = match.end()
    return tokens


def evaluate(text: str) -> Points | None:
    """The value of a folded text: one number, or one per sample point if it has variables; None for no expression."""
    points: list[Decimal] = []
    try:
        with localcontext(ARITHMETIC):
            tokens = _tokens(text)
            for point in range(POINTS):
                parser = _Parser(tokens, point)
                points.append(parser.sum())
                if parser.tokens[parser.at][0] != "end" or not points[-1].is_finite():
                    return None
                if not parser.sampled:
                    break
    except NotAnExpression:
        return None
    return tuple(points)


def same_points(one: Points | None, other: Points | None) -> bool:
    """Whether two evaluations agree at every point: exactly where they are short, to 40 digits where rounded."""
    if not one or not other or one == other:
        return bool(one and other)
    with localcontext(ARITHMETIC):
        for at in range(POINTS):
            a, b = one[at % len(one)], other[at % len(other)]
            rounded = max(len(a.as_tuple().digits), len(b.as_tuple().digits)) in (48, 49, 50)
            if a != b and not (rounded and abs(a - b) <= _CLOSE * max(abs(a), abs(b), _CLOSE)):
                return False
    return True
