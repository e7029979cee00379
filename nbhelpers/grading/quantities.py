"""Reads the one number that a piece of text states, as models write numbers, without evaluating anything.

>>> read_quantity(r"$x = 1{,}234\,\text{cm}^2$").value
Decimal('1234')
>>> read_quantity("45 or 46").problem
'several numbers'

The reading is a fixed number of passes of regular expressions without nested repetition over a text whose length
the caller bounds (`grading` refuses solutions longer than `grading.MAX_SOLUTION`), so its time is bounded too.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache

# No traps: a conversion that cannot be done gives NaN, which equals nothing, instead of raising.
ARITHMETIC = Context(prec=60, rounding=ROUND_HALF_UP, traps=[])


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a text states: `value` with the `unit` that stands beside it ("" when none does), or `problem`.

    `value` is None exactly when `problem` says why no single number could be read.
    """

    value: Decimal | None
    unit: str = ""
    problem: str = ""

    @property
    def percent(self) -> bool:
        return self.unit == "%"


class _Folding(dict):
    """A table for str.translate that works out each non-ASCII character once."""

    SPECIAL = {
        **dict.fromkeys("−–—‐‑‒―﹣", "-"),
        **dict.fromkeys("·⋅∙•∗", "·"),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("≈≃≅∼≒", "≈"),
        **dict.fromkeys("º˚", "°"),
        **dict.fromkeys("‘’‛′", "'"),
        **dict.fromkeys("“”„″", '"'),
        **{
            "…": "...",
            "⁻": "^-",
            "。": ".",
            "、": ",",
            "✕": "×",
            "✖": "×",
            "℃": "°C",
            "℉": "°F",
            "µ": "μ",
            "【": "[",
            "】": "]",
        },
    }

    def __missing__(self, point: int) -> str:
        char = chr(point)
        if point < 128 or char in "×÷√π°":
            folded = char
        elif char in self.SPECIAL:
            folded = self.SPECIAL[char]
        else:
            category, plain = unicodedata.category(char), unicodedata.normalize("NFKC", char)
            if category == "Nd":
                folded = str(unicodedata.digit(char))
            elif category == "Cf":
                folded = ""  # zero-width characters and marks of direction
            elif category in ("Zs", "Zl", "Zp"):
                folded = " "
            elif category == "No" and "⁄" in plain:
                folded = " " + plain.replace("⁄", "/")  # 1½ is 1 1/2
            elif category == "No" and plain.isdecimal() and "SUPERSCRIPT" in unicodedata.name(char, ""):
                folded = "^" + plain  # 45² must not become 452
            elif 0xFF01 <= point <= 0xFF5E:
                folded = chr(point - 0xFEE0)  # full-width forms
            elif plain.isascii() and plain.isalnum() and category[0] in "LS":
                folded = plain  # a letter in a circle, in bold, or two letters in one: ㎝
            else:
                folded = char
        self[point] = folded
        return folded


_FOLDING = _Folding()


_WRAPPERS = (
    "boxed fbox text textbf textit textrm texttt mbox emph mathrm mathbf mathit mathsf boldsymbol bm operatorname rm bf"
).split()


_LATEX = {
    **dict.fromkeys(("times",), "×"),
    **dict.fromkeys(("cdot", "ast"), "·"),
    **dict.fromkeys(("approx", "sim", "simeq", "cong", "thickapprox"), "≈"),
    **dict.fromkeys(("circ", "degree", "deg"), "°"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    **dict.fromkeys(("lbrack",), "["),
    **dict.fromkeys(("rbrack",), "]"),
    **dict.fromkeys(("langle", "lparen"), "("),
    **dict.fromkeys(("rangle", "rparen"), ")"),
    **dict.fromkeys(("quad", "qquad", "thinspace", "space", "therefore", "implies", "Rightarrow"), " "),
    **dict.fromkeys(("left", "right", "big", "Big", "bigl", "bigr", "displaystyle", "limits"), ""),
    **dict.fromkeys(_WRAPPERS, "\\wrapped"),
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), "\\frac"),
    **{"pi": "π", "sqrt": "√", "div": "÷", "pm": "±", "mp": "±", "lt": "<", "gt": ">", "angle": "∠", "infty": "∞"},
    **{"dollar": "$", "textdollar": "$", "pounds": "£", "euro": "€", "percent": "%", "triangle": "△", "mu": "μ"},
}


_COMMAND = re.compile(r"\\([A-Za-z]+)")


_ESCAPED = {"\\" + mark: mark for mark in "$%#&_{}"} | {"\\" + mark: " " for mark in ",;: ()[]\\"} | {"\\!": ""}


_ESCAPE = re.compile(r"\\[$%#&_{},;: ()\[\]\\!]")


_SMALL_FRACTION = re.compile(r"(\d)?\s*\\frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")


_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


_DEGREES = re.compile(r"\s*\*?\s*\^?\s*\{?\s*°\s*\}?(?:\s*(?=[CF]\b))?")


_RAISED_DIGITS = re.compile(r"(\^-?\d)\^(\d)")


_WRAPPED = re.compile(r"\\wrapped\s*\{([^{}]*)\}")


_ROOT = re.compile(r"√\s*\{([^{}]*)\}")


_SCRIPT = re.compile(r"([\^_])\s*\{\s*([-+]?\w+)\s*\}")


_EMPHASIS = re.compile(r"(?<![\w)*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w(*])|`+|(?<!\w)__|__(?!\w)")


_MINUS_WORD = re.compile(r"\b(?:minus|negative)\s+(?=[\d.])", re.I)


def _small_fraction(match: re.Match) -> str:
    whole, long_top, short_top, long_bottom, short_bottom = match.groups()
    return f"{whole + ' ' if whole else ''}{long_top or short_top}/{long_bottom or short_bottom}"


def _open_fraction(match: re.Match) -> str:
    top, bottom = (part.strip() if re.fullmatch(r"[\w\s√π.]*", part) else f"({part})" for part in match.groups())
    return f"{top}/{bottom}"


def _open_root(match: re.Match) -> str:
    inner = match[1].strip()
    return f"√{inner}" if inner.isalnum() else f"√({inner})"


def plain(text: str) -> str:
    """`text` with Unicode, LaTeX and Markdown spellings folded into one, and blanks collapsed."""
    if not text.isascii():
        text = text.translate(_FOLDING)
        if "^" in text:
            text = _RAISED_DIGITS.sub(r"\1\2", text.replace("^-^", "^-"))
    if "\\" in text or "{" in text:
        text = text.replace("{,}", ",").replace("~\\", " \\")
        text = _COMMAND.sub(lambda match: _LATEX.get(match[1], match[0]), text)
        text = _SMALL_FRACTION.sub(_small_fraction, text)
        text = _SCRIPT.sub(r"\1\2", text)
        for _ in range(4):  # innermost first; deeper nesting than this is no answer
            if "{" not in text:
                break
            text = _WRAPPED.sub(r" \1 ", text)
            text = _ROOT.sub(_open_root, text)
            text = _FRACTION.sub(_open_fraction, text)
        text = text.replace("\\wrapped", "")
        text = re.sub(r"\s+\^", "^", text)
        text = _ESCAPE.sub(lambda match: _ESCAPED[match[0]], text)
    if "°" in text:
        text = _DEGREES.sub("°", text)
    if "*" in text or "`" in text or "__" in text:
        text = _EMPHASIS.sub("", text)
    text = " ".join(text.split())
    return text[2:] if text.startswith(("* ", "· ")) else text  # the only item of a list


_UNIT_NAMES = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "dm": "dm decimeter decimetre",
    "m": "m meter metre 米",
    "km": "km kilometer kilometre 千米 公里",
    "nm": "nm nanometer nanometre",
    "μm": "μm um micrometer micrometre micron",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "海里": "海里",
    "mg": "mg milligram",
    "g": "g gram gramme 克",
    "kg": "kg kilogram kilo 千克",
    "tonne": "tonne",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ms": "ms millisecond",
    "s": "s sec second 秒",
    "min": "min mins minute 分钟",
    "h": "h hr hrs hour 小时",
    "day": "day 天",
    "week": "wk week",
    "month": "mo month",
    "year": "yr yrs year 年 岁",
    "ml": "ml mL milliliter millilitre",
    "l": "l L liter litre",
    "°": "° deg degree 度",
    "°C": "°C celsius",
    "°F": "°F fahrenheit",
    "rad": "rad radian",
    "K": "K kelvin",
    "N": "N newton",
    "J": "J joule",
    "kJ": "kJ kilojoule",
    "cal": "cal calorie",
    "W": "W watt",
    "kW": "kW kilowatt",
    "V": "V volt",
    "A": "A ampere amp",
    "mA": "mA",
    "Ω": "Ω ohm",
    "Hz": "Hz hertz",
    "Pa": "Pa pascal",
    "kPa": "kPa",
    "mol": "mol mole",
    "T": "T tesla",
    "C": "C coulomb",
    "%": "% percent pct percentage 百分",
    "$": "$ dollar usd buck",
    "cent": "cent cents ¢",
    "€": "€ euro eur",
    "£": "£ gbp",
    "¥": "¥ yen yuan rmb cny 元",
    "mph": "mph",
}


_UNITS = {name: key for key, names in _UNIT_NAMES.items() for name in names.split()}


_UNIT = re.compile(
    r"\s*-?\s*[(\[{]?\s*(?:(?P<dimension>square|sq\.?|cubic)\s+)?"
    r"(?P<name>per\s?cent|[%$€£¥¢°](?:\s?[CF]\b)?|[^\W\d_]+)"
    r"(?:\^?(?P<power>[23])(?!\d)|\s+(?P<word>squared|cubed))?"
    r"(?:\s*(?:/|per\b)\s*(?P<per>[^\W\d_]+)(?:\^?(?P<per_power>[23])(?!\d))?)?"
)


_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3", "squared": "2", "cubed": "3", "2": "2", "3": "3"}


def _unit_name(name: str) -> str | None:
    """The key of a unit's name in any spelling: cm for `centimetres`, None for a word that is no known unit."""
    if name in _UNITS:
        return _UNITS[name]
    lower = name.lower().replace(" ", "")
    if lower in _UNITS and len(name) > 1:  # one letter means what its case says: M is not m
        return _UNITS[lower]
    return _UNITS.get(lower[:-1]) if lower.endswith("s") and len(lower) > 3 else None


@lru_cache(maxsize=4096)
def unit_key(phrase: str) -> str | None:
    """One spelling for a unit: "cm^2" for `square centimetres`, None for no unit or a word that is no known unit."""
    match = _UNIT.match(phrase)
    if match is None:
        return None
    if match["name"] == "in" and phrase[match.end() :].strip(" .)]}"):
        return None  # "12 in total"
    key = _unit_name(match["name"])
    if key is None:
        return None
    power = match["dimension"] or match["power"] or match["word"]
    if power:
        key += "^" + _POWERS[power]
    if match["per"]:
        key += "/" + (_unit_name(match["per"]) or match["per"].lower()) + (match["per_power"] or "")
    return key


def units_agree(given: str, asked: str | None) -> bool:
    """Whether a stated unit can be the asked one: an absent or unknown word (`apples`) is no contradiction."""
    given_key, asked_key = unit_key(given), unit_key(asked or "")
    if given_key is None or asked_key is None or given_key == asked_key:
        return True
    return "°" in (given_key, asked_key) and given_key[0] == asked_key[0] == "°"  # 30° for 30 °C


NUMBER = re.compile(
    r"""(?<![A-Za-z0-9_.^])(?<!\^[-+])                                 # not inside a name (x1, cm2), a number or an exponent
    (?P<sign>[-+]\ ?)?
    (?:(?P<power>10\^\(?[-+]?\d{1,4}\)?)
      |(?P<whole>\d+)\ (?P<mixed_top>\d+)\ ?/\ ?(?P<mixed_bottom>\d+)
      |(?P<top>\d+)\ ?/\ ?(?P<bottom>\d+)
      |(?P<digits>(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?:\ \d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)
       (?:\.{2,3}(?!\.))?                                   # 0.333...
       (?P<exponent>[eE][-+]?\d{1,4}(?!\d)|\ ?[xX×*·]\ ?10\ ?(?:\^|\*\*)\ ?\(?[-+]?\d{1,4}\)?)?)
    """,
    re.VERBOSE,
)


_EQUALS = re.compile(r"[=≈]")


_ARITHMETIC = re.compile(r"[\d\s.,+\-*/×·÷()\[\]{}^√%°$|!:]+")


_WORDS_AHEAD = re.compile(r"\s*(?:[^\W\d_]{2,}[\s,:]+)+(?=[\d(])")


_DENIAL = re.compile(
    r"\b(?:not|never|cannot|no|nor|neither|none|without|impossible|unknown|insufficient|unable|undefined)\b|n't\b", re.I
)


_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![.\d])")


_WORD_BEFORE = re.compile(r"([^\W\d_]+)\W*$")


_OPENING, _CLOSING = " ([{\"'$€£¥#", " )]}\"'$"


_HEDGE_BEFORE = frozenset(
    "than least most above over under below except but or nor between exceed exceeds exceeding until beyond either "
    "times plus minus mod double twice triple half".split()
)


_FUNCTIONS = frozenset(
    "sqrt root log ln lg exp abs sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh gcd lcm det".split()
)


_FUNCTIONS_OF = frozenset(
    "root square cube half twice double triple third quarter logarithm sum product difference multiple multiples "
    "factor factors power factorial sine cosine tangent inverse reciprocal percent fraction range".split()
)


_HEDGE_AFTER = frozenset(
    "or to and nor minus plus times divided squared cubed mod through factorial pi sqrt half if unless choose "
    "thirds fifths sixths eighths tenths hundredths thousandths millionths".split()
)


_MULTIPLIERS = {
    "hundred": Decimal(10**2),
    "thousand": Decimal(10**3),
    "million": Decimal(10**6),
    "billion": Decimal(10**9),
    "trillion": Decimal(10**12),
    "dozen": Decimal(12),
}


def _value(match: re.Match) -> Decimal | str:
    """The number that one match of NUMBER states, or what is wrong with it."""
    groups = match.groupdict()
    if groups["power"]:
        value = ARITHMETIC.create_decimal("1e" + groups["power"][3:].strip("()"))
    elif groups["digits"]:
        digits = groups["digits"].replace(",", "").replace(" ", "")
        exponent = groups["exponent"]
        if exponent:
            at = max(exponent.rfind("^"), exponent.rfind("*"), exponent.find("e"), exponent.find("E"))
            digits += "e" + exponent[at + 1 :].strip(" ()")
        value = Decimal(digits)
    else:
        top, bottom = groups["mixed_top"] or groups["top"], groups["mixed_bottom"] or groups["bottom"]
        if len(top) > 18 or len(bottom) > 18:
            return "a fraction of enormous numbers"
        if int(bottom) == 0:
            return "a division by zero"
        if int(top) % int(bottom) == 0 and int(top):
            return "a division left undone"
        value = ARITHMETIC.divide(Decimal(top), Decimal(bottom))
        if groups["whole"]:
            if value >= 1:
                return "a malformed mixed number"
            value = ARITHMETIC.add(Decimal(groups["whole"]), value)
    return -value if groups["sign"] and groups["sign"][0] == "-" else value


def _problem_before(text: str, match: re.Match) -> str:
    before = text[: match.start()].rstrip(_OPENING)
    if not before:
        return ""
    last = before[-1]
    if last.isalpha():
        word = _WORD_BEFORE.search(before[-40:])[1].lower()
        if match["sign"] and match["sign"][-1] == " ":
            return "a dash that may be a minus"
        if len(word) == 1 and word.isascii() and word not in "ai":
            return "an expression"
        if word in _FUNCTIONS:
            return "a function of a number"
        if word in _HEDGE_BEFORE:
            return f"a hedge ({word!r})"
        if word == "to" and before[:-2].rstrip().endswith("up"):
            return "a hedge ('up to')"
        if text[len(before)] in "([{" and word not in _UNITS:
            return "a function of a number"
        if word == "of":
            earlier = _WORD_BEFORE.search(before[-40:-2])
            if earlier and earlier[1].lower() in _FUNCTIONS_OF:
                return "an expression"
        return ""
    return "" if last in ":,;.=≈~?!" else f"{last!r} before the number"


def _after(text: str, end: int) -> tuple[str, str, Decimal | None]:
    """What follows a number: its unit, the problem if what follows changes the number, a multiplier."""
    rest = text[end:].lstrip(_CLOSING)
    attached = bool(rest) and text[end] == rest[0]
    if not rest:
        return "", "", None
    first = rest[0]
    if first in ".,;:=≈":
        follows_digit = first in ".:" and len(rest) > 1 and rest[1].isdigit()
        return "", "a malformed number" if follows_digit else "", None
    if first == "-":
        word = re.match(r"- ?[^\W\d_]{2,}", rest)
        return ("", "", None) if word and word[0][2:].lower() not in _FUNCTIONS else ("", "an expression", None)
    if first in "%°€£¥¢":
        return unit_key(rest[:60]) or first, "", None
    if first == "(" and not attached:
        return "", "", None
    word_match = re.match(r"[^\W\d_]+", rest)
    if word_match is None:
        if first == "/" and (per := re.match(r"/ ?([^\W\d_]+)", rest)) and _unit_name(per[1]):
            return "", "", None
        return "", f"{first!r} after the number", None
    word = word_match[0]
    lower = word.lower()
    if lower in _MULTIPLIERS and not attached:
        unit, problem, further = _after(text, len(text) - len(rest) + len(word))
        return unit, problem or ("a malformed number" if further else ""), _MULTIPLIERS[lower]
    if lower in _HEDGE_AFTER:
        return "", f"{word!r} after the number", None
    phrase = rest[:60]
    key = unit_key(phrase)
    if not word.isascii():
        return (key or word, "", None) if word[0] not in "πθαβγΩ" or key else ("", "an expression", None)
    if key is None and (attached or len(word) == 1):
        # "45x" is a product and "45th" no quantity; "12 in total" is a number and a sentence.
        return ("", "", None) if word == "in" and not attached else ("", f"{word!r} after the number", None)
    return key or "", "", None


def _read_once(text: str) -> Quantity:
    """The one number of a text without an equals sign."""
    found: Quantity | None = None
    for match in NUMBER.finditer(text):
        value = _value(match)
        if isinstance(value, str):
            return Quantity(None, problem=value)
        unit, problem, multiplier = _after(text, match.end())
        problem = _problem_before(text, match) or problem
        if multiplier is not None:
            value = ARITHMETIC.multiply(value, multiplier)
        if found is not None and (found.value != value or found.problem or problem):
            return Quantity(None, problem="several numbers")
        currency = text[: match.start()].rstrip(" ([{")[-1:]
        unit = unit or (currency if currency and currency in "$€£¥" else "")
        found = Quantity(None if problem else value, unit, problem)
    if found is None:
        return _read_words(text)
    if found.value is not None and _DENIAL.search(text):
        return Quantity(None, problem="denied or refused")
    return found


def _read_equation(text: str) -> Quantity:
    parts = _EQUALS.split(text)
    if any(part[-1:] in ("<", ">", "!", "≠") for part in parts[:-1]):
        return Quantity(None, problem="an inequality")
    stated = _read_once(parts[-1])
    if len(parts) == 2 and re.fullmatch(r"\s*[^\W\d_]{1,2}\s*[.)]*", parts[1]) and parts[0].strip():
        return _read_once(parts[0])  # 5 = x
    if stated.value is None:
        return stated
    for part in parts[:-1]:
        if _DENIAL.search(part):
            return Quantity(None, problem="denied or refused")
        if not NUMBER.search(part):
            power = re.search(r"([^\W\d_]+)\^", part)
            if part.lstrip().startswith("-") or "√" in part or (power and not _unit_name(power[1])):
                return Quantity(None, problem="an equation that is not solved")
            continue
        part = _WORDS_AHEAD.sub("", part)  # "the sum is 40 + 5"
        # Units inside a sum (40 cm + 5 cm = 45 cm) are no unknowns.
        letters = re.findall(r"[^\W\d_]+", part)
        if all(_unit_name(word) for word in letters):
            bare = re.sub(r"[^\W\d_]+", "", part)
            if _ARITHMETIC.fullmatch(bare) and re.search(r"\d.*[-+*/×·÷^√]|√", bare):
                continue
        if _read_once(part).value != stated.value:
            return Quantity(None, problem="an equation that is not solved")
    return stated


def read_quantity(text: str, decimal_comma: bool = False) -> Quantity:
    """The one number that `text` states, with its unit.

    Read are decimals, thousands separators, fractions, mixed numbers, scientific notation, percents, currencies, an
    equation's right side and the one number of a sentence. Not read, with the reason in `problem`: several numbers, a
    range, an inequality, a denial, a product or a power, a division left undone, a malformed number.
    `decimal_comma` also reads 0,75 as three quarters, where that cannot be a thousands separator.
    """
    return _read_plain(plain(text), decimal_comma)


def _read_plain(text: str, decimal_comma: bool = False) -> Quantity:
    text = _MINUS_WORD.sub("-", text)
    quantity = _read_equation(text) if "=" in text or "≈" in text else _read_once(text)
    if quantity.value is None and decimal_comma and text.count(",") == 1 and (comma := _DECIMAL_COMMA.search(text)):
        whole, decimals = comma.groups()
        if len(decimals) != 3 or whole == "0":  # 1,234 has been read as a thousand already
            return _read_plain(f"{text[: comma.start()]}{whole.replace('.', '')}.{decimals}{text[comma.end() :]}")
    return quantity


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()


_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


_NUMBER_WORDS = {word: at for at, word in enumerate(_ONES)} | {word: 20 + 10 * at for at, word in enumerate(_TENS)}


_NO_NOUN = re.compile(
    r".*(?:th|rd|nd|ths|rds|half|halves|quarters?|dozen|pairs?|hundred|thousand|[mbtr]+illion|point|or|and|of|to|not)"
)


def _read_words(text: str) -> Quantity:
    """A number spelt in words that is the whole answer, with at most one noun behind: `forty-five degrees`."""
    words = re.findall(r"[^\W\d_]+", text.lower()) if len(text) < 60 else []
    sign = 1
    if words[:1] in (["minus"], ["negative"]):
        sign, words = -1, words[1:]
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
    if (
        not used
        or previous == "and"
        or len(rest) > 1
        or (rest and _NO_NOUN.fullmatch(rest[0]) and not unit_key(rest[0]))
    ):
        return Quantity(None, problem="no number")
    if re.search(r"[^\w\s.,\-°%]", text):
        return Quantity(None, problem="an expression")
    return Quantity(Decimal(sign * (total + current)), unit_key(rest[0]) or "" if rest else "")
