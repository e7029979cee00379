"""Markdown and LaTeX as a model writes them, set as a tree of known elements: what it wrote never becomes markup.

A tree is a list of nodes: text, or [tag, attributes, children...] with tags and attributes from the lists below only.
Python turns a tree into escaped markup, the script of the viewer into elements; both know no other way to make one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from nbhelpers.show.text import visible

Node = Any  # str | [tag, {attribute: value}, *nodes]

_LONGEST = 20_000  # characters; what is longer stays as it was written
_MATHML = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "msub", "msup", "msubsup",
    "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mpadded", "mphantom", "menclose",
}  # fmt: skip
_TAGS = _MATHML | {"b", "i", "code", "pre", "table", "tr", "th", "td"}
_ATTRIBUTES = {
    "display", "displaystyle", "linethickness", "stretchy", "fence", "form", "width", "columnalign", "class",
    "mathvariant",
}  # fmt: skip
_VALUE = re.compile(r"[\w. -]{1,40}")
_MARKUP = re.compile(
    r"^```[^\n]*\n(?P<pre>.{0,8000}?)\n```[ \t]*$"
    r"|^(?P<table>(?=[^\n|]*\|)[^\n]{1,400}\n(?=[^\n|]*\|)(?=[^\n-]*-)[ :|-]{3,200}"
    r"(?:\n(?=[^\n|]*\|)[^\n]{1,400}){1,40})$"
    r"|`(?P<code>[^`\n]{1,300})`"
    r"|\$\$(?P<block>[^$]{1,600}?)\$\$|\\\[(?P<bracketed>.{1,600}?)\\\]"
    r"|\\\((?P<inline>.{1,600}?)\\\)|(?<![$\\])\$(?P<dollar>(?:[^$\\\n]|\\[^\n]){1,300})\$(?!\$)"
    r"|(?P<aligned>\\begin\{(?:align|equation)\*?\}.{1,600}?\\end\{(?:align|equation)\*?\})"
    r"|(?P<boxed>\\boxed\{[^{}\n]{1,200}\})"
    r"|(?<![\w*])\*\*(?P<bold>(?=\S)[^*\n]{1,300}(?<=\S))\*\*(?![\w*])"
    r"|(?<![\w*\\])\*(?P<leaning>(?=\S)[^*\n]{1,200}(?<=\S))\*(?![\w*])"
    r"|^\#{1,6}[ ](?P<head>[^\n]{1,300})"
    r"|(?P<item>(?<=\n)[ ]*[-*+][ ]{1,4}(?=\S)|^[ ]*[*+-][ ]{1,4}(?=\S))"
    # A line of LaTeX without any marks, as choices and answers of data sets are: commands, single letters, figures.
    r"|^[ ]*(?P<bare>(?=[^\n]{0,200}$)(?=[^\n]*(?:\\[a-zA-Z]|[\^_]\{))"
    r"(?:\\[a-zA-Z]++(?:\{[A-Za-z ()]*\})?|[A-Z]|[a-z](?![a-z])"
    r"|[\d .,:;!'+*/=<>|^_{}()\[\]\u00b0\u00b7\u00d7\u00f7-])++)$",
    re.M | re.S,
)
_CELL = re.compile(r"((?:\\[^\n]|`[^`]*`|\$[^\s$](?:[^$]*[^\s$])?\$(?!\d)|[^|])*+)(?:\||$)")


def typeset(text: str) -> list[Node]:
    """The tree of a text: its own line breaks, with code, tables, bold words, headings, list marks and formulas set.

    What is not understood stays as it was written; so does a text with characters that act unseen.
    """
    if len(text) > _LONGEST or "hidden-char" in visible(text):
        return [text]
    nodes: list[Node] = []
    place = at = 0
    while found := _MARKUP.search(text, at):
        kind = found.lastgroup
        amounts = kind == "dollar" and not _around_a_formula(text, found)
        node = None if amounts else _node(kind, found[kind])
        at = found.end() - amounts  # the second of two amounts may begin a formula
        if node is not None:
            nodes += [text[place : found.start()], *node]
            # A block ends its line by itself: one more end of line would leave a gap below it.
            place = at = found.end() + (_is_block(node[0]) and text.startswith("\n", found.end()))
    return [node for node in (*nodes, text[place:]) if node != ""]


def is_set(nodes: list[Node], text: str) -> bool:
    """Whether the tree of a text is more than the text."""
    return nodes not in ([], [text])


def _around_a_formula(text: str, found: re.Match) -> bool:
    """Whether two dollar signs stand around a formula; else they are amounts, as in "$5 and $6"."""
    inner, before, after = found["dollar"], text[: found.start()][-1:], text[found.end() :][:2]
    if after[:1].isdigit():
        return False
    if "\\" in inner:  # "18$\\pi$"
        return bool(inner.strip())
    if inner[0] == " ":  # "triangle $ ABC$"
        return bool(inner.strip()) and not after.strip()[:1].isdigit() and not re.search("[a-z]{2}", inner)
    return not inner[-1].isspace() and not re.match(r"\w", before)


def _node(kind: str, inner: str) -> list[Node] | None:
    if kind in ("code", "pre"):
        return [[kind, {}, inner]]
    if kind == "item":
        return [inner.rstrip()[:-1] + "\u2022 "]
    if kind in ("bold", "head"):
        return [["b", {"class": "head"} if kind == "head" else {}, *typeset(inner)]]
    if kind == "table":
        return _table(inner.splitlines())
    if kind == "leaning":
        return [["i", {}, *typeset(inner)]]
    formula = _formula(inner.strip(), kind in ("block", "bracketed", "aligned"))
    return None if formula is None else [formula]


def _table(lines: list[str]) -> list[Node] | None:
    """A table, with a bar at both ends of its lines or without; None where a row has more cells than the head."""
    head, rule, *body = ([cell.strip() for cell in _CELL.findall(_inside(line))[:-1]] for line in lines)
    if len(rule) != len(head) or any(len(cells) > len(head) for cells in body):  # a bar inside a formula, say
        return None
    body = [cells + [""] * (len(head) - len(cells)) for cells in body]
    rows = [("th", head), *(("td", cells) for cells in body)]
    return [["table", {}, *(["tr", {}, *([tag, {}, *typeset(cell)] for cell in cells)] for tag, cells in rows)]]


def _inside(line: str) -> str:
    return line.strip().removeprefix("|").removesuffix("|")


def _is_block(node: Node) -> bool:
    return not isinstance(node, str) and (node[0] in ("pre", "table") or node[1].get("display") == "block")


@lru_cache(maxsize=4096)
def _formula(latex: str, block: bool) -> Node | None:
    """A formula as a MathML tree; None where it cannot be read."""
    from xml.etree import ElementTree

    from latex2mathml.converter import convert

    # The converter hands on `<` and `&` inside \\text as they are, which would be read as elements.
    if re.search(r"&#?\w+;|[<>].*\\(text|mbox)|\\(text|mbox).*[<>]", latex, re.S):
        return None
    latex = latex.replace("<", r"\lt ").replace(">", r"\gt ").replace("{aligned}", "{align*}")
    try:
        (tree,) = _known(ElementTree.fromstring(convert(latex.replace(r"\boxed", ""))))
    except Exception:  # the converter raises whatever it stumbles over, and a text of a model may be anything
        return None
    tree[1] = {"display": "block"} if block else {}
    box = [["mpadded", {"class": "boxed"}, *tree[2:]]] if r"\boxed" in latex else tree[2:]
    return [*tree[:2], *box]


def _known(element: Any) -> list[Node]:
    """The element with the attributes that are known; `ValueError` for an unknown tag or command, so that nothing gets
    lost.
    """
    inside: list[Node] = [element.text] if element.text else []
    for child in element:
        inside += _known(child)
        inside += [child.tail] if child.tail else []
    tag = element.tag.rpartition("}")[2]
    if tag not in _MATHML or (element.text or "").startswith("\\"):
        raise ValueError(tag)
    given = {key: value for key, value in element.attrib.items() if key in _ATTRIBUTES and _VALUE.fullmatch(value)}
    return [[tag, given, *inside]]


def markup(nodes: list[Node]) -> Any:
    """The tree as escaped markup."""
    from markupsafe import Markup

    made = []
    for node in nodes:
        if isinstance(node, str):
            made.append(visible(node))
        elif node[0] in _TAGS:
            given = {key: value for key, value in node[1].items() if key in _ATTRIBUTES and _VALUE.fullmatch(value)}
            attributes = "".join(f' {key}="{value}"' for key, value in given.items())
            made.append(f"<{node[0]}{attributes}>{markup(node[2:])}</{node[0]}>")
    return Markup("".join(made))
