"""Problems: every source gives the same kind of row, nothing is dropped silently, nothing is on both sides."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import example as for_example
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import RewardParams
from nbhelpers.problems.asking import conversation, decode_once, grpo_dataset, kind_of, prompt_text
from nbhelpers.problems.cutting import cut_problems
from nbhelpers.problems.describing import guessing_rates, overlap, type_counts
from nbhelpers.problems.loading import (
    IN_EVALUATION,
    MATHVISTA_LICENCE,
    OUTSIDE_ANSWER_TYPES,
    licence_notice,
    load_problems,
)
from nbhelpers.problems.pictures import Unusable, prepare_image
from nbhelpers.problems.rows import problem_from
from nbhelpers.problems.sources import DataError

FIELDS = {
    "pid", "question", "image", "choices", "unit", "precision", "answer", "question_type", "answer_type", "metadata"
}  # fmt: skip
FORMAT = (
    "Provide your reasoning between <REASONING> and </REASONING> "
    "and then your final answer between <SOLUTION> and </SOLUTION>."
)


def load(**dataset):
    return load_problems(RunParams.load("full", dataset={"split": None, **dataset}).dataset)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of its own for each number."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def png(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=options.pop("format", "PNG"), **options)
    return file.getvalue()


def row(number: int = 0, **changes) -> dict:
    return {"question": f"How many are {number}?", "image": picture(number), "answer": str(number)} | changes


@pytest.fixture
def folder(tmp_path):
    """Writes a local folder with items.jsonl; pictures are given as PIL images."""

    def write(rows: list[dict], name: str = "own") -> str:
        target = tmp_path / name
        (target / "images").mkdir(parents=True)
        lines = []
        for number, item in enumerate(rows):
            if isinstance(item.get("image"), Image.Image):
                item["image"].save(target / "images" / f"{number}.png")
                item = item | {"image": f"images/{number}.png"}
            lines.append(json.dumps(item, ensure_ascii=False))
        (target / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(target)

    return write


class TestPrompt:
    def test_choices_are_lettered_and_the_letter_is_asked_for(self):
        problem = problem_from(row(choices=["4 cm", "5 cm"], answer="5 cm", unit="cm", question="How long?"), "0", 64)
        assert prompt_text(problem, RewardParams()).split("\n") == [
            "How long?", "Choices:", "(A) 4 cm", "(B) 5 cm", "Unit: cm", "Answer with the letter of the right choice.",
            FORMAT,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("fields", "hint"),
        [
            ({"answer": "5"}, ["Answer with an integer."]),
            ({"answer": "5.2"}, ["Answer with a number with 1 decimal place."]),
            ({"answer": "5.25"}, ["Answer with a number with 2 decimal places."]),
            ({"answer": "5.2", "answer_type": "float"}, ["Answer with a number."]),
            ({"answer": "[1, 2]"}, ["Answer with a list, such as [1, 2, 3]."]),
            ({"answer": "blue"}, []),
            ({"answer": "5", "unit": "years"}, ["Unit: years", "Answer with an integer."]),
        ],
    )
    def test_unit_and_precision_reach_the_prompt(self, fields, hint):
        problem = problem_from(row(question="How much?") | fields, "0", 64)
        assert prompt_text(problem, RewardParams()).split("\n") == ["How much?", *hint, FORMAT]

    def test_the_users_own_delimiters_are_asked_for(self):
        reward = RewardParams(
            reasoning_start="<think>", reasoning_end="</think>", solution_start="[[", solution_end="]]"
        )
        text = prompt_text(problem_from(row(), "0", 64), reward)
        assert text.endswith("between <think> and </think> and then your final answer between [[ and ]].")

    def test_a_conversation_shows_the_picture_first(self):
        problem = problem_from(row(), "0", 64)
        (turn,) = conversation(problem, RewardParams())
        assert turn["role"] == "user"
        assert turn["content"] == [{"type": "image"}, {"type": "text", "text": prompt_text(problem, RewardParams())}]


class TestRows:
    def test_a_row_of_mathvistas_fields_is_kept_as_it_is(self):
        given_row = row(
            pid="7", choices=None, unit="years", precision=1.0, answer="1.2", question_type="free_form",
            answer_type="float", metadata={"task": "textbook question answering", "category": "general-vqa"},
        )  # fmt: skip
        problem = problem_from(given_row, "0", 64)
        assert set(problem) == FIELDS
        assert {key: problem[key] for key in given_row if key != "image"} == {
            key: value for key, value in given_row.items() if key != "image"
        }
        assert kind_of(problem) == "textbook question answering"

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("3", ("3", "integer", None)),
            ("$-12$", ("-12", "integer", None)),
            ("\u22123", ("-3", "integer", None)),
            ("1,234", ("1234", "integer", None)),
            ("6.50", ("6.50", "float", 2.0)),
            (".5", (".5", "float", 1.0)),
            ("[0, 2]", ("[0, 2]", "list", None)),
            ("2 \\sqrt { 221 }", ("2 \\sqrt { 221 }", "text", None)),
            ("1/2", ("1/2", "text", None)),
            ("12, 34", ("12, 34", "text", None)),
            (7, ("7", "integer", None)),
        ],
    )
    def test_the_type_of_an_answer_without_one_is_read_off(self, answer, expected):
        problem = problem_from(row(answer=answer), "0", 64)
        assert (problem["answer"], problem["answer_type"], problem["precision"]) == expected
        assert problem["question_type"] == "free_form"

    def test_a_choice_may_be_given_by_its_letter(self):
        choices = ["red", "blue"]
        assert problem_from(row(choices=choices, answer="B"), "0", 64)["answer"] == "blue"
        assert problem_from(row(choices=choices, answer="(A)"), "0", 64)["answer"] == "red"
        # A choice that is a letter itself stands for itself.
        assert problem_from(row(choices=["B", "A"], answer="B"), "0", 64)["answer"] == "B"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"question": " "}, "no question"),
            ({"answer": None}, "no answer"),
            ({"answer": ""}, "no answer"),
            ({"choices": ["a", "b"], "answer": "c"}, "answer not among the choices"),
            ({"choices": ["a", "b"], "answer": "C"}, "answer not among the choices"),
            ({"choices": [], "question_type": "multi_choice"}, "multiple choice without choices"),
            ({"choices": [str(n) for n in range(27)], "answer": "1"}, "more than 26 choices"),
            ({"question": "See <start_of_image>?"}, "a special token of the chat template in the text"),
            ({"image": None}, "no picture"),
            ({"image": "nowhere.png"}, "no picture"),
            ({"image": [picture(1), picture(2)]}, "more than one picture"),
            ({"image": b"not a picture"}, "unreadable picture"),
            ({"image": png(picture(1, (200, 200)))[:500]}, "unreadable picture"),
        ],
    )
    def test_a_row_that_cannot_be_used_says_why(self, changes, reason):
        with pytest.raises(Unusable) as error:
            problem_from(row() | changes, "0", 64)
        assert str(error.value) == reason

    @pytest.mark.parametrize("text", ["What is $x$ in $\\frac{1}{2}$?", "图中有几个点?", "<b>bold</b> & <script>"])
    def test_text_stays_as_it_is(self, text):
        problem = problem_from(row(question=text), "0", 64)
        assert problem["question"] == text
        assert prompt_text(problem, RewardParams()).startswith(text + "\n")


class TestPictures:
    def test_the_longest_side_is_limited_and_the_aspect_ratio_kept(self):
        assert prepare_image(picture(0, (1000, 500)), 512).size == (512, 256)
        assert prepare_image(picture(0, (30, 300)), 100).size == (10, 100)
        assert prepare_image(picture(0, (1, 3000)), 100).size == (1, 100)

    def test_a_small_picture_is_never_enlarged(self):
        small = picture(0, (40, 30))
        assert prepare_image(small, 512).size == (40, 30)
        assert prepare_image(small, 512).tobytes() == small.tobytes()

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
    def test_transparent_parts_become_white(self, mode):
        image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
        image.putpixel((1, 1), (0, 0, 255, 255))
        if mode == "P":
            image = Image.open(io.BytesIO(png(image, format="GIF", transparency=0)))
            assert image.mode == "P"
        elif mode == "PA":
            paletted = image.convert("RGB").quantize(2)
            image = paletted.convert("PA")
            image.putalpha(Image.new("L", (4, 4), 0))
        else:
            image = image.convert(mode)
        ready = prepare_image(image, 64)
        assert ready.mode == "RGB"
        assert ready.getpixel((0, 0)) == (255, 255, 255)

    def test_sixteen_bits_become_eight(self):
        levels = np.array([[0, 32768], [65535, 257]], dtype=np.uint16)
        ready = prepare_image(png(Image.fromarray(levels)), 64)
        assert [ready.getpixel(place)[0] for place in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 128, 255, 1]

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "I", "F", "RGBX"])
    def test_every_mode_becomes_rgb(self, mode):
        grey = Image.new("L", (4, 4), 255)
        image = (
            Image.new("LAB", (4, 4), (255, 128, 128))
            if mode == "LAB"
            else grey.convert("RGB").convert("L" if mode in ("I", "F") else "RGB").convert(mode)
        )
        assert np.asarray(prepare_image(image, 64)).min() >= 250

    def test_a_photograph_is_turned_upright(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        ready = prepare_image(png(picture(0, (40, 30)), format="JPEG", exif=exif), 64)
        assert ready.size == (30, 40)

    def test_a_decompression_bomb_is_refused_before_it_is_decoded(self):
        small = png(Image.new("1", (8, 8)))
        for side in (7_100, 30_000):  # above our limit, and above the one at which Pillow itself stops
            header = small[12:16] + side.to_bytes(4, "big") * 2 + small[24:29]
            bomb = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
            with pytest.raises(Unusable, match="more than 16 megapixels"):
                prepare_image(bomb, 512)


def mathvista_rows(n: int) -> list[dict]:
    rows = []
    for number in range(n):
        many = number % 2 == 0
        rows.append(
            {
                "pid": str(number + 1),
                "question": f"What is number {number}?",
                "image": f"images/{number + 1}.jpg",
                "decoded_image": picture(number),
                "choices": ["yes", "no"] if many else None,
                "unit": "years" if number == 1 else None,
                "precision": None if many else 1.0,
                "answer": "no" if many else f"{number}.5",
                "question_type": "multi_choice" if many else "free_form",
                "answer_type": "text" if many else "float",
                "metadata": {
                    "category": "general-vqa", "context": "scientific figure", "grade": "college", "img_height": 30,
                    "img_width": 40, "language": "english", "skills": ["scientific reasoning"], "source": "SciBench",
                    "split": "testmini", "task": "textbook question answering",
                },
                "query": "Hint: ...",
            }
        )  # fmt: skip
    return rows


def write_mathvista(path, n: int = 20) -> None:
    """A parquet file with the features of AI4Math/MathVista."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    text = Value("string")
    metadata = dict.fromkeys(["category", "context", "grade", "language", "source", "split", "task"], text)
    features = Features(
        {
            "pid": text, "question": text, "image": text, "decoded_image": ImageFeature(), "choices": List(text),
            "unit": text, "precision": Value("float64"), "answer": text, "question_type": text, "answer_type": text,
            "metadata": metadata | {"img_height": Value("int64"), "img_width": Value("int64"), "skills": List(text)},
            "query": text,
        }
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(mathvista_rows(n), features=features).to_parquet(str(path))


def write_geometry3k(path, answers: list[str]) -> None:
    """A parquet file with the features of hiyouga/geometry3k."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    features = Features({"images": List(ImageFeature()), "problem": Value("string"), "answer": Value("string")})
    rows = [
        {"images": [picture(1000 + number)], "problem": f"<image>Find $x$ in figure {number}.", "answer": answer}
        for number, answer in enumerate(answers)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(str(path))


class TestSources:
    def test_a_local_copy_of_mathvista_reads_like_the_original(self, tmp_path):
        write_mathvista(tmp_path / "copy" / "data" / "testmini-00000-of-00001-725687bf7a18d64b.parquet")
        problems = load(path=str(tmp_path / "copy"), split="testmini")
        assert (len(problems.train), len(problems.evaluation), problems.dropped) == (16, 4, {})
        assert problems.notices == [MATHVISTA_LICENCE]
        originals = {original["pid"]: original for original in mathvista_rows(20)}
        for problem in [*problems.train, *problems.evaluation]:
            assert set(problem) == FIELDS
            original = originals[problem["pid"]]
            for key in FIELDS - {"image"}:
                assert problem[key] == original[key]
            assert problem["image"].tobytes() == original["decoded_image"].tobytes()

    def test_a_local_copy_of_geometry3k_gets_its_types_from_the_answers(self, tmp_path):
        answers = ["3", "6.5", "2 \\sqrt { 221 }"] * 4
        for split in ("train", "validation", "test"):
            write_geometry3k(tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet", answers)
        problems = load(path=str(tmp_path / "copy"), split="train")
        rows = [*problems.train, *problems.evaluation]
        assert len(rows) == 12
        assert {row["question_type"] for row in rows} == {"free_form"}
        assert all("<image>" not in row["question"] and row["question"].startswith("Find $x$") for row in rows)
        types = {row["answer"]: (row["answer_type"], row["precision"]) for row in rows}
        assert types == {"3": ("integer", None), "6.5": ("float", 1.0), "2 \\sqrt { 221 }": ("text", None)}

    def test_a_split_that_is_not_there_is_named_with_those_that_are(self, tmp_path):
        for split in ("train", "test"):
            write_geometry3k(tmp_path / f"{split}-00000-of-00001.parquet", ["3", "4"])
        with pytest.raises(DataError, match="no split 'tests', but test, train; did you mean test"):
            load(path=str(tmp_path), split="tests")

    def test_a_single_split_is_used_whatever_it_is_called_and_a_notice_says_so(self, folder):
        path = folder([row(number, split="dev") for number in range(10)])
        problems = load(path=path, split="testmini")
        assert len(problems.train) + len(problems.evaluation) == 10
        assert "no split 'testmini', only 'dev'" in problems.notices[0]

    def test_rows_are_chosen_by_their_split(self, folder):
        path = folder([row(number, split="dev" if number < 8 else "test") for number in range(10)])
        problems = load(path=path, split="dev", eval_split="test")
        assert (len(problems.train), len(problems.evaluation)) == (8, 2)

    def test_a_folder_of_ones_own_needs_only_question_picture_and_answer(self, folder):
        problems = load(path=folder([row(number) for number in range(10)]))
        assert (len(problems.train), len(problems.evaluation)) == (8, 2)
        assert kind_of(problems.train[0]) == "integer"

    def test_the_pictures_are_kept_when_the_folder_goes(self, folder):
        path = folder([row(number) for number in range(10)])
        problems = load(path=path)
        shutil.rmtree(path)
        assert all(image.size == (40, 30) for image in problems.train["image"])

    def test_a_jsonl_file_is_read_without_a_folder_around_it(self, folder):
        path = folder([row(number) for number in range(10)])
        assert load(path=f"{path}/items.jsonl").fingerprint == load(path=path).fingerprint

    def test_a_relative_path_is_looked_for_here(self, folder, tmp_path, monkeypatch):
        folder([row(number) for number in range(5)])
        monkeypatch.chdir(tmp_path)
        assert len(load(path="own").train) == 4

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"a.txt": ""}, "holds neither items.jsonl, nor parquet files"),
            ({"a.jsonl": "", "b.jsonl": ""}, "nor exactly one .jsonl file but 2"),
            ({"items.jsonl": ""}, "holds no rows"),
            ({"items.jsonl": '{"text": "a"}'}, "has the columns text; missing: question or problem; .*; answer"),
            ({"items.jsonl": "nonsense"}, "the columns of no JSON object"),
            ({"train.parquet": "nonsense"}, "cannot be read as parquet"),
        ],
    )
    def test_a_folder_that_cannot_be_read_says_what_is_missing(self, tmp_path, content, message):
        for name, text in content.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            load(path=str(tmp_path))

    def test_a_path_that_is_not_there_names_both_places(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError) as error:
            load(path="./data/mine.parquet")
        assert str(tmp_path / "data" / "mine.parquet") in str(error.value)
        assert str(error.value).count("mine.parquet") == 3

    def test_a_hub_that_cannot_be_reached_says_what_to_do(self, monkeypatch):
        import datasets

        def offline(*args, **kwargs):
            raise ConnectionError("Couldn't reach 'hiyouga/geometry3k' on the Hub (offline)")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        with pytest.raises(DataError) as error:
            load(path="hiyouga/geometry3k", split="train")
        for part in ("'hiyouga/geometry3k' could not be read", "offline", "--local-dir", "dataset.path=embedded"):
            assert part in str(error.value)

    def test_a_hub_data_set_without_the_split_names_its_splits(self, monkeypatch):
        import datasets

        def unknown(*args, **kwargs):
            raise ValueError("Unknown split \"trian\". Should be one of ['train', 'validation', 'test'].")

        monkeypatch.setattr(datasets, "load_dataset", unknown)
        with pytest.raises(DataError, match="dataset.split: .* but train, validation, test; did you mean train"):
            load(path="hiyouga/geometry3k", split="trian")

    def test_a_hub_data_set_reads_like_its_local_copy(self, tmp_path, monkeypatch):
        import datasets

        write_mathvista(tmp_path / "testmini.parquet")
        copy = datasets.Dataset.from_parquet(str(tmp_path / "testmini.parquet"))
        monkeypatch.setattr(datasets, "load_dataset", lambda path, split, revision: copy)
        problems = load(path="AI4Math/MathVista", split="testmini")
        assert problems.source == "AI4Math/MathVista (testmini)"
        assert len(problems.train) == 16
        (notice,) = problems.notices
        assert "full_geometry3k" in notice

    def test_each_source_is_read_at_its_commit_and_the_commit_is_recorded(self, tmp_path, monkeypatch):
        import datasets

        write_mathvista(tmp_path / "testmini.parquet")
        asked = {}

        def from_hub(path, split, revision):
            asked[path] = revision
            found = datasets.Dataset.from_parquet(str(tmp_path / "testmini.parquet"))
            commit = revision or "0" * 40
            found.info.download_checksums = {f"hf://datasets/{path}@{commit}/data/testmini.parquet": {}}
            return found

        monkeypatch.setattr(datasets, "load_dataset", from_hub)
        commit = "a1" * 20
        problems = load(path="AI4Math/MathVista", split="testmini", revision=commit)
        assert asked == {"AI4Math/MathVista": commit}
        assert problems.as_manifest()["revisions"] == {"dataset.path": commit}
        with pytest.raises(DataError, match="also in the evaluation set"):  # both sources hold the same rows here
            load(path="some/other", split="testmini", eval_path="AI4Math/MathVista", eval_split="testmini",
                 eval_revision=commit)  # fmt: skip
        assert asked["some/other"] is None and asked["AI4Math/MathVista"] == commit


class TestLoading:
    def test_what_cannot_be_used_is_counted_by_reason(self, folder):
        rows = [row(number) for number in range(10)]
        rows += [row(20, answer=""), row(21, image="gone.png"), row(22, image="gone.png")]
        path = folder(rows)
        with open(f"{path}/items.jsonl", "a") as file:
            file.write("{torn\n")
        problems = load(path=path)
        assert len(problems.train) + len(problems.evaluation) == 10
        assert problems.dropped == {"no answer": 1, "no picture": 2, "not a JSON object": 1}
        assert problems.as_manifest()["dropped"] == problems.dropped

    def test_nothing_usable_is_an_error_with_the_reasons(self, folder):
        with pytest.raises(DataError, match=r"none of the 2 rows .* no answer \(2\)"):
            load(path=folder([row(1, answer=""), row(2, answer="")]))

    def test_max_samples_counts_usable_rows_and_is_seeded(self, folder):
        path = folder([row(number, answer="" if number % 2 else "1") for number in range(40)])
        problems = load(path=path, max_samples=10)
        assert (len(problems.train), len(problems.evaluation)) == (8, 2)
        assert load(path=path, max_samples=10).fingerprint == problems.fingerprint
        assert load(path=path, max_samples=10, seed=1).fingerprint != problems.fingerprint

    def test_answer_types_keeps_only_these(self, folder):
        path = folder([row(number, answer=f"{number}.5" if number % 2 else "yes") for number in range(20)])
        problems = load(path=path, answer_types=["float"])
        assert {row["answer_type"] for row in [*problems.train, *problems.evaluation]} == {"float"}
        assert problems.dropped == {OUTSIDE_ANSWER_TYPES: 10}

    def test_a_pid_comes_once(self, folder):
        problems = load(path=folder([row(number, pid="same") for number in range(10)]))
        pids = [*problems.train["pid"], *problems.evaluation["pid"]]
        assert len(set(pids)) == 10

    def test_a_separate_evaluation_set_is_taken_out_of_training(self, folder):
        path = folder([row(number) for number in range(20)], "training")
        same_picture = row(100, image=picture(3), question="Something else?")
        saved_again = row(5, image=picture(5).resize((20, 15)))
        stock_question = row(100, image=picture(101), question="How many are 7?", answer="100")
        other = folder([same_picture, saved_again, stock_question], "evaluation")
        problems = load(path=path, eval_path=other)
        assert (len(problems.train), len(problems.evaluation)) == (18, 3)
        assert problems.dropped == {IN_EVALUATION: 2}
        assert "How many are 7?" in problems.train["question"]
        assert len(load(path=path, eval_path=other, eval_samples=1).evaluation) == 1

    def test_eval_samples_limits_the_rows_held_back(self, folder):
        problems = load(path=folder([row(number) for number in range(20)]), eval_samples=2)
        assert (len(problems.train), len(problems.evaluation)) == (16, 2)

    def test_the_embedded_problems_share_no_picture_and_come_again(self):
        problems = load(path="embedded", max_samples=60)
        assert (len(problems.train), len(problems.evaluation), problems.dropped) == (48, 12, {})
        pictures = [{image.tobytes() for image in part["image"]} for part in (problems.train, problems.evaluation)]
        assert not pictures[0] & pictures[1]
        assert load(path="embedded", max_samples=60).fingerprint == problems.fingerprint
        assert load(path="embedded", max_samples=60, seed=7).fingerprint != problems.fingerprint

    def test_the_fingerprint_follows_the_contents(self, folder):
        first = load(path=folder([row(number) for number in range(10)], "a"))
        assert load(path=folder([row(number) for number in range(10)], "b")).fingerprint == first.fingerprint
        for name, change in (("c", {"answer": "77"}), ("d", {"answer_type": "text"})):  # both are graded otherwise
            changed = [row(number, **(change if number == 3 else {})) for number in range(10)]
            assert load(path=folder(changed, name)).fingerprint != first.fingerprint

    def test_the_licence_of_mathvista_is_said_before_training_on_it_only(self):
        assert "forbids using it as a training set" in licence_notice(RunParams.load("full").dataset)
        assert licence_notice(RunParams.load("gemma3_smoke").dataset)
        assert licence_notice(RunParams.load("full_geometry3k").dataset) is None
        assert licence_notice(RunParams.load("smoke").dataset) is None

    def test_trl_gets_conversations_pictures_and_what_the_rewards_need(self, folder):
        params = RunParams.load("smoke")
        problems = load(path=folder([row(number) for number in range(10)]))
        dataset = grpo_dataset(problems.train, params)
        for problem, example in zip(problems.train, dataset, strict=True):
            assert example["prompt"] == conversation(problem, params.reward)
            assert example["kind"] == kind_of(problem)
            assert {key: example[key] for key in FIELDS - {"image"}} == {
                key: problem[key] for key in FIELDS - {"image"}
            }
            assert example["image"].tobytes() == problem["image"].tobytes()

    def test_the_types_are_counted_in_both_sets(self, folder):
        rows = [row(number, metadata={"category": "bars" if number < 6 else "dots"}) for number in range(10)]
        counts = type_counts(load(path=folder(rows)))
        assert {count["kind"]: count["train"] + count["evaluation"] for count in counts} == {"bars": 6, "dots": 4}
        assert sum(count["evaluation"] for count in counts) == 2

    def test_guessing_rates_are_those_of_policies_that_never_look(self):
        rows = [
            {"answer": "5", "choices": None}, {"answer": "5", "choices": None}, {"answer": "7", "choices": None},
            {"answer": "red", "choices": ["red", "blue", "green", "grey"]},
        ]  # fmt: skip
        assert guessing_rates(rows) == {"most frequent answer": 0.5, "a choice by chance": 0.0625}

    def test_overlap_counts_what_is_on_both_sides(self, folder):
        rows = [row(number) for number in range(10)]
        assert overlap(load(path=folder(rows, "a"))) == {"pictures": 0, "question texts": 0}
        rows = [row(number, question="What is the answer?") for number in range(10)]
        assert overlap(load(path=folder(rows, "b"))) == {"pictures": 0, "question texts": 1}
        doubled = load(path=folder(rows, "c"))
        assert overlap(dataclasses.replace(doubled, evaluation=doubled.train))["pictures"] == len(doubled.train)


class TestCut:
    @settings(max_examples=200, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 40), st.sampled_from("abcdefghijklmnopqrstuvwxyz")), min_size=2, max_size=80
        ),
        fraction=st.floats(0.05, 0.5),
        seed=st.integers(0, 5),
    )
    @for_example(rows=[(0, "a")] * 3 + [(1, "a")] * 3, fraction=0.125, seed=0)
    def test_no_picture_is_on_both_sides_and_no_question_unless_it_is_said(self, rows, fraction, seed):
        pictures, questions = [picture for picture, _ in rows], [f"What is {letter}?" for _, letter in rows]
        try:
            cut = cut_problems(pictures, questions, fraction, seed)
        except DataError:
            assert len(set(pictures)) == 1
            return
        assert sorted([*cut.train, *cut.evaluation]) == list(range(len(rows)))
        assert cut.train and cut.evaluation
        assert not {pictures[place] for place in cut.train} & {pictures[place] for place in cut.evaluation}
        both = {questions[place] for place in cut.train} & {questions[place] for place in cut.evaluation}
        assert not both or cut.notices

    @settings(max_examples=50, deadline=None)
    @given(n=st.integers(40, 300), fraction=st.floats(0.1, 0.5), seed=st.integers(0, 100))
    def test_the_fraction_is_reached_where_groups_are_small(self, n, fraction, seed):
        cut = cut_problems(
            [place // 2 for place in range(n)], [f"Question {place // 3}" for place in range(n)], fraction, seed
        )
        assert abs(len(cut.evaluation) - n * fraction) <= 4
        assert cut.notices == []

    def test_case_spacing_and_punctuation_do_not_make_another_question(self):
        cut = cut_problems(range(20), ["What is it?", "what  is it", *(f"Q{place}" for place in range(18))], 0.3, 0)
        sides = [0 in cut.train, 1 in cut.train]
        assert sides in ([True, True], [False, False])

    def test_a_stock_question_asked_of_most_pictures_is_trained_on_while_others_suffice(self):
        questions = ["Find x."] * 70 + [f"Question {place}" for place in range(30)]
        cut = cut_problems(range(100), questions, 0.2, 0)
        assert len(cut.evaluation) == 20
        assert all(place >= 70 for place in cut.evaluation)
        assert cut.notices == []

    def test_one_question_for_all_pictures_still_cuts_and_says_so(self):
        cut = cut_problems(range(100), ["What is the answer?"] * 100, 0.2, 0)
        assert len(cut.evaluation) == 20
        (notice,) = cut.notices
        assert "chain 100 of the 100 rows" in notice and "1 question texts" in notice

    def test_rows_of_one_picture_cannot_be_cut(self):
        with pytest.raises(DataError, match="they share one picture: give dataset.eval_path"):
            cut_problems([1, 1, 1], ["a", "b", "c"], 0.2, 0)

    def test_the_same_seed_cuts_the_same(self):
        pictures, questions = list(range(50)), [str(place) for place in range(50)]
        assert cut_problems(pictures, questions, 0.2, 1) == cut_problems(pictures, questions, 0.2, 1)
        assert cut_problems(pictures, questions, 0.2, 1) != cut_problems(pictures, questions, 0.2, 2)


def test_data_imports_without_torch():
    heavy = ("torch", "transformers", "trl", "datasets")
    code = f"import sys, nbhelpers.problems; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


class TestDecodeOnce:
    def rows(self, count=4):
        problems = load(path="embedded", split=None, max_samples=4 * count, eval_fraction=0.5).train
        return problems.select(range(count))

    def test_the_rows_are_the_same_with_one_picture_object_a_row(self):
        plain = self.rows()
        once = decode_once(plain)
        fetched = once.__getitems__([0, 0, 1, 0, 1])
        assert [row["pid"] for row in fetched] == [plain[place]["pid"] for place in (0, 0, 1, 0, 1)]
        assert all(
            row["image"].tobytes() == plain[place]["image"].tobytes()
            for row, place in zip(fetched, (0, 0, 1, 0, 1), strict=True)
        )
        assert fetched[0]["image"] is fetched[1]["image"] is fetched[3]["image"] is not fetched[2]["image"]
        assert once.column_names == plain.column_names and once[:2]["question"] == plain[:2]["question"]

    def test_no_more_pictures_are_kept_than_asked_for(self):
        once = decode_once(self.rows(), max_pictures=2)
        first = once[0]["image"]
        assert once[0]["image"] is first
        _ = once[1], once[2]
        assert once[0]["image"] is not first
