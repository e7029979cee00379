from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops

from nbhelpers.problems.drawn import KINDS, PARTS, SIZE, canvas, make_problems, making

FIELDS = {
    "pid",
    "question",
    "image",
    "choices",
    "unit",
    "precision",
    "answer",
    "question_type",
    "answer_type",
    "metadata",
}


def pixels(problem: dict) -> bytes:
    return problem["image"].tobytes()


def things(facts: dict, question: str) -> int:
    """Counted from the things on the sheet, not from the rows that the steps use."""
    word = re.search(r"(?:many|All) (\w+)", question)[1]
    named = sum(word in (colour, f"{shape}s") for _, _, colour, shape, *_ in facts["things"])
    return len(facts["things"]) - named if "taken away" in question else named


def shown(facts: dict, question: str, names: dict) -> list[int]:
    """The values of the names in the question, in their order there."""
    return [names[word] for word in re.findall(r"\w+", question) if word in names]


def recomputed(problem: dict) -> str:
    """The answer, from the scene and the wording of the question alone."""
    facts, question = problem["metadata"]["facts"], problem["question"]
    match problem["metadata"]["category"]:
        case "count" | "left":
            return str(things(facts, question))
        case "difference":
            more, fewer = shown(facts, question, dict(facts["values"]))
            return str(more - fewer)
        case "longest":
            pick = max if "longest" in question else min
            return pick(facts["bars"], key=lambda bar: bar[1])[0]
        case "mean":
            return f"{sum(shown(facts, question, dict(facts['values']))) / 2:.1f}"
        case "share":
            return str(next(end - start for name, start, end in facts["slices"] if f" {name} " in question))
        case "table":
            column = next(at for at, day in enumerate(facts["days"], 1) if question.endswith(f"{day}?"))
            more, fewer = shown(facts, question, {row[0]: row[column] for row in facts["rows"]})
            return str(more - fewer)
        case "decimal":
            return f"{facts['first'] + facts['at'] / facts['parts']:.1f}"
        case "clock":
            return f"{facts['hour']}:{facts['minute']:02d}"
        case "angle":
            return str(facts["degrees"])
        case "point":
            return f"[{facts['right']}, {facts['up']}]"
        case "area":
            return str(facts["wide"] * facts["high"] - facts["cut"][0] * facts["cut"][1])
        case "triangle":
            return str(180 - sum(facts["angles"]) + facts["angles"][facts["asked"]])
        case "field":
            return str(facts["wide"] * facts["high"])
    raise AssertionError(problem)


def test_the_same_seed_draws_the_same_problems():
    first, second = make_problems(28, seed=3), make_problems(28, seed=3)
    assert [pixels(p) for p in first] == [pixels(p) for p in second]
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k != "image"} == {k: v for k, v in b.items() if k != "image"}


def test_another_seed_draws_other_problems():
    assert not {pixels(p) for p in make_problems(28, seed=3)} & {pixels(p) for p in make_problems(28, seed=4)}


def test_a_longer_list_begins_with_the_shorter_one():
    assert [p["pid"] for p in make_problems(20, seed=1)][:7] == [p["pid"] for p in make_problems(7, seed=1)]


def test_kinds_come_in_equal_shares():
    kinds = [p["metadata"]["category"] for p in make_problems(5 * len(KINDS), seed=0)]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 5)


def test_no_picture_comes_twice_in_one_list_or_in_two_parts():
    drawn = {part: [pixels(p) for seed in (0, 1) for p in make_problems(140, seed=seed, part=part)] for part in PARTS}
    for pictures in drawn.values():
        assert len(set(pictures[:140])) == len(set(pictures[140:])) == 140
    warmup, train, evaluation = (set(drawn[part]) for part in PARTS)
    assert not warmup & train and not warmup & evaluation and not train & evaluation


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_holds_enough_pictures_for_a_run_of_any_kind(kind):
    assert len({pixels(p) for p in make_problems(100, kinds=[kind], part="evaluation")}) == 100


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9), part=st.sampled_from(PARTS))
def test_every_problem_has_mathvistas_fields_and_the_answer_that_its_facts_give(seed, part):
    for problem in make_problems(len(KINDS), seed=seed, part=part):
        assert set(problem) == FIELDS
        assert problem["image"].mode == "RGB" and problem["image"].size == (SIZE, SIZE)
        assert problem["metadata"]["description"].endswith(".")
        assert problem["answer"] == recomputed(problem), problem["question"]
        assert json.loads(json.dumps(problem["metadata"])).keys() == problem["metadata"].keys()
        if problem["choices"]:
            assert problem["question_type"] == "multi_choice" and problem["answer"] in problem["choices"]


def test_answers_are_of_many_sorts():
    problems = make_problems(len(KINDS), seed=1)
    assert {p["answer_type"] for p in problems} == {"integer", "float", "text", "list"}
    assert {p["unit"] for p in problems} == {None, "%", "degrees", "square metres"}
    assert any(p["choices"] for p in problems) and any(p["precision"] for p in problems)


def test_what_the_question_asks_about_is_in_the_picture():
    """A colour that is asked for fills pixels; what is not in a scene does not."""
    for problem in make_problems(30, seed=6, kinds=["count", "share"]):
        there = {colour for _, colour in problem["image"].getcolors(SIZE * SIZE)}
        named = {part[2] for part in problem["metadata"]["facts"].get("things", [])}
        named |= {part[0] for part in problem["metadata"]["facts"].get("slices", [])}
        assert {name for name, colour in canvas.COLOURS.items() if colour in there} == named


def test_figures_are_at_least_seven_pixels_high_where_the_model_looks():
    from nbhelpers.embedded.model import IMAGE_SIZE

    left, top, right, bottom = canvas._font(canvas.TEXT).getbbox("0")
    assert (bottom - top) * IMAGE_SIZE / SIZE >= 7


def test_pictures_stay_different_when_the_model_sees_them_small():
    problems = make_problems(112, seed=5)
    small = [p["image"].resize((160, 160), 2) for p in problems]
    for i, one in enumerate(small):
        for other in small[i + 1 :]:
            assert ImageChops.difference(one, other).getbbox() is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kinds=["cuont"]), "did you mean count"),
        (dict(part="eval"), "warmup, train, evaluation"),
        (dict(kinds=[]), "No kind"),
    ],
)
def test_a_wrong_request_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_problems(3, **arguments)


def test_asking_for_more_than_there_is_says_so(monkeypatch):
    import dataclasses

    few = [{"wide": wide, "high": 200, "colour": "red"} for wide in range(300, 304)]
    scarce = dataclasses.replace(making.DRAWN["field"], scene=lambda rng: rng.choice(few))
    monkeypatch.setitem(making.DRAWN, "field", scarce)
    with pytest.raises(ValueError, match="no further picture of kind 'field'"):
        make_problems(5, kinds=["field"], part="warmup")
