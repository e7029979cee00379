"""The material of notebook 02: rollouts and hacks to pay, the measured rates of four graders, and the figures that go
with them.

Texts are written with the default marks; `in_marks` puts the configured ones in their place.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nbhelpers import plots, rewards
from nbhelpers.grading import DEFAULT_DELIMITERS, Delimiters, Verdict, check_format, grade, split_completion
from nbhelpers.viewer import Page, is_interactive, number, show_samples, visible

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
    for default, mark in zip(DEFAULT_DELIMITERS, _marks(reward), strict=True):
        text = text.replace(default, mark)
    return text


# ---------------------------------------------------------------- tables


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


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Page:
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


def _marks(reward: RewardParams) -> Delimiters:
    return Delimiters(reward.reasoning_start, reward.reasoning_end, reward.solution_start, reward.solution_end)


def _columns(problem: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    return {key: [problem.get(key)] * count for key in ("answer", *rewards.GRADING_COLUMNS)}


def _verdict(completion: str, problem: Mapping[str, Any], reward: RewardParams) -> Verdict:
    columns = {key: problem.get(key) for key in rewards.GRADING_COLUMNS}
    return grade(completion, problem["answer"], **columns, delimiters=_marks(reward))


def _format_reason(completion: str, reward: RewardParams) -> str:
    return check_format(completion, _marks(reward)).reason


def pay(rollouts: Mapping[str, str], reward: RewardParams, problem: Mapping[str, Any] = ANGLE) -> Page:
    """What each configured reward pays for hand-written completions of one problem, with the grader's reason.

    Args:
        rollouts: Name to completion, written with the default marks.
        reward: The section `reward`; `overlong` is left out, for it needs tokens.
        problem: A problem row.
    """
    texts = [in_marks(text, reward) for text in rollouts.values()]
    functions = rewards.make_reward_funcs(reward, max_completion_length=1024)
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
    return _table(heads, rows)


def _contains(completion: str, problem: Mapping[str, Any]) -> bool:
    return str(problem["answer"]) in (split_completion(completion)[1] or "")


def _equals(completion: str, problem: Mapping[str, Any]) -> bool:
    return rewards.naive_correctness_reward_func([None], [completion], [problem["answer"]]) == [2.0]


def _official(completion: str, problem: Mapping[str, Any]) -> bool:
    columns = {key: problem.get(key) for key in rewards.GRADING_COLUMNS}
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
    return grade(completion, problem["answer"], **{key: problem.get(key) for key in rewards.GRADING_COLUMNS})


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
    return _table(heads, rows)


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
        form = rewards.naive_formatting_reward_func([hack.completion])[0]
        string = form + 2.0 * _equals(hack.completion, hack.problem)
        searching = form + 2.0 * (_contains(hack.completion, hack.problem) or _official(hack.completion, hack.problem))
        own_text = in_marks(hack.completion, reward)
        ours = rewards.preview([dict(hack.problem)], [[own_text]], _two_rewards(reward))
        why = f"{_format_reason(own_text, reward)}; {ours.verdicts[0].reason}"
        cells = [(number(value), "bad" if value > ours.totals[0] else "") for value in (string, searching)]
        rows.append([hack.name, hack.idea, own_text, *cells, number(ours.totals[0]), why])
    return _table([*heads, ("why", "reason")], rows)


def _two_rewards(reward: RewardParams) -> RewardParams:
    return reward.model_copy(update={"functions": ["formatting", "correctness"], "weights": None})


def preview_table(preview: rewards.Preview) -> Page:
    """`Preview.table()` to look at."""
    heads = [
        ("reward", "name"),
        ("mean", "num"),
        ("lowest", "num"),
        ("highest", "num"),
        ("groups in which it differs", "num"),
    ]
    rows = [
        [
            row["reward"],
            f"{row['mean']:.2f}",
            number(row["lowest"]),
            number(row["highest"]),
            f"{row['groups that differ']:.0%}",
        ]
        for row in preview.table()
    ]
    return _table(heads, rows)


def show_preview(
    preview: rewards.Preview,
    problems: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[str]],
    reward: RewardParams,
    n: int = 2,
) -> Page:
    """`n` groups beside their pictures, first those whose completions differ in correctness, then in any reward."""
    size = preview.groups.rewards.shape[1]
    right = np.array([verdict.correct for verdict in preview.verdicts]).reshape(-1, size)
    mixed = right.any(axis=1) & ~right.all(axis=1)
    order = sorted(range(len(problems)), key=lambda at: (not mixed[at], preview.groups.spreads[at] == 0))
    rows = []
    for group in order[:n]:
        problem = problems[group]
        shared = {key: problem.get(key) for key in ("pid", "question", "image", "answer", *rewards.GRADING_COLUMNS)}
        for index, text in enumerate(completions[group]):
            at = group * size + index
            verdict = preview.verdicts[at]
            rows.append(
                {
                    **shared,
                    "group": group,
                    "index": index,
                    "completion": text,
                    "rewards": {name: values[at] for name, values in preview.rewards.items()},
                    "reward": preview.totals[at],
                    "advantage": float(preview.groups.advantages[group, index]),
                    "correct": verdict.correct,
                    "reason": verdict.reason,
                }
            )
    return show_samples(rows, n=n, delimiters=_marks(reward))


# ---------------------------------------------------------------- four graders, measured


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
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(MEASURED))[::-1]
        sides = (
            (left, [rates.denied for rates in MEASURED], RIGHT_CASES, plots.ORANGE, "right answers denied"),
            (right, [rates.credited for rates in MEASURED], WRONG_CASES, plots.VERMILION, "wrong answers credited"),
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
            axis.xaxis.set_major_formatter(plots.PercentFormatter(1.0, decimals=0))
            axis.set_title(f"{title}, of {total}")
            axis.grid(axis="y", visible=False)
        left.set_yticks(places, [f"{rates.name}, {rates.microseconds:,.0f} µs" for rates in MEASURED])
    return figure


# ---------------------------------------------------------------- the signal inside a group


def group_figure(groups: Mapping[str, Sequence[float]]) -> Figure:
    """Rewards and advantages of example groups: the first row's bars are rewards with the mean, then both kinds of
    advantage.
    """
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 4.6), layout="constrained")
        axes = figure.subplots(2, len(groups), sharey="row", squeeze=False)
        for column, (name, values) in enumerate(groups.items()):
            place = np.arange(len(values))
            plain = rewards.group_statistics(values, len(values))
            scaled = rewards.group_statistics(values, len(values), scale="group")
            top, bottom = axes[:, column]
            top.bar(place, values, color=plots.SKY, width=0.6)
            top.axhline(plain.means[0], color=plots.VERMILION, linewidth=1.4, linestyle="--")
            top.set_title(f"{name}\nmean {plain.means[0]:.2f}, spread {plain.spreads[0]:.2f}", fontsize=9.5)
            bottom.bar(place - 0.19, plain.advantages[0], color=plots.BLUE, width=0.36, label="minus mean (dr_grpo)")
            bottom.bar(
                place + 0.19, scaled.advantages[0], color=plots.ORANGE, width=0.36, label="... over spread (grpo)"
            )
            bottom.axhline(0, color="#999999", linewidth=0.8)
            for axis in (top, bottom):
                axis.set_xticks(place, [f"#{at + 1}" for at in place])
                axis.grid(axis="x", visible=False)
        axes[0, 0].set_ylabel("reward")
        axes[1, 0].set_ylabel("advantage")
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def signal_figure(sizes: Sequence[int] = (2, 4, 8, 16), marked: float | None = None) -> Figure:
    """The chance that a group holds right and wrong completions, against how often the policy is right.

    `marked` (0 to 1) draws the policy's own rate.
    """
    rate = np.linspace(0, 1, 201)
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 3.2), layout="constrained")
        axis = figure.subplots()
        colors = (plots.SKY, plots.BLUE, plots.GREEN, plots.PURPLE, plots.ORANGE, plots.VERMILION)
        for size, color in zip(sizes, colors, strict=False):
            axis.plot(rate, rewards.signal_chance(rate, size), color=color, label=f"num_generations {size}")
        if marked is not None:
            axis.axvline(marked, color=plots.GREY, linestyle="--", linewidth=1.2)
            axis.text(marked + 0.01, 0.03, f"the policy: {marked:.0%} right", fontsize=8.5, color="#444444")
        axis.set_xlabel("chance that one completion is right")
        axis.xaxis.set_major_formatter(plots.PercentFormatter(1.0))
        axis.yaxis.set_major_formatter(plots.PercentFormatter(1.0))
        axis.set_ylabel("groups with a signal")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def weights_figure(weights: Sequence[tuple[float, float]] = ((1, 2), (1, 0), (3, 2), (0, 2))) -> Figure:
    """Advantages of four typical completions in one group, for pairs of (formatting, correctness) weights."""
    kinds = ("formed, right", "formed, wrong", "right, no\nreasoning", "no blocks")
    form, right = np.array([2, 2, 1, 0]), np.array([1, 0, 1, 0])
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(1, len(weights), sharey=True)
        for axis, (formatting, correctness) in zip(axes, weights, strict=True):
            totals = formatting * form + correctness * right
            advantage = totals - totals.mean()
            colors = [plots.GREEN if value > 0 else plots.VERMILION for value in advantage]
            axis.barh(np.arange(4)[::-1], advantage, color=colors, height=0.6)
            axis.axvline(0, color="#999999", linewidth=0.8)
            axis.set_yticks(np.arange(4)[::-1], kinds)
            axis.set_title(f"formatting {formatting:g}\ncorrectness {correctness:g}", fontsize=9.5)
            axis.grid(axis="y", visible=False)
            axis.set_xlabel("advantage")
    return figure


def shaping_figure(answer: float = 45, max_completion_length: int = 256) -> Figure:
    """What `closeness` pays for each number beside correctness, and `overlong` for each length in tokens."""
    stated = np.arange(0, int(2 * answer) + 5)
    texts = [f"<SOLUTION>{value}</SOLUTION>" for value in stated]
    answers = [f"{answer:g}"] * len(texts)
    close = rewards.closeness_reward_func(texts, texts, answers)
    correct = rewards.correctness_reward_func(texts, texts, answers, correctness_reward=1.0)
    lengths = np.arange(0, int(1.1 * max_completion_length))
    ids = [range(length) for length in lengths]
    punished = rewards.overlong_reward_func(
        [""] * len(ids), max_completion_length=max_completion_length, completion_ids=ids
    )
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(stated, close, color=plots.ORANGE, label="closeness")
        left.plot(stated, correct, color=plots.BLUE, label="correctness / 2", linestyle="--", linewidth=1.3)
        left.set_xlabel(f"number in the solution (answer {answer:g})")
        left.set_ylabel("reward")
        left.set_title("closeness")
        left.legend(loc="upper left")
        right.plot(lengths, punished, color=plots.VERMILION)
        right.axvline(max_completion_length, color=plots.GREY, linestyle="--", linewidth=1.2)
        right.set_xlabel(f"tokens of the completion (limit {max_completion_length})")
        right.set_title("overlong")
    return figure


def preview_figure(preview: rewards.Preview) -> Figure:
    """Totals of all completions, and how many completions of a group are right."""
    size = preview.groups.rewards.shape[1]
    totals = [value for value in preview.totals if value is not None]
    right = np.array([verdict.correct for verdict in preview.verdicts]).reshape(-1, size).sum(axis=1)
    with plots.style():
        figure = plots.Picture(figsize=(plots.WIDTH, 2.9), layout="constrained")
        left, right_side = figure.subplots(1, 2)
        values, counts = np.unique(np.round(totals, 3), return_counts=True)
        if len(values) <= 12:
            width = 0.6 * min(1.0, float(np.diff(values).min()) if len(values) > 1 else 1.0)
            left.bar(values, counts / len(totals), width=width, color=plots.SKY)
        else:
            left.hist(totals, bins=20, weights=np.full(len(totals), 1 / len(totals)), color=plots.SKY)
        left.set_title("total reward of a completion")
        left.set_ylabel("share of completions")
        right_side.bar(np.arange(size + 1), [np.mean(right == count) for count in range(size + 1)], width=0.6,
                   color=[plots.GREY, *[plots.GREEN] * (size - 1), plots.GREY])  # fmt: skip
        right_side.set_title(f"right completions in a group of {size} (grey: no signal)")
        right_side.set_ylabel("share of groups")
        right_side.set_xticks(np.arange(size + 1))
        for axis in (left, right_side):
            axis.yaxis.set_major_formatter(plots.PercentFormatter(1.0, decimals=0))
            axis.grid(axis="x", visible=False)
    return figure


# ---------------------------------------------------------------- the live cell


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
