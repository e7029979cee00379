"""The gain is the sum of handing in and of being right more often; errors are named by rules that can be read."""

from __future__ import annotations

import pytest

from nbhelpers.evaluation.gain import split_gain
from nbhelpers.evaluation.statistics import compare
from nbhelpers.evaluation.telling import headline, not_taught, readings, split_sentence
from nbhelpers.grading.errors import ERRORS, count_errors, equations, error_kind


def row(pid, phase, correct, anywhere, image=None):
    return {
        "pid": str(pid), "phase": phase, "kind": "count", "correct": correct, "correct_anywhere": anywhere,
        "parsed": "1" if correct else None, "format_ok": correct, "image": image or f"images/{pid}.png",
    }  # fmt: skip


def phase_of(name, handed_in, found, total=100):
    """`handed_in` right answers in their block, `found - handed_in` that stand elsewhere, the rest wrong."""
    return [row(pid, name, pid < handed_in, pid < found) for pid in range(total)]


def test_the_two_parts_are_the_whole_gain():
    before, after = phase_of("before", 20, 50), phase_of("after", 68, 70)
    split = split_gain(before, after, [])
    assert split["anywhere"] == {"before": 0.5, "after": 0.7}
    assert split["hands_in"]["accuracy"] == pytest.approx(0.28)
    assert split["right_more_often"]["accuracy"] == pytest.approx(0.20)
    whole = compare([*before, *after])["difference"]["accuracy"]
    assert split["hands_in"]["accuracy"] + split["right_more_often"]["accuracy"] == pytest.approx(whole)
    for part in ("hands_in", "right_more_often"):
        low, high = split[part]["ci95"]
        assert low < split[part]["accuracy"] < high


def test_a_policy_that_only_learnt_the_format_is_no_more_often_right():
    split = split_gain(phase_of("before", 10, 50), phase_of("after", 50, 50), [])
    low, high = split["right_more_often"]["ci95"]
    assert split["right_more_often"]["accuracy"] == 0 and -0.03 < low < 0 < high < 0.03


def test_the_plain_prompt_is_compared_on_the_problems_that_it_was_asked_for():
    plain = [row(pid, "plain", False, pid < 30) for pid in range(40)]
    split = split_gain(phase_of("before", 0, 10), phase_of("after", 35, 35), plain)
    assert split["plain"]["accuracy"] == 0.75 and split["plain"]["n"] == 40
    assert split["plain"]["difference"]["n_paired"] == 40
    assert split["plain"]["difference"]["accuracy"] == pytest.approx(5 / 40)


def test_the_headline_says_what_the_gain_is_made_of():
    before, after = phase_of("before", 20, 50), phase_of("after", 68, 70)
    plain = [row(pid, "plain", False, pid < 60) for pid in range(80)]
    result = compare([*before, *after]) | {"split": split_gain(before, after, plain)}
    said = headline(result)
    assert "+48.0 points" in said and "+28.0 (" in said and "is handing the answer in" in said
    assert "+20.0 (" in said and "is being right more often" in said
    assert "under a plain prompt (75.0 % of 80 problems)" in said and said.endswith(".")
    assert split_sentence(result["split"]) in said


def test_a_plain_prompt_that_does_worse_is_no_baseline_to_boast_of():
    plain = [row(pid, "plain", False, pid < 2) for pid in range(40)]
    said = split_sentence(split_gain(phase_of("before", 20, 50), phase_of("after", 68, 70), plain))
    assert said.endswith("A plain prompt does not help the base model: 5.0 % of 40 problems.")


def wrong(completion, **given):
    row = {"correct": False, "correct_anywhere": False, "truncated": False, "parsed_anywhere": "7"}
    return row | {"completion": completion} | given


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [
        (None, wrong("", correct=True)),
        ("cut off", wrong("3 + 4 = 8 and", truncated=True, correct_anywhere=True)),
        ("no answer", wrong("I do not know", parsed_anywhere=None)),
        ("format", wrong("3 + 4 = 7, so 7", correct_anywhere=True)),
        ("arithmetic", wrong("rows 3 4, 3 + 4 = 8. <SOLUTION>8</SOLUTION>")),
        ("wrong object", wrong("red 3, blue 4, 3 + 4 = 7. <SOLUTION>7</SOLUTION>")),
        ("no work shown", wrong("At a glance: 6. <SOLUTION>6</SOLUTION>")),
    ],
)
def test_the_first_rule_that_fits_names_the_error(kind, prediction):
    assert error_kind(prediction) == kind


def test_errors_are_counted_with_every_kind_named():
    counts = count_errors([wrong("6"), wrong("3 * 3 = 6"), wrong("", correct=True)])
    assert list(counts) == list(ERRORS) and counts["arithmetic"] == counts["no work shown"] == 1
    assert sum(counts.values()) == 2


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("whole 7 * 6 = 42, notch 2 * 3 = 6, 42 - 6 = 36.", [True, True, True]),
        ("3 + 4 + 5 = 13", [False]),
        ("7 \u00d7 6 = 42 and 10 / 3 = 3.33", [True, True]),
        ("x = 3 and 5 = 5 and 1/0 = 3", []),
        ("__import__('os') + 1 = 2", []),
    ],
)
def test_equations_of_plain_numbers_are_worked_out(text, holds):
    assert equations(text) == holds


def test_the_readings_name_who_was_asked_how():
    before, after = phase_of("before", 0, 1, total=2), phase_of("after", 2, 2, total=2)
    result = {
        "before": {"accuracy": 0.0, "n": 2},
        "after": {"accuracy": 1.0, "n": 2},
        "split": split_gain(before, after, before[:1]),
    }
    assert [(line["policy"], line["prompt"], line["accuracy"]) for line in readings(result)] == [
        ("before training", "training", 0.0),
        ("before training", "training", 0.5),
        ("before training", "plain", 1.0),
        ("after training", "training", 1.0),
        ("after training", "training", 1.0),
    ]
    alone = {"after": {"accuracy": 0.5, "n": 2}, "anywhere": {"training_prompt": 0.75, "plain_prompt": 0.25}}
    assert [line["accuracy"] for line in readings(alone)] == [0.5, 0.75, 0.25]
    assert {line["policy"] for line in readings(alone)} == {"as it is"}


def test_what_was_not_taught_is_what_is_mostly_wrong_with_what_sampling_found():
    errors = dict.fromkeys(ERRORS, 0)
    result = {
        "by_group": {
            "dots": {"n": 4, "before": 0.5, "after": 1.0, "errors": errors},
            "hard": {"n": 4, "before": 0.0, "after": 0.0, "errors": errors | {"arithmetic": 3, "format": 1}},
            "some": {"n": 4, "before": 0.0, "after": 0.25, "errors": errors | {"no answer": 3}},
        },
        "pass_at_k": {"after": {"k": [1, 8], "by_group": {"hard": [0.0, 0.0]}}},
    }
    assert not_taught(result) == [
        {"kind": "hard", "n": 4, "before": 0.0, "after": 0.0, "pass@8 after": 0.0, "mostly": "arithmetic"},
        {"kind": "some", "n": 4, "before": 0.0, "after": 0.25, "mostly": "no answer"},
    ]
