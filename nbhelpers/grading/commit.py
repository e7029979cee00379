r"""Which span of a solution is the answer that it commits to, and in which wordings that span can be read.

What is boxed or announced ("the answer is") counts wherever it stands, and all of it, so that two different answers
cancel each other; a denial or a retraction leaves none. Else it is the sentence that concludes, else the whole.

>>> commit(r"There are no small ones. \boxed{7}"), commit("(A) 3 (B) 4\nAnswer: B")
((['7'], ''), (['B'], ''))
>>> commit("She needs 3 and 4. In total, she needs 7.")
(['She needs 3 and 4. In total, she needs 7.'], '')
>>> commit(r"It is not \boxed{7}")
([], 'denied')
>>> list(wordings("The next shape is C."))
['The next shape is C.', 'next shape is C.', 'C']
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from nbhelpers.grading.spelling import unquote
from nbhelpers.grading.tables import denial, one_of, phrase

_MOST_SPANS = 6
_BOX = re.compile(r"\\boxed\s*\{")
_PART_BEFORE = re.compile(r"(?:[√^]\{?\s*|(?<!\w)-\s*|\w\(|\d)\Z")
_PART_AFTER = re.compile(r"[A-Za-z](?![A-Za-z])|\.?\d|[\s$]*(?:[\^!]|[/+-]\s*\d|[*·×]\s*[\w(\\])")
_ANNOUNCED = re.compile(
    r"\b(?:answer|ans|choice|option|result|solution)\b(?:\s+(?:to|for)\s+(?:the|this)\s+(?:question|problem))?"
    r"(?:\s*[:=]\s*|\s+(?:is|are|would be|must be|should be|will be)\b\s*:?\s*)"
    r"|答案\s*[:是为]*\s*|选\s*[:择]?\s*(?=[A-Z(])",
    re.I,
)
SENTENCE_END = re.compile(r"(?<![^\w\s)}\]%°\"'$][a-z])[.!;](?:\s+(?=\S)|(?=[A-Z][a-z]))|\n")
_CONCLUDES = re.compile(rf"\s*{phrase('concludes')}", re.I)
_DENIED_BEFORE = re.compile(rf"{denial('not')}(?:\s+(?!is\b|are\b|was\b|equals\b)[\w']+){{0,3}}[\s$(]*$", re.I)
_ANNOUNCED_DENIED = re.compile(r"(?:\b(?:not|never|doubt|false|wrong|incorrect)\b|n't\b)[^,]*$", re.I)
DENIED_AFTER = re.compile(
    r"[\s$)\].\"'*,]*(?:(?:is|are|was|were|has been|can be|must be|would be|seems|looks|does|do|did|could|would|can)"
    rf"(?:\s+|(?=n't)))?(?:(?:also|clearly|the|only)\s+)*{denial('wrong')}",
    re.I,
)
_JOINED = re.compile(rf"[\s$)\].,\"'*]*(?:\(\s*)?{phrase('or')}\.?\s*(?:else\b)?", re.I)
_JOINED_BEFORE = re.compile(
    rf"(?P<first>[^.;\n]*?)[\s$,]*{phrase('or')}\.?[\s$(]*(?:simply|just|even|maybe|possibly)?[\s$]*$", re.I
)
_RETRACTED = re.compile(rf"{phrase('retracted')}|\bno,", re.I)
_BARE = re.compile(r"(?:(?i:or|and|hmm|then|also|no)\b[,:]?\s*)?(?:[A-Z]|[-+$€£]?\d[\d.,/]*\s?[^\W\d_]{0,3})")
_FAREWELL = re.compile(r"(?:I hope|Let me know|Feel free|Is there anything)\b.*\Z", re.S | re.I)
HEDGE = re.compile(denial("hedge"), re.I)


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    r"""Where every box stands, with its content: "" where it is part of an expression (√{\boxed{45}}, \boxed{45}^2)."""
    at = 0
    while match := _BOX.search(text, at):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
        part = _PART_BEFORE.search(text[max(0, match.start() - 20) : match.start()]) or _PART_AFTER.match(text, at)
        yield match.start(), at, "" if part or depth else text[match.end() : at - 1]


def sentence(text: str) -> str:
    """The first sentence."""
    return SENTENCE_END.split(text, maxsplit=1)[0].strip()


def _strong(text: str) -> tuple[list[str], str]:
    """What is boxed or announced, and what is joined to a box by a hedge; or why none of it counts."""
    places = [(*box, True) for box in islice(_boxes(text), 2 * _MOST_SPANS)] if "\\boxed" in text else []
    for match in _ANNOUNCED.finditer(text):
        tail = sentence(text[match.end() : match.end() + 500])
        if "\\boxed" not in tail and tail.strip(" *:."):
            places.append((match.start(), match.end() + len(tail), tail, False))
    spans: list[str] = []
    for begin, end, content, boxed in places[: 2 * _MOST_SPANS]:
        head = re.split(r"[.;:\n]\s|,\s+(?:so|but|thus)\b", text[max(0, begin - 120) : begin])[-1]
        tail = text[end : end + 80]
        if (_DENIED_BEFORE if boxed else _ANNOUNCED_DENIED).search(head) or DENIED_AFTER.match(tail):
            return [], "denied"
        spans.append(content)
        if boxed and (joined := _JOINED.match(tail)):
            spans.append(sentence(tail[joined.end() :]))
        if boxed and (joined := _JOINED_BEFORE.fullmatch(head)) and re.search(r"[\d√π]", joined["first"]):
            spans.append(re.split(r"\b(?:is|are|be)\b|=|:", joined["first"])[-1].strip(" ,"))
    behind = text[max((end for _, end, _, _ in places), default=len(text)) :]
    if _RETRACTED.search(behind):
        return [], "retracted"
    pieces = (piece.strip(" $.,*()") for piece in SENTENCE_END.split(behind[:200]) if piece)
    spans += [piece for piece in pieces if _BARE.fullmatch(piece)]
    return spans, "" if len(spans) <= _MOST_SPANS else "many answers"


def commit(text: str) -> tuple[list[str], str]:
    """The spans of a folded solution that must all be its answer; or why there are none."""
    text = _FAREWELL.sub("", text.replace("\\boxed{}", "")).strip() or text
    spans, problem = _strong(text)
    if text.endswith("?") and not spans:
        problem = problem or "a question"
    return ([], problem) if problem else (spans or [text], "")


_LEAD = re.compile(rf"^(?:(?:{one_of('words', 'lead')})\b[\s:,.=-]*)+", re.I)
_SMALL_LEAD = re.compile(r"^(?:(?:in|on|at|by|a|an|the|of|during|approximately|about|around)\s+)+", re.I)
BECAUSE = re.compile(rf"\s*,?\s*{phrase('because')}", re.I)
_STATED = re.compile(rf"(.*){phrase('copula')}:?\s*(.+?)[.\s]*", re.S | re.I)


def _is_conclusion(sentences: list[str]) -> bool:
    """Whether the last sentence speaks for all: alone, by its first word, or as a statement after work with numbers."""
    *work, last = sentences
    worked = len(set(re.findall(r"\d+(?:\.\d+)?", " ".join(work)))) > 1 and len(re.findall(r"[^\W\d_]{2,}", last)) > 2
    return not work or worked or bool(_CONCLUDES.match(last))


def wordings(span: str) -> Iterator[str]:
    """A span, then what is left of it without announcing words, without its reason, and at the end of its statement."""
    yield span
    short = unquote(_LEAD.sub("", span))
    sentences = [piece for piece in SENTENCE_END.split(span) if piece and piece.strip()]
    last = sentences[-1] if sentences and _is_conclusion(sentences) else ""
    candidates = [short, _SMALL_LEAD.sub("", short), unquote(BECAUSE.split(short)[0]), last]
    stated = _STATED.fullmatch(BECAUSE.split(last)[0])
    if stated and not HEDGE.search(re.sub(r"\bthan \S+", "", stated[1])):  # the number lower than 8 is 3
        candidates += [stated[2], _SMALL_LEAD.sub("", stated[2])]
    yield from dict.fromkeys(wording for wording in candidates if wording not in ("", span))
