"""Decides whether a completion answers its problem, and says why.

One grader serves the rewards, the evaluation and the viewer:

>>> grade("<REASONING>90 / 2</REASONING><SOLUTION>$45^\circ$</SOLUTION>", "45", answer_type="integer")
Verdict(correct=True, parsed='45', reason='45 is the answer')
>>> grade("<REASONING>hm</REASONING><SOLUTION>45 or 46</SOLUTION>", "45", answer_type="integer").reason
'no single number: several numbers'

Two protocols. `strict` is what training and this project's figures use: it credits a right answer in any usual
spelling and nothing that hedges. `mathvista` follows the official scorer of MathVista (lupantech/MathVista at
53d5258) on the text of the solution block, for figures that can stand beside published ones.

Nothing is evaluated, nothing raises, and the time is linear in the completion: finding the blocks is `str.find`, and
a solution longer than MAX_SOLUTION characters is not read at all.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any

from nbhelpers.grading.quantities import ARITHMETIC, Quantity, plain, read_quantity, unit_key, units_agree
from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters

# Longer solutions are no answers; the bound also keeps every reading of one inside a few milliseconds.
MAX_SOLUTION = 2000


# Levenshtein distance is quadratic; the official scorer has no bound, ours reads no more than this.
MAX_DISTANCE = 400


PROTOCOLS = ("strict", "mathvista")


_BLANK = " \t\r\n\v\f\0\u00a0\u200b\u200c\u200d\u2060\ufeff"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a completion is right, what was read from it (None: nothing could be read), and why."""

    correct: bool
    parsed: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class FormatVerdict:
    """Which of the two blocks counts as well formed, and why the first that does not, does not."""

    reasoning: bool
    solution: bool
    reason: str


def _first_block(text: str, start: str, end: str) -> str | None:
    at = text.find(start)
    if at < 0:
        return None
    at += len(start)
    stop = text.find(end, at)
    return text[at:] if stop < 0 else text[at:stop]


def split_completion(completion: str, delimiters: Delimiters = DEFAULT_DELIMITERS) -> tuple[str | None, str | None]:
    """The first reasoning and the first solution, for display: an unclosed block runs to the end, an absent one is
    None.
    """
    return (
        _first_block(completion, delimiters.reasoning_start, delimiters.reasoning_end),
        _first_block(completion, delimiters.solution_start, delimiters.solution_end),
    )


def _only_block(text: str, start: str, end: str, name: str) -> tuple[int, int, str]:
    """Where the only non-empty block `name` stands (start and end without its marks), or the problem with it."""
    opened, closed = text.count(start), text.count(end)
    if opened != 1 or closed != 1:
        if not opened and not closed:
            return -1, -1, f"no {name} block"
        return -1, -1, f"{opened} opening and {closed} closing {name} marks instead of one each"
    at, stop = text.find(start) + len(start), text.find(end)
    if stop < at:
        return -1, -1, f"the {name} closes before it opens"
    content = text[at:stop].strip(_BLANK)
    if not content:
        return -1, -1, f"the {name} block is empty"
    if content.casefold() == "and":  # "between <SOLUTION> and </SOLUTION>" is the prompt's own sentence
        return -1, -1, f"the {name} block is an echo of the prompt"
    return at, stop, ""


def check_format(completion: str, delimiters: Delimiters = DEFAULT_DELIMITERS) -> FormatVerdict:
    """Whether there is exactly one non-empty reasoning block and exactly one non-empty solution block.

    A block counts when it is closed, not nested and not an echo of the prompt; the solution only when it does not
    come before or inside the reasoning.
    """
    text = completion if isinstance(completion, str) else ""
    at, stop, problem = _only_block(text, delimiters.reasoning_start, delimiters.reasoning_end, "reasoning")
    begin, finish, other = _only_block(text, delimiters.solution_start, delimiters.solution_end, "solution")
    reasoning, solution = not problem, not other
    for mark in (delimiters.solution_start, delimiters.solution_end):
        if reasoning and mark in text[at:stop]:
            reasoning, problem = False, "a solution mark inside the reasoning"
    for mark in (delimiters.reasoning_start, delimiters.reasoning_end):
        if solution and mark in text[begin:finish]:
            solution, other = False, "a reasoning mark inside the solution"
    if solution and 0 <= text.find(delimiters.reasoning_start) < begin < text.find(delimiters.reasoning_end):
        solution, other = False, "the solution stands inside the reasoning"
    if reasoning and solution and begin < at:
        solution, other = False, "the solution comes before the reasoning"
    return FormatVerdict(reasoning, solution, problem or other or "one reasoning block, then one solution block")


def _solutions(text: str, marks: Delimiters) -> tuple[list[str], str]:
    """The distinct contents of the closed solution blocks outside the reasoning, and what is wrong with the blocks."""
    start, end = marks.solution_start, marks.solution_end
    at = text.find(start)
    if at < 0:
        return [], "no solution block"
    inside_until = _reasoning_around(text, marks, at)
    contents: list[str] = []
    outside = False
    while at >= 0:
        begin = at + len(start)
        stop = text.find(end, begin)
        if stop < 0:
            return [], "the solution is not closed"
        content = text[begin:stop]
        if start in content:
            return [], "a solution mark inside the solution"
        outside = outside or at >= inside_until
        content = content.strip(_BLANK)
        if content not in contents:
            contents.append(content)
            if len(contents) > 4:
                return [], "more than four different solutions"
        at = text.find(start, stop)
        if 0 <= at < inside_until or at >= 0 and inside_until >= 0:
            inside_until = _reasoning_around(text, marks, at)
    return (contents, "") if outside else ([], "the solution stands inside the reasoning")


def _reasoning_around(text: str, marks: Delimiters, at: int) -> int:
    """Where the closed reasoning block ends that holds position `at`; -1 when none does."""
    opened = text.rfind(marks.reasoning_start, 0, at)
    if opened < 0:
        return -1
    closed = text.find(marks.reasoning_end, opened + len(marks.reasoning_start))
    return closed if closed > at else -1


_PRODUCT = re.compile(r"\s*[*·]\s*(?=[\w√(\\{])")


_ROOT_OF = re.compile(r"sqrt\s*(?=[({\d])|(?<=√)\s+")


_ROOT_BRACES = re.compile(r"√\s*[{(]\s*(\w+)\s*[})]")


_GAP = re.compile(r"(?<!\d) | (?!\d)")


_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore|the|my|our|final|correct|best|right|most|likely|likeliest|answer|answers|ans|"
    r"option|choice|letter|is|are|be|was|were|would|should|must|will|it|its|it's|that|this|solution|result|i|choose|"
    r"pick|select|selected|chose|think|believe|to|question)\b[\s:,.=-]*)+",
    re.I,
)


_SMALL_LEAD = re.compile(r"^(?:(?:in|on|at|by|a|an|the|of|during|approximately|about|around)\s+)+", re.I)


def _key(text: str) -> str:
    """What two spellings of one text share. Blanks go, except between digits: `2 3` is not `23`."""
    text = plain(text).casefold().replace("$", "").replace("\\pi", "π")
    text = text.strip(" .,;:!\"'*_")
    if "√" in text or "sqrt" in text:
        text = _ROOT_BRACES.sub(r"√\1", _ROOT_OF.sub(lambda match: "√" if match[0][0] == "s" else "", text))
    if "*" in text or "·" in text:
        text = _PRODUCT.sub("", text)
    if "m^" in text:
        text = text.replace("m^2", "m2").replace("m^3", "m3")
    if "pi" in text:
        text = re.sub(r"(?<![a-z])pi(?![a-z])", "π", text)
    return _GAP.sub("", text)


class _Choices:
    """The choices of one problem, read once: what text, which quantity, which words stand for each."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.texts = [choice.strip() for choice in choices]
        self.keys = [_key(choice) for choice in choices]
        self.exact = {text: at for at, text in reversed(list(enumerate(self.texts)))}
        self.by_key = {key: at for at, key in reversed(list(enumerate(self.keys)))}
        self.quantities = [_bare_quantity(choice) for choice in choices]
        self.by_stem: dict[str, set[str]] = {}
        for key in self.keys:
            self.by_stem.setdefault(_without_unit(key), set()).add(key)
        words = [(_words(choice), at) for at, choice in enumerate(choices) if _tellable(choice)]
        self.words = sorted(words, key=lambda pair: -len(pair[0]))
        self.last_letter = chr(ord("A") + min(len(choices), 26) - 1) if choices else ""

    def label(self, letter: str) -> int | None:
        """The place of a letter among the choices, None beyond them."""
        at = ord(letter.upper()) - ord("A")
        return at if 0 <= at < len(self.texts) else None

    def named_by(self, text: str) -> int | None:
        """The choice that `text` is: the same text, or the same quantity when only one choice has it."""
        at = self.by_key.get(_key(text))
        if at is not None:
            return at
        stems = self.by_stem.get(_without_unit(_key(text)))
        if stems and len(stems) == 1 and _key(text) == _without_unit(_key(text)):
            return self.by_key[next(iter(stems))]
        if any(quantity for quantity in self.quantities):
            return self.measured_by(read_quantity(text))
        return None

    def measured_by(self, stated: Quantity) -> int | None:
        if stated.value is None:
            return None
        found = {
            self.keys[at]
            for at, own in enumerate(self.quantities)
            if own and own.value == stated.value and units_agree(stated.unit, own.unit)
        }
        return self.by_key[found.pop()] if len(found) == 1 else None

    def mentioned_in(self, text: str) -> list[int]:
        """The choices whose words occur in `text`, a longer one before the shorter ones that it contains."""
        padded = f" {_words(text)} "
        found = []
        for words, at in self.words:
            if f" {words} " in padded:
                found.append(at)
                padded = padded.replace(f" {words} ", "  \0  ")
        return found


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s]", plain(text).casefold()))


def _tellable(choice: str) -> bool:
    """Whether finding the choice's words in a sentence means something: not for yes, no, A, or a number."""
    letters = sum(char.isalpha() for char in plain(choice))
    return letters >= 4 and choice.strip(" .").casefold() not in ("none", "true", "false")


_UNIT_TAIL = re.compile(r"(?<=[\dπ)}])\s?([^\W\d_]+[23]?|°[cf]?|%)$")


def _without_unit(key: str) -> str:
    """`20√2海里` without its unit, so that 20√2 can name it."""
    match = _UNIT_TAIL.search(key)
    if match and (unit_key(match[1]) or not match[1].isascii()) and match[1] != "π":
        return key[: match.start()]
    return key


_BARE = re.compile(
    r"(?:around|about|approximately)?\s*[-+$€£¥]*\s*[\d.,/ ]*\d[\d.,/]*\s*(?:[^\W\d_π√]+[23]?|[%°$€£¥].?)?\.?", re.I
)


def _bare_quantity(choice: str) -> Quantity | None:
    """The quantity that a choice is: a number with at most one unit or noun, so not `3 main veins` and not `2π cm`."""
    quantity = read_quantity(choice) if _BARE.fullmatch(plain(choice).strip()) else None
    return quantity if quantity and quantity.value is not None else None


_REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|unable|impossible|insufficient|not enough|not provided|no answer|n/a|unknown)\b", re.I
)


_HEDGE = re.compile(
    r"\b(?:or|nor|neither|either|not|never|none|except|isn't|doesn't|without|unlike|both)\b|n't\b", re.I
)


_LETTER = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?\s*[.:)]?")


_LETTERS_ONLY = re.compile(r"(?:\b(?:[A-J]|and|or)\b\W*)+")


_FURTHER_LABEL = re.compile(r"(?<!\w)[(\[]?([A-Ja-j])[)\]]|(?:^|[;,]\s*|\.\s+)([A-J])[.:](?=\s)")


_INNER_LABEL = re.compile(r"(?<=\s)([A-J])[.:]\s+(?=\S)")


_DENIED = re.compile(
    r"(?:(?:is|was|are|would be|can|seems)\b\s*)?(?:not|wrong|incorrect|false|never|cannot|isn't|can't)\b", re.I
)


_PARENTHESISED = re.compile(r"(?<![\w)])[(\[]\s*([A-Za-z])\s*[)\]]")


_LABELLED = re.compile(r"[(\[{]?([A-Ja-j])(?:\s*[.):}\]]+\s*|\s+-+\s+|,\s+(?![A-Za-z]\b))(.+)|([A-Z])\s+(.+)", re.S)


_STATEMENT = re.compile(r"\D*\b(?:is|are|was|be|becomes|equals)\b:?\s+(.+)", re.S)


_EXPLAINED = re.compile(r"(?:because|since|as|is (?:the )?(?:correct|right|best|answer)|due to|[,-])\b", re.I)


_OTHER_LETTER = re.compile(
    r"(?:\b(?:or|and|nor|not|than)\b|[/&,])\s*(?:option\s+|choice\s+)?[(\[]?([A-Za-z])\b(?!')", re.I
)


_COMMIT = re.compile(
    r"\b(?:answer|ans|choice|option|result|solution)\b(?:\s+to\s+the\s+question)?"
    r"(?:\s*[:=]\s*|\s+(?:is|would be|must be|should be)\b\s*:?\s*)|答案\s*[:是为]?\s*",
    re.I,
)


_SENTENCE_END = re.compile(r"[.;!]\s+(?=\S)|\n")


_SAYS_YES_OR_NO = re.compile(
    r"(yes|no|true|false)(?:\s*[.,;:!-]\s*|\s+(?=(?:it|they|he|she|because|since)\b))(.+)", re.I | re.S
)


def _pick(text: str, choices: _Choices) -> tuple[int | None, str]:
    """Which choice a solution names, and how it was recognised or why it was not."""
    bare = text.strip()
    if bare in choices.exact:
        return choices.exact[bare], "the text of a choice"
    clean = plain(bare).replace("$", "") if "$" in bare and not choices.by_key.get(_key(bare)) else plain(bare)
    clean = clean.strip(" \"'`*_") or clean
    lone = _LETTER.fullmatch(clean)
    if lone is None:
        at = choices.by_key.get(_key(clean))
        if at is not None:
            return at, "the text of a choice"
        labelled = _LABELLED.fullmatch(clean)
        if labelled and labelled[1]:
            return _pick_labelled(labelled[1].upper(), labelled[2], choices)
        at = choices.named_by(clean)
        if at is not None:
            return at, "the text of a choice"
        stripped = _LEAD.sub("", clean)
        if stripped and stripped != clean:
            at = choices.named_by(stripped)
            if at is not None and not _LETTER.fullmatch(stripped):
                return at, "the text of a choice"
            clean_tail = stripped.strip(" \"'`*_")
            lone = _LETTER.fullmatch(clean_tail)
            stripped = clean_tail
        else:
            stripped = clean
    else:
        stripped = clean
    if lone:
        at = choices.label(lone[1])
        if at is not None:
            return at, f"letter {lone[1].upper()}"
        at = choices.by_key.get(_key(lone[0]))
        return at, "the text of a choice" if at is not None else f"letter {lone[1].upper()} is beyond the choices"
    return _pick_sentence(clean, stripped, choices)


def _pick_sentence(clean: str, stripped: str, choices: _Choices) -> tuple[int | None, str]:
    parenthesised = {match[1].upper(): match for match in reversed(list(_PARENTHESISED.finditer(clean)))}
    if len(parenthesised) > 1:
        return None, f"several letters: {', '.join(sorted(parenthesised))}"
    if parenthesised:
        letter, match = next(iter(parenthesised.items()))
        before = clean[: match.start()]
        if _HEDGE.search(before):
            return None, "a hedge or a denial before the letter"
        return _pick_labelled(letter, clean[match.end() :], choices)
    labelled = _LABELLED.fullmatch(stripped)
    if labelled and labelled[1]:
        return _pick_labelled(labelled[1].upper(), labelled[2], choices)
    if labelled and (labelled[3] != "A" or _EXPLAINED.match(labelled[4])):
        at = choices.label(labelled[3])
        rest = labelled[4].strip("().")  # "B (No)."
        if at is not None and (choices.named_by(rest) == at or _EXPLAINED.match(rest)):
            return _pick_labelled(labelled[3], rest, choices)
    elif labelled and choices.named_by(labelled[4]) is not None:
        return choices.named_by(labelled[4]), "the text of a choice"  # an article: "A cat"
    said = _SAYS_YES_OR_NO.fullmatch(stripped)
    if said and (at := choices.by_key.get(said[1].casefold())) is not None:
        others = [other for other in choices.keys if other != choices.keys[at]]
        words = _words(said[2]).split()
        if any(other in words for other in others) or _REFUSAL.search(said[2]):
            return None, "two choices or a refusal"
        return at, "the text of a choice"
    return _pick_mention(clean, stripped, choices)


def _pick_labelled(letter: str, rest: str, choices: _Choices) -> tuple[int | None, str]:
    """A letter with text behind it, which must not name another choice."""
    at = choices.label(letter)
    rest = rest.strip(" .:,)-\"'*")
    if at is None:
        return None, f"letter {letter} is beyond the choices"
    if not rest or choices.keys[at] == _key(rest):
        return at, f"letter {letter}"
    other = _OTHER_LETTER.search(rest)
    if other and choices.label(other[1]) not in (None, at) and (other[1].isupper() or len(rest) < 12):
        return None, f"letters {letter} and {other[1].upper()}"
    lone = _LETTER.fullmatch(rest)
    if lone and lone[1].isupper():
        return (at, f"letter {letter}") if lone[1] == letter else (None, f"letters {letter} and {lone[1]}")
    if _DENIED.match(rest):
        return None, f"letter {letter} is denied"
    others = {(match[1] or match[2]).upper() for match in _FURTHER_LABEL.finditer(rest)}
    for match in _INNER_LABEL.finditer(rest[:400]):  # "12 cm C. 14 cm", but not "equals angle C. So ..."
        place = choices.label(match[1])
        if place is not None and _key(rest[match.end() :]).startswith(choices.keys[place]):
            others.add(match[1])
    others -= {letter}
    if others or (_LETTERS_ONLY.fullmatch(rest) and set(re.findall(r"\b[A-Z]\b", rest)) - {letter}):
        return None, "several letters"
    if any(_pick_tail(tail, choices) not in (None, at) for tail in _committed(rest)):
        return None, "several answers"
    head = _SENTENCE_END.split(rest, maxsplit=1)[0]
    for piece in (rest, head, head.split(",")[0], _EXPLAIN.split(head)[0]):
        named = choices.named_by(piece)
        if named is not None:
            same = choices.keys[named] == choices.keys[at]
            return (at, f"letter {letter}") if same else (None, f"letter {letter} with the text of another choice")
    mentioned = {choices.keys[other] for other in choices.mentioned_in(rest)}
    if mentioned - {choices.keys[at]} and choices.keys[at] not in mentioned:
        return None, f"letter {letter} with the text of another choice"
    return at, f"letter {letter}"


_EXPLAIN = re.compile(r"\s*,?\s*\b(?:because|since|given that|due to|as the|which|so that)\b", re.I)


def _pick_mention(clean: str, stripped: str, choices: _Choices) -> tuple[int | None, str]:
    """A sentence without a letter: the one choice that its words or its one number name."""
    tails = _committed(clean)
    if tails:
        picks = {_pick_tail(tail, choices) for tail in tails}
        if len(picks) == 1 and None not in picks:
            return picks.pop(), "the text of a choice"
    if "=" in stripped and stripped.count("=") == 1:
        left, right = stripped.split("=")
        at = choices.named_by(right)
        if at is not None and not re.search(r"\d", left) and not _HEDGE.search(left):
            return at, "the text of a choice"
    head = _SMALL_LEAD.sub("", stripped)
    if head != stripped and head and (at := choices.named_by(head)) is not None and not _LETTER.fullmatch(head):
        return at, "the text of a choice"
    if _REFUSAL.search(clean):
        return None, "a refusal"
    statement = _STATEMENT.fullmatch(clean)
    if statement and not _HEDGE.search(clean[: statement.start(1)]):
        for tail in (statement[1], _SMALL_LEAD.sub("", statement[1])):
            if not _LETTER.fullmatch(tail) and (at := choices.named_by(tail)) is not None:
                return at, "the text of a choice"
    mentioned = choices.mentioned_in(clean)
    keys = {choices.keys[at] for at in mentioned}
    if len(keys) > 1:
        return None, "several choices"
    if keys:
        outside = f" {_words(clean)} "
        for words, at in choices.words:
            if at in mentioned:
                outside = outside.replace(f" {words} ", "  ")
        if _HEDGE.search(outside):
            return None, "a hedge or a denial"
        return mentioned[0], "the text of a choice"
    return None, "names no choice"


def _committed(text: str) -> list[str]:
    """What stands behind every "the answer is" of a text, to the end of the sentence."""
    parts = _COMMIT.split(text)
    return [_EXPLAIN.split(_SENTENCE_END.split(part, maxsplit=1)[0])[0].strip(" *\"'") for part in parts[1:]]


def _pick_tail(tail: str, choices: _Choices) -> int | None:
    lone = _LETTER.fullmatch(tail)
    if lone:
        return choices.label(lone[1])
    at = choices.named_by(tail)
    if at is not None:
        return at
    labelled = _LABELLED.fullmatch(tail) if not _OTHER_LETTER.search(tail) else None
    if labelled and labelled[1]:
        return _pick_labelled(labelled[1].upper(), labelled[2], choices)[0]
    if labelled and (at := choices.label(labelled[3])) is not None and choices.named_by(labelled[4].strip("().")) == at:
        return at  # "E (0-5)"
    return None


_PLAIN_NUMBER = re.compile(r"[-+]?\d{1,15}(?:\.\d{1,15})?")


class _Gold:
    """What one problem asks for, read once and kept (see `_gold`)."""

    def __init__(
        self,
        answer: str,
        choices: tuple[str, ...] | None,
        unit: str | None,
        precision: int | None,
        question_type: str | None,
        answer_type: str | None,
    ) -> None:
        self.answer, self.unit = answer.strip(), unit
        self.choices = _Choices(choices) if choices and question_type != "free_form" else None
        self.value: Decimal | None = None
        self.items: list[Any] = []
        self.key = _key(answer)
        if self.choices:
            self.kind = "choice"
            at = self.choices.exact.get(self.answer, self.choices.by_key.get(self.key))
            if at is None and re.fullmatch(r"\(?[A-Z]\)?", self.answer):
                at = self.choices.label(self.answer.strip("()"))  # a data set that keeps the letter
            self.key = self.key if at is None else self.choices.keys[at]
            self.known = at is not None
            return
        number = self.answer if _PLAIN_NUMBER.fullmatch(self.answer) else None
        quantity = Quantity(Decimal(number)) if number else read_quantity(self.answer)
        wanted = answer_type if answer_type in ("integer", "float", "list", "text") else None
        if wanted == "list" or (wanted is None and self.answer.startswith("[") and self.answer.endswith("]")):
            self.kind, self.items = "list", _items(self.answer) or []
            self.known = bool(self.items)
        elif wanted in ("integer", "float") or (wanted is None and quantity.value is not None):
            self.value = quantity.value
            self.known = self.value is not None
            decimals = 0 if self.value is None else max(0, -self.value.normalize().as_tuple().exponent)
            whole = wanted == "integer" or (wanted is None and decimals == 0 and precision is None)
            self.kind = "integer" if whole else "float"
            self.places = decimals if precision is None else precision
            self.rounded = None if self.value is None else _rounded(self.value, self.places)
            self.unit = unit or quantity.unit or None
        else:
            self.kind, self.known = "text", bool(self.key)


@lru_cache(maxsize=8192)
def _gold(
    answer: str,
    choices: tuple[str, ...] | None,
    unit: str | None,
    precision: int | None,
    question_type: str | None,
    answer_type: str | None,
) -> _Gold:
    return _Gold(answer, choices, unit, precision, question_type, answer_type)


def _rounded(value: Decimal, places: int, halves: str | None = None) -> Decimal:
    """`value` to `places` decimals. Halves go up, as at school, or to the even neighbour, as Python's `round` made many
    gold answers.
    """
    return value.quantize(Decimal(1).scaleb(-places), rounding=halves, context=ARITHMETIC)


_BOXED = re.compile(r"(?<![\w^)\\-])\\(?:boxed|fbox)\s*\{")


def _boxes(text: str) -> list[str]:
    """The contents of every \\boxed{...} that stands by itself."""
    contents = []
    for match in _BOXED.finditer(text):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth or text[at : at + 1] in ("^", "!", "/", "*"):
            return []
        contents.append(text[match.end() : at - 1])
        if len(contents) > 4:
            return []
    return contents


def _stated(text: str, decimal_comma: bool) -> Quantity:
    """The number that a solution commits to: its only one, else the boxed one, else the one behind "the answer is"."""
    quantity = read_quantity(text, decimal_comma)
    if quantity.value is not None or "several" not in quantity.problem and "equation" not in quantity.problem:
        return quantity
    commitments = _boxes(text) if "\\boxed" in text or "\\fbox" in text else _committed(plain(text))
    readings = [read_quantity(part, decimal_comma) for part in commitments[:5]]
    if readings and len(commitments) <= 5 and len({reading.value for reading in readings}) == 1:
        return readings[0] if readings[0].value is not None else quantity
    return quantity


_TO_SHOW = Context(prec=15, traps=[])


def _shown(value: Decimal) -> str:
    if len(value.as_tuple().digits) > 15:
        value = _TO_SHOW.plus(value)
    text = format(value, "f") if -12 < value.adjusted() < 30 else str(value)
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text


def _grade_number(text: str, gold: _Gold) -> Verdict:
    stated = _stated(text, decimal_comma=gold.kind == "float")
    if stated.value is None:
        return Verdict(False, None, f"no single number: {stated.problem}")
    shown = _shown(stated.value)
    if not units_agree(stated.unit, gold.unit) and not (stated.percent and gold.unit is None):
        return Verdict(False, shown, f"{shown} is in {stated.unit}, not in {gold.unit}")
    if gold.kind == "integer":
        if stated.value == gold.value:
            return Verdict(True, shown, f"{shown} is the answer")
        return Verdict(False, shown, f"{shown} is not {gold.answer}")
    values = [stated.value]
    if stated.percent and gold.unit is None:
        share = ARITHMETIC.scaleb(stated.value, -2)
        # 75 % is 0.75. Only above 1 can "7.5" also be meant as a percentage.
        values = [share] if abs(gold.value) < 1 else [stated.value, share]
    if any(
        gold.rounded in (_rounded(value, gold.places), _rounded(value, gold.places, ROUND_HALF_EVEN))
        for value in values
    ):
        return Verdict(True, shown, f"{shown} is the answer to {gold.places} decimals")
    return Verdict(False, shown, f"{shown} is not {gold.answer} to {gold.places} decimals")


_BRACKETED = re.compile(r"[\[({]([^\[\](){}]*)[\])}]")


_LIST_LEAD = re.compile(r"[^\W\d_](?:[\w\s,']*)(?:=|:|\bis\b|\bare\b)\s*|[^\W\d_]\w*\s*=\s*", re.I)


def _items(text: str) -> list[Any] | None:
    """The items of an ordered list as numbers or text keys, None when the text is not one list."""
    clean = plain(text).replace("$", "").strip(" .`*")
    brackets = _BRACKETED.findall(clean)
    if brackets:
        outside = _BRACKETED.sub("", clean, count=1).strip(" .:")
        if len(brackets) > 1 or re.search(r"[\[\](){}\d]", outside) or _HEDGE.search(outside):
            return None
        clean = brackets[0]
    elif re.search(r"[\[\](){}]", clean):
        return None
    pieces = [piece for piece in re.split(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+", clean.strip())]
    if len(pieces) == 1 and re.fullmatch(r"[-+\d.]+(?:\s+[-+\d.]+)+", pieces[0]):
        pieces = pieces[0].split()
    if not all(pieces):
        return None
    items: list[Any] = []
    for piece in pieces:
        stated = read_quantity(piece.strip("'\""))
        if stated.value is None and re.search(r"\d", piece):
            return None
        items.append(stated.value if stated.value is not None else _key(piece))
    return items


def _grade_list(text: str, gold: _Gold) -> Verdict:
    items = _items(text)
    if items is None:
        tails = _committed(plain(text))
        items = _items(tails[0]) if len(tails) == 1 else None
    if items is None:
        return Verdict(False, None, "not one list")
    shown = "[" + ", ".join(_shown(item) if isinstance(item, Decimal) else item for item in items) + "]"
    if items == gold.items:
        return Verdict(True, shown, f"{shown} is the answer")
    return Verdict(False, shown, f"{shown} is not {gold.answer}")


def _grade_text(text: str, gold: _Gold) -> Verdict:
    clean = plain(text)
    stripped = _LEAD.sub("", clean)
    for candidate in (clean, stripped, _SMALL_LEAD.sub("", stripped), clean.partition("=")[2]):
        if candidate and _key(candidate) == gold.key:
            return Verdict(True, gold.answer, "the text of the answer")
    return Verdict(False, clean[:200], "another text than the answer")


def _grade_choice(text: str, gold: _Gold) -> Verdict:
    at, how = _pick(text, gold.choices)
    if at is None:
        return Verdict(False, None, how)
    chosen = gold.choices.texts[at]
    if gold.choices.keys[at] == gold.key:
        return Verdict(True, chosen, f"{how}: {chosen!r} is the answer")
    return Verdict(False, chosen, f"{how}: {chosen!r} is not {gold.answer!r}")


_GRADERS = {
    "choice": _grade_choice,
    "integer": _grade_number,
    "float": _grade_number,
    "list": _grade_list,
    "text": _grade_text,
}


def _grade_strict(text: str, gold: _Gold) -> Verdict:
    if not text:
        return Verdict(False, None, "the solution is empty")
    if len(text) > MAX_SOLUTION:
        return Verdict(False, None, f"a solution of {len(text)} characters is no answer")
    if gold.kind == "integer" and text == gold.answer:
        return Verdict(True, text, f"{text} is the answer")
    return _GRADERS[gold.kind](text, gold)


_OFFICIAL_LETTER = re.compile(r"\(([a-zA-Z])\)")


def _distance(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for at, char in enumerate(one, 1):
        last, row[0] = row[0], at
        for place, theirs in enumerate(other, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (char != theirs))
    return row[-1]


def _official_choice(text: str, choices: tuple[str, ...]) -> tuple[str | None, str]:
    extraction = text.strip()
    letter = _OFFICIAL_LETTER.search(extraction)
    if letter:
        extraction = letter[1].upper()
    place = ord(extraction) - ord("A") if len(extraction) == 1 else -1
    if 0 <= place < len(choices):
        return choices[place], f"letter {extraction}"
    if extraction in choices:
        return extraction, "the text of a choice"
    if len(extraction) > MAX_DISTANCE:
        return None, f"a text of {len(extraction)} characters is compared with no choice"
    return min(choices, key=lambda choice: _distance(extraction, choice)), "the nearest choice by edit distance"


def _grade_mathvista(
    text: str,
    answer: str,
    choices: tuple[str, ...] | None,
    precision: int | None,
    question_type: str | None,
    answer_type: str | None,
) -> tuple[bool, str | None, str]:
    """The official verdict on a solution text: plain equality after the official normalisation."""
    prediction: str | None
    how = "as it stands"
    try:
        if choices and question_type != "free_form":
            prediction, how = _official_choice(text, choices)
        elif answer_type == "integer":
            prediction, how = str(int(float(text))), "cut to an integer"
        elif answer_type == "float":
            prediction, how = str(round(float(text), precision if precision is not None else 0)), "rounded"
        else:
            prediction = text
    except (ValueError, OverflowError):
        prediction, how = None, "not a number to the official scorer"
    return prediction == answer, prediction, how


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, str) else str(value)


def _as_places(precision: Any) -> int | None:
    try:
        return min(max(int(precision), 0), 20)
    except (TypeError, ValueError, OverflowError):
        return None


def _as_choices(choices: Any) -> tuple[str, ...] | None:
    if choices is None or isinstance(choices, (str, float)):
        return None
    return tuple(map(str, choices)) or None


def can_grade(
    answer: Any,
    *,
    choices: Any = None,
    unit: str | None = None,
    precision: Any = None,
    question_type: str | None = None,
    answer_type: str | None = None,
) -> bool:
    """Whether there is a gold answer of the kind that is asked for; without one no completion can be judged."""
    gold = _as_text(answer)
    if not gold or not gold.strip():
        return False
    return _gold(gold, _as_choices(choices), unit, _as_places(precision), question_type, answer_type).known


def grade(
    completion: str,
    answer: Any,
    *,
    choices: Any = None,
    unit: str | None = None,
    precision: Any = None,
    question_type: str | None = None,
    answer_type: str | None = None,
    delimiters: Delimiters = DEFAULT_DELIMITERS,
    protocol: str = "strict",
) -> Verdict:
    """Whether `completion` answers the problem.

    Args:
        completion: What the policy wrote, blocks and all.
        answer: The gold answer: a choice's text (or letter), a number or a list as text, or a text.
        choices: The choices of a multiple-choice problem, shown to the policy as (A), (B), ...
        unit: The unit that the question asks for; another known unit is wrong, a missing one is not.
        precision: Decimals to which a float is compared; without it, those that the answer has.
        question_type: "multi_choice" or "free_form".
        answer_type: "text", "integer", "float" or "list"; without it, what the answer looks like.
        delimiters: The marks of the blocks.
        protocol: "strict", or "mathvista" for the official scorer's behaviour on the solution text.

    Returns:
        The verdict. `parsed` is None when nothing could be read, in either protocol; the official scorer may call
        such a completion right all the same (nearest choice to an empty text).

    Raises:
        ValueError: `protocol` is neither of the two. Nothing else raises, whatever the completion holds.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is unknown: use one of {', '.join(PROTOCOLS)}")
    text = completion if isinstance(completion, str) else ""
    solutions, problem = _solutions(text, delimiters)
    options, places, gold_text = _as_choices(choices), _as_places(precision), _as_text(answer) or ""
    if protocol == "mathvista":
        solution = solutions[0] if solutions else ""
        correct, prediction, how = _grade_mathvista(solution, gold_text, options, places, question_type, answer_type)
        if not solution:
            return Verdict(correct, None, f"{problem or 'the solution is empty'}; official rule: {how}")
        return Verdict(correct, prediction, f"{how}: {prediction!r} {'is' if correct else 'is not'} {gold_text!r}")
    if problem:
        return Verdict(False, None, problem)
    gold = _gold(gold_text, options, unit, places, question_type, answer_type)
    verdict = _grade_strict(solutions[0], gold)
    for other in solutions[1:]:
        if not (verdict.correct and _grade_strict(other, gold).correct):
            return Verdict(False, None, "several different solutions")
    return verdict
