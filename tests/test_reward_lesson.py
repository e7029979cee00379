"""The material of notebook 02 says what the graders say, and shows whatever one types as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbhelpers.params.sections import RewardParams
from nbhelpers.rewards import previewing
from nbhelpers.rewards.naive import naive_formatting_reward_func
from nbhelpers.show import lesson
from nbhelpers.show.lesson import material

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "grader_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
REWARD = RewardParams()
OTHER_MARKS = RewardParams(
    reasoning_start="<think>", reasoning_end="</think>", solution_start="<answer>", solution_end="</answer>"
)


@pytest.mark.parametrize(
    "rates", [rates for rates in material.MEASURED if "math-verify" not in rates.name], ids=lambda rates: rates.name
)
def test_the_stored_rates_are_those_of_the_cases(rates):
    judge = material.GRADERS[rates.name]
    judged = [(case["expected_correct"], judge(case["completion"], case)) for case in CASES]
    assert (sum(right for right, _ in judged), len(judged)) == (
        material.RIGHT_CASES,
        material.RIGHT_CASES + material.WRONG_CASES,
    )
    assert sum(right and not given for right, given in judged) == rates.denied
    assert sum(given and not right for right, given in judged) == rates.credited


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
    monkeypatch.setenv("NBHELPERS_BATCH", "1")
    assert "45 is the answer" in str(lesson.reward_playground(REWARD))


def test_every_figure_draws():
    preview = previewing.preview([material.ANGLE] * 2, [list(lesson.ROLLOUTS.values())] * 2, REWARD)
    figures = [
        lesson.grader_rates(), lesson.group_figure({"a": [4, 2, 2, 0], "b": [2, 2, 2, 2]}),
        lesson.signal_figure(marked=0.3), lesson.weights_figure(), lesson.shaping_figure(),
        lesson.preview_figure(preview),
    ]  # fmt: skip
    assert all(figure._repr_png_()[0].startswith(b"\x89PNG") for figure in figures)
    assert "groups in which it differs" in str(lesson.preview_table(preview))
    shown = str(lesson.show_preview(preview, [material.ANGLE] * 2, [list(lesson.ROLLOUTS.values())] * 2, REWARD, n=1))
    assert shown.count("45 is the answer") == 3
