"""The material of notebook 02 says what the graders say, and shows whatever one types as text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nbhelpers.grading import POLICY
from nbhelpers.params.sections import RewardParams
from nbhelpers.rewards import previewing
from nbhelpers.rewards.functions import naive_formatting_reward_func
from nbhelpers.show import lesson
from nbhelpers.show.lesson import material

ROOT = Path(__file__).parents[1]
GRADERS = {rates.name for rates in material.MEASURED}
REWARD = RewardParams()
OTHER_MARKS = RewardParams(
    reasoning_start="<think>", reasoning_end="</think>", solution_start="<answer>", solution_end="</answer>"
)


def flowing(text: str) -> str:
    return " ".join(text.split())


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def notebook() -> str:
    cells = json.loads((ROOT / "notebooks" / "02_reward_design.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def test_the_stored_rates_are_those_that_readme_states():
    """The answers are not in the repository, so nothing can be counted again; what is stated can be held together."""
    stored = [
        f"| {rates.name} | {rates.denied} | {rates.credited} | {rates.microseconds:,} |" for rates in material.MEASURED
    ]
    told = [line for line in readme().splitlines() if line.count("|") == 5 and line.split(" | ")[0][2:] in GRADERS]
    assert told == stored
    assert f"denied (of {material.RIGHT_CASES}) | wrong answers credited (of {material.WRONG_CASES})" in readme()


@pytest.mark.parametrize("text", [readme, notebook])
def test_what_the_rates_were_measured_on_is_said_beside_them(text):
    right, wrong = material.RIGHT_CASES, material.WRONG_CASES
    benchmarks = "five benchmarks (MMMU, MMMU-Pro, TheoremQA, OlympiadBench, MathVerse)"
    assert f"{right + wrong} answers of real models to {benchmarks} that the rules were not built with" in flowing(
        text()
    )
    assert f"{right} of them are right, {wrong} wrong" in flowing(text())
    assert "Since then the six have been mended, so the rate on these cases is no longer held out" in flowing(text())
    assert "2026-11-24" in text() and "2 shared CPU cores, Python 3.11.7, math-verify 0.9.0" in flowing(text())


def test_the_notebook_quotes_the_stored_rates():
    denied = {rates.name: rates.denied for rates in material.MEASURED}
    assert f"**strict** denied {denied['strict']} of the {material.RIGHT_CASES}" in notebook()
    assert f"denies {denied['equal strings']} of the {material.RIGHT_CASES} right answers" in notebook()


def test_the_policy_table_shows_every_rule():
    page = str(lesson.policy_table())
    assert page.count("<tr>") == 1 + len(POLICY)
    assert page.count(">credited<") == sum(rule.credited for rule in POLICY)
    assert "precision 2" in page and "unit m)" in page and "10 cm, 12 cm, 14 cm" in page


@pytest.mark.parametrize("hack", lesson.HACKS, ids=lambda hack: hack.name)
def test_no_hack_earns_more_from_us_than_from_a_naive_reward(hack):
    ours = previewing.preview([hack.problem], [[hack.completion]], REWARD)
    naive = naive_formatting_reward_func([hack.completion])[0]
    graders = [material.GRADERS[name] for name in ("contains the answer", "MathVista's rule")]
    searched = any(judge(hack.completion, hack.problem) for judge in graders)
    assert ours.totals[0] <= naive + 2.0 * searched
    assert not ours.verdicts[0].correct or hack.name == "answer first, excuse later"


def test_the_rollouts_differ_as_the_lesson_says():
    texts = list(lesson.ROLLOUTS.values())
    assert previewing.preview([material.ANGLE], [texts], REWARD).totals == [4.0, 4.0, 2.0, 3.0, 0.0, 1.0]


def test_the_lesson_speaks_the_configured_marks():
    page = str(lesson.pay(lesson.ROLLOUTS, OTHER_MARKS))
    assert "&lt;think&gt;" in page and "REASONING" not in page
    assert str(lesson.hack_gallery(OTHER_MARKS)).count("&lt;answer&gt;") >= len(lesson.HACKS) - 1


def test_what_one_types_is_paid_and_never_becomes_markup(monkeypatch):
    monkeypatch.setenv("NBHELPERS_BATCH", "0")
    playground = lesson.reward_playground(REWARD)
    _, box, result = playground.children
    box.value = "<script>alert(1)</script><SOLUTION>45</SOLUTION>"
    assert "&lt;script&gt;" in result.value and "<script>" not in result.value and "45 is the answer" in result.value
    box.value = lesson.ROLLOUTS["well formed, wrong"]
    assert result.value.count("caught: not credited") == 3
    monkeypatch.setenv("NBHELPERS_BATCH", "1")
    assert "you fooled search" in str(lesson.reward_playground(REWARD))


@pytest.mark.parametrize(
    ("solution", "said"),
    [
        ("45", ["credited", "credited", "credited"]),
        ("90", ["caught: not credited"] * 3),
        ("44 or 45", ["caught: not credited", "you fooled search", "caught: not credited"]),
        ("$45^\\circ$", ["denied, though ours calls it right", "credited", "credited"]),
    ],
)
@pytest.mark.parametrize("reward", [REWARD, OTHER_MARKS], ids=["default marks", "other marks"])
def test_three_graders_say_whether_they_were_fooled(reward, solution, said):
    from nbhelpers.show.lesson.tables import _in_marks, judged

    page = str(judged(_in_marks(material.thought_out(solution), reward), reward))
    found = re.findall(r"(you fooled \w+|caught: not credited|denied, though ours calls it right|credited)<", page)
    assert found == said


def test_every_figure_draws():
    preview = previewing.preview([material.ANGLE] * 2, [list(lesson.ROLLOUTS.values())] * 2, REWARD)
    figures = [
        lesson.grader_rates(), lesson.group_figure({"a": [4, 2, 2, 0], "b": [2, 2, 2, 2]}),
        lesson.signal_figure(sizes=(2, 4), marked=0.3), lesson.weights_figure([(1, 2), (1, 0)]),
        lesson.shaping_figure(45, 256),
        lesson.preview_figure(preview),
    ]  # fmt: skip
    assert all(figure._repr_png_()[0].startswith(b"\x89PNG") for figure in figures)
    assert "groups in which it differs" in str(lesson.preview_table(preview))
    shown = str(lesson.show_preview(preview, [material.ANGLE] * 2, [list(lesson.ROLLOUTS.values())] * 2, REWARD, n=1))
    assert shown.count("45 is the answer") == 3
