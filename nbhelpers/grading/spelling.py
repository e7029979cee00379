r"""One spelling for everything that only dresses a text: Unicode variants, LaTeX commands, Markdown.

Structure is kept: braces, fractions, roots, powers and boxes are for the readers that come after.

>>> fold(r"$x = 1{,}234\,\text{cm}^2$")
'x = 1,234 cm^2'
>>> fold(r"\boxed{\dfrac{3}{4}}")
'\\boxed{\\frac{3}{4}}'
"""

# ruff: noqa: SIM905 - lists of words read better as text

from __future__ import annotations

import re
import unicodedata


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
        **{"…": "...", "⁻": "^-", "。": ". ", "、": ",", "✕": "×", "✖": "×", "℃": "°C", "℉": "°F", "µ": "μ"},
        **{"【": "[", "】": "]", "×": "×", "÷": "÷", "√": "√", "π": "π", "°": "°", "−": "-"},
    }

    def __missing__(self, point: int) -> str:
        char = chr(point)
        category, plain = unicodedata.category(char), unicodedata.normalize("NFKC", char)
        if point < 128:
            folded = char
        elif char in self.SPECIAL:
            folded = self.SPECIAL[char]
        elif category == "Nd":
            folded = str(unicodedata.digit(char))
        elif category == "Cf":
            folded = ""  # zero-width characters and marks of direction
        elif category in ("Zs", "Zl", "Zp"):
            folded = " "
        elif category == "No" and "⁄" in plain:
            folded = " " + plain.replace("⁄", "/")  # 1½ is 1 1/2
        elif category == "No" and plain.isdecimal() and "SCRIPT" in unicodedata.name(char, ""):
            folded = ("^" if "SUPER" in unicodedata.name(char) else "_") + plain  # 45² must not become 452
        elif 0xFF01 <= point <= 0xFF5E:
            folded = chr(point - 0xFEE0)  # full-width forms
        elif plain.isascii() and plain.isalnum() and category[0] in "LS":
            folded = plain  # a letter in a circle, in bold, or two letters in one: ㎝
        else:
            folded = char
        self[point] = folded
        return folded


_FOLDING = _Folding()
_DRESS = (
    "text textbf textit textrm texttt textnormal textsf mbox emph mathrm mathbf mathit mathsf mathtt mathbb mathcal "
    "boldsymbol bm operatorname rm bf bold hbox underline overline"
).split()
_COMMANDS = {
    **{"times": "×", "cdot": "·", "ast": "·", "cdotp": "·", "div": "÷", "pm": "±", "mp": "±"},
    **dict.fromkeys("approx sim simeq cong thickapprox doteq".split(), "≈"),
    **dict.fromkeys("circ degree deg".split(), "°"),
    **dict.fromkeys("ne neq".split(), "≠"),
    **dict.fromkeys("le leq leqslant".split(), "≤"),
    **dict.fromkeys("ge geq geqslant".split(), "≥"),
    **{"lt": "<", "gt": ">", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "lparen": "(", "rparen": ")"},
    **{"lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":", "prime": "'", "to": "→", "slash": "/"},
    **dict.fromkeys("quad qquad thinspace space therefore implies Rightarrow newline displaystyle textstyle".split(), " "),
    **dict.fromkeys("left right big Big bigl bigr Bigl Bigr bigg Bigg limits".split(), ""),
    **dict.fromkeys("frac dfrac tfrac cfrac".split(), "\\frac"),
    **dict.fromkeys("boxed fbox".split(), "\\boxed"),
    **{"pi": "π", "sqrt": "√", "angle": "∠", "infty": "∞", "dollar": "$", "textdollar": "$", "pounds": "£", "euro": "€"},
    **{"percent": "%", "triangle": "△", "mu": "μ", "ldots": "...", "dots": "...", "cdots": "...", "cup": "∪"},
    **{"implies": " ", "iff": " ", "lbrace": "{", "rbrace": "}", "Omega": "Ω", "ohm": "Ω"},
}
_TOKEN = re.compile(r"\\(?P<name>[A-Za-z]+)(?P<gap>\s*)(?P<open>\{?)|\\(?P<mark>.)|(?P<brace>[{}])|~", re.S)
_MARKS = {"!": "", "|": "|", "\n": "\n", "$": "$ ", "{": "{", "}": "}"} | {mark: mark for mark in "%#&_"}
_DEGREES = re.compile(r"\s*\*?\s*(?:\^\s*\{\s*°\s*\}|\{\s*°\s*\}|\^?\s*°)(?:\s*(?=[CF]\b))?")
_EMPHASIS = re.compile(r"(?<![\w)*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w(*])|`+|(?<!\w)__|__(?!\w)")
_MATH = re.compile(r"\$\$|\$([^$]*)\$")


def _undress(text: str) -> str:
    """LaTeX without commands that only dress; an opened dress and its brace go together, however deeply nested."""
    opened: list[str] = []

    def token(match: re.Match) -> str:
        if match["name"]:
            name = match["name"]
            if name in _DRESS:
                if match["open"]:
                    opened.append("")
                return " "
            shown = _COMMANDS.get(name)
            if match["open"]:
                opened.append("}")
            if shown is None:
                return f"\\{name}{match['gap']}{match['open']}"
            return shown + (match["open"] or match["gap"])
        if match["brace"] == "{":
            opened.append("}")
            return "{"
        if match["brace"]:
            return opened.pop() if opened else "}"
        return _MARKS.get(match["mark"], " ") if match["mark"] else " "

    return _TOKEN.sub(token, text)


def fold(text: str) -> str:
    """`text` with Unicode, LaTeX and Markdown spellings folded into one, and blanks collapsed; line breaks stay."""
    if not text.isascii():
        text = text.translate(_FOLDING)
        if "^" in text:
            text = re.sub(r"(\^-?\d)\^(?=\d)", r"\1", text.replace("^-^", "^-"))
    if "$" in text:
        text = _MATH.sub(r" \1 ", text.replace("\\$", "\\dollar "))
    if "\\" in text or "{" in text or "~" in text:
        text = re.sub(r"^\s*~(?=[\d.])", "≈", text)
        text = _undress(text.replace("{,}", ",").replace("\\,", " "))
        text = re.sub(r"\s+\^", "^", text)
    if "°" in text:
        text = _DEGREES.sub("°", text)
    if "*" in text or "`" in text or "__" in text:
        text = _EMPHASIS.sub("", text)
    text = "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)
    return text[2:] if text.startswith(("* ", "· ")) else text  # the only item of a list


_KEY_GAP = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_ONE_INSIDE = re.compile(r"\{(\w)\}")


def unquote(text: str) -> str:
    """A text without the quotation marks and emphasis that stand around it in pairs: the ' of f' stays."""
    text = text.strip(" `*_")
    while len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


def text_key(text: str, case: bool = False) -> str:
    """What two spellings of one text share. Blanks go, except between digits: `2 3` is not `23`."""
    bare = fold(text).replace("$", "")
    bare = bare.lstrip(" :*_").rstrip(" .,;:*_") or bare
    bare = unquote(bare)
    if bare.endswith("!") and bare[-3:-1].isalpha():  # no! but neither 5! nor n!
        bare = bare.rstrip("!")
    bare = _ONE_INSIDE.sub(r"\1", bare)
    return _KEY_GAP.sub("", bare if case else bare.casefold())
