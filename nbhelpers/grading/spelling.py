r"""One spelling for everything that only dresses a text: Unicode variants, LaTeX commands, Markdown.

Structure is kept: braces, fractions, roots, powers and boxes are for the readers that come after.

>>> fold(r"$x = 1{,}234\,\text{cm}^2$"), fold(r"\boxed{\dfrac{3}{4}}")
('x = 1,234 cm^2', '\\boxed{\\frac{3}{4}}')
"""

from __future__ import annotations

import re
import unicodedata

from nbhelpers.grading.tables import pairs, words

_SPECIAL = pairs("unicode", "same") | dict.fromkeys(words("unicode", "dashes"), "-")
_SPECIAL |= {char: char for char in words("unicode", "kept")} | {"。": ". ", "½": " 1/2", "∴": " "}


class _Folding(dict):
    """A table for str.translate that works out each character once."""

    def __missing__(self, point: int) -> str:
        char = chr(point)
        kind, simple, name = unicodedata.category(char), unicodedata.normalize("NFKC", char), unicodedata.name(char, "")
        folded = char
        if char in _SPECIAL:
            folded = _SPECIAL[char]
        elif kind == "Nd":
            folded = str(unicodedata.digit(char))
        elif kind == "Cf":
            folded = ""  # zero-width characters and marks of direction
        elif kind in ("Zs", "Zl", "Zp"):
            folded = " "
        elif kind == "No" and "⁄" in simple:
            folded = " " + simple.replace("⁄", "/")  # 1½ is 1 1/2
        elif kind == "No" and simple.isdecimal() and "SCRIPT" in name:
            folded = ("^" if "SUPER" in name else "_") + simple  # 45² must not become 452
        elif 0xFF01 <= point <= 0xFF5E or point > 127 and simple.isascii() and simple.isalnum() and kind[0] in "LS":
            folded = simple  # a full-width form, a letter in a circle, in bold, or two letters in one: ㎝
        elif kind == "So":
            folded = " "  # a tick, an emoji
        self[point] = folded
        return folded


_FOLDING = _Folding()
_DRESS = frozenset(words("latex", "dress"))
_COMMANDS = dict.fromkeys(words("latex", "nothing"), "") | dict.fromkeys(words("latex", "blank"), " ")
_COMMANDS |= pairs("latex", "same")
_TOKEN = re.compile(r"\\(?P<name>[A-Za-z]+)(?P<gap>\s*)(?P<open>\{?)|\\(?P<mark>.)|(?P<brace>[{}])|~", re.S)
_MARKS = {"!": "", "\n": "\n"} | {mark: mark for mark in "%#&_|{}"}
_DEGREES = re.compile(r"\s*\*?\s*(?:\^\s*\{\s*°\s*\}|\{\s*°\s*\}|\^?\s*°)(?:\s*(?=[CF]\b))?")
_EMPHASIS = re.compile(r"(?<![\w)*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w(*])|`+|(?<!\w)__|__(?!\w)|^#+\s")
_TAG = re.compile(r"</\w+>|<\|\w+\|>|<(?:b|i|p|br|em|strong|answer|eos|end_of_turn|s)>")
_COMPARED = {"<=": "≤", ">=": "≥", "!=": "≠", "=<": "≤"}


def _undress(text: str) -> str:
    """LaTeX without commands that only dress; an opened dress and its brace go together, however deeply nested."""
    opened: list[str] = []

    def token(match: re.Match) -> str:
        name, brace = match["name"], match["open"] or match["brace"] or ""
        if brace == "}":
            return opened.pop() if opened else "}"
        if brace:
            opened.append("" if name in _DRESS else "}")
        if name is None:
            return brace or (_MARKS.get(match["mark"], " ") if match["mark"] else " ")
        if name in _DRESS:
            return " "
        known = _COMMANDS.get(name)
        return f"\\{name}{match['gap']}{brace}" if known is None else known + (brace or match["gap"])

    return _TOKEN.sub(token, text)


def fold(text: str) -> str:
    """`text` with Unicode, LaTeX and Markdown spellings folded into one, and blanks collapsed; line breaks stay."""
    if ">" in text:
        text = _TAG.sub("", text)
    if not text.isascii():
        text = text.translate(_FOLDING)
        if "^" in text:
            text = re.sub(r"(\^-?\d)\^(?=\d)", r"\1", text.replace("^-^", "^-"))
    if "$" in text:
        text = re.sub(r"\$\$|\$([^$]*)\$", r" \1 ", text.replace("\\$", "\\dollar "))
    if "\\" in text or "{" in text or "~" in text:
        text = _undress(re.sub(r"^\s*~(?=[\d.])", "≈", text).replace("{,}", ","))
        text = re.sub(r"\s+\^", "^", text)
    if "°" in text:
        text = _DEGREES.sub("°", text)
    if "*" in text or "`" in text or "__" in text or "#" in text:
        text = _EMPHASIS.sub("", text)
    if text.startswith(("→", "=>", "->", " →")):
        text = text.lstrip(" →=->")
    if "=" in text:
        text = re.sub(r"[<>!]=|=<", lambda match: _COMPARED[match[0]], text)
    text = "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)
    return text[2:] if text.startswith(("* ", "· ")) else text  # the only item of a list


def unquote(text: str) -> str:
    """A text without the quotation marks and emphasis that stand around it in pairs: the ' of f' stays."""
    text = text.strip(" `*_")
    while len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


_ARTICLE = re.compile(r"^\W*(?:an?|the)\s+(?=[^\W\d_]{2})", re.I)


def text_key(text: str, case: bool = False) -> str:
    """What two spellings of one folded text share. Blanks go, except between digits: `2 3` is not `23`."""
    bare = text.replace("$", "") if case else _ARTICLE.sub("", text.replace("$", ""))
    bare = unquote(bare.lstrip(" :*_").rstrip(" .,;:*_") or bare)
    if bare.endswith("!") and bare[-3:-1].isalpha():  # no! but neither 5! nor n!
        bare = bare.rstrip("!")
    bare = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"\{(\w)\}", r"\1", bare))
    return bare if case else bare.casefold()
