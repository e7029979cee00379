from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops

from nbhelpers.problems import drawn
from nbhelpers.problems.drawn import KINDS, PARTS, SIZE, make_problem, make_problems

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


def fraction_of_colour(image, colour: tuple[int, int, int]) -> float:
    def distance(pixel: tuple[int, int, int]) -> int:
        return max(abs(a - b) for a, b in zip(pixel, colour, strict=True))

    near = sum(count for count, pixel in image.getcolors(SIZE * SIZE) if distance(pixel) < 12)
    return near / (SIZE * SIZE)


def test_the_same_seed_draws_the_same_problems():
    first, second = make_problems(12, seed=3), make_problems(12, seed=3)
    assert [pixels(p) for p in first] == [pixels(p) for p in second]
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k != "image"} == {k: v for k, v in b.items() if k != "image"}


def test_another_seed_draws_other_problems():
    assert not {pixels(p) for p in make_problems(12, seed=3)} & {pixels(p) for p in make_problems(12, seed=4)}


def test_a_longer_list_begins_with_the_shorter_one():
    assert [p["pid"] for p in make_problems(20, seed=1)][:7] == [p["pid"] for p in make_problems(7, seed=1)]


def test_kinds_come_in_equal_shares():
    kinds = [p["metadata"]["category"] for p in make_problems(5 * len(KINDS), seed=0)]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 5)


def test_no_picture_comes_twice_in_one_list_or_in_two_parts():
    pictures = [pixels(p) for part in PARTS for seed in (0, 1) for p in make_problems(90, seed=seed, part=part)]
    by_part = [set(pictures[i * 180 : (i + 1) * 180]) for i in range(len(PARTS))]
    assert all(len(set(pictures[i : i + 90])) == 90 for i in range(0, len(pictures), 90))
    assert not by_part[0] & by_part[1] and not by_part[0] & by_part[2] and not by_part[1] & by_part[2]


def test_each_part_holds_enough_pictures_for_a_run_of_any_kind():
    for kind in KINDS:
        assert len({p["metadata"]["picture"] for p in make_problems(100, kinds=[kind], part="evaluation")}) == 100


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), kind=st.sampled_from(KINDS))
def test_every_problem_has_mathvistas_fields_and_a_solution_that_ends_in_its_answer(seed, kind):
    problem = make_problem(random.Random(seed), kind)
    assert set(problem) == FIELDS
    assert problem["image"].mode == "RGB" and problem["image"].size == (SIZE, SIZE)
    assert problem["metadata"]["description"].endswith(".")
    assert re.fullmatch(rf".*\b{problem['answer']}\.", problem["metadata"]["solution"])
    if kind == "tallest":
        assert problem["question_type"] == "multi_choice" and problem["answer"] in problem["choices"]
        assert len(set(problem["choices"])) == 4
    else:
        assert problem["question_type"] == "free_form" and problem["answer_type"] == "integer"
        assert problem["choices"] is None and problem["answer"].isdecimal()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_asked_number_of_dots_is_on_the_paper(seed):
    problem = make_problem(random.Random(seed), "count")
    colour = {"red": (226, 52, 56), "blue": (36, 92, 206)}[problem["question"].split()[2]]
    mean_dot = 3.1416 * 20.5**2 / SIZE**2  # radii are 18 to 23 pixels
    assert 0.7 < fraction_of_colour(problem["image"], colour) / (int(problem["answer"]) * mean_dot) < 1.3


def test_pictures_stay_different_when_the_model_sees_them_small():
    problems = make_problems(120, seed=5)
    small = [p["image"].resize((64, 64), 2) for p in problems]
    for i, one in enumerate(small):
        for other in small[i + 1 :]:
            assert ImageChops.difference(one, other).getbbox() is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kinds=["cuont"]), "Did you mean 'count'"),
        (dict(part="eval"), "warmup, train, evaluation"),
        (dict(kinds=[]), "No kind"),
    ],
)
def test_a_wrong_request_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_problems(3, **arguments)


def test_asking_for_more_than_there_is_says_so(monkeypatch):
    few = [("angle", 30, 0, 120, name) for name in ("red", "blue", "green", "orange")]
    monkeypatch.setitem(drawn._SCENES, "angle", lambda rng: rng.choice(few))
    with pytest.raises(ValueError, match="no further picture of kind 'angle'"):
        make_problems(5, kinds=["angle"], part="warmup")
