"""The grader credits a right answer in any usual spelling, and nothing that hedges, hides or breaks the blocks."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nbhelpers.grading
from nbhelpers.grading import (
    GRADER_VERSION,
    MAX_SOLUTION,
    POLICY,
    Delimiters,
    Verdict,
    can_grade,
    check_format,
    grade,
    split_completion,
)

DATA = Path(__file__).parent / "data"
COLUMNS = ("choices", "unit", "precision", "question_type", "answer_type")
REASONING = "<REASONING>The two angles add up to 90, so x is half of it.</REASONING>"


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def solved(solution: str) -> str:
    return f"{REASONING}<SOLUTION>{solution}</SOLUTION>"


def verdict(solution: str, answer: str = "45", **columns) -> Verdict:
    return grade(solved(solution), answer, **columns)


@pytest.mark.parametrize("case", lines("grader_cases.jsonl"), ids=lambda case: f"{case['group']}-{case['id']}")
def test_a_case_gets_its_expected_verdict(case):
    columns = {key: case[key] for key in COLUMNS}
    given = grade(case["completion"], case["answer"], **columns)
    assert given.correct is case["expected_correct"], (given, case["reason"])
    if case["official_current_on_solution"] is not None:
        official = grade(case["completion"], case["answer"], **columns, protocol="mathvista")
        assert official.correct is case["official_current_on_solution"], official


@pytest.mark.parametrize("case", lines("format_cases.jsonl"), ids=lambda case: case["id"])
def test_a_format_case_gets_its_expected_verdict(case):
    form = check_format(case["completion"])
    assert (form.reasoning and form.solution) is case["expected_format"], (form, case["reason"])


@pytest.mark.parametrize("case", lines("spellings.jsonl"), ids=lambda case: case["group"])
def test_every_spelling_of_the_answer_counts_and_nothing_else(case):
    """`spellings.jsonl` is our own: for each answer the spellings that must count and near misses that must not."""
    columns = {key: case.get(key) for key in COLUMNS}
    denied = [text for text in case["right"] if not verdict(text, case["answer"], **columns).correct]
    credited = [text for text in case["wrong"] if verdict(text, case["answer"], **columns).correct]
    assert (denied, credited) == ([], [])


@pytest.mark.parametrize("case", lines("meaning.jsonl") + lines("meaning_aside.jsonl"), ids=lambda case: case["family"])
def test_a_text_counts_by_its_meaning(case):
    """Our own adversarial cases. `meaning_aside.jsonl` was written before the rules and first run after."""
    columns = {key: case.get(key) for key in COLUMNS}
    denied = [text for text in case["right"] if not verdict(text, case["answer"], **columns).correct]
    credited = [text for text in case["wrong"] if verdict(text, case["answer"], **columns).correct]
    assert (denied, credited) == ([], [])


@pytest.mark.parametrize("rule", POLICY, ids=lambda rule: rule.case)
def test_every_line_of_the_policy_is_what_the_grader_does(rule):
    assert verdict(rule.solution, rule.answer, **dict(rule.columns)).correct is rule.credited


def test_a_changed_verdict_asks_for_a_new_version():
    """A fingerprint of many verdicts, also for another problem. Raise GRADER_VERSION where it changes."""
    cases = lines("spellings.jsonl") + lines("meaning.jsonl") + lines("meaning_aside.jsonl")
    told = []
    for case, asked in zip(cases, cases[1:] + cases[:1], strict=True):
        columns = {key: asked.get(key) for key in COLUMNS}
        told += [verdict(text, asked["answer"], **columns).correct for text in (*case["right"], *case["wrong"])]
    assert (GRADER_VERSION, sum(told), hashlib.sha256(bytes(told)).hexdigest()[:12]) == ("4", 202, "26f069ea030a")


WING = sorted(path.stem for path in Path(nbhelpers.grading.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", WING)
def test_the_examples_of_a_module_hold(name):
    assert doctest.testmod(importlib.import_module(f"nbhelpers.grading.{name}".removesuffix(".__init__"))).failed == 0


def test_grading_needs_nothing_that_is_heavy():
    code = "import sys, nbhelpers.grading; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "transformers", "trl", "numpy", "PIL", "datasets", "math_verify", "sympy"}


@pytest.mark.parametrize(
    ("completion", "correct"),
    [
        ("<SOLUTION>45</SOLUTION>", True),
        (solved("45") + " That is all.", True),
        ("Sure!\n" + solved("\n45\n") + "\n", True),
        (solved("45") + "<SOLUTION>45</SOLUTION>", True),
        (solved("45") + "<SOLUTION>45.0</SOLUTION>", True),
        ("<SOLUTION>45</SOLUTION>" + REASONING, True),
        ("<REASONING>never closed <SOLUTION>45</SOLUTION>", True),
        ("<REASONING>r <SOLUTION>45</SOLUTION></REASONING><SOLUTION>45</SOLUTION>", True),
        ("<REASONING>r <SOLUTION>44</SOLUTION></REASONING><SOLUTION>45</SOLUTION>", False),
        ("<REASONING>r <SOLUTION>45</SOLUTION></REASONING>", False),
        ("<REASONING>r <SOLUTION>45</SOLUTION></REASONING><SOLUTION>44</SOLUTION>", False),
        (solved("45") + "<SOLUTION>44</SOLUTION>", False),
        (solved("45") + "<SOLUTION></SOLUTION>", False),
        (solved("45") + "<SOLUTION>", False),
        (REASONING + "<SOLUTION>45", False),
        (REASONING + "45</SOLUTION>", False),
        (REASONING + "</SOLUTION>45<SOLUTION>", False),
        (REASONING + "<SOLUTION><SOLUTION>45</SOLUTION></SOLUTION>", False),
        (REASONING + "<solution>45</solution>", False),
        ("<REASONING>a<SOLUTION>b</REASONING>45</SOLUTION>", False),
        (f"<SOLUTION>{REASONING}45</SOLUTION>", False),
        ("\\boxed{45}", False),
        ("SOLUTION: 45", False),
        ("", False),
    ],
)
def test_only_closed_agreeing_blocks_outside_the_reasoning_are_read(completion, correct):
    assert grade(completion, "45", answer_type="integer").correct is correct


def test_the_reason_says_what_was_read():
    assert verdict("44", answer_type="integer") == Verdict(False, "44", "44 is not 45")
    assert verdict("45 or 46", answer_type="integer").parsed is None
    choices = {"choices": ["10 cm", "12 cm"], "question_type": "multi_choice"}
    assert verdict("(B)", "12 cm", **choices) == Verdict(True, "12 cm", "letter B: '12 cm' is the answer")
    assert verdict("C", "12 cm", **choices).reason == "letter C is beyond the choices"
    assert verdict("12 mm", "12", unit="cm", answer_type="integer").reason == "12 is in mm, not in cm"
    assert grade("no block", "45").reason == "no solution block"


def test_the_marks_are_parameters():
    marks = Delimiters("<think>", "</think>", "<answer>", "</answer>")
    text = "<think>90 / 2</think>\n<answer>45</answer>"
    assert grade(text, "45", answer_type="integer", delimiters=marks).correct
    assert check_format(text, marks).solution and check_format(text, marks).reasoning
    assert split_completion(text, marks) == ("90 / 2", "45")
    assert not grade(text, "45", answer_type="integer").correct


def test_a_cut_off_completion_is_still_shown():
    assert split_completion("<REASONING>90 / 2</REASONING><SOLUTION>4") == ("90 / 2", "4")
    assert split_completion("hello") == (None, None)


@pytest.mark.parametrize(
    ("completion", "reasoning", "solution"),
    [
        (solved("45"), True, True),
        ("<SOLUTION>45</SOLUTION>", False, True),
        ("<REASONING>a</REASONING><SOLUTION></SOLUTION>", True, False),
        ("<SOLUTION>45</SOLUTION><REASONING>a</REASONING>", True, False),
        ("<REASONING>a<SOLUTION>45</SOLUTION></REASONING>", False, False),
        ("Write between <REASONING> and </REASONING> and between <SOLUTION> and </SOLUTION>.", False, False),
        ("<REASONING>\u200b</REASONING><SOLUTION>45</SOLUTION>", False, True),
    ],
)
def test_each_block_is_judged_by_itself(completion, reasoning, solution):
    form = check_format(completion)
    assert (form.reasoning, form.solution) == (reasoning, solution), form.reason


def test_without_declared_types_the_answer_says_what_is_asked():
    assert verdict("forty-five", "45").correct and not verdict("45.4", "45").correct
    assert verdict("0.754", "0.75").correct and not verdict("0.7", "0.75").correct
    assert verdict("(2, 3)", "[2, 3]").correct
    assert verdict("in May", "May").correct
    assert verdict(r"2\sqrt{221}", r"2 \sqrt { 221 }").correct
    assert verdict("B", "B", choices=["x", "y"]).correct, "a data set may keep the letter as its answer"


def test_what_cannot_be_judged_is_named():
    assert can_grade("45", answer_type="integer") and can_grade("May")
    assert not can_grade(None) and not can_grade(" ") and not can_grade("May", answer_type="integer")
    assert not can_grade("7", choices=["5", "6"], question_type="multi_choice")


def test_values_as_data_frames_hold_them_are_taken():
    assert grade(solved("45"), 45, precision=float("nan"), answer_type="integer").correct
    assert grade(solved("1.2"), "1.2", precision=1.0, answer_type="float").correct
    assert not grade(None, "45").correct


def test_the_official_rule_is_followed_where_it_is_odd():
    choices = {"choices": ["Yes", "No"], "question_type": "multi_choice", "answer_type": "text"}
    empty = grade("no blocks at all", "No", **choices, protocol="mathvista")
    assert empty.correct and empty.parsed is None, "the nearest choice to nothing; the parse failure stays visible"
    assert grade(solved("(B) or (A)"), "No", **choices, protocol="mathvista").correct
    assert grade(solved("32.5"), "32", answer_type="integer", protocol="mathvista").correct
    assert not grade(solved("1,234"), "1234", answer_type="integer", protocol="mathvista").correct
    assert not grade(solved("[2,3]"), "[2, 3]", answer_type="list", protocol="mathvista").correct
    with pytest.raises(ValueError, match="strict, mathvista"):
        grade("", "45", protocol="official")


def test_a_huge_completion_is_read_in_the_time_of_a_small_one():
    """No race against the clock: a quadratic reading of these would take minutes, not part of a second."""
    start = time.perf_counter()
    for text in ("<SOLUTION>" * 10_000, solved("9" * 100_000), solved("\\frac{" * 16_000), solved("- " * 50_000)):
        assert not grade(text, "45", answer_type="integer").correct
    assert time.perf_counter() - start < 1
    assert "no answer" in grade(solved("x" * (MAX_SOLUTION + 1)), "45").reason
