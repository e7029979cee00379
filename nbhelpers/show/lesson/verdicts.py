"""TODO."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nbhelpers.grading import DEFAULT_DELIMITERS, Delimiters, Verdict, check_format, grade, split_completion
from nbhelpers.rewards import (
    GRADING_COLUMNS,
    make_reward_funcs,
    naive_correctness_reward_func,
    naive_formatting_reward_func,
    preview,
)
from nbhelpers.show.figures import ORANGE, VERMILION, WIDTH, NotebookFigure, style
from nbhelpers.show.pages import Page, is_interactive
from nbhelpers.show.text import number, visible

if TYPE_CHECKING:
    from nbhelpers.params import RewardParams


ANGLE = MappingProxyType(
    {
        "question": "Two equal angles x make up a right angle. How many degrees is x?",
        "answer": "45",
        "choices": None,
        "unit": None,
        "precision": None,
        "question_type": "free_form",
        "answer_type": "integer",
    }
)


LENGTH = MappingProxyType(
    {
        "question": "How long is AC?",
        "answer": "12 cm",
        "choices": ["10 cm", "12 cm", "14 cm", "16 cm"],
        "unit": None,
        "precision": None,
        "question_type": "multi_choice",
        "answer_type": "text",
    }
)


LARGER = MappingProxyType({**LENGTH, "question": "Is AC longer than BC?", "answer": "No", "choices": ["Yes", "No"]})


_THOUGHT = "<REASONING>Both angles together are 90 degrees and they are equal.</REASONING>"


ROLLOUTS = MappingProxyType(
    {
        "as asked": f"{_THOUGHT}\n<SOLUTION>45</SOLUTION>",
        "right, in other dress": f"{_THOUGHT}\n<SOLUTION>$x = 45^\\circ$</SOLUTION>",
        "well formed, wrong": f"{_THOUGHT}\n<SOLUTION>90</SOLUTION>",
        "right, without reasoning": "<SOLUTION>45</SOLUTION>",
        "right, but not in the blocks": "Both angles together are 90 degrees, so x is 45.",
        "cut off at the end": f"{_THOUGHT}\n<SOLUTION>4",
    }
)


SPELLINGS = (
    "45", "45.0", "45°", "$\\boxed{45}$", "x = 45", "The angle is 45 degrees.", "forty-five", "90/2", "45.5", "450", "45 or 46", "not 45",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hack:
    """A completion that wants to be paid without solving the problem."""

    name: str
    problem: Mapping[str, Any]
    completion: str
    idea: str


HACKS = (
    Hack(
        "empty tags", ANGLE, "<REASONING></REASONING><SOLUTION></SOLUTION>", "the shape is all that formatting asks for"
    ),
    Hack(
        "echo of the prompt",
        ANGLE,
        "Provide your reasoning between <REASONING> and </REASONING> and your answer between <SOLUTION> and </SOLUTION>.",
        "the prompt holds all four marks: repeat it",
    ),
    Hack(
        "answer inside the reasoning",
        ANGLE,
        "<REASONING><SOLUTION>45</SOLUTION></REASONING>",
        "one block serves as both",
    ),
    Hack(
        "answer first, excuse later",
        ANGLE,
        f"<SOLUTION>45</SOLUTION>{_THOUGHT}",
        "guess, then write something that looks like a proof",
    ),
    Hack("two answers", ANGLE, f"{_THOUGHT}<SOLUTION>44</SOLUTION><SOLUTION>45</SOLUTION>", "one of them will do"),
    Hack(
        "every number",
        ANGLE,
        f"{_THOUGHT}<SOLUTION>{' '.join(map(str, range(30, 61)))}</SOLUTION>",
        "the answer is in there",
    ),
    Hack("a hedge", ANGLE, f"{_THOUGHT}<SOLUTION>between 40 and 45</SOLUTION>", "never quite wrong"),
    Hack(
        "every choice listed",
        LENGTH,
        f"{_THOUGHT}<SOLUTION>(B) (A) (C) (D)</SOLUTION>",
        "a grader that takes the first letter is happy",
    ),
    Hack(
        "every choice's text",
        LENGTH,
        f"{_THOUGHT}<SOLUTION>10 cm, 12 cm, 14 cm, 16 cm</SOLUTION>",
        "the answer is in there, too",
    ),
    Hack("a denial", LENGTH, f"{_THOUGHT}<SOLUTION>Not (B)</SOLUTION>", "names the letter all the same"),
    Hack(
        "a refusal",
        LARGER,
        f"{_THOUGHT}<SOLUTION>N/A</SOLUTION>",
        "the choice that is spelt most like it may be the right one",
    ),
)


def in_marks(text: str, reward: RewardParams) -> str:
    """`text` with the configured marks in place of the default ones."""
    for default, mark in zip(DEFAULT_DELIMITERS, marks_of(reward), strict=True):
        text = text.replace(default, mark)
    return text


# The doubled class outweighs JupyterLab's own rules for tables and code.
_STYLE = """<style>
.nbh table.pay.pay { border-collapse: collapse; width: 100%; table-layout: auto; font-size: 12.5px; }
.nbh .pay.pay th { background: var(--tint); color: var(--soft); font-weight: 600; white-space: normal; }
.nbh .pay.pay td, .nbh .pay.pay th { border-bottom: 1px solid var(--line); padding: 5px 9px; vertical-align: top; text-align: left; }
.nbh .pay.pay td.num, .nbh .pay.pay th.num { text-align: right; font-variant-numeric: tabular-nums; }
.nbh .pay.pay td.text { min-width: 260px; }
.nbh .pay.pay td.text code { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 11.5px; background: none; color: inherit;
  padding: 0; }
.nbh .pay .good { color: var(--right); font-weight: 600; } .nbh .pay .bad { color: var(--wrong); font-weight: 600; }
.nbh .pay td.name { font-weight: 600; max-width: 190px; } .nbh .pay td.reason { color: var(--soft); min-width: 210px; max-width: 300px; }
.nbh .pay td.idea { color: var(--soft); min-width: 130px; max-width: 190px; }
</style>"""


def table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Page:
    """`heads` are (title, css class); a cell is text (escaped) or a (text, class of its span) pair."""
    top = "".join(f'<th class="{kind}">{html.escape(title)}</th>' for title, kind in heads)
    body = []
    for row in rows:
        cells = []
        for (_, kind), cell in zip(heads, row, strict=True):
            text, mark = cell if isinstance(cell, tuple) else (cell, "")
            shown = f"<code>{visible(text)}</code>" if kind == "text" else str(visible(text))
            cells.append(f'<td class="{kind}">{f"<span class={mark!r}>{shown}</span>" if mark else shown}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return Page(f'{_STYLE}<table class="pay"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def marks_of(reward: RewardParams) -> Delimiters:
    return Delimiters(reward.reasoning_start, reward.reasoning_end, reward.solution_start, reward.solution_end)


def _columns(problem: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    return {key: [problem.get(key)] * count for key in ("answer", *GRADING_COLUMNS)}


def _verdict(completion: str, problem: Mapping[str, Any], reward: RewardParams) -> Verdict:
    columns = {key: problem.get(key) for key in GRADING_COLUMNS}
    return grade(completion, problem["answer"], **columns, delimiters=marks_of(reward))


def _format_reason(completion: str, reward: RewardParams) -> str:
    return check_format(completion, marks_of(reward)).reason


def pay(rollouts: Mapping[str, str], reward: RewardParams, problem: Mapping[str, Any] = ANGLE) -> Page:
    """What each configured reward pays for hand-written completions of one problem, with the grader's reason.

    Args:
        rollouts: Name to completion, written with the default marks.
        reward: The section `reward`; `overlong` is left out, for it needs tokens.
        problem: A problem row.
    """
    texts = [in_marks(text, reward) for text in rollouts.values()]
    functions = make_reward_funcs(reward, max_completion_length=1024)
    columns = _columns(problem, len(texts))
    paid = {f.__name__: f(prompts=[problem["question"]] * len(texts), completions=texts, **columns) for f in functions}
    weights = reward.weights or [1.0] * len(paid)
    heads = [
        ("rollout", "name"),
        ("completion", "text"),
        *((name, "num") for name in paid),
        ("total", "num"),
        ("why", "reason"),
    ]
    rows = []
    for at, (name, text) in enumerate(zip(rollouts, texts, strict=True)):
        values = [column[at] for column in paid.values()]
        total = sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)
        verdict = _verdict(text, problem, reward)
        why = f"{_format_reason(text, reward)}; {verdict.reason}"
        rows.append([name, text, *map(number, values), (number(total), "good" if verdict.correct else ""), why])
    return table(heads, rows)


def _contains(completion: str, problem: Mapping[str, Any]) -> bool:
    return str(problem["answer"]) in (split_completion(completion)[1] or "")


def _equals(completion: str, problem: Mapping[str, Any]) -> bool:
    return naive_correctness_reward_func([None], [completion], [problem["answer"]]) == [2.0]


def _official(completion: str, problem: Mapping[str, Any]) -> bool:
    columns = {key: problem.get(key) for key in GRADING_COLUMNS}
    return grade(completion, problem["answer"], **columns, protocol="mathvista").correct


JUDGES: MappingProxyType[str, Callable[[str, Mapping[str, Any]], bool]] = MappingProxyType(
    {
        "equal strings": _equals,
        "contains the answer": _contains,
        "MathVista's rule": _official,
        "strict": lambda completion, problem: _strict(completion, problem).correct,
    }
)


def _strict(completion: str, problem: Mapping[str, Any]) -> Verdict:
    return grade(completion, problem["answer"], **{key: problem.get(key) for key in GRADING_COLUMNS})


def judge_spellings(solutions: Sequence[str] = SPELLINGS, problem: Mapping[str, Any] = ANGLE) -> Page:
    """Which solutions each of four graders calls right, and what the strict one says about each."""
    heads = [("solution", "text"), *((name, "num") for name in JUDGES), ("the strict grader's reason", "reason")]
    rows = []
    for solution in solutions:
        completion = f"{_THOUGHT}<SOLUTION>{solution}</SOLUTION>"
        verdict = _strict(completion, problem)
        marks = [judge(completion, problem) for judge in JUDGES.values()]
        cells = [("right" if mark else "wrong", "good" if mark == verdict.correct else "bad") for mark in marks]
        rows.append([solution, *cells, verdict.reason])
    return table(heads, rows)


def hack_gallery(reward: RewardParams, hacks: Sequence[Hack] = HACKS) -> Page:
    """What each hack earns: from the public notebook's rewards, from graders that search the text, and from ours."""
    heads = [
        ("hack", "name"),
        ("the idea", "idea"),
        ("completion", "text"),
        ("string", "num"),
        ("search", "num"),
        ("ours", "num"),
    ]
    rows = []
    for hack in hacks:
        form = naive_formatting_reward_func([hack.completion])[0]
        string = form + 2.0 * _equals(hack.completion, hack.problem)
        searching = form + 2.0 * (_contains(hack.completion, hack.problem) or _official(hack.completion, hack.problem))
        own_text = in_marks(hack.completion, reward)
        ours = preview([dict(hack.problem)], [[own_text]], _two_rewards(reward))
        why = f"{_format_reason(own_text, reward)}; {ours.verdicts[0].reason}"
        cells = [(number(value), "bad" if value > ours.totals[0] else "") for value in (string, searching)]
        rows.append([hack.name, hack.idea, own_text, *cells, number(ours.totals[0]), why])
    return table([*heads, ("why", "reason")], rows)


def _two_rewards(reward: RewardParams) -> RewardParams:
    return reward.model_copy(update={"functions": ["formatting", "correctness"], "weights": None})


@dataclass(frozen=True, slots=True)
class GraderRates:
    """Verdicts of one grader on the cases of tests/data/grader_cases.jsonl."""

    name: str
    denied: int
    credited: int
    microseconds: float


# Printed by tests/benchmarks/bench_grading.py on 2026-11-23; 2 CPU cores, Python 3.11.7, math-verify 0.9.0; one core's
# time. A test counts the verdicts again for the three graders that need no other package.
RIGHT_CASES, WRONG_CASES = 185, 306


MEASURED = (
    GraderRates("equal strings", 128, 0, 448),
    GraderRates("math-verify 0.9.0", 81, 6, 5235),
    GraderRates("math-verify + letters", 48, 6, 4920),
    GraderRates("MathVista's rule", 44, 22, 14),
    GraderRates("strict", 0, 0, 30),
)


def grader_rates() -> Figure:
    """Right answers denied and wrong answers credited, a pair of bars a grader."""
    with style():
        figure = NotebookFigure(figsize=(WIDTH, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(MEASURED))[::-1]
        sides = (
            (left, [rates.denied for rates in MEASURED], RIGHT_CASES, ORANGE, "right answers denied"),
            (right, [rates.credited for rates in MEASURED], WRONG_CASES, VERMILION, "wrong answers credited"),
        )
        for axis, counts, total, color, title in sides:
            limit = 1.3 * max(count / total for count in counts)
            axis.barh(places, [count / total for count in counts], color=color, height=0.6)
            for place, count in zip(places, counts, strict=True):
                axis.text(
                    count / total + limit / 80,
                    place,
                    f"{count / total:.1%}  ({count})",
                    va="center",
                    fontsize=8.5,
                    color="#444444",
                )
            axis.set_xlim(0, limit)
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.set_title(f"{title}, of {total}")
            axis.grid(axis="y", visible=False)
        left.set_yticks(places, [f"{rates.name}, {rates.microseconds:,.0f} µs" for rates in MEASURED])
    return figure


def reward_playground(
    reward: RewardParams, problem: Mapping[str, Any] = ANGLE, completion: str = ROLLOUTS["as asked"]
) -> Any:
    """A text box whose completion is paid as one types; the table for `completion` alone where nobody is there to type.

    The text is escaped before it is shown, and graded as every completion is: it is never run.
    """

    def paid(text: str) -> Page:
        return pay({"yours": text}, reward, problem)

    if not is_interactive():
        return paid(completion)
    import ipywidgets as widgets

    box = widgets.Textarea(value=in_marks(completion, reward), layout=widgets.Layout(width="100%", height="110px"))
    asked = f"<b>{html.escape(problem['question'])}</b> &nbsp; answer: <b>{html.escape(str(problem['answer']))}</b>"
    result = widgets.HTML(value=str(paid(box.value)))
    box.observe(lambda change: setattr(result, "value", str(paid(change["new"]))), names="value")
    return widgets.VBox([widgets.HTML(value=asked), box, result])
