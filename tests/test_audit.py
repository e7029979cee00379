"""The leakage audit: copies in other clothes are found, look-alikes are left alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from nbhelpers.params.run_params import RunParams
from nbhelpers.problems.audit import Looks, repetitions
from nbhelpers.problems.loading import IN_EVALUATION, load_problems


def figure(number, size=(240, 180)):
    """A drawing of its own for each number: lines and boxes on white."""
    generator, image = np.random.default_rng(number), Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, u, v = (generator.random(4) * [*size, *size] * 0.8 + 15).tolist()
        color = tuple(generator.integers(0, 160, 3).tolist())
        pen.line((x, y, u, v), color, 4)
        pen.rectangle((u, v, u + 25, v + 18), color)
    return image


def problem(number, **changes):
    columns = {"question": f"How long is side {number}?", "choices": None, "answer": str(number)}
    return columns | {"pid": str(number), "image": figure(number)} | changes


def saved_again(image, quality=40):
    image.save(file := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


COPIES = {
    "re-encoded": saved_again,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "inverted": ImageOps.invert,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "with a margin": lambda image: ImageOps.expand(image, (30, 5, 0, 20), "white"),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_found_whatever_is_asked_of_it(copy):
    looks = Looks([problem(number) for number in range(12)])
    for number in (3, 7):
        found = looks.find(problem(99, image=copy(figure(number)), question="Another question?"))
        assert found.other["pid"] == str(number) and found.why.startswith("the same picture")


def test_a_cropped_copy_is_found_by_picture_and_words_together():
    looks = Looks([problem(number) for number in range(12)])
    cropped = figure(5).crop((24, 0, 240, 180))
    found = looks.find(problem(5, image=cropped))
    assert found.other["pid"] == "5" and found.why == "the same question and answer" and found.similarity < 1
    assert looks.find(problem(5, image=cropped, answer="77")) is None or found.similarity >= 0.97


def test_strangers_are_not_accused():
    problems = [problem(number, question="Find x.", answer="5") for number in range(40)]
    assert repetitions(problems) == []
    assert Looks(problems[:20]).find(problems[30]) is None


def test_a_long_question_with_its_answer_is_the_problem_whatever_its_picture():
    words = "A train leaves at nine and goes sixty miles an hour; how far is it at noon?"
    looks = Looks([problem(1, question=words), problem(2)])
    assert looks.find(problem(8, question=words.upper(), answer="1")).other["pid"] == "1"
    assert looks.find(problem(8, question=words, answer="2")) is None


def write(folder, problems):
    (folder / "images").mkdir(parents=True)
    rows = []
    for row in problems:
        row["image"].save(folder / "images" / f"{row['pid']}.png")
        rows.append(row | {"image": f"images/{row['pid']}.png"})
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def sets(**dataset):
    return load_problems(RunParams.load("full", dataset={"split": None, **dataset}).dataset)


def test_what_leaked_is_taken_out_of_training_counted_and_kept_to_be_shown(tmp_path):
    train = write(tmp_path / "train", [problem(number) for number in range(12)])
    copies = [problem(20, image=saved_again(figure(4))), problem(21, image=figure(6)), problem(30)]
    problems = sets(path=train, eval_path=write(tmp_path / "evaluation", copies))
    assert problems.dropped == {IN_EVALUATION: 2} and len(problems.train) == 10
    assert {(one.one["pid"], one.other["pid"]) for one in problems.overlaps} == {("4", "20"), ("6", "21")}
    counted = problems.as_manifest()["overlaps"]
    assert counted == {"the same picture": 1, "the same picture, saved again": 1}


def test_copies_inside_one_data_set_stay_on_one_side(tmp_path):
    rows = [problem(number) for number in range(12)]
    rows += [problem(100 + number, image=saved_again(figure(number))) for number in range(12)]
    problems = sets(path=write(tmp_path / "own", rows), eval_fraction=0.3)
    sides = [{int(pid) % 100 for pid in part["pid"]} for part in (problems.train, problems.evaluation)]
    assert not sides[0] & sides[1] and len(problems.train) + len(problems.evaluation) == 24
    assert problems.as_manifest()["overlaps"] == {"kept on one side": 12}


def test_pictures_that_are_all_alike_are_told_apart_exactly(tmp_path):
    def clock(number):
        image = Image.new("RGB", (120, 120), "white")
        pen = ImageDraw.Draw(image)
        pen.ellipse((5, 5, 115, 115), outline="black", width=4)
        pen.point((60, 20 + number), "black")
        return image

    rows = [problem(number, image=clock(number)) for number in range(10)]
    problems = sets(path=write(tmp_path / "own", rows))
    assert len(problems.evaluation) == 2 and any("only equal ones" in notice for notice in problems.notices)
