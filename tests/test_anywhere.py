"""The tolerant extraction: the answer wherever it stands, and never the best of several."""

from __future__ import annotations

import pytest

from nbhelpers.grading import grade, grade_anywhere

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
