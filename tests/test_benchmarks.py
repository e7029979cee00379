"""Other rulers: rows with the exact columns of MathVerse, MATH-Vision and We-Math, and their own rules of scoring."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from nbhelpers.evaluation.we_math import we_math_scores
from nbhelpers.grading import grade
from nbhelpers.params.run_params import RunParams
from nbhelpers.problems import DataError, load_problems

TEXT, NUMBER = datasets.Value("string"), datasets.Value("int64")


def picture(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def loaded(folder, rows, features):
    """The evaluation side of problems stored with exactly these features."""
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(folder / "testmini.parquet")
    sets = {"path": str(folder), "split": "testmini", "eval_fraction": 0.5}
    problems = load_problems(RunParams.load("full", dataset=sets).dataset)
    found = {row["pid"]: row for part in (problems.train, problems.evaluation) for row in part}
    return found, problems


def test_mathverse_keeps_its_choices_its_letter_and_its_versions(tmp_path):
    meta = {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"}
    features = {name: TEXT for name in ("sample_index", "problem_index", "problem_version", "question")}
    features |= {"image": datasets.Image(), "answer": TEXT, "question_type": TEXT}
    features |= {"metadata": dict.fromkeys(meta, TEXT), "query_wo": TEXT, "query_cot": TEXT}
    asked = "What is the size of angle CED?\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°"
    kinds = [("Text Dominant", asked, "D", "multi-choice"), ("Vision Only", "", "B", "multi-choice")]
    kinds += [
        ("Text Lite", "Find the length of AB.", "5.2", "free-form"),
        ("Text Lite", "Find BC now.", "7", "free-form"),
    ]
    rows = [
        {"sample_index": str(place), "problem_index": "1", "problem_version": version, "question": question,
         "image": picture(place), "answer": answer, "question_type": kind, "metadata": meta,
         "query_wo": "Please directly answer.\nQuestion: " + question, "query_cot": ""}
        for place, (version, question, answer, kind) in enumerate(kinds)
    ]  # fmt: skip
    found, _ = loaded(tmp_path, rows, features)
    assert found["0"]["choices"] == ["40°", "60°", "120°", "140°"] and found["0"]["answer"] == "140°"
    assert found["0"]["question"] == "What is the size of angle CED?"
    assert found["1"]["choices"] == list("ABCD") and found["1"]["answer"] == "B"
    assert found["2"]["choices"] is None and found["2"]["answer"] == "5.2"
    assert found["1"]["metadata"]["category"] == "Vision Only"


def test_math_vision_keeps_options_subject_and_level(tmp_path):
    features = {"id": TEXT, "question": TEXT, "options": datasets.List(TEXT), "image": TEXT}
    features |= {"decoded_image": datasets.Image(), "answer": TEXT, "solution": TEXT, "level": NUMBER, "subject": TEXT}
    kinds = [("Which one?\n<image1>", list("ABCDE"), "D"), ("How many bricks?\n<image1>", [], "6"),
             ("How long? <image1>", ["$6 m$", "$8 m$"], "B"), ("Count.\n<image1>\n<image2>", [], "11")]  # fmt: skip
    rows = [
        {"id": str(place), "question": question, "options": options, "image": f"images/{place}.jpg", "answer": answer,
         "decoded_image": picture(place), "solution": None, "level": 2, "subject": "counting"}
        for place, (question, options, answer) in enumerate(kinds)
    ]  # fmt: skip
    found, _ = loaded(tmp_path, rows, features)
    assert found["0"]["question"] == "Which one?" and found["0"]["answer"] == "D"
    assert found["1"]["choices"] is None and found["1"]["answer_type"] == "integer"
    assert found["2"]["answer"] == "$8 m$" and found["2"]["metadata"] == {"category": "counting", "level": 2}


def test_we_math_keeps_its_options_and_what_belongs_together(tmp_path):
    names = ("ID", "split", "knowledge concept", "question", "option", "answer", "key", "knowledge concept description")
    features = dict.fromkeys(names, TEXT) | {"question number": NUMBER, "image_path": datasets.Image()}
    option = "A. 300, 400;B. 400, 300; C. 3000, 4000;    D. No correct answer"
    rows = [
        {"ID": f"2steps_{place}", "split": "testmini", "knowledge concept": "Units",
         "question": f"How long is {place}?",
         "option": option, "answer": "C", "image_path": picture(place), "key": "2steps_multi",
         "question number": place, "knowledge concept description": "..."}
        for place in range(4)
    ]  # fmt: skip
    found, _ = loaded(tmp_path, rows, features)
    row = found["2steps_1/2steps_multi"]
    assert row["choices"] == ["300, 400", "400, 300", "3000, 4000", "No correct answer"]
    assert row["answer"] == "3000, 4000" and row["metadata"]["category"] == "2steps_multi"


def test_we_math_is_read_from_the_list_that_its_repository_has(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for place in range(4):
        picture(place).save(tmp_path / "images" / f"{place}.png")
        row = {"ID": f"2steps_{place}", "split": "testmini", "knowledge concept": "Units", "key": "2steps_1"}
        row |= {"question": f"{place}?", "option": "A. 1; B. 2", "answer": "B", "image_path": f"images/{place}.png"}
        rows.append(row)
    file = tmp_path / "testmini.json"
    file.write_text(json.dumps(rows))
    params = RunParams.load("full", dataset={"path": str(file), "split": "testmini", "eval_fraction": 0.5}).dataset
    found = load_problems(params)
    assert {row["pid"] for row in [*found.train, *found.evaluation]} == {
        f"2steps_{place}/2steps_1" for place in range(4)
    }
    assert found.evaluation[0]["answer"] == "2" and found.evaluation[0]["choices"] == ["1", "2"]
    file.write_text(json.dumps({"rows": rows}))
    with pytest.raises(DataError, match="holds no JSON list of rows"):
        load_problems(params)


CHOICES = {"choices": ["40°", "60°", "120°"], "question_type": "multi_choice"}


@pytest.mark.parametrize(
    ("protocol", "solution", "answer", "columns", "right"),
    [
        ("mathverse", "B", "60°", CHOICES, True),
        ("mathverse", "60°", "60°", CHOICES, False),  # quick match knows the letter only
        ("mathverse", "5.20", "5.2", {}, False),
        ("mathverse", " 5.2 ", "5.2", {}, True),
        ("wemath", "Answer: <B>", "60°", CHOICES, True),
        ("wemath", "B. 60°", "60°", CHOICES, True),
        ("wemath", "it is B", "60°", CHOICES, False),
        ("mathvision", "(B)", "60°", CHOICES, True),
        ("mathvision", "61", "60°", CHOICES, False),
        ("mathvision", "The answer is 60", "60", {}, True),
        ("mathvision", r"$\boxed{\frac{1}{2}}$", "0.5", {}, True),
        ("mathvision", "x = 3.14159", "3.14", {}, True),
        ("mathvision", "3.2", "3.14", {}, False),
    ],
)
def test_each_benchmark_has_its_own_rule(protocol, solution, answer, columns, right):
    completion = f"<REASONING>so</REASONING><SOLUTION>{solution}</SOLUTION>"
    assert grade(completion, answer, protocol=protocol, **columns).correct is right


def test_the_four_dimensional_scores_count_composed_problems():
    def rows(name, *right):
        keys = ("2steps_1", "2steps_2", "2steps_multi")
        return [{"pid": f"{name}/{key}", "correct": value} for key, value in zip(keys, right, strict=True)]

    mastered, rote = rows("a", True, True, True), rows("b", False, False, True)
    half, general = rows("c", True, False, True), rows("d", True, True, False)
    scores = we_math_scores([*mastered, *rote, *half, *general, *rows("e", False, True, False)])
    assert scores["n"] == 5 and scores["insufficient_knowledge"] == pytest.approx(0.2)
    assert scores["inadequate_generalization"] == pytest.approx(0.2)
    assert scores["complete_mastery_strict"] == pytest.approx(0.2)
    assert scores["complete_mastery_loose"] == pytest.approx(0.4)
    assert scores["rote_memorization_strict"] == pytest.approx(2 / 3)
    assert scores["rote_memorization_loose"] == pytest.approx(1 / 3)
    assert scores["score_strict"] == pytest.approx(1 - (0.1 + 0.4 + 0.2))
    assert we_math_scores(rows("a", True, True, True)[:2]) == {"n": 0}
