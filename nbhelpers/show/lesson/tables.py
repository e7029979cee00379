"""The tables of notebook 02: what completions are paid, how they are judged, and what a preview found."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbhelpers.grading import POLICY, check_format
from nbhelpers.params import DEFAULT_DELIMITERS, RewardParams, percent
from nbhelpers.rewards import GRADING_COLUMNS, RECIPES, Preview, naive_formatting_reward_func, preview
from nbhelpers.show.lesson import material
from nbhelpers.show.pages import Page, is_interactive
from nbhelpers.show.samples import show_samples
from nbhelpers.show.text import number, visible


def _table(heads: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> Page:
    """`heads`: titles with the css class of the column. A cell is text (escaped), or text with classes of its span."""
    top = "".join(f'<th class="{kind}">{html.escape(title)}</th>' for title, kind in heads.items())
    body = []
    for row in rows:
        cells = []
        for kind, cell in zip(heads.values(), row, strict=True):
            text, mark = cell if isinstance(cell, tuple) else (cell, "")
            shown = f"<code>{visible(text)}</code>" if kind == "text" else str(visible(text))
            cells.append(f'<td class="{kind}">{f"<span class={mark!r}>{shown}</span>" if mark else shown}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return Page(f'<table class="pay"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table>')


def _with_marks(text: str, old: Sequence[str], new: Sequence[str]) -> str:
    for mark, other in zip(old, new, strict=True):
        text = text.replace(mark, other)
    return text


def _in_marks(text: str, reward: RewardParams) -> str:
    """`text` with the configured marks in place of the default ones."""
    return _with_marks(text, DEFAULT_DELIMITERS, reward.delimiters)


def pay(rollouts: Mapping[str, str], reward: RewardParams) -> Page:
    """What each configured reward pays for hand-written answers to the angle problem, with the grader's reason.

    Args:
        rollouts: name to completion, written with the default marks.
        reward: the section `reward`.
    """
    texts = [_in_marks(text, reward) for text in rollouts.values()]
    paid = preview([material.ANGLE], [texts], reward, max_completion_length=1024)
    rows = []
    for at, (name, text, verdict) in enumerate(zip(rollouts, texts, paid.verdicts, strict=True)):
        values = [number(values[at]) for values in paid.rewards.values()]
        total = (number(paid.totals[at]), "good" if verdict.correct else "")
        why = f"{check_format(text, reward.delimiters).reason}; {verdict.reason}"
        rows.append([name, text, *values, total, why])
    heads = {"rollout": "name", "completion": "text", **dict.fromkeys([*paid.rewards, "total"], "num"), "why": "reason"}
    return _table(heads, rows)


def judge_spellings() -> Page:
    """Which `SPELLINGS` each grader calls right (green) or wrong (red), boxed where it differs from the strict one."""
    heads = {"solution": "text", **dict.fromkeys(material.GRADERS, "num"), "the strict grader's reason": "reason"}
    rows = []
    for solution in material.SPELLINGS:
        completion = material.thought_out(solution)
        strict = material.verdict_on(completion, material.ANGLE)
        called = [judge(completion, material.ANGLE) for judge in material.GRADERS.values()]
        boxes = ["" if right == strict.correct else " odd" for right in called]
        cells = [
            ("right", f"good{box}") if right else ("wrong", f"bad{box}")
            for right, box in zip(called, boxes, strict=True)
        ]
        rows.append([solution, *cells, strict.reason])
    return _table(heads, rows)


def policy_table() -> Page:
    """`grading.POLICY`: what the strict grader does where one could decide either way, with what the problem asks."""
    rows = []
    for rule in POLICY:
        asked = {key: value for key, value in rule.columns.items() if key != "answer_type"}
        choices = asked.pop("choices", [])
        shown = [", ".join(choices)] * bool(choices) + [f"{key} {value}" for key, value in asked.items()]
        answer = rule.answer + (f"  ({'; '.join(shown)})" if shown else "")
        rows.append([rule.case, rule.solution, answer, ("credited", "good") if rule.credited else ("denied", "bad")])
    return _table({"case": "name", "solution": "text", "answer (what else is asked)": "text", "": "num"}, rows)


def hack_gallery(reward: RewardParams) -> Page:
    """What each hack earns: from the public notebook's rewards, from graders that search the text, and from ours."""
    two = reward.model_copy(update={"functions": ["formatting", "correctness"], "weights": None})
    rows = []
    for hack in material.HACKS:
        form = naive_formatting_reward_func([hack.completion])[0]
        calls = {name: judge(hack.completion, hack.problem) for name, judge in material.GRADERS.items()}
        text = _in_marks(hack.completion, reward)
        ours = preview([hack.problem], [[text]], two)
        why = f"{check_format(text, reward.delimiters).reason}; {ours.verdicts[0].reason}"
        found = calls["contains the answer"] or calls["MathVista's rule"]
        earned = (form + 2.0 * calls["equal strings"], form + 2.0 * found)
        cells = [(number(value), "bad" if value > ours.totals[0] else "") for value in earned]
        rows.append([hack.name, hack.idea, text, *cells, number(ours.totals[0]), why])
    heads = {"hack": "name", "the idea": "idea", "completion": "text", "string": "num", "search": "num", "ours": "num"}
    return _table({**heads, "why": "reason"}, rows)


def judged(text: str, reward: RewardParams) -> Page:
    """What three graders make of a completion of the angle problem: caught, fooled, or a right answer denied.

    Args:
        text: the completion, with the configured marks.
        reward: the section `reward`; what is right is what its grader says.
    """
    plain = _with_marks(text, reward.delimiters, DEFAULT_DELIMITERS)
    right = material.verdict_on(text, material.ANGLE, delimiters=reward.delimiters).correct
    credits = {name: judge(plain, material.ANGLE) for name, judge in material.GRADERS.items()}
    called = {
        "string (the public notebook)": credits["equal strings"],
        "search (the text, or MathVista's rule)": credits["contains the answer"] or credits["MathVista's rule"],
        "ours": right,
    }
    rows = []
    for name, credited in called.items():
        if credited and not right:
            says = (f"you fooled {name.partition(' (')[0]}", "bad")
        elif credited:
            says = ("credited", "good")
        else:
            says = ("denied, though ours calls it right", "bad") if right else ("caught: not credited", "good")
        rows.append([name, says])
    return _table({"grader": "name", "what it says to that": ""}, rows)


def reward_playground(reward: RewardParams) -> Any:
    """A text box whose completion is paid and judged by three graders as one types; the tables for an example where
    nobody is there to type.

    The text is escaped before it is shown, and graded as every completion is: it is never run.
    """

    def found(text: str) -> str:
        return str(Page(pay({"yours": text}, reward).body + judged(text, reward).body))

    example = _in_marks(material.HACKS[6].completion, reward)
    if not is_interactive():
        return Page(pay({"yours": example}, reward).body + judged(example, reward).body)
    import ipywidgets as widgets

    box = widgets.Textarea(value=example, layout=widgets.Layout(width="100%", height="110px"))
    box.add_class("nbh-typed")
    asked, answer = (html.escape(material.ANGLE[key]) for key in ("question", "answer"))
    result = widgets.HTML(value=found(example))
    box.observe(lambda change: setattr(result, "value", found(change["new"])), names="value")
    return widgets.VBox([widgets.HTML(value=f"<b>{asked}</b> &nbsp; answer: <b>{answer}</b>"), box, result])


def recipes() -> Page:
    """`rewards.RECIPES`: which functions each combines, and what it sets beside them."""
    rows = []
    for name, sections in RECIPES.items():
        training = sections.get("training", {})
        settings = {f"training.{key}": value for key, value in training.items() if key != "grpo"}
        settings |= {f"training.grpo.{key}": value for key, value in training.get("grpo", {}).items()}
        sets = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append([name, ", ".join(sections["reward"]["functions"]), sets or "\u2013"])
    return _table({"recipe": "name", "reward.functions": "", "sets": ""}, rows)


def preview_table(found: Preview) -> Page:
    """`Preview.table()` to look at."""
    heads = ["mean", "lowest", "highest", "groups in which it differs"]
    rows = [
        [row["reward"], f"{row['mean']:.2f}", number(row["lowest"]), number(row["highest"])]
        + [percent(row["groups that differ"], 0)]
        for row in found.table()
    ]
    return _table({"reward": "name", **dict.fromkeys(heads, "num")}, rows)


def show_preview(
    found: Preview,
    problems: Sequence[material.Problem],
    completions: Sequence[Sequence[str]],
    reward: RewardParams,
    n: int = 2,
) -> Page:
    """`n` groups beside their pictures, first those whose completions differ in correctness, then in any reward."""
    size = found.groups.rewards.shape[1]
    right = np.array([verdict.correct for verdict in found.verdicts]).reshape(-1, size)
    mixed = right.any(axis=1) & ~right.all(axis=1)
    order = sorted(range(len(problems)), key=lambda at: (not mixed[at], found.groups.spreads[at] == 0))
    rows = []
    for group in order[:n]:
        shared = {key: problems[group].get(key) for key in ("pid", "question", "image", "answer", *GRADING_COLUMNS)}
        for index, text in enumerate(completions[group]):
            at = group * size + index
            verdict = found.verdicts[at]
            paid = {"rewards": {name: values[at] for name, values in found.rewards.items()}, "reward": found.totals[at]}
            paid |= {"advantage": float(found.groups.advantages[group, index])}
            judged = {"correct": verdict.correct, "reason": verdict.reason}
            rows.append({**shared, "group": group, "index": index, "completion": text, **paid, **judged})
    return show_samples(rows, n=n, delimiters=reward.delimiters)
