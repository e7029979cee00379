"""Which choice of a multiple-choice problem a span names: by its label, its text or its value, and always by index.

A choice is named when exactly one fits; texts that only differ in case, or values that several choices share, name none.
"""

from __future__ import annotations

import re
from functools import lru_cache

from nbhelpers.grading.numbers import read_quantity
from nbhelpers.grading.read import Value, read, read_gold, same
from nbhelpers.grading.spelling import fold, text_key, unquote
from nbhelpers.grading.units import units_agree

_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore|the|my|our|final|correct|best|right|most|likely|likeliest|answer|answers|ans|option|choice|"
    r"letter|is|are|be|was|were|would|should|must|will|it|its|it's|that|this|solution|result|i|choose|pick|select|selected|"
    r"chose|think|believe|to|question)\b[\s:,.=-]*)+",
    re.I,
)
_SMALL_LEAD = re.compile(r"^(?:(?:in|on|at|by|a|an|the|of|during|approximately|about|around)\s+)+", re.I)
_LETTER = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:]?")
_PARENTHESISED = re.compile(r"(?<![\w(])[(\[]([A-Za-z])[)\]]")
_LABELLED = re.compile(
    r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])\s*[.):](?!\d)|([A-Z])(?=\s*[-=,(]|\s|$))\s*[-=:.,]?\s*(.*)", re.S
)
_HEDGE = re.compile(
    r"\b(?:or|nor|neither|either|not|never|none|no|except|without|unlike|both|maybe|perhaps|vs|versus|than)\b|n't\b",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|unable|impossible|insufficient|not enough|not provided|no answer|n/a|unknown)\b", re.I
)
_DENIED = re.compile(r"\W*(?:is|are|was)?\s*(?:n't|not|wrong|incorrect|false|never)\b(?!\s+possible)", re.I)
_OTHER_LETTER = re.compile(
    r"(?:\b(?:or|and|nor|not|than|then|vs|maybe|perhaps)\b\.?|[/&,;])\s*(?:option\s+|choice\s+|maybe\s+)?[(\[]?([A-Za-z])\b(?!')",
    re.I,
)
_FURTHER_LABEL = re.compile(r"(?<![\w(])[(\[]([A-Za-z])[)\]]|(?<!\w)([A-Za-z])\)|(?:^|[\n;])\s*([A-Z])[.:](?=\s)")
_INNER_LABEL = re.compile(r"(?<!\w)([A-Z])\b[.:)]?\s")
_ALTERNATIVE = re.compile(r"\b(?:or|vs\.?|versus|maybe|perhaps)\b|[/;?]", re.I)
_STATED = re.compile(
    r".*\b(?:is|are|was|were|be|as|choose|pick|select|option|choice|equals)\b:?\s*(.+?)[.\s]*", re.S | re.I
)
_EXPLAIN = re.compile(r"\s*,?\s*\b(?:because|since|given that|due to|as the|which|so that)\b", re.I)
_SENTENCE_END = re.compile(r"[.;!]\s+(?=\S)|\n")


class Choices:
    """The choices of one problem, read once: their texts, keys and values."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.texts = [choice.strip() for choice in choices]
        folded = [fold(text) for text in self.texts]
        self.values = [read_gold(choice) for choice in choices]
        self.numbers = any(value.kind == "number" for value in self.values)
        self.lookups = [
            _unambiguous(folded, self.texts),
            _unambiguous([text_key(text, case=True) for text in self.texts], self.texts),
            _unambiguous([text_key(text) for text in self.texts], self.texts),
        ]
        words = [(_words(text), at) for at, text in enumerate(self.texts) if _tellable(text, self.values[at])]
        self.words = sorted(words, key=lambda pair: -len(pair[0]))

    def same(self, one: int, other: int) -> bool:
        """Whether two places hold one text: a data set may list a choice twice."""
        return self.texts[one] == self.texts[other]

    def label(self, letter: str) -> int | None:
        """The place of a letter among the choices, None beyond them."""
        at = ord(letter.upper()) - ord("A")
        return at if 0 <= at < len(self.texts) else None

    def spelt(self, text: str) -> int | None:
        """The choice whose text this is, however dressed."""
        for lookup, key in zip(self.lookups, (text.strip(), text_key(text, case=True), text_key(text)), strict=True):
            if key in lookup:
                return lookup[key]
        return None

    def named_by(self, text: str) -> int | None:
        """The one choice that a whole span is, by text, by value, or by the one number that it states."""
        at = self.spelt(text)
        value = read(text) if at is None and text.strip() else None
        if value is None:
            return at
        at = self.measured_by(value)
        if at is None and not value.measurable and self.numbers:
            stated = read_quantity(text)
            at = None if stated.value is None else self.measured_by(Value("number", "", (stated.value,), stated.unit))
        return at

    def measured_by(self, value: Value) -> int | None:
        """The only choice of this value; `25 %` may also be the choice 25."""
        if value.kind == "text":
            return None
        found = [at for at, own in enumerate(self.values) if own.kind != "text" and same(value, own)]
        if not found and value.unit == "%":
            found = [at for at, own in enumerate(self.values) if own.points == value.points and not own.unit]
        return found[0] if found and all(self.same(found[0], at) for at in found) else None

    def mentioned_in(self, text: str) -> tuple[list[int], str]:
        """The choices whose words occur in `text`, a longer one before those that it contains, and the words around."""
        around = f" {_words(text)} "
        found = []
        for words, at in self.words:
            if f" {words} " in around:
                found.append(at)
                around = around.replace(f" {words} ", "  \0  ")
        return found, around


def _unambiguous(keys: list[str], texts: list[str]) -> dict[str, int]:
    """Keys that belong to one text only, with its first place."""
    owners: dict[str, set[str]] = {}
    for key, text in zip(keys, texts, strict=True):
        owners.setdefault(key, set()).add(text)
    return {key: keys.index(key) for key, owned in owners.items() if len(owned) == 1}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", fold(text).casefold()))


def _tellable(choice: str, value: Value) -> bool:
    """Whether finding the choice's words in a sentence means something: not for yes, no, A, or a number."""
    return (
        value.kind in ("text", "list")
        and sum(char.isalpha() for char in choice) >= 4
        and choice.strip(" .").casefold() not in ("none", "true", "false")
    )


@lru_cache(maxsize=4096)
def read_choices(choices: tuple[str, ...]) -> Choices:
    return Choices(choices)


def pick(text: str, choices: Choices) -> tuple[int | None, str]:
    """Which choice a folded span names, and how it was recognised or why it was not."""
    bare = unquote(text)
    stripped = bare
    lone = _LETTER.fullmatch(bare)
    if lone is None and (at := choices.spelt(bare)) is not None:
        return at, "the text of a choice"
    if lone is None:
        stripped = strip_lead(bare)
        lone = _LETTER.fullmatch(stripped)
    if lone:
        at = choices.label(lone[1])
        if at is not None:
            return at, f"letter {lone[1].upper()}"
        at = choices.spelt(lone[0])
        return at, "the text of a choice" if at is not None else f"letter {lone[1].upper()} is beyond the choices"
    labelled = _LABELLED.fullmatch(stripped)
    letter = labelled and (labelled[1] or labelled[2] or labelled[3])
    own = labelled and choices.label(letter)
    if labelled and own is None and (letter.islower() or labelled[4] and "=" in stripped[:4]):
        labelled = None  # x: 12, P = 12
    if labelled is None:
        for wording in (bare, stripped):
            if (at := choices.named_by(wording)) is not None:
                return at, "the text of a choice"
    elif own is not None and choices.spelt(labelled[4]) == own:
        return own, f"letter {letter.upper()}"
    return _pick_sentence(bare, stripped, labelled, choices)


def _pick_sentence(clean: str, stripped: str, labelled: re.Match | None, choices: Choices) -> tuple[int | None, str]:
    labels = {match[1].upper(): match for match in reversed(list(_PARENTHESISED.finditer(clean)))}
    if len(labels) > 1:
        return None, f"several letters: {', '.join(sorted(labels))}"
    if labels:
        letter, match = next(iter(labels.items()))
        if _HEDGE.search(re.split(r"[,.;:\n]\s", clean[: match.start()])[-1]):
            return None, "a hedge or a denial before the letter"
        return _pick_labelled(letter, clean[match.end() :], choices)
    if labelled:
        letter, rest = (labelled[1] or labelled[2] or labelled[3]), labelled[4]
        article = labelled[3] == "A" and stripped[1:2] == " " and not _EXPLAINED.match(rest)
        if not article or choices.named_by(rest.strip("().")) == choices.label("A"):
            return _pick_labelled(letter.upper(), rest, choices)
        if (at := choices.named_by(rest)) is not None:
            return at, "the text of a choice"  # an article: "A cat"
    said = _SAYS_YES_OR_NO.fullmatch(stripped)
    if said and (at := choices.spelt(said[1])) is not None:
        words = _words(said[2]).split()
        others = [key for key, place in choices.lookups[2].items() if place != at]
        if any(key in words for key in others) or _REFUSAL.search(said[2]):
            return None, "two choices or a refusal"
        return at, "the text of a choice"
    return _pick_mention(clean, stripped, choices)


_SAYS_YES_OR_NO = re.compile(
    r"(yes|no|true|false)(?:\s*[.,;:!-]\s*|\s+(?=(?:it|they|he|she|because|since)\b))(.+)", re.I | re.S
)
_EXPLAINED = re.compile(r"(?:because|since|as|is|for|[-=:,(])(?!\w)", re.I)


def _pick_labelled(letter: str, rest: str, choices: Choices) -> tuple[int | None, str]:
    """A letter with text behind it, which must not name another choice nor state a value that is not the letter's own."""
    at = choices.label(letter)
    rest = rest.strip(" .:,)->→\"'*=\n")
    if at is None:
        return None, f"letter {letter} is beyond the choices"
    if not rest or choices.spelt(rest) == at:
        return at, f"letter {letter}"
    lone = _LETTER.fullmatch(rest)
    other = lone if lone and (lone[1].isupper() or len(rest) > 1) else _OTHER_LETTER.search(rest)
    if other and choices.label(other[1]) not in (None, at) and (other[1].isupper() or len(rest) < 12):
        return None, f"letters {letter} and {other[1].upper()}"
    if _DENIED.match(rest):
        return None, f"letter {letter} is denied"
    others = {(match[1] or match[2] or match[3]).upper() for match in _FURTHER_LABEL.finditer(rest)} - {letter}
    for match in _INNER_LABEL.finditer(rest[:400]):  # "12 cm C. 14 cm", but not "equals angle C. So ..."
        place = choices.label(match[1])
        if place not in (None, at) and text_key(rest[match.end() :]).startswith(text_key(choices.texts[place])):
            others.add(match[1])
    if any(choices.label(other) is not None for other in others) or re.fullmatch(r"[A-Z](?:\W+[A-Z])+\W*", rest):
        return None, "several letters"
    head = _EXPLAIN.split(_SENTENCE_END.split(rest, maxsplit=1)[0])[0]
    for piece in (rest, head, head.split(", ")[0], head.partition("(")[0], re.sub(r"\s+is\b.*", "", head)):
        named = choices.named_by(piece) if piece.strip() else None
        if named is not None:
            if not choices.same(named, at) or _ALTERNATIVE.search(head[len(piece) :]):
                return None, f"letter {letter} with another choice"
            return at, f"letter {letter}"
        if read(piece).kind not in ("text", "truth"):
            return None, f"letter {letter} with a value that is not its own"
    mentioned = choices.mentioned_in(rest)[0]
    if _ALTERNATIVE.search(head) or mentioned and not any(choices.same(at, place) for place in mentioned):
        return None, f"letter {letter} with another choice"
    return at, f"letter {letter}"


def _pick_mention(clean: str, stripped: str, choices: Choices) -> tuple[int | None, str]:
    """A sentence without a label: the one choice that it states at its end, or that its words name."""
    last = _SENTENCE_END.split(clean)[-1]
    left, equals, right = stripped.rpartition("=")
    stated = _STATED.fullmatch(last)
    if equals and not re.search(r"\d", left) or equals and read_quantity(stripped).value is not None:
        at = choices.named_by(right)
        if at is not None and not _HEDGE.search(left):
            return at, "the text of a choice"
    head = _SMALL_LEAD.sub("", stripped)
    if head != stripped and not _LETTER.fullmatch(head) and (at := choices.named_by(head)) is not None:
        return at, "the text of a choice"
    if _REFUSAL.search(clean):
        return None, "a refusal"
    if stated and not _HEDGE.search(last[: stated.start(1)]):
        lone = _LETTER.fullmatch(stated[1])
        if lone and lone[1].isupper() and (at := choices.label(lone[1])) is not None:
            return at, f"letter {lone[1]}"
        for tail in (stated[1], _SMALL_LEAD.sub("", stated[1])):
            if not _LETTER.fullmatch(tail) and (at := choices.named_by(tail)) is not None:
                return at, "the text of a choice"
    mentioned, around = choices.mentioned_in(clean)
    if not mentioned:
        return None, "names no choice"
    if not all(choices.same(mentioned[0], at) for at in mentioned):
        return None, "several choices"
    if _HEDGE.search(around):
        return None, "a hedge or a denial"
    return mentioned[0], "the text of a choice"


def strip_lead(text: str) -> str:
    """A span without the words that only announce it: `so the answer is`."""
    return unquote(_LEAD.sub("", text)) or text
