"""Rewards with TRL's signature, and what groups of them say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nbhelpers.grading import GRADING_COLUMNS
from nbhelpers.params.sections import REWARD_FUNCTIONS, RewardParams
from nbhelpers.rewards import naive_correctness_reward_func, previewing
from nbhelpers.rewards.functions import (
    BUILT_IN,
    RECIPES,
    closeness_reward_func,
    correctness_reward_func,
    formatting_reward_func,
    overlong_reward_func,
    repetition_reward_func,
)
from nbhelpers.rewards.groups import group_statistics, signal_chance
from nbhelpers.rewards.guarding import RewardError
from nbhelpers.rewards.making import make_reward_funcs

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "grader_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
RIGHT = "<REASONING>90 / 2</REASONING><SOLUTION>45</SOLUTION>"
WRONG = "<REASONING>90 / 2</REASONING><SOLUTION>44</SOLUTION>"


def pay(function, *completions, answer="45", answer_type="integer", **columns):
    count = len(completions)
    columns = {key: [value] * count for key, value in columns.items()}
    return function(
        prompts=["?"] * count,
        completions=list(completions),
        answer=[answer] * count,
        answer_type=[answer_type] * count,
        **columns,
    )


def test_the_shared_cases_are_paid_as_trl_would_ask():
    columns = {key: [case[key] for case in CASES] for key in GRADING_COLUMNS}
    completions = [[{"role": "assistant", "content": case["completion"]}] for case in CASES]
    answers = [case["answer"] for case in CASES]
    prompts = [[{"role": "user", "content": "?"}]] * len(CASES)
    paid = correctness_reward_func(prompts, completions, answers, **columns)
    assert paid == [2.0 if case["expected_correct"] else 0.0 for case in CASES]
    judged = [
        (case["expected_format"], score) for case, score in zip(CASES, formatting_reward_func(completions), strict=True)
    ]
    assert all((score == 2.0) is expected for expected, score in judged if expected is not None)


def test_the_public_notebooks_string_comparison_denies_most_right_answers():
    paid = naive_correctness_reward_func(
        [None] * len(CASES), [case["completion"] for case in CASES], [c["answer"] for c in CASES]
    )
    denied = sum(case["expected_correct"] and score == 0 for case, score in zip(CASES, paid, strict=True))
    credited = sum(not case["expected_correct"] and score > 0 for case, score in zip(CASES, paid, strict=True))
    assert (denied, credited) == (128, 0)


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        [{"role": "assistant", "content": RIGHT}],
        [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}],
    ],
)
def test_completions_are_texts_or_messages(completion):
    assert pay(correctness_reward_func, completion) == [2.0]
    assert formatting_reward_func([completion]) == [2.0]


@pytest.mark.parametrize("completion", [None, [], {}, 3, [{"role": "assistant"}]])
def test_a_completion_without_text_earns_nothing(completion):
    assert pay(correctness_reward_func, completion) == [0.0]
    assert formatting_reward_func([completion]) == [0.0]


def test_a_row_without_an_answer_is_not_judged():
    assert pay(correctness_reward_func, RIGHT, answer=None) == [None]
    assert pay(correctness_reward_func, RIGHT, answer="May") == [None]
    assert pay(closeness_reward_func, RIGHT, answer="May", answer_type="text") == [None]


def test_the_share_of_unread_answers_reaches_trls_log():
    logged = {}
    correctness_reward_func(["?"] * 4, [RIGHT, WRONG, "45", ""], ["45"] * 4, log_metric=logged.__setitem__)
    assert logged == {"unparsed_rate": 0.5}


def test_closeness_rises_towards_the_answer_and_jumps_at_it():
    solutions = ["0", "20", "40", "44", "45", "46", "200", "none"]
    paid = pay(closeness_reward_func, *[f"<SOLUTION>{text}</SOLUTION>" for text in solutions])
    assert paid[:5] == sorted(paid[:5]) and paid[4] == 1.0 and paid[3] < 0.5
    assert paid[3] == paid[5] and paid[6:] == [0.0, 0.0]


def test_overlong_falls_over_the_last_fifth_and_needs_token_counts():
    ids = [[0] * length for length in (10, 80, 90, 100)]
    assert overlong_reward_func(["a"] * 4, max_completion_length=100, completion_ids=ids) == [
        0.0,
        0.0,
        -0.5,
        -1.0,
    ]
    assert overlong_reward_func(["a"], max_completion_length=100) == [None]


def test_repetition_counts_repeated_triples():
    assert repetition_reward_func(["one two three four", "one two", ""]) == [0.0, 0.0, 0.0]
    assert repetition_reward_func(["so so so so so"]) == [pytest.approx(-2 / 3)]


def test_configured_rewards_keep_order_names_values_and_marks():
    from trl.trainer.utils import get_callable_name

    params = RewardParams(
        reasoning_start="<think>", reasoning_end="</think>", solution_start="<answer>", solution_end="</answer>",
        formatting_reward=0.5, correctness_reward=3.0, functions=["correctness", "formatting"],
    )  # fmt: skip
    functions = make_reward_funcs(params)
    assert [get_callable_name(function) for function in functions] == ["correctness", "formatting"]
    assert [pay(function, "<think>a</think><answer>45</answer>", RIGHT) for function in functions] == [
        [3.0, 0.0],
        [1.0, 0.0],
    ]


def test_every_reward_that_parameters_allow_exists():
    assert tuple(BUILT_IN) == REWARD_FUNCTIONS
    params = RewardParams(functions=list(REWARD_FUNCTIONS))
    for function in make_reward_funcs(params, max_completion_length=100):
        assert len(pay(function, RIGHT, WRONG, completion_ids=[1, 2])) == 2


def test_a_user_brings_a_reward_of_their_own(tmp_path, monkeypatch):
    source = "def politeness(completions, **kwargs):\n    return [float('please' in c) for c in completions]\n"
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    (function,) = make_reward_funcs(RewardParams(functions=["my_rewards:politeness"]))
    assert function.__name__ == "politeness" and pay(function, "please", "now") == [1.0, 0.0]
    with pytest.raises(RewardError, match="did you mean politeness"):
        make_reward_funcs(RewardParams(functions=["my_rewards:politenes"]))
    with pytest.raises(RewardError, match="cannot import module 'no_such_module'"):
        make_reward_funcs(RewardParams(functions=["no_such_module:f"]))
    sys.modules.pop("my_rewards", None)


def test_unknown_rewards_name_the_nearest_and_overlong_its_need():
    with pytest.raises(ValueError, match="did you mean correctness"):
        RewardParams(functions=["corectness"])
    with pytest.raises(ValueError, match="needs max_completion_length"):
        make_reward_funcs(RewardParams(functions=["overlong"]))


def test_recipes_are_valid_sections():
    from nbhelpers.params.run_params import RunParams

    for sections in RECIPES.values():
        assert RunParams.load("smoke", **sections).reward.functions == sections["reward"]["functions"]


def test_group_statistics_are_those_of_trl():
    groups = group_statistics([4, 2, 2, 0, 2, 2, 2, 2], 4)
    assert groups.means.tolist() == [2, 2] and groups.zero_variance == 0.5
    assert groups.spreads[0] == pytest.approx(np.std([4, 2, 2, 0], ddof=1))
    assert groups.advantages.tolist() == [[2, 0, 0, -2], [0, 0, 0, 0]]
    scaled = group_statistics([4, 2, 2, 0], 4, scale="group")
    assert scaled.advantages[0] == pytest.approx(np.array([2, 0, 0, -2]) / (np.std([4, 2, 2, 0], ddof=1) + 1e-4))
    gap = group_statistics([4, None, 2, 0], 4)
    assert gap.means.tolist() == [2] and gap.advantages[0, 1] == 0
    for rewards_given, size, scale in (([1, 2, 3], 2, "none"), ([], 2, "none"), ([1, 2], 2, "batch")):
        with pytest.raises(ValueError):
            group_statistics(rewards_given, size, scale)


def test_the_chance_of_a_signal_is_that_of_a_mixed_group():
    assert signal_chance(0.5, 2) == pytest.approx(0.5)
    assert signal_chance(0.0, 8) == signal_chance(1.0, 8) == 0
    assert signal_chance(0.1, 16) > signal_chance(0.1, 4)


PROBLEM = {"question": "?", "answer": "45", "answer_type": "integer", "question_type": "free_form", "choices": None}


def test_a_preview_pays_judges_and_stays_silent_when_there_is_something_to_learn():
    result = previewing.preview([PROBLEM] * 2, [[RIGHT, WRONG], [WRONG, "no blocks"]], RewardParams())
    assert result.rewards == {"formatting": [2.0, 2.0, 2.0, 0.0], "correctness": [2.0, 0.0, 0.0, 0.0]}
    assert result.totals == [4.0, 2.0, 2.0, 0.0] and result.warning == ""
    assert (result.correct, result.formatted, result.unparsed) == (0.25, 0.75, 0.25)
    assert [row["reward"] for row in result.table()] == ["formatting", "correctness", "total"]
    assert [row["groups that differ"] for row in result.table()] == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("completions", "words"),
    [
        ([[WRONG, WRONG]] * 4, "Only 0.0 % of the completions are right"),
        ([["no", "no"]] * 4, "look at the format first"),
        ([[RIGHT, RIGHT]] * 4, "nothing left to learn"),
        ([[RIGHT, RIGHT]] * 6 + [[WRONG, WRONG]] * 6, "carry no signal"),
    ],
)
def test_a_preview_warns_when_nothing_can_be_learnt(completions, words):
    assert words in previewing.preview([PROBLEM] * len(completions), completions, RewardParams()).warning


def test_a_preview_wants_one_group_per_problem():
    with pytest.raises(ValueError, match="one group per problem"):
        previewing.preview([PROBLEM], [[RIGHT], [RIGHT]], RewardParams())
