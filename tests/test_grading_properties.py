"""What holds for every number and every text, not for the cases that somebody thought of."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nbhelpers.grading import DEFAULT_DELIMITERS, PROTOCOLS, check_format, grade
from nbhelpers.rewards import correctness_reward_func, formatting_reward_func

# A busy machine is no failure of the grader; its time is measured in tests/benchmarks/bench_grading.py.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CHOICES = ["10 cm", "12 cm", "Dark Magenta", r"\frac{3}{4}"]
GOLDS = [
    {"answer": "45", "answer_type": "integer"},
    {"answer": "0.75", "answer_type": "float", "precision": 2},
    {"answer": "[2, 3]", "answer_type": "list"},
    {"answer": "May", "answer_type": "text"},
    {"answer": r"2\sqrt{3}", "answer_type": "text", "precision": 2},
    {"answer": "y = 2x + 1", "answer_type": "text"},
    {"answer": "True", "answer_type": "text"},
    {"answer": "(0, 2]"},
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
    gold = f"{(Decimal(top) / Decimal(bottom)).quantize(Decimal('1e-5'), ROUND_HALF_UP):f}"
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(digits=st.integers(1, 120), power=st.integers(0, 99_999), answer=st.sampled_from(["45", "0.5", "10^{50}", "A"]))
def test_no_number_is_too_large_for_a_rule(protocol, digits, power, answer):
    for said in ("7" * digits, f"10^{{{power}}}", f"0.{'3' * digits}", f"1/3 * 10^{power}"):
        assert not grade(solved(said), answer, protocol=protocol).correct or answer in said
        assert grade(solved(said), said, protocol=protocol).reason


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


# ------------------------------------------------ metamorphic: another spelling keeps, another value loses

whole = st.integers(2, 99)
EXPRESSIONS = {
    "root": (r"{a}\sqrt{{{b}}}", [r"{a} \sqrt {{ {b} }}", "{a}√{b}", "{a}*sqrt({b})", r"\sqrt{{{b}}}\cdot {a}"]),
    "box": (r"{a}\sqrt{{7}}+{b}", [r"So it is $\boxed{{{a}\sqrt{{7}}+{b}}}$.", r"\boxed{{{b} + {a}\sqrt 7}}"]),
    "pi": (r"{a}\pi+{b}", [
        r"{b}+{a}\pi", "{a}π + {b}", "{b} + π*{a}", r"The area is ${b} + {a}\pi$.", r"x = {a}\pi + {b}"]),
    "power": ("x^{{{a}}}+{b}", ["{b}+x^{{{a}}}", "x^{{ {a} }} + {b}", "$x^{{{a}}}+{b}$"]),
    "fraction": (r"\frac{{{a}\sqrt{{3}}}}{{{b}}}", [
        r"\frac{{{a}}}{{{b}}}\sqrt{{3}}", "{a}√3/{b}", r"\dfrac{{{a}\sqrt 3}}{{{b}}}"]),
    "index": ("a_{{{a}}}+{b}", ["{b} + a_{{{a}}}", r"$a_{{{a}}} + {b}$", r"\(a_{{{a}}}+{b}\)"]),
    "point": ("({a}, {b})", [r"\left({a},{b}\right)", "$({a},{b})$", "The point is ({a}, {b})."]),
    "ratio": ("{a}:{b}", ["{a} : {b}", "{a}/{b}", r"\frac{{{a}}}{{{b}}}"]),
}  # fmt: skip


def pays(solution: str, gold: str, **columns) -> bool:
    return grade(solved(solution), gold, **columns).correct


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(a=whole, b=whole)
def test_another_spelling_of_an_expression_keeps_the_verdict(name, a, b):
    gold, spellings = EXPRESSIONS[name]
    if name == "ratio" and (a % b == 0 or b % a == 0):
        return  # a division left undone is no finished answer
    for spelling in (gold, *spellings):
        assert pays(spelling.format(a=a, b=b), gold.format(a=a, b=b), answer_type="text"), spelling


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(a=whole, b=whole, other=whole)
def test_another_digit_index_sign_or_brace_loses_it(name, a, b, other):
    gold, spellings = EXPRESSIONS[name]
    right = gold.format(a=a, b=b)
    for spelling in (gold, *spellings):
        changed = {"-" + right, right + "1", right + " or " + gold.format(a=a + 1, b=b)}
        changed |= {
            spelling.format(a=a, b=other) if other != b else "",
            spelling.format(a=other, b=b) if other != a else "",
        }
        if name in ("root", "power", "index"):
            changed.add(right.replace("{", "", 1).replace("}", "", 1) + "7")
        for text in changed - {"", right}:
            if name == "root" and a * a * b in (other * other * b, a * a * other):
                continue  # 2√8 is 4√2
            assert not pays(text, right, answer_type="text"), text


@given(value=whole, unit=st.sampled_from(["cm", "m", "kg", "°"]), other=st.sampled_from(["mm", "s", "%", "L"]))
def test_another_unit_loses_and_a_missing_one_keeps(value, unit, other):
    columns = {"unit": unit, "answer_type": "integer"}
    assert pays(f"{value} {unit}", str(value), **columns) and pays(str(value), str(value), **columns)
    assert not pays(f"{value} {other}", str(value), **columns)


near = st.sampled_from([
    "a", "A", "aa", "Aa", "AA", "f", "f'", ".5", "5", "0.5", "5!", "50", r"\frac{1}{2\pi}", r"\frac{1}{2}\pi",
    "e^{2x}", "e^2x", "23", r"2\cdot 3", r"\sqrt{23}", r"\sqrt{2}\cdot 3", "2:3", "2/3", "(0, 1)", "[0, 1]", "(0, 1]",
    "12 cm", "12 m", "12", "x_1", "x1", "no change", "change", "60-k", "60+k", "None of these", "12 or 14",
    "50%"])  # fmt: skip


@given(choices=st.lists(near, min_size=2, max_size=6, unique=True), data=st.data())
def test_no_text_is_paid_as_two_different_choices(choices, data):
    text = data.draw(st.one_of(st.sampled_from(choices), near, st.sampled_from("ABCDEF")))
    dress = data.draw(st.sampled_from(["{}", "({})", "{}.", r"\boxed{{{}}}", "The answer is {}.", "${}$", "**{}**"]))
    paid = [
        choice for choice in choices if pays(dress.format(text), choice, choices=choices, question_type="multi_choice")
    ]
    assert len(paid) <= 1
    if dress == "{}" and text in choices and len(text) > 1:
        assert paid == [text], "the text of a choice names that choice"


HEDGES = [
    "{0}", "{1}", "{0} or {1}", "{0} and {1}", "{0}, {1}", "{0} = {1}", "{0} ≈ {1}", "{0} ({1})", "{0}%",
    r"\boxed{{{0}}} or {1}", r"\boxed{{{0}}} \boxed{{{1}}}", "The answer is {0}. The answer is {1}.",
    "either {0} or {1}", "{0}; {1}", "x = {0}, y = {1}", "{0}5", "between {0} and {1}", "{0} cm = {1} m", "{0} is {1}",
    "So {0}. Thus, {1}.", "{0}e0", "{0}/1", "about {0}", "{0} vs {1}", "{0}.5", "not {0} but {1}",
    "{0} to {1}", "{0}\n{1}", "[{0}, {1}]", "{0}: {1}", "{0} maybe {1}",
    "The larger of {0} and {1} is {1}", "{0}, actually {1}", "{0}|{1}"]  # fmt: skip


@st.composite
def two_golds(draw) -> tuple[str, str, dict]:
    """Two gold answers of one problem that its precision tells apart."""
    kind = draw(st.sampled_from(["integer", "float", "float without", "text number", "text expression"]))
    one = draw(st.decimals(min_value=-999, max_value=999, places=draw(st.integers(0, 3))))
    step = draw(st.integers(1, 30) | st.sampled_from([100, 1000]))
    if kind == "integer":
        return str(int(one)), str(int(one) + step), {"answer_type": "integer"}
    if kind == "text expression":
        shape = draw(st.sampled_from([r"{}\sqrt{{2}}", r"{}\pi", r"\sqrt{{{}}}", "{}x+1", "x^{{{}}}"]))
        one = draw(st.integers(2, 99))
        return shape.format(one), shape.format(one + step), {"answer_type": "text"}
    places = draw(st.integers(0, 3))
    one = round(one, places)
    other = one + step * Decimal(1).scaleb(-places) if draw(st.booleans()) else one / 100 if places == 3 else one + step
    columns = {"float": {"answer_type": "float", "precision": places}, "float without": {"answer_type": "float"}}
    return f"{one + 0:f}", f"{round(other, places) + 0:f}", columns.get(kind, {"answer_type": "text"})


@settings(max_examples=2000)
@given(golds=two_golds(), hedge=st.sampled_from(HEDGES), swap=st.booleans())
def test_two_golds_that_the_precision_tells_apart_are_never_both_paid(golds, hedge, swap):
    one, other, columns = golds
    assume(one != other)
    text = hedge.format(*((other, one) if swap else (one, other)))
    assert not (pays(text, one, **columns) and pays(text, other, **columns)), text
