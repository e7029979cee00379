r"""Reads the one number that a span states, as models write numbers, with its unit and the reason where there is none.

>>> read_quantity("x = 1,234 cm^2")
Quantity(value=Decimal('1234'), unit='cm^2', places=0, problem='')
>>> read_quantity("45 or 46").problem, read_quantity("988 multiplied by 5, which equals 4,940.").value
('several numbers', Decimal('4940'))

Texts come folded (`spelling.fold`) and bounded (`compare.MAX_SOLUTION`); each is gone through a fixed number of times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from nbhelpers.grading.expressions import ARITHMETIC, Points, evaluate, same_points
from nbhelpers.grading.tables import TABLES, denial, one_of, phrase, words
from nbhelpers.grading.units import in_measure, read_unit, unit_key, unit_name


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with the unit beside it ("" when none is) and the decimals shown; `problem` says why `value` is None."""

    value: Decimal | None
    unit: str = ""
    places: int = 0
    problem: str = ""


_NUMBER = re.compile(
    r"""(?<![A-Za-z0-9_.^])(?<!\^[-+{])(?<!_\{)                # not inside a name (x1, cm2), a number or an exponent
    (?P<sign>[-+]\ ?)?
    (?:(?P<power>10\ ?(?:\^|\*\*)\ ?[({]?\ ?[-+]?\d{1,4}[)}]?)
      |(?:(?P<whole>\d+)\ )?(?P<top>-?\d+)\ ?/\ ?(?P<bottom>\d+)(?!\d|\.\d)
      |(?P<digits>[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?:\ \d{3})+(?!\d)|\d+|(?=\.\d))(?P<decimals>\.\d+)?
       (?:\.{2,3}(?!\.))?                                      # 0.333...
       (?:[eE](?P<exponent>[-+]?\d{1,4})(?!\d)|\ ?[xX×*·]\ ?10\ ?(?:\^|\*\*)\ ?[({]?\ ?(?P<ten>[-+]?\d{1,4})[)}]?)?)
    """,
    re.VERBOSE,
)
_FRACTION = re.compile(
    r"(?P<whole>\d)?\s*\\frac\s*(?:\{\s*(?P<top>-?\d+)\s*\}|(?P<a>\d))\s*(?:\{\s*(?P<bottom>\d+)\s*\}|(?P<b>\d))"
)
_SIGN_WORD = re.compile(r"\b(?:minus|negative)\s+(?=[\d.])", re.I)
_WORKED = dict(entry.split(": ") for entry in TABLES["phrases"]["worked"].split(" | "))
_WORKED_WORD = re.compile(rf"(?<=[\w)}}])\s*,?\s*(?:which\s+)?\b({'|'.join(_WORKED)})\b(?=\s*[\d$€£({{\\.-])", re.I)
UNSOLVED = "an equation that is not solved"
_EQUALS = re.compile(r"[=≈]")
_DENIED_HERE, _DENIED = re.compile(denial("denied_here"), re.I), re.compile(phrase("denied"), re.I)
_INNOCENT = re.compile(phrase("innocent"), re.I)
_BOUND = re.compile(rf"[ ,]*{phrase('bound')}", re.I)
_BEFORE = re.compile(rf"(?:\b(?:{one_of('words', 'before')}|{phrase('before')}|(?<!')[b-hj-z])|\\frac)$", re.I)
_AFTER = frozenset(words("words", "after"))
_MOST_NUMBERS = 30
_ENDS = re.compile(r"[,;=≈\n]|[.:](?!\d)|- ?(?!ish\b|odd\b|plus\b)[^\W\d_]{2}")
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def numeric(text: str) -> str:
    r"""A folded text with fractions of whole numbers opened (1\frac{1}{2} to 1 1/2) and signs in words as signs."""
    if "\\frac" in text:
        text = _FRACTION.sub(lambda m: f"{m['whole'] or ''} {m['top'] or m['a']}/{m['bottom'] or m['b']}", text)
    return _SIGN_WORD.sub("-", text)


def _value(match: re.Match) -> tuple[Decimal | None, str]:
    """The number that a match of _NUMBER states, or what is wrong with it."""
    sign = Decimal.copy_negate if match["sign"] and match["sign"][0] == "-" else Decimal
    if match["power"]:
        return sign(ARITHMETIC.create_decimal("1e" + re.sub(r"[^-\d]", "", match["power"][2:]))), ""
    if match["bottom"] is None:
        value = Decimal(re.sub("[, ]", "", match["digits"]) + (match["decimals"] or ""))
        exponent = match["exponent"] or match["ten"]
        return sign(value.scaleb(int(exponent), ARITHMETIC) if exponent else value), ""
    whole, top, bottom = match["whole"], match["top"], match["bottom"]
    if len(top) > 18 or len(bottom) > 18:
        return None, "a fraction of enormous numbers"
    if int(bottom) == 0:
        return None, "a division by zero"
    if int(top) % int(bottom) == 0 and int(top) or whole and int(top) >= int(bottom):
        return None, "a malformed mixed number" if whole else "a division left undone"
    return sign(ARITHMETIC.add(Decimal(whole or 0), ARITHMETIC.divide(Decimal(top), Decimal(bottom)))), ""


def _spoiled_before(text: str, match: re.Match) -> str:
    """What stands before a number and makes it part of something else."""
    before = text[: match.start()].rstrip(" ([{\"'$€£¥#")
    last = before[-1:]
    if not last.isalpha() and not before.endswith("\\frac"):
        return "" if last in ":,;.=≈~?!\n" or last.isdigit() else f"{last!r} before the number"
    if spoiler := _BEFORE.search(before[-60:]):
        return f"{spoiler[0]!r} before the number"
    if match["sign"] and match["sign"][-1] == " ":
        return "a dash that may be a minus"
    applied = text[len(before)] in "([{" and not unit_name(re.search(r"[^\W\d_]+$", before[-40:])[0])
    return "a function of a number" if applied else ""


def _after(text: str, end: int) -> tuple[str, str, int]:
    """What follows a number: its unit, what makes it part of something else, the power of ten of `million` etc."""
    rest = text[end : end + 80].lstrip(" )]}\"'$")
    attached = text[end : end + 1] == rest[:1]
    if not rest or _ENDS.match(rest) or rest[0] == "(" and not attached:
        return "", "", 0
    (key, stop), word = read_unit(rest[:60]), re.match(r"[^\W\d_]*", rest)[0]
    lower, behind = word.lower(), rest[stop or len(word) or 1 :]
    if lower in _MULTIPLIERS and not attached:
        unit, problem, further = _after(text, text.index(word, end) + len(word))
        return unit, problem or ("a malformed number" if further else ""), _MULTIPLIERS[lower]
    if not word.isascii() and (word[0] not in "πθαβγΩ" or key):
        return key or word, "", 0  # 45海里
    per = re.match(r"/ ?([^\W\d_]+)", rest)
    unknown = key is None and lower != "in" and (attached or len(word) < 2) and not (per and unit_name(per[1]))
    alternative = re.match(r"\s*or\b(?! -?\d)", rest if lower == "or" else behind)  # a number is counted by itself
    thousands, bound = key == "K" and attached, _BOUND.match(behind) or _BOUND.match(rest)
    if lower in _AFTER or unknown or alternative or thousands or bound:
        return "", f"{word or rest[0]!r} after the number", 0  # 45x is a product, 45th no quantity, 45K thousands
    return key or "", "", 0


def read_once(text: str) -> Quantity:
    """The one number of a text without an equals sign."""
    found: Quantity | None = None
    denied = _DENIED.search(text) is not None
    doubtful = not denied and _DENIED_HERE.search(text)
    for count, match in enumerate(_NUMBER.finditer(text)):
        value, problem = _value(match)
        if count > _MOST_NUMBERS:
            return Quantity(None, problem="several numbers")
        if value is None:
            return Quantity(None, problem=problem)
        unit, problem, power = _after(text, match.end())
        problem = _spoiled_before(text, match) or problem
        value = value.scaleb(power, ARITHMETIC) if power else value
        if found is not None and (found.value != value or found.problem or problem):
            return Quantity(None, problem="several numbers")
        currency = text[: match.start()].rstrip(" ([{")[-1:]
        unit = unit or (currency if currency and currency in "$€£¥" else "")
        if denied or doubtful and _DENIED_HERE.search(_clause(text, match)):
            problem = "denied or refused"
        found = Quantity(None if problem else value, unit, len(match["decimals"] or ".") - 1, problem)
    return found or _read_words(text)


def _clause(text: str, match: re.Match) -> str:
    """The clause around a number."""
    first = max((end.end() for end in _CLAUSE_END.finditer(text, 0, match.start())), default=0)
    last = _CLAUSE_END.search(text, match.end())
    return text[first : last.start() if last else len(text)]


_CLAUSE_END = re.compile(r"[,;]\s|\.\s|\n|\b(?:and|but)\b")
_WORDS_AHEAD = re.compile(r"^.*(?<![^\W_])(?:(?!sqrt|sin|cos|tan|log|ln)[^\W\d_]{2,})[\s,:]+(?=[\d(\\√$€£.-])", re.S)
_UNIT_INSIDE = re.compile(
    r"(?:(?<=\d)|(?<=\d\s)|(?<=[)}]))(?:per\s+)?[^\W\d_π]+(?:\^[23])?|(?:\bper\s+|/\s?)[^\W\d_]+|[$€£¥°%]"
)
_NAME = re.compile(r"[^-+*/^√×·÷|\d=\\]*(?:\\[A-Za-z]+[^-+*/^√×·÷|\d=\\]*)*")
_INDEX = re.compile(r"(?<=[A-Za-z])(?:\(\d+\)|_\{?\w+\}?)|(?<=∠)\d+")


def side(part: str) -> tuple[str, Points | None, str]:
    """One earlier side of an equation: a name, a formula of unknowns, a number with its unit, or unreadable."""
    bare = _INDEX.sub("", part).strip(" $.,:")
    named = _NAME.fullmatch(bare) and "\\frac" not in bare
    if "..." in part or named or re.fullmatch(r"[^\W\d_]+(?: [*×·+-] [^\W\d_]{2,})+", bare):
        return "name", None, ""
    worked = re.sub(r"(?<=\d) ?[xX] ?(?=\d)", "×", _WORDS_AHEAD.sub("", part).strip(" ,:"))
    stated = read_once(worked)
    if stated.value is not None:
        return "number", (stated.value,), stated.unit
    worked = re.sub(r",?\s*(?:which|and|so|that)?$", "", _UNIT_INSIDE.sub(_without_units, worked)).strip()
    points = evaluate(re.sub(r"(?<=\d)\s+[a-z]{3,}(?=\s*(?:[*×·+-]|$))", "", worked))
    return ("unreadable" if points is None else "number" if len(points) == 1 else "formula"), points, ""


def _without_units(match: re.Match) -> str:
    per = match[0].startswith("per") or match[0] in "$€£¥°%"
    return "" if per or all(unit_name(word) for word in re.findall(r"(?!per\b)[^\W\d_]+", match[0])) else match[0]


def _read_equation(text: str, asked: str | None) -> Quantity:
    """The last side of an equation, whose earlier sides must be names or worth the same."""
    parts = _EQUALS.split(text)
    if any(part.rstrip()[-1:] in ("<", ">", "≠") for part in parts[:-1]):
        return Quantity(None, problem="an inequality")
    stated = read_once(parts[-1])
    if stated.value is None and (first := read_literal(parts[0])).value is not None:
        return _settle(parts[1:], first)  # 45 = 9 × 5
    if stated.value is not None and any(_DENIED_HERE.search(part) or _DENIED.search(part) for part in parts[:-1]):
        return Quantity(None, problem="denied or refused")
    return _settle(parts[:-1], stated, asked) if stated.value is not None else stated


def _settle(earlier: list[str], stated: Quantity, asked: str | None = None) -> Quantity:
    """`stated`, if the sides before it agree: names, numbers worth the same, formulas with their numbers beside."""
    sides = [side(part) for part in earlier if part.strip()]
    for kind, points, unit in sides:
        if kind == "unreadable" or kind == "number" and not _worth(points[0], unit, stated):
            return Quantity(None, problem=UNSOLVED)
        if kind == "number" and asked and unit == unit_key(asked) and unit != stated.unit:
            stated = Quantity(points[0], unit)  # 300 cm = 3 m where centimetres are asked
    kinds = {kind for kind, _, _ in sides}
    return Quantity(None, problem=UNSOLVED) if "formula" in kinds and "number" not in kinds else stated


def _worth(value: Decimal, unit: str, stated: Quantity) -> bool:
    """Whether one side of an equation is worth what the other states, as far as its decimals go, in its unit."""
    if unit and stated.unit and unit != stated.unit:
        (family, measured), (other, theirs) = in_measure(value, unit), in_measure(stated.value, stated.unit)
        return family == other and same_points((measured,), (theirs,))
    if same_points((value,), (stated.value,)) or unit == "%" and same_points((value / 100,), (stated.value,)):
        return True
    return rounded(value, stated.places) == stated.value and abs(value) >= 1


_COMMENT = re.compile(rf"\s*\((?![^()]*{phrase('comment')})[^()]*[^\W\d_]{{3}}[^()]*\)")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![.\d])")


def read_quantity(text: str, decimal_comma: bool = False, asked: str | None = None) -> Quantity:
    """The one number that a folded text states: its only one, or the result of its equation or worked sum.

    Several numbers, a range, an inequality, a denial, a product, a division left undone give a `problem` instead.
    `decimal_comma` also reads 0,75 as three quarters; of two sides in different units the one in `asked` counts.
    """
    text = _WORKED_WORD.sub(lambda match: f" {_WORKED[match[1].lower()]} ", numeric(_INNOCENT.sub("", text)))
    quantity = _read_equation(text, asked) if _EQUALS.search(text) else read_once(text)
    if quantity.problem == "several numbers" and (shorter := _COMMENT.sub("", text)) != text:
        return read_quantity(shorter, decimal_comma, asked)
    if quantity.value is None and decimal_comma and text.count(",") == 1 and (comma := _DECIMAL_COMMA.search(text)):
        whole, decimals = comma.groups()
        if len(decimals) != 3 or whole == "0":  # 1,234 has been read as a thousand already
            return read_quantity(f"{text[: comma.start()]}{whole.replace('.', '')}.{decimals}{text[comma.end() :]}")
    return quantity


def read_literal(text: str) -> Quantity:
    """A number that is the whole text, with at most a unit or a currency: so not `3 main veins` and not `2π cm`."""
    text = numeric(text).strip()
    lead = re.match(r"(-)?(?:(?:US)?([$€£¥])|USD )?\s*", text)
    match = _NUMBER.match(text, lead.end() if lead[2] or not lead[1] else 0)
    if match is None:
        return Quantity(None, problem="no number")
    value, problem = _value(match)
    unit, rest = lead[2] or "", text[match.end() :]
    if value is not None and lead[1] and lead[2]:
        value = value.copy_negate()
    if rest.strip():
        unit, stop = read_unit(rest)
        thousands_or_decade = re.fullmatch(r".*\dK|[12]\d{3}s", text)
        if unit is None or rest[stop:].strip(" .)") or thousands_or_decade:
            return Quantity(None, problem="more than a number")
    return Quantity(value, unit, len(match["decimals"] or ".") - 1, problem)


def rounded(value: Decimal, places: int) -> Decimal:
    """`value` to `places` decimals; ties go up, away from zero, as at school. The one rounding rule of the project."""
    return value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP, context=ARITHMETIC)


_ONES, _TENS = words("words", "ones"), words("words", "tens")
_NAMES = _ONES + [f"{ten} {one}".rstrip() for ten in _TENS for one in ("", *_ONES[1:10])]
_NAMES += [f"{hundred} hundred {name}".rstrip() for hundred in _NAMES[1:100] for name in ("", *_NAMES[1:])]
_SPELT = {name: Decimal(at) for at, name in enumerate(_NAMES)}
_THOUSANDS = re.compile(r"(?:(.+) thousand ?)?(.*)")
_NO_NOUN = re.compile(rf".*(?:{one_of('words', 'no_noun')})")


def _read_words(text: str) -> Quantity:
    """A number spelt in words that is the whole text, with at most one noun behind: `forty-five degrees`."""
    spelt = "" if len(text) >= 60 or re.search(r"[^\w\s.,\-°%]", text) else text.lower()
    spelt = " ".join(re.findall(r"[^\W\d_]+", spelt)).replace("hundred and ", "hundred ")
    sign, bare = re.fullmatch(r"((?:minus|negative) )?(.*)", spelt).groups()
    for number, noun in ((bare, ""), bare.rpartition(" ")[::2]):
        thousands, rest = (_SPELT.get(part or "zero") for part in re.fullmatch(_THOUSANDS, number).groups())
        countable = unit_key(noun) or not _NO_NOUN.fullmatch(noun)
        if number and thousands is not None and rest is not None and countable:
            value = 1000 * thousands + rest
            return Quantity(-value if sign else value, unit_key(noun) or "")
    return Quantity(None, problem="no number")
