"""The blocks of a completion: which marks stand where, whether each block is well formed, what the solutions hold.

Everything is `str.find` and `str.count`, so the time is linear in the completion whatever it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters

_BLANK = " \t\r\n\v\f\0\u00a0\u200b\u200c\u200d\u2060\ufeff"
_MOST_SOLUTIONS = 4


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
    """The first reasoning and the first solution, for display; an unclosed one runs to the end, an absent is None."""
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
    if reasoning and any(mark in text[at:stop] for mark in delimiters[2:]):
        reasoning, problem = False, "a solution mark inside the reasoning"
    if solution and any(mark in text[begin:finish] for mark in delimiters[:2]):
        solution, other = False, "a reasoning mark inside the solution"
    if solution and 0 <= text.find(delimiters.reasoning_start) < begin < text.find(delimiters.reasoning_end):
        solution, other = False, "the solution stands inside the reasoning"
    if reasoning and solution and begin < at:
        solution, other = False, "the solution comes before the reasoning"
    return FormatVerdict(reasoning, solution, problem or other or "one reasoning block, then one solution block")


def find_solutions(text: str, marks: Delimiters) -> tuple[list[str], str]:
    """The distinct contents of the closed solution blocks, or what is wrong with them."""
    start, end = marks.solution_start, marks.solution_end
    contents: list[str] = []
    outside = inside_until = 0
    at = text.find(start)
    while at >= 0:
        stop = text.find(end, at + len(start))
        content = text[at + len(start) : stop]
        if stop < 0:
            return [], "the solution is not closed"
        if start in content:
            return [], "a solution mark inside the solution"
        if inside_until >= 0:
            inside_until = _reasoning_around(text, marks, at)
        outside += at >= inside_until
        content = content.strip(_BLANK)
        if content not in contents:
            contents.append(content)
        if len(contents) > _MOST_SOLUTIONS:
            return [], "more than four different solutions"
        at = text.find(start, stop)
    if not contents:
        return [], "no solution block"
    return (contents, "") if outside else ([], "the solution stands inside the reasoning")


def _reasoning_around(text: str, marks: Delimiters, at: int) -> int:
    """Where the closed reasoning block ends that holds position `at`; -1 when none does."""
    opened = text.rfind(marks.reasoning_start, 0, at)
    closed = text.find(marks.reasoning_end, opened + len(marks.reasoning_start)) if opened >= 0 else -1
    return closed if closed > at else -1
