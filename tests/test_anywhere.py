"""The tolerant extraction: the answer wherever it stands, and never the best of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbhelpers.grading import GRADING_COLUMNS, grade, grade_anywhere

NUMBER = {"answer_type": "integer", "question_type": "free_form"}
CHOICE = {"choices": ["red", "blue", "Tuesday"], "question_type": "multi_choice", "answer_type": "text"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("<REASONING>3 * 4 = 12.</REASONING><SOLUTION>12</SOLUTION>", "the solution block"),
        ("<REASONING>3 * 4.\n<SOLUTION>12", "the solution block"),
        ("<REASONING>3 * 4</REASONING>\nThe answer is 12.", "announced"),
        ("We have 3 rows of 4. So \\boxed{12} discs are there, of 99.", "boxed"),
        ("Step 1: 3 rows. Step 2: 4 each.\n**12**\nThat was not hard, was it?", "in bold"),
        ("12", "the last line"),
        ("There are 3 rows, each of 4 discs. In all there are 12 discs", "the last line"),
        ("I count 3 rows and 4 columns, then 3 x 4 = 12", "the last"),
    ],
)
def test_it_is_found_where_the_strict_grader_may_not_look(text, place):
    verdict = grade_anywhere(text, "12", **NUMBER)
    assert verdict.correct and verdict.reason.startswith(place)


@pytest.mark.parametrize(
    "text", ["It is 12. No, it is 13.", "The answer is 13, not 12.", "12 or 13", "If 3, the answer is 12."]
)
def test_the_right_answer_among_others_is_not_picked(text):
    assert not grade_anywhere(text, "12", **NUMBER).correct


def test_the_first_place_that_can_be_read_decides_although_it_is_wrong():
    text = "The answer is 12.<SOLUTION>13</SOLUTION>"
    assert not grade_anywhere(text, "12", **NUMBER).correct


@pytest.mark.parametrize("text", ["The answer is B.", "Answer: (B) blue", "so it is blue", "**B**"])
def test_choices_are_found_by_letter_and_text(text):
    assert grade_anywhere(text, "blue", **CHOICE).correct
    assert not grade_anywhere(text, "red", **CHOICE).correct


@pytest.mark.parametrize("text", ["", "I cannot tell.", None, "(A) red (B) blue (C) Tuesday"])
def test_nothing_is_made_up(text):
    assert grade_anywhere(text, "blue", **CHOICE).parsed is None


CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "anywhere_cases.jsonl").read_text("utf-8").splitlines()
]


def judged(case):
    return grade_anywhere(case["completion"], case["answer"], **{key: case.get(key) for key in GRADING_COLUMNS}).correct


def test_answers_of_many_styles_are_found():
    """At first sight (80 cases written before any was tried): 40 of 40 right ones found, 5 of 40 others credited."""
    assert [case["completion"] for case in CASES if case["right"] and not judged(case)] == []


def test_an_answer_that_is_not_given_is_hardly_ever_credited():
    """What is still credited: the last of several numbers of which none is called the answer."""
    assert [case["completion"] for case in CASES if not case["right"] and judged(case)] == [
        "The probability is 3 out of 8.",
        "There were 17 people on Monday and 26 on Tuesday.",
        "To answer this, I need 24 more hours.",
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x = 40. So option B is correct.", "blue"),
        ("(A) red\n(B) blue\n(C) Tuesday", None),
        ("I think of red. The correct choice is (C).", "Tuesday"),
        ("If it rains, option B is correct.", None),
        ("Option A is not correct.", None),
    ],
)
def test_a_letter_is_chosen_in_words_and_a_list_of_options_is_no_answer(text, answer):
    assert [choice for choice in CHOICE["choices"] if grade_anywhere(text, choice, **CHOICE).correct] == (
        [answer] if answer else []
    )


def test_what_is_added_to_a_statement_is_not_its_answer():
    text = "The age gap is 13 years, with the younger being 20 and the older 33."
    assert grade_anywhere(text, "13", **NUMBER).correct and not grade_anywhere(text, "33", **NUMBER).correct
    assert grade_anywhere("There are 4 rows of 3, which makes 12", "12", **NUMBER).correct


def test_what_the_strict_grader_credits_is_credited():
    for text in ("<REASONING>a</REASONING><SOLUTION>12</SOLUTION>", "<SOLUTION>12 cm</SOLUTION>"):
        assert (
            grade(text, "12", unit="cm", **NUMBER).correct and grade_anywhere(text, "12", unit="cm", **NUMBER).correct
        )


def test_a_long_text_is_read_in_no_time():
    import time

    for text in ("answer is " * 50_000, "**" * 100_000, "\\boxed{" * 50_000, "1 " * 200_000, "if. " * 100_000):
        started = time.perf_counter()
        grade_anywhere(text, "12", **NUMBER)
        assert time.perf_counter() - started < 1.0
