"""What holds for every number and every text, not for the cases that somebody thought of."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.grading.rules import DEFAULT_DELIMITERS, PROTOCOLS, check_format, grade
from nbhelpers.rewards.functions import correctness_reward_func, formatting_reward_func

# A busy machine is no failure of the grader; its time is measured in tests/benchmarks/bench_grading.py.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CHOICES = ["10 cm", "12 cm", "Dark Magenta", r"\frac{3}{4}"]
GOLDS = [
    {"answer": "45", "answer_type": "integer"},
    {"answer": "0.75", "answer_type": "float", "precision": 2},
    {"answer": "[2, 3]", "answer_type": "list"},
    {"answer": "May", "answer_type": "text"},
    {"answer": "12 cm", "choices": CHOICES, "question_type": "multi_choice"},
]
SPELLINGS = {
    "plain": "{:f}",
    "thousands": "{:,f}",
    "plus or minus": "{:+f}",
    "bold": "**{:f}**",
    "math": "${:f}$",
    "boxed": r"\boxed{{{:f}}}",
    "boxed math": r"$\boxed{{{:f}}}$",
    "degrees": "{:f}°",
    "LaTeX degrees": r"${:f}^{{\circ}}$",
    "unit": "{:f} cm",
    "LaTeX unit": r"{:,f}\,\text{{cm}}^2",
    "assignment": "x = {:f}",
    "sentence": "The answer is {:f}.",
    "label": "Answer: {:f}",
    "brackets": "({:f})",
    "scientific": "{:e}",
}
numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=3, allow_nan=False, allow_infinity=False)
wholes = st.integers(min_value=-(10**9), max_value=10**9)
blanks = st.text(" \n\t", max_size=5)
# Anything, but leaning to what the grader has rules for.
texts = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [
                *DEFAULT_DELIMITERS,
                *CHOICES,
                "45",
                "0.75",
                "[2, 3]",
                "May",
                "A",
                "(B)",
                " ",
                "or",
                "not",
                "=",
                "-",
                ",",
                ".",
                "\\frac{",
                "{",
                "}",
                "\\boxed{",
                "$",
                "^",
                "√",
                "½",
                "%",
                "the answer is",
                "\\text{",
                "e",
                "²",
                "１",
                "\u200b",
                "**",
                "10^",
                "/",
            ]
        ),  # fmt: skip
        max_size=30,
    ).map("".join),
)


def solved(solution: str) -> str:
    return f"<REASONING>because</REASONING><SOLUTION>{solution}</SOLUTION>"


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
@given(number=numbers)
def test_every_rendering_of_a_decimal_is_accepted(spelling, number):
    assert grade(solved(spelling.format(number)), str(number), answer_type="float", precision=3).correct


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
@given(number=wholes)
def test_every_rendering_of_a_whole_number_is_accepted(spelling, number):
    assert grade(solved(spelling.format(Decimal(number))), str(number), answer_type="integer").correct


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=list(SPELLINGS))
@given(number=numbers, data=st.data())
def test_changing_one_digit_is_never_accepted(spelling, number, data):
    text = f"{number:f}"
    at = data.draw(st.sampled_from([place for place, char in enumerate(text) if char.isdigit()]))
    digit = data.draw(st.sampled_from([char for char in "0123456789" if char != text[at]]))
    other = Decimal(text[:at] + digit + text[at + 1 :])
    if other != number:  # -0.000 and 0.000 are one number
        assert not grade(solved(spelling.format(other)), text, answer_type="float", precision=3).correct


@given(number=wholes, shift=st.decimals(min_value="0.001", max_value="0.999", places=3))
def test_a_number_that_only_rounds_to_a_whole_one_is_not_accepted(number, shift):
    assert not grade(solved(f"{number + shift:f}"), str(number), answer_type="integer").correct


@given(one=wholes, other=wholes)
def test_two_numbers_are_never_accepted_for_one(one, other):
    if one != other:
        for hedge in ("{} or {}", "{}, {}", "{} and {}", "between {} and {}", "[{}, {}]", "{}\n{}", "{} to {}"):
            assert not grade(solved(hedge.format(one, other)), str(one), answer_type="integer").correct


@given(top=st.integers(1, 999), bottom=st.integers(2, 999))
def test_a_fraction_is_read_in_every_dress(top, bottom):
    if top % bottom == 0:
        return
    gold = f"{round(Decimal(top) / Decimal(bottom), 5):f}"
    for text in (
        f"{top}/{bottom}",
        f"{top} / {bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"$\dfrac{{{top}}}{{{bottom}}}$",
    ):
        assert grade(solved(text), gold, answer_type="float", precision=5).correct


@given(
    st.lists(
        st.text("abcdefgh ", min_size=4, max_size=12).map(str.strip).filter(len), min_size=2, max_size=6, unique=True
    ),
    st.data(),
)
def test_a_letter_means_its_place_among_the_choices(choices, data):
    at = data.draw(st.integers(0, len(choices) - 1))
    for dress in (
        "{}",
        "({})",
        "{}.",
        "**{}**",
        "Option {}",
        "The answer is {}.",
        r"\boxed{{{}}}",
        "{}) " + choices[at],
    ):
        letter = "ABCDEF"[at]
        given_verdict = grade(solved(dress.format(letter)), choices[at], choices=choices, question_type="multi_choice")
        if len(choices[at]) > 1 and "ABCDEF".find(choices[at].upper()) < 0:
            assert given_verdict.correct, (dress, given_verdict)
        if "ABCDEFG"[len(choices)].lower() == choices[at]:
            continue  # the letter beyond the last is the text of the right choice
        beyond = dress.format("ABCDEFG"[len(choices)]) if "{}) " not in dress else "Z"
        assert not grade(solved(beyond), choices[at], choices=choices, question_type="multi_choice").correct


@pytest.mark.parametrize("gold", GOLDS, ids=lambda gold: gold["answer"])
@given(solution=texts, before=blanks, after=blanks)
def test_blanks_around_a_solution_change_nothing(gold, solution, before, after):
    assert grade(solved(before + solution + after), **gold).correct is grade(solved(solution), **gold).correct


@pytest.mark.parametrize("gold", GOLDS, ids=lambda gold: gold["answer"])
@given(solution=texts, reasoning=st.text("abc 123 < > x", max_size=40), tail=st.text("abc 123\n", max_size=20))
def test_the_reasoning_and_what_stands_around_the_blocks_change_nothing(gold, solution, reasoning, tail):
    if any(mark in solution for mark in DEFAULT_DELIMITERS):
        return
    edited = f"{tail}<REASONING>{reasoning}</REASONING>\n<SOLUTION>{solution}</SOLUTION>{tail}"
    assert grade(edited, **gold) == grade(solved(solution), **gold)


@pytest.mark.parametrize("gold", GOLDS, ids=lambda gold: gold["answer"])
@given(completion=texts)
def test_no_text_raises_and_every_verdict_has_a_reason(gold, completion):
    for protocol in PROTOCOLS:
        for text in (completion, solved(completion)):
            assert grade(text, **gold, protocol=protocol).reason
    assert check_format(completion).reason


@given(completion=texts, answer=texts, choices=st.lists(texts, max_size=4), unit=texts)
def test_no_problem_raises_either(completion, answer, choices, unit):
    for answer_type in ("integer", "float", "list", "text", None):
        grade(solved(completion), answer, choices=choices, unit=unit, answer_type=answer_type)
        grade(solved(completion), answer, unit=unit, answer_type=answer_type, protocol="mathvista")


@given(st.lists(texts, max_size=5))
def test_the_rewards_pay_every_text_something_finite(completions):
    count = len(completions)
    assert all(score in (0.0, 1.0, 2.0) for score in formatting_reward_func(completions))
    scores = correctness_reward_func(["?"] * count, completions, ["45"] * count, answer_type=["integer"] * count)
    assert all(score in (0.0, 2.0) for score in scores)
