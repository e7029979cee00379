"""majority@k is the share of k-subsets that a vote wins, and votes are counted as the grader reads answers."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from nbhelpers.evaluation.majority_at_k import majority_curve, vote_curve, votes
from nbhelpers.evaluation.pass_at_k import pass_curve
from nbhelpers.evaluation.telling import sampling_table


def by_hand(marks, k):
    earned = []
    for subset in combinations(marks, k):
        counts = Counter(mark for mark in subset if mark is not None)
        most = max(counts.values(), default=0)
        ahead = [mark for mark, count in counts.items() if count == most]
        earned.append(("right" in ahead) / len(ahead) if ahead else 0.0)
    return sum(earned) / len(earned)


@pytest.mark.parametrize(
    ("right", "wrong", "silent"), [(3, (2, 1), 2), (2, (2, 2), 0), (1, (4,), 1), (0, (3,), 2), (5, (), 0), (0, (), 4)]
)
def test_it_is_the_share_of_subsets_in_which_the_right_answer_has_most_votes(right, wrong, silent):
    marks = ["right"] * right + [str(at) for at, size in enumerate(wrong) for _ in range(size)] + [None] * silent
    curve = majority_curve(right, wrong, silent)
    assert curve == pytest.approx([by_hand(marks, k) for k in range(1, len(marks) + 1)])


def sample(pid, parsed, correct=False, **columns):
    return {"pid": pid, "parsed": parsed, "correct": correct, "answer_type": "integer", **columns}


def test_answers_are_one_where_the_grader_takes_one_for_the_other():
    rows = [sample("a", said) for said in ("7", "7.0", "8", None)] + [sample("a", "5", correct=True)]
    assert votes(rows) == (1, (2, 1), 1)
    # the official protocol compares text
    assert votes(rows, "mathvista") == (1, (1, 1, 1), 1)


def test_choices_are_counted_by_what_they_say():
    choices = {"choices": ["red", "blue", "green"], "question_type": "multi_choice", "answer_type": "text"}
    rows = [sample("a", said, **choices) for said in ("red", "red", "blue")]
    assert votes(rows) == (0, (2, 1), 0)


def test_voting_helps_where_the_right_answer_is_the_most_frequent_one_and_harms_where_it_is_not():
    often = [sample(f"o{p}", "5" if s < 4 else str(10 + s), s < 4) for p in range(6) for s in range(8)]
    rarely = [sample(f"r{p}", "5" if s < 3 else "9", s < 3) for p in range(6) for s in range(8)]
    up, down = vote_curve(often), vote_curve(rarely)
    assert up["majority"][0] == 0.5 and up["majority"][-1] == 1.0
    assert down["majority"][0] == 0.375 and down["majority"][-1] == 0.0
    assert [b["accuracy"] for b in up["agreement"]] == [1.0] and [b["accuracy"] for b in down["agreement"]] == [0.0]
    for (low, high), value in zip(up["majority_interval"], up["majority"], strict=True):
        assert low <= value <= high
    assert vote_curve([]) == {}


def test_the_spread_of_one_problem_is_told_from_that_of_many():
    coins = vote_curve([sample(f"p{p}", str(s % 2), s % 2 == 0) for p in range(40) for s in range(8)])
    assert coins["variance"] == {"within": pytest.approx(0.25 * 8 / 7, abs=1e-4), "between": 0.0}
    sure = vote_curve([sample(f"p{p}", str(p % 2), p % 2 == 0) for p in range(40) for s in range(8)])
    assert sure["variance"]["within"] == 0.0 and sure["variance"]["between"] == pytest.approx(0.2564, abs=1e-3)


def test_greedy_samples_and_votes_stand_side_by_side():
    rows = [
        sample(f"p{p}", "5" if s < right else "9", s < right) | {"kind": "count"}
        for p, right in enumerate((7, 3))
        for s in range(8)
    ]
    curve = pass_curve(rows) | vote_curve(rows) | {"greedy": 0.5}
    table = sampling_table({"pass_at_k": {"after": curve, "temperature": 1.0}})
    said = {line["on the problems that were sampled"]: line["after"] for line in table}
    assert said["greedy"] == "50.0 %" and said["one sample (pass@1)"] == "62.5 %"
    assert said["majority of 8"] == "50.0 %" and said["one of 8 is right (pass@8)"] == "100.0 %"
    assert said["right where 75 to 100 % of the samples agree"] == "100.0 % of 1"
    assert said["right where 50 to 75 % of the samples agree"] == "0.0 % of 1"
    assert sampling_table({}) == []
