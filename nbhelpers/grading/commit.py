r"""Which span of a solution is the answer that it commits to.

In this order: what is boxed or follows "the answer is", wherever it stands; the last sentence that draws a conclusion;
the whole. The spans of the first kind all count, so that two different answers cancel each other; a denial or a
retraction leaves none.

>>> commit(r"There are no small ones. \boxed{7}").spans
(('7',),)
>>> commit("(A) 3 (B) 4\nAnswer: B").spans
(('B',),)
>>> commit("She needs 3 and 4. In total, she needs 7.").spans
(('She needs 3 and 4. In total, she needs 7.', 'In total, she needs 7.'),)
>>> commit(r"It is not \boxed{7}").problem
'denied'
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MOST_SPANS = 6


class Commitment(NamedTuple):
    """Each span in the wordings to try, the fullest first. `strong`: boxed or announced. `problem`: why there is none."""

    spans: tuple[tuple[str, ...], ...] = ()
    strong: bool = False
    problem: str = ""


_BOX = re.compile(r"\\boxed\s*\{")
_ANNOUNCED = re.compile(
    r"(?:\b(?:answer|ans|choice|option|result|solution)\b(?:\s+(?:to|for)\s+(?:the|this)\s+(?:question|problem))?"
    r"(?:\s*[:=]\s*|\s+(?:is|are|would be|must be|should be|will be)\b\s*:?\s*)|答案\s*[:是为]*\s*|选\s*[:择]?\s*(?=[A-Z(]))",
    re.I,
)
_SENTENCE_END = re.compile(r"(?<![^\w\s)}\]%°\"'$][a-z])[.!;](?:\s+(?=\S)|(?=[A-Z][a-z]))|\n")
_BECAUSE = re.compile(r"\s*,?\s*\b(?:because|since|given that|due to|as the|which|so that|where)\b", re.I)
_CONCLUDES = re.compile(
    r"\s*(?:so|thus|hence|therefore|in total|altogether|all together|finally|consequently|in conclusion|overall|in summary|"
    r"this (?:means|gives)|that (?:means|gives)|we (?:get|have|obtain|find))\b|[∴]",
    re.I,
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|neither|incorrect|false|wrong|doubt|excluding|except|than|instead of|rather than|but)\b|n't\b)"
    r"(?:\s+(?!is\b|are\b|was\b|equals\b)[\w']+){0,3}[\s$(]*$",
    re.I,
)
_DENIED_AFTER = re.compile(
    r"[\s$)\].\"'*]*(?:(?:is|are|was|would be|seems|looks)\s+|(?:is|was|are)n't\s+)?"
    r"(?:(?:also\s+|clearly\s+)?(?:not\b|wrong|incorrect|false\b|ruled out|impossible|excluded|eliminated)|n't\b)",
    re.I,
)
_JOINED = re.compile(
    r"[\s$)\].,\"'*]*(?:\(\s*)?(?:and/or|or|vs\.?|versus|maybe|perhaps|possibly|alternatively)\b\s*(?:else\b)?", re.I
)
_JOINED_BEFORE = re.compile(
    r"(?P<first>[^.;\n]*?)[\s$,]*\b(?:or|vs\.?|maybe|perhaps|possibly)\b[\s$(]*(?:simply|just|even)?[\s$]*$", re.I
)
_RETRACTED = re.compile(
    r"\b(?:wait|actually|correction|scratch that|second thought|no,|sorry|hold on|let me re\w+|mistake)\b", re.I
)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Where every box stands that is no part of an expression (√\\boxed{45}, \\boxed{45}^2), with its content."""
    found = []
    at = 0
    while len(found) <= _MOST_SPANS and (match := _BOX.search(text, at)):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
        content = text[match.end() : at - 1] if not depth else ""
        before, after = text[: match.start()], text[at:].lstrip(" $")
        apart = (
            not re.search(r"[√^]\{?$|(?<!\w)-$|(?<=\w)\($", before.rstrip())
            and not before[-1:].isdigit()
            and after[:1] not in ("^", "!", "/", "*")
        )
        found.append((match.start(), at, content if apart else ""))
    return found


def _sentence(text: str) -> str:
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip()


def _wordings(span: str) -> tuple[str, ...]:
    """A span, and what is left of it without the reason that may follow."""
    span = span.strip(" *\"'")
    shorter = _BECAUSE.split(span)[0].strip(" *\"',")
    return (span,) if shorter == span or not shorter else (span, shorter)


def _strong(text: str) -> tuple[list[tuple[str, ...]], str]:
    spans: list[tuple[str, ...]] = []
    boxes = _boxes(text) if "\\boxed" in text else []
    places = [(begin, end, content, True) for begin, end, content in boxes if content.strip()]
    for match in _ANNOUNCED.finditer(text):
        tail = _sentence(text[match.end() : match.end() + 500])
        if "\\boxed" not in tail and tail.strip(" *:."):
            places.append((match.start(), match.end() + len(tail), tail, False))
    last = 0
    for begin, end, content, boxed in places[: 2 * _MOST_SPANS]:
        head = re.split(r"[.;:\n]\s|,\s+(?:so|but|thus)\b", text[max(0, begin - 120) : begin])[-1]
        tail = text[end : end + 80]
        denied = (
            boxed and _DENIED_BEFORE.search(head) or re.search(r"\b(?:not|n't|never|doubt)\b[^,]*$", head) and not boxed
        )
        if denied or _DENIED_AFTER.match(tail):
            return [], "denied"
        spans.append(_wordings(content))
        if boxed and (joined := _JOINED.match(tail)):
            spans.append((_sentence(tail[joined.end() :]),))
        if boxed and (joined := _JOINED_BEFORE.fullmatch(head)) and re.search(r"[\d√π]", joined["first"]):
            spans.append((re.split(r"\b(?:is|are|be)\b|=|:", joined["first"])[-1].strip(" ,"),))
        last = max(last, end)
    if spans and _RETRACTED.search(text[last:]):
        return [], "retracted"
    return spans, "" if len(spans) <= _MOST_SPANS else "many answers"


def commit(text: str) -> Commitment:
    """The spans of a folded solution that hold its answer."""
    text = text.replace("\\boxed{}", "").strip()
    spans, problem = _strong(text)
    if problem:
        return Commitment(problem=problem)
    if spans:
        return Commitment(tuple(spans), strong=True)
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence and sentence.strip()]
    concluding = [sentence for sentence in sentences if _CONCLUDES.match(sentence)]
    if len(sentences) > 1 and concluding and concluding[-1] == sentences[-1]:
        return Commitment(((text, concluding[-1]),))
    return Commitment(((text,),))
