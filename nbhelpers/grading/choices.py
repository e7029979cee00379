"""Which choice of a multiple-choice problem a span names: by its label, its text or its value, and always by index.

A choice is named when exactly one fits; texts that differ only in case, or a value that several share, name none.
"""

from __future__ import annotations

import re
from functools import lru_cache

from nbhelpers.grading.commit import BECAUSE, DENIED_AFTER, HEDGE, SENTENCE_END, sentence, wordings
from nbhelpers.grading.read import Value, number_in, read, read_gold, same
from nbhelpers.grading.spelling import fold, text_key, unquote
from nbhelpers.grading.tables import phrase

_LETTER = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:]?")
_PARENTHESISED = re.compile(r"(?<![\w(])[(\[]([A-Za-z])[)\]]")
_LABELLED = re.compile(
    r"(?:[(\[](?P<a>[A-Za-z])[)\]]|(?P<b>[A-Z]\s*[.):]|[a-z]\s*[.):](?!\d))|(?P<bare>[A-Z])(?=\s*[-=,(]|\s|$))"
    r"\s*[-=:.,]?\s*(?P<rest>.*)",
    re.S,
)
_REFUSAL = re.compile(phrase("refusal"), re.I)
_FURTHER_LABEL = re.compile(
    r"""(?<![\w(])[(\[]([A-Za-z])[)\]]                      # (C)
      | (?<!\w)([A-Za-z])\)                                # C)
      | (?:^|[\n;])\s*([A-Z])(?:[.:](?=\s)|\W*$)            # C. or C: where a line begins; C alone
      | ^[(\[]([A-Za-z])$                                  # (C of which the bracket has been stripped
      | (?i:\b(?:or|and|nor|not|than|then|vs|maybe|perhaps)\b\.?|[/&,;])\s*(?i:(?:option|choice|maybe)\s+)?
        [(\[]?(?:([A-Z])\b(?!')|([a-z])[)\].]*$)            # or C, or option C
    """,
    re.VERBOSE,
)
_INNER_LABEL = re.compile(r"(?<!\w)([A-Z])\b[.:)]?\s")
_ALTERNATIVE = re.compile(rf"{phrase('alternative')}|[/;?]", re.I)
_OPTION = re.compile(r"\b(?:option|choice)\s+[a-z][.\s]*$", re.I)
YES_OR_NO = re.compile(
    r"(yes|no|true|false)(?:\s*[.,;:!-]\s*|\s+(?=(?:it|they|he|she|because|since)\b))(.+)", re.I | re.S
)
_EXPLAINED = re.compile(rf"{phrase('explained')}|[-=:,(](?!\w)", re.I)


# The choices of a problem that shows them in its picture: only their labels are known.
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAMED_LETTER = re.compile(r"(?<=\w )([A-Z])(?![\w'])")


class Choices:
    """The choices of one problem, read once: their texts, keys and values."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.texts, self.unseen = [choice.strip() for choice in choices], choices == LETTERS
        self.values = [read_gold(choice) for choice in choices]
        self.numbers = any(value.kind == "number" for value in self.values)
        self.lookups = [
            _unambiguous(keys, self.texts) for keys in zip(*(_keys(fold(text)) for text in self.texts), strict=True)
        ]
        self.longest = 2 * max(map(len, self.texts)) + 40
        told = [(_words(text), at) for at, text in enumerate(self.texts)]
        self.words = sorted((pair for pair in told if len(pair[0]) >= 4), key=lambda pair: -len(pair[0]))

    def same(self, one: int, other: int) -> bool:
        """Whether two places hold one text: a data set may list a choice twice."""
        return self.texts[one] == self.texts[other]

    def label(self, letter: str) -> int | None:
        """The place of a letter among the choices, None beyond them."""
        at = ord(letter.upper()) - ord("A")
        return at if 0 <= at < len(self.texts) else None

    def spelt(self, text: str) -> int | None:
        """The choice whose text this is, however dressed."""
        if len(text) > self.longest:
            return None
        found = (lookup.get(key) for lookup, key in zip(self.lookups, _keys(text), strict=True))
        return next((at for at in found if at is not None), None)

    def named_by(self, text: str, prose: bool = True) -> int | None:
        """The one choice that a whole span is, by text, by value, or (in prose) by the one number that it states."""
        at = self.spelt(text)
        if at is not None or not text.strip():
            return at
        value = read(text)
        at = self.measured_by(value)
        stated = number_in(text) if at is None and prose and self.numbers and not value.measurable else None
        return self.measured_by(stated) if stated else at

    def measured_by(self, value: Value) -> int | None:
        """The only choice of this value."""
        found = [at for at, own in enumerate(self.values) if own.kind != "text" and same(value, own)]
        return found[0] if found and all(self.same(found[0], at) for at in found) else None

    def mentioned_in(self, text: str) -> tuple[list[int], str]:
        """The choices whose words occur in `text`, a longer one before those that it contains, and the words around."""
        around, found = f" {_words(text)} ", []
        for words, at in self.words:
            if f" {words} " in around:
                found.append(at)
                around = around.replace(f" {words} ", "  \0  ")
        return found, around


def _keys(text: str) -> tuple[str, str, str]:
    """A text as it stands, without its dress, without its case and its article."""
    return text.strip(), text_key(text, case=True), text_key(text)


def _unambiguous(keys: tuple[str, ...], texts: list[str]) -> dict[str, int]:
    """Keys that belong to one text only, with its first place."""
    first = {key: keys.index(key) for key in keys}
    shared = {key for key, text in zip(keys, texts, strict=True) if texts[first[key]] != text}
    return {key: at for key, at in first.items() if key not in shared}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", fold(text).casefold()))


# A problem comes back with every completion of its group and every epoch, so its choices are kept.
read_choices = lru_cache(maxsize=4096)(Choices)


def pick(text: str, choices: Choices) -> tuple[int | None, str]:
    """Which choice a folded span names, and how it was recognised or why it was not."""
    for wording in wordings(text):
        bare = unquote(wording)
        lone = _LETTER.fullmatch(bare)
        if lone and lone[0].strip(".").islower() and wording is not text and not _OPTION.search(text):
            continue  # the c at the end of a sentence is no label
        if lone and (at := choices.label(lone[1])) is not None:
            return at, f"letter {lone[1].upper()}"
        if (at := choices.spelt(bare)) is not None:
            return at, "the text of a choice"
        labelled = _LABELLED.fullmatch(bare)
        letter = labelled and (labelled["a"] or labelled["b"] or labelled["bare"])[0]
        if labelled and choices.label(letter) is None and (letter.islower() or re.match(r". ?=|. [a-z]", bare)):
            labelled = None  # x: 12, P = 12, I think
        if labelled and labelled["bare"] and bare[1:2] == " " and not _EXPLAINED.match(labelled["rest"]):
            named, at = choices.named_by(labelled["rest"].strip("().")), choices.label(letter)
            if named is not None:  # "B 12 cm"; but "A cat" has an article
                clear = named == at or letter == "A"
                return (named, "the text of a choice") if clear else (None, f"letter {letter} with another choice")
        elif labelled:
            return _pick_labelled(letter.upper(), labelled["rest"], choices)
        elif not _PARENTHESISED.search(bare) and (at := choices.named_by(bare)) is not None:
            return at, "the text of a choice"
    return _pick_sentence(text, choices)


def _pick_labelled(letter: str, rest: str, choices: Choices) -> tuple[int | None, str]:
    """A letter with text behind it, which must name no other choice and state no value but the letter's own."""
    at, how = choices.label(letter), f"letter {letter}"
    if at is None:
        return None, f"{how} is beyond the choices"
    denied, own, rest = DENIED_AFTER.match(rest), choices.spelt(rest), rest.strip(" .:,)->→\"'*=\n")
    if not rest or own == at:
        return at, how
    others = {match[match.lastindex].upper() for match in _FURTHER_LABEL.finditer(rest)} - {letter}
    for match in _INNER_LABEL.finditer(rest[:400]):  # "12 cm C. 14 cm", but not "equals angle C. So ..."
        place, behind = choices.label(match[1]), text_key(rest[match.end() :][:80].lstrip(" ("))
        if place not in (None, at):
            told = match[0][1] in ".:)" if choices.unseen else behind.startswith(choices.values[place].key)
            others |= {match[1]} if told else set()
    if any(choices.label(other) is not None for other in others) or re.fullmatch(r"[A-Z](?:\W+[A-Z])+\W*", rest):
        return None, "several letters"
    if denied:
        return None, f"{how} is denied"
    head = BECAUSE.split(sentence(rest))[0]
    if choices.unseen:
        return (None, f"{how} with an alternative") if _ALTERNATIVE.search(head) else (at, how)
    for piece in (rest, head, head.split(", ")[0], head.partition("(")[0], re.sub(r"\s+is\b.*", "", head)):
        named = choices.named_by(piece, prose=False) if piece.strip() else None
        if named is not None:
            after = head[len(piece) :]
            clear = choices.same(named, at) and not _ALTERNATIVE.search(after) and not DENIED_AFTER.match(after)
            return (at, how) if clear else (None, f"{how} with another choice")
        if read(piece).kind not in ("text", "truth"):
            return None, f"{how} with a value that is not its own"
    mentioned = choices.mentioned_in(head)[0]
    letters = {match[0] for match in re.finditer(r"(?<![\w'])[B-Z](?![\w'])", head)} - {letter}
    other = any(choices.label(mark) is not None for mark in letters) or choices.named_by(head) not in (None, at)
    if other or _ALTERNATIVE.search(head) or not all(choices.same(at, place) for place in mentioned):
        return None, f"{how} with another choice"
    return at, how


def _pick_sentence(text: str, choices: Choices) -> tuple[int | None, str]:
    """A sentence that is no choice as a whole: its only label, its yes or no, or the only choice in its words."""
    labels = {match[1].upper(): match for match in reversed(list(_PARENTHESISED.finditer(text)))}
    if len(labels) > 1:
        return None, f"several letters: {', '.join(sorted(labels))}"
    for letter, match in labels.items():
        before = re.split(r"[,.;:\n]\s", text[: match.start()])[-1]
        if HEDGE.search(before):
            return None, "a hedge or a denial before the letter"
        stated = number_in(before) if choices.numbers else None
        if stated and choices.measured_by(stated) != choices.label(letter):
            return None, f"letter {letter} with another value"
        return _pick_labelled(letter, text[match.end() :], choices)
    said = next((match for wording in wordings(text) if (match := YES_OR_NO.fullmatch(wording))), None)
    if said and (at := choices.spelt(said[1])) is not None:
        told = _words(said[2]).split()
        if any(key in told for key, place in choices.lookups[2].items() if place != at) or _REFUSAL.search(said[2]):
            return None, "two choices or a refusal"
        return at, "the text of a choice"
    if _REFUSAL.search(text):
        return None, "a refusal"
    named = set(_NAMED_LETTER.findall(text)) if choices.unseen else ()
    if len(named) == 1 and not HEDGE.search(text):
        return choices.label(named.pop()), "the only letter"
    found, around = choices.mentioned_in(SENTENCE_END.sub(". ", text))
    mentioned = [at for at in found if choices.values[at].kind in ("text", "list")]
    if not mentioned:
        return None, "names no choice"
    if not all(choices.same(mentioned[0], at) for at in mentioned):
        return None, "several choices"
    return (None, "a hedge or a denial") if HEDGE.search(around) else (mentioned[0], "the text of a choice")
