r"""Reads the one number that a span states, as models write numbers, with its unit and the reason where there is none.

>>> read_quantity("x = 1,234 cm^2")
Quantity(value=Decimal('1234'), unit='cm^2', places=0, problem='')
>>> read_quantity("45 or 46").problem
'several numbers'
>>> read_quantity("988 multiplied by 5, which equals 4,940.").value
Decimal('4940')

Texts come folded (`spelling.fold`) and bounded (`compare.MAX_SOLUTION`); each is gone through a fixed number of times.
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from nbhelpers.grading.expressions import ARITHMETIC, evaluate, same_value
from nbhelpers.grading.units import in_measure, read_unit, unit_key, unit_name


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with the unit beside it ("" when none is) and the decimals it shows; `problem` says why `value` is None."""

    value: Decimal | None
    unit: str = ""
    places: int = 0
    problem: str = ""


_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9_.^])(?<!\^[-+{])(?<!_\{)                 # not inside a name (x1, cm2), a number or an exponent
    (?P<sign>[-+]\ ?)?
    (?:(?P<power>10\ ?(?:\^|\*\*)\ ?[({]?\ ?[-+]?\d{1,4}[)}]?)
      |(?P<whole>\d+)\ (?P<mixed_top>\d+)\ ?/\ ?(?P<mixed_bottom>\d+)
      |(?P<top>-?\d+)\ ?/\ ?(?P<bottom>\d+)(?!\d|\.\d)
      |(?P<digits>(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?:\ \d{3})+(?!\d)|\d+)(?P<decimals>\.\d+)?|(?P<bare>\.\d+))
       (?:\.{2,3}(?!\.))?                                        # 0.333...
       (?P<exponent>[eE][-+]?\d{1,4}(?!\d)|\ ?[xX×*·]\ ?10\ ?(?:\^|\*\*)\ ?[({]?\ ?[-+]?\d{1,4}[)}]?)?)
    """,
    re.VERBOSE,
)
_SMALL_FRACTION = re.compile(
    r"(?P<whole>\d)?\s*\\frac\s*(?:\{\s*(?P<top>-?\d+)\s*\}|(?P<one>\d))\s*(?:\{\s*(?P<bottom>\d+)\s*\}|(?P<two>\d))"
)
_SIGN_WORD = re.compile(r"\b(?:minus|negative)\s+(?=[\d.])", re.I)
_WORKED = {"plus": "+", "times": "×", "multiplied by": "×", "divided by": "/", "equals": "=", "is equal to": "="}
_WORKED_WORD = re.compile(rf"(?<=[\w)}}])\s*,?\s*(?:which\s+)?\b({'|'.join(_WORKED)})\b(?=\s*[\d$€£({{\\.-])", re.I)
_EQUALS = re.compile(r"[=≈≡]")
_DENIAL = re.compile(
    r"\b(?:not|never|cannot|no|nor|neither|none|without|impossible|unknown|insufficient|unable|undefined|incorrect|wrong|"
    r"false|excluding|excluded|except|unlikely|instead|doubt)\b|n't\b",
    re.I,
)
_HEDGE_BEFORE = frozenset(
    "than least most above over under below except but or nor between exceed exceeds exceeding until beyond either times plus "
    "minus mod double twice triple half almost nearly maybe perhaps possibly probably excluding not barely "
    "sqrt root log ln lg exp abs sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh gcd lcm det".split()
)
_OF_WHAT = frozenset(
    "root square cube half twice double triple third quarter logarithm sum product difference multiple multiples factor "
    "factors power factorial sine cosine tangent inverse reciprocal percent fraction range".split()
)
_HEDGE_AFTER = frozenset(
    "or to and nor minus plus times divided squared cubed mod through factorial pi sqrt half if unless choose at vs versus "
    "ish thirds fifths sixths eighths tenths hundredths thousandths millionths".split()
)
_FUNCTION_AFTER_DASH = frozenset("sqrt root log ln lg exp sin cos tan".split())
_BOUND = re.compile(r"(?:at (?:least|most|maximum|minimum)|or (?:more|less|so|fewer|above|below)|and (?:above|up|over))\b", re.I)
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_DECADE = re.compile(r"[12]\d\d0s")


def numeric(text: str) -> str:
    r"""A folded text with fractions of whole numbers opened (1\frac{1}{2} to 1 1/2) and signs in words as signs."""
    if "\\frac" in text:
        text = _SMALL_FRACTION.sub(_open_fraction, text)
    return _SIGN_WORD.sub("-", text)


def _open_fraction(match: re.Match) -> str:
    whole = f"{match['whole']} " if match["whole"] else " "
    return f"{whole}{match['top'] or match['one']}/{match['bottom'] or match['two']}"


def _value(match: re.Match) -> tuple[Decimal | None, int, str]:
    """The number that a match of _NUMBER states and the decimals it shows, or what is wrong with it."""
    sign = -1 if match["sign"] and match["sign"][0] == "-" else 1
    if match["power"]:
        return sign * ARITHMETIC.create_decimal("1e" + re.sub(r"[^-\d]", "", match["power"][2:])), 0, ""
    if match["digits"]:
        exponent = match["exponent"] or ""
        digits = re.sub("[, ]", "", match["digits"]) + ("e" + re.search(r"[-+]?\d+\D?$", exponent)[0].strip(")}") if exponent else "")
        places = len(match["decimals"] or match["bare"] or ".") - 1
        return sign * Decimal(digits) if not exponent else sign * ARITHMETIC.create_decimal(digits), places, ""
    top, bottom = match["mixed_top"] or match["top"], match["mixed_bottom"] or match["bottom"]
    if len(top) > 18 or len(bottom) > 18:
        return None, 0, "a fraction of enormous numbers"
    if int(bottom) == 0:
        return None, 0, "a division by zero"
    if int(top) % int(bottom) == 0 and int(top):
        return None, 0, "a division left undone"
    value = ARITHMETIC.divide(Decimal(top), Decimal(bottom))
    if match["whole"]:
        if value >= 1:
            return None, 0, "a malformed mixed number"
        value = ARITHMETIC.add(Decimal(match["whole"]), value)
    return sign * value, 0, ""


def _spoiled_before(text: str, match: re.Match) -> str:
    """What stands before a number and makes it part of something else."""
    before = text[: match.start()].rstrip(" ([{\"'$€£¥#")
    if not before:
        return ""
    last = before[-1]
    if not last.isalpha():
        return "" if last in ":,;.=≈~?!\n" else f"{last!r} before the number"
    word = re.search(r"[^\W\d_]+$", before[-40:])[0].lower()
    if match["sign"] and match["sign"][-1] == " ":
        return "a dash that may be a minus"
    if len(word) == 1 and word.isascii() and word not in "ai" or before.endswith("\\frac"):
        return "an expression"
    if word in _HEDGE_BEFORE or word == "to" and before[:-2].rstrip().endswith("up"):
        return f"a hedge ({word!r})"
    if text[len(before)] in "([{" and not unit_name(word):
        return "a function of a number"
    if word == "of" and (earlier := re.search(r"([^\W\d_]+)\W*$", before[-40:-2])) and earlier[1].lower() in _OF_WHAT:
        return "an expression"
    return ""


def _after(text: str, end: int) -> tuple[str, str, int]:
    """What follows a number: its unit, what makes it part of something else, the power of ten of `million` and the like."""
    rest = text[end : end + 80].lstrip(" )]}\"'$")
    if not rest:
        return "", "", 0
    attached, first = text[end] == rest[0], rest[0]
    if first in ".,;:=≈\n":
        return "", "a malformed number" if first in ".:" and rest[1:2].isdigit() else "", 0
    if first == "-":
        word = re.match(r"- ?([^\W\d_]{2,})", rest)
        return ("", "", 0) if word and word[1].lower() not in _FUNCTION_AFTER_DASH else ("", "an expression", 0)
    if first in "%°€£¥¢":
        key, stop = read_unit(rest[:60])
        return key or first, _bounded(rest[stop or 1 :]), 0
    if first == "(" and not attached:
        return "", "", 0
    word_match = re.match(r"[^\W\d_]+", rest)
    if word_match is None:
        per = re.match(r"/ ?([^\W\d_]+)", rest)
        return "", "" if per and unit_name(per[1]) else f"{first!r} after the number", 0
    word = word_match[0]
    if word.lower() in _MULTIPLIERS and not attached:
        unit, problem, further = _after(text, text.index(word, end) + len(word))
        return unit, problem or ("a malformed number" if further else ""), _MULTIPLIERS[word.lower()]
    if word.lower() in _HEDGE_AFTER:
        return "", f"{word!r} after the number", 0
    key, stop = read_unit(rest[:60])
    if not word.isascii():
        return (key or word, "", 0) if word[0] not in "πθαβγΩ" or key else ("", "an expression", 0)
    if key is None and (attached or len(word) == 1) and word != "in" or key == "K" and attached:
        return "", f"{word!r} after the number", 0  # 45x is a product, 45th no quantity, 45K thousands
    return key or "", _bounded(rest[stop or len(word) :]), 0


def _bounded(rest: str) -> str:
    return "a bound or a hedge" if _BOUND.match(rest.lstrip(" ,")) or re.match(r"\s+or\s+-?\d", rest) else ""


def _read_once(text: str) -> Quantity:
    """The one number of a text without an equals sign."""
    found: Quantity | None = None
    for match in _NUMBER.finditer(text):
        value, places, problem = _value(match)
        if value is None:
            return Quantity(None, problem=problem)
        unit, problem, power = _after(text, match.end())
        problem = _spoiled_before(text, match) or problem
        value = value.scaleb(power, ARITHMETIC) if power else value
        if found is not None and (found.value != value or found.problem or problem):
            return Quantity(None, problem="several numbers")
        currency = text[: match.start()].rstrip(" ([{")[-1:]
        unit = unit or (currency if currency and currency in "$€£¥" else "")
        found = Quantity(None if problem else value, unit, places, problem)
    if found is None:
        return _read_words(text)
    if found.value is not None and (_DENIAL.search(text) or _DECADE.search(text)):
        return Quantity(None, problem="denied or refused")
    return found


_WORDS_AHEAD = re.compile(r"^.*(?<![^\W_])(?:(?!sqrt|sin|cos|tan|log|ln)[^\W\d_]{2,})[\s,:]+(?=[\d(\\√$€£.-])", re.S)
_UNIT_INSIDE = re.compile(r"(?:(?<=\d)|(?<=\d\s)|(?<=[)}]))(?:per\s+)?[^\W\d_π]+(?:\^[23])?|(?:\bper\s+|/\s?)[^\W\d_]+|[$€£¥°]")
_NAME = re.compile(r"[^-+*/^√×·÷\d=\\]*(?:\\[A-Za-z]+[^-+*/^√×·÷\d=\\]*)*")
_FUNCTION_OF_NUMBER = re.compile(r"(?<=[A-Za-z])(?:\(\d+\)|_\{?\w+\}?)")


def _side(part: str) -> tuple[str, tuple[Decimal, ...] | None, str]:
    """One earlier side of an equation: a name, a formula of unknowns, a number with its unit, or unreadable."""
    bare = _FUNCTION_OF_NUMBER.sub("", part).strip(" $.,:")
    if _NAME.fullmatch(bare) and "\\frac" not in bare:
        return "name", None, ""
    worked = _WORDS_AHEAD.sub("", part).strip(" ,:")
    stated = _read_once(worked)
    if stated.value is not None:
        return "number", (stated.value,), stated.unit
    worked = re.sub(r",?\s*(?:which|and|so|that)?$", "", _UNIT_INSIDE.sub(_without_units, worked)).strip()
    points = evaluate(worked)
    if points is None:
        return "unreadable", None, ""
    return ("number" if len(points) == 1 else "formula"), points, ""


def _without_units(match: re.Match) -> str:
    words = re.findall(r"[^\W\d_]+", match[0])
    return "" if all(word == "per" or unit_name(word) for word in words) or match[0].startswith("per") or match[0] in "$€£¥°" else match[0]


def _read_equation(text: str, asked: str | None) -> Quantity:
    """The last side of an equation, whose earlier sides must be names or worth the same."""
    parts = _EQUALS.split(text)
    if any(part.rstrip()[-1:] in ("<", ">", "!", "≠", "~") for part in parts[:-1]):
        return Quantity(None, problem="an inequality")
    if len(parts) == 2 and re.fullmatch(r"\s*[^\W\d_]{1,2}\s*[.)]*", parts[1]) and parts[0].strip():
        return _read_once(parts[0])  # 5 = x
    stated = _read_once(parts[-1])
    if stated.value is None:
        return stated
    if any(_DENIAL.search(part) for part in parts[:-1]):
        return Quantity(None, problem="denied or refused")
    sides = [_side(part) for part in parts[:-1] if part.strip()]
    worked = False
    for kind, points, unit in sides:
        if kind == "unreadable" or kind == "number" and not _worth(points[0], unit, stated):
            return Quantity(None, problem="an equation that is not solved")
        if kind == "number":
            worked = True
            if unit and unit != stated.unit and asked and unit == unit_key(asked):
                stated = Quantity(points[0], unit)  # 300 cm = 3 m where centimetres are asked
    if not worked and any(kind == "formula" for kind, _, _ in sides):
        return Quantity(None, problem="an equation that is not solved")
    return stated


def _worth(value: Decimal, unit: str, stated: Quantity) -> bool:
    """Whether one side of an equation is worth what the other states, as far as its decimals go, in its unit."""
    if unit and stated.unit and unit != stated.unit:
        family, measured = in_measure(value, unit)
        other, theirs = in_measure(stated.value, stated.unit)
        return family == other and same_value((measured,), (theirs,))
    if same_value((value,), (stated.value,)) or unit == "%" and same_value((value / 100,), (stated.value,)):
        return True
    return rounded(value, stated.places) == stated.value and abs(value) >= 1


_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![.\d])")


def read_quantity(text: str, decimal_comma: bool = False, asked: str | None = None) -> Quantity:
    """The one number that a folded text states.

    Read are decimals, thousands separators, fractions, mixed numbers, scientific notation, percents, currencies, an
    equation's right side, a worked sum's result, the one number of a sentence. Not read, with the reason in `problem`:
    several numbers, a range, an inequality, a denial, a product or a power, a division left undone.

    Args:
        text: The span.
        decimal_comma: Also read 0,75 as three quarters, where that cannot be a thousands separator.
        asked: The problem's unit; of two sides in different units the one in this counts.
    """
    text = _WORKED_WORD.sub(lambda match: f" {_WORKED[match[1].lower()]} ", numeric(text))
    quantity = _read_equation(text, asked) if _EQUALS.search(text) else _read_once(text)
    if quantity.value is None and decimal_comma and text.count(",") == 1 and (comma := _DECIMAL_COMMA.search(text)):
        whole, decimals = comma.groups()
        if len(decimals) != 3 or whole == "0":  # 1,234 has been read as a thousand already
            return read_quantity(f"{text[: comma.start()]}{whole.replace('.', '')}.{decimals}{text[comma.end() :]}")
    return quantity


def read_literal(text: str) -> Quantity:
    """A number that is the whole text, with at most a unit or a currency: so not `3 main veins` and not `2π cm`."""
    text = numeric(text).strip()
    lead = re.match(r"(?:US)?[$€£¥]\s*|USD\s+|[-+](?=[$€£¥])[$€£¥]\s*", text)
    match = _NUMBER.match(text, lead.end() if lead else 0)
    if match is None:
        return Quantity(None, problem="no number")
    value, places, problem = _value(match)
    unit = re.sub(r"[^$€£¥]", "", lead[0].replace("USD", "$")) if lead else ""
    rest = text[match.end() :]
    if lead and lead[0][0] == "-" and value is not None:
        value = -value
    if rest.strip():
        key, stop = read_unit(rest)
        if rest[stop:].strip(" .)") or key is None or key == "K" and not rest[0].isspace() or _DECADE.fullmatch(text):
            return Quantity(None, problem="more than a number")
        unit = key
    return Quantity(value, unit, places, problem)


def rounded(value: Decimal, places: int) -> Decimal:
    """`value` to `places` decimals; ties go up, away from zero, as at school. The one rounding rule of the project."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=ARITHMETIC)


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER_WORDS = {word: at for at, word in enumerate(_ONES)} | {word: 20 + 10 * at for at, word in enumerate(_TENS)}
_NO_NOUN = re.compile(r".*(?:th|rd|nd|ths|rds|half|halves|quarters?|dozen|pairs?|hundred|thousand|[mbtr]+illion|point|or|and|of|to|not)")


def _read_words(text: str) -> Quantity:
    """A number spelt in words that is the whole text, with at most one noun behind: `forty-five degrees`."""
    words = re.findall(r"[^\W\d_]+", text.lower()) if len(text) < 60 else []
    sign = -1 if words[:1] in (["minus"], ["negative"]) else 1
    words = words[1:] if sign < 0 else words
    total = current = used = 0
    previous = ""
    for word in words:
        if word in _NUMBER_WORDS:
            step = _NUMBER_WORDS[word]
            if used and not (previous in _TENS and 0 < step < 10 or previous in ("hundred", "thousand", "and")):
                break
            current += step
        elif word == "hundred" and 0 < current < 100:
            current *= 100
        elif word == "thousand" and 0 < current < 1000 and not total:
            total, current = current * 1000, 0
        elif not (word == "and" and previous == "hundred"):
            break
        previous = word
        used += 1
    rest = words[used:]
    if not used or previous == "and" or len(rest) > 1 or (rest and _NO_NOUN.fullmatch(rest[0]) and not unit_key(rest[0])):
        return Quantity(None, problem="no number")
    if re.search(r"[^\w\s.,\-°%]", text):
        return Quantity(None, problem="an expression")
    return Quantity(Decimal(sign * (total + current)), unit_key(rest[0]) or "" if rest else "")
