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
_ATTRIBUTES = {"display", "displaystyle", "linethickness", "stretchy", "fence", "form", "width", "columnalign", "class"}
_VALUE = re.compile(r"[\w. -]{1,40}")
_MARKUP = re.compile(
    r"^```[^\n]*\n(?P<pre>.{0,8000}?)\n```[ \t]*$"
    r"|^(?P<table>[ ]*\|[^\n]{1,400}\|[ ]*\n[ ]*\|[ :|-]{3,200}\|[ ]*(?:\n[ ]*\|[^\n]{1,400}\|[ ]*){1,40})$"
    r"|`(?P<code>[^`\n]{1,300})`"
    r"|\$\$(?P<block>[^$]{1,600}?)\$\$|\\\[(?P<bracketed>.{1,600}?)\\\]"
    r"|\\\((?P<inline>.{1,600}?)\\\)|(?<![\w$\\])\$(?P<dollar>[^\s$](?:[^$\n]{0,298}[^\s$\\])?)\$(?![\d$])"
    r"|(?P<aligned>\\begin\{(?:align|equation)\*?\}.{1,600}?\\end\{(?:align|equation)\*?\})"
    r"|(?P<boxed>\\boxed\{[^{}\n]{1,200}\})"
    r"|(?<![\w*])\*\*(?P<bold>(?=\S)[^*\n]{1,300}(?<=\S))\*\*(?![\w*])"
    r"|(?<![\w*\\])\*(?P<leaning>(?=\S)[^*\n]{1,200}(?<=\S))\*(?![\w*])"
    r"|^\#{1,6}[ ](?P<head>[^\n]{1,300})"
    r"|(?P<item>(?<=\n)[ ]*[-*+][ ]{1,4}(?=\S)|^[ ]*[*+-][ ]{1,4}(?=\S))",
    re.M | re.S,
)


def typeset(text: str) -> list[Node]:
    """The tree of a text: its own line breaks, with code, bold words, headings, list marks and formulas set.

    What is not understood stays as it was written; so does a text with characters that act unseen.
    """
    if len(text) > _LONGEST or "hidden-char" in visible(text):
        return [text]
    nodes: list[Node] = []
    place = 0
    for found in _MARKUP.finditer(text):
        node = _node(found.lastgroup, found[found.lastgroup])
        if node is not None:
            nodes += [text[place : found.start()], *node]
            # A block ends its line by itself: one more end of line would leave a gap below it.
            place = found.end() + (_is_block(node[0]) and text.startswith("\n", found.end()))
    return [node for node in (*nodes, text[place:]) if node != ""]


def _node(kind: str, inner: str) -> list[Node] | None:
    if kind in ("code", "pre"):
        return [[kind, {}, inner]]
    if kind == "item":
        return [inner.rstrip()[:-1] + "\u2022 "]
    if kind in ("bold", "head"):
        return [["b", {"class": "head"} if kind == "head" else {}, *typeset(inner)]]
    if kind == "table":
        head, rule, *body = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in inner.splitlines())
        rows = [("th", head), *(("td", cells) for cells in body)]
        if any(len(cells) != len(head) for cells in (rule, *body)):  # a bar inside a formula, say
            return None
        return [["table", {}, *(["tr", {}, *([tag, {}, *typeset(cell)] for cell in cells)] for tag, cells in rows)]]
    if kind == "leaning":
        return [["i", {}, *typeset(inner)]]
    formula = _formula(inner.strip(), kind in ("block", "bracketed", "aligned"))
    return None if formula is None else [formula]


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
    """The element with the attributes that are known; `ValueError` for an unknown tag, so that nothing gets lost."""
    inside: list[Node] = [element.text] if element.text else []
    for child in element:
        inside += _known(child)
        inside += [child.tail] if child.tail else []
    tag = element.tag.rpartition("}")[2]
    if tag not in _MATHML:
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
