"""One bad row is one row less, with its reason in `dropped.jsonl`; pictures come from the data's folder alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nbhelpers.evaluation import trial
from nbhelpers.params.run_params import RunParams
from nbhelpers.policy.loading import load_policy
from nbhelpers.policy.policy import Policy
from nbhelpers.problems.asking import conversation, grpo_dataset
from nbhelpers.problems.loading import load_problems
from nbhelpers.problems.pictures import MAX_JPEG_PIXELS, MAX_PIXELS, Unusable, prepare_image
from nbhelpers.problems.rows import MAX_TEXT
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.training import by_hand
from nbhelpers.training.first_look import first_problems
from nbhelpers.training.trainer import train


def load(path, **dataset):
    params = RunParams.load("smoke", dataset={"path": str(path), "split": None, "max_samples": None, **dataset})
    return load_problems(params.dataset)


@pytest.fixture
def folder(tmp_path):
    """A data folder: four good rows with a picture each, and whatever else is given, as mappings or as raw lines."""

    def write(*more, name="own"):
        target = tmp_path / name
        target.mkdir()
        lines = []
        for number in range(4):
            levels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(levels).save(target / f"{number}.png")
            lines.append(row(pid=f"good-{number}", question=f"Good {number}?", image=f"{number}.png"))
        lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in [*lines, *more]]
        (target / "items.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return target

    return write


def row(**changes):
    return {"pid": "bad", "question": "How many?", "image": "0.png", "answer": "4"} | changes


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_ROWS = {
    "a path of 5,000 characters": (row(image="x" * 5000 + ".png"), "no picture"),
    "a NUL in a path": (row(image="a\0b.png"), "no picture"),
    "a folder as picture": (row(image="."), "no picture"),
    "a text as picture": (row(image="items.jsonl"), "unreadable picture"),
    "a number as picture": (row(image=5), "unreadable picture"),
    "no picture": (row(image=None), "no picture"),
    "a picture that is not there": (row(image="nowhere.png"), "no picture"),
    "JSON 100,000 deep": (b'{"question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a JSON object"),
    "metadata 40 deep": (row(metadata=nested(40)), "metadata nested too deeply"),
    "metadata 900 deep": (row(metadata=nested(900)), "metadata nested too deeply"),
    "half a character in the question": (row(question="How \ud800 many?"), "half a character"),
    "half a character in the answer": (row(answer="\udfff"), "half a character"),
    "half a character in the pid": (row(pid="\ud800"), "half a character"),
    "half a character in a choice": (row(choices=["\ud800", "4"]), "half a character"),
    "half a character in the metadata": (row(metadata={"task": "\ud800"}), "half a character"),
    "a negative precision": (row(precision=-1, answer_type="float"), "a precision that is no number of decimals"),
    "an infinite precision": (row(precision=float("inf"), answer_type="float"), "a precision that is no number"),
    "a precision of 400 digits": (row(precision=10**400, answer_type="float"), "a precision that is no number"),
    "a number of 5,000 digits": (b'{"answer": ' + b"9" * 5000 + b"}", "not a JSON object"),
    "NaN as answer": (row(answer=float("nan")), "no answer"),
    "a question of a megabyte": (row(question="x" * 10**6), f"a text of more than {MAX_TEXT:,} characters"),
    "a byte that is not UTF-8": (b'{"pid": "bad", "question": "\xff", "image": "0.png", "answer": "4"}', "not a JSON"),
    "half a line": (b'{"pid": "bad", "question', "not a JSON object"),
    "a list": (b"[1, 2]", "not a JSON object"),
    "a token of the chat template": (row(question="<end_of_turn> How many?"), "a special token"),
    "27 choices": (row(choices=[str(n) for n in range(27)]), "more than 26 choices"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_dropped_with_its_reason_and_the_others_stay(folder, fault):
    bad, reason = BAD_ROWS[fault]
    problems = load(folder(bad))
    kept = set(problems.train["pid"]) | set(problems.evaluation["pid"])
    assert kept == {f"good-{number}" for number in range(4)}
    (dropped,) = problems.dropped_rows
    assert dropped["reason"].startswith(reason) and dropped["row"] == 4 and dropped["source"] == "dataset.path"
    assert dropped["pid"] in (None, "bad", "\ud800") and problems.dropped == {dropped["reason"]: 1}


SURVIVING_ROWS = {
    "NaN as precision": row(precision=float("nan"), answer_type="float"),
    "a picture of one pixel": row(image="pixel.png"),
    "metadata with NaN": row(metadata={"task": "sums", "score": float("nan")}),
    "a pid that is a number": row(pid=7),
    "no pid": row(pid=None),
}


@pytest.mark.parametrize("case", SURVIVING_ROWS)
def test_an_odd_row_that_can_be_used_is_asked_like_any_other(folder, case):
    target = folder(SURVIVING_ROWS[case])
    Image.new("RGB", (1, 1), "red").save(target / "pixel.png")
    problems = load(target)
    assert problems.dropped_rows == [] and len(problems.train) + len(problems.evaluation) == 5
    params = RunParams.load("smoke")
    assert len(grpo_dataset(problems.train, params)) + len(grpo_dataset(problems.evaluation, params)) == 5


def test_an_error_that_nobody_thought_of_costs_its_row(folder, monkeypatch):
    from nbhelpers.problems import loading

    real = loading.problem_from

    def fails(given, *rest):
        if given["pid"] == "bad":
            raise ArithmeticError("never seen before")
        return real(given, *rest)

    monkeypatch.setattr(loading, "problem_from", fails)
    problems = load(folder(row()))
    assert problems.dropped == {"unreadable row (ArithmeticError)": 1}


@pytest.mark.parametrize(
    "pids", [["a", "a", "a-1"], ["a-1", "a", "a"], ["a", "a-5", "a-4", "a", "a"], ["4", None, "4"]]
)
@pytest.mark.parametrize("seed", range(4))
def test_no_two_problems_share_a_pid_and_what_was_renamed_is_said(folder, pids, seed):
    problems = load(folder(*(row(pid=pid, question=f"{n}?") for n, pid in enumerate(pids))), seed=seed)
    kept = [*problems.train["pid"], *problems.evaluation["pid"]]
    assert len(kept) == len(set(kept)) == 4 + len(pids)
    assert any("had the pid of another" in sentence for sentence in problems.notices)


# where pictures may lie

OUTSIDE = {
    "..": lambda target, secret: "../secret.png",
    "a way round": lambda target, secret: f"x/../../{secret.name}",
    "an absolute path": lambda target, secret: str(secret),
    "a link": lambda target, secret: _link(target / "link.png", secret),
    "a link of a link": lambda target, secret: _link(target / "second.png", _link(target / "first.png", secret, True)),
    "a folder that is a link": lambda target, secret: f"{_link(target / 'there', secret.parent)}/{secret.name}",
}


def _link(link, to, whole=False):
    link.symlink_to(to)
    return link if whole else link.name


@pytest.mark.parametrize("way", OUTSIDE)
def test_a_picture_outside_the_folder_is_not_read(folder, tmp_path, way):
    target, secret = folder(), tmp_path / "secret.png"
    Image.new("RGB", (20, 20), "red").save(secret)
    (target / "x").mkdir()
    with open(target / "items.jsonl", "a") as file:
        file.write(json.dumps(row(image=OUTSIDE[way](target, secret))) + "\n")
    assert load(target).dropped == {"a picture outside the data's folder": 1}


def test_a_circle_of_links_is_no_picture(folder):
    target = folder(row(image="a.png"))
    (target / "a.png").symlink_to(target / "b.png")
    (target / "b.png").symlink_to(target / "a.png")
    assert load(target).dropped == {"no picture": 1}


def test_links_inside_the_folder_and_a_folder_reached_by_a_link_are_fine(folder, tmp_path):
    target = folder(row(image="link.png"))
    (target / "link.png").symlink_to("0.png")
    (tmp_path / "by_link").symlink_to(target)
    assert load(tmp_path / "by_link").dropped == {}


def test_a_snapshot_in_a_hub_cache_keeps_its_links_to_the_blobs_beside_it_and_no_others(folder, tmp_path):
    repository = tmp_path / "hub" / "datasets--somebody--sums"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    target = folder(row(image="secret.png"))
    snapshot = target.rename(repository / "snapshots" / "0123abc")
    for number in range(4):
        (snapshot / f"{number}.png").rename(repository / "blobs" / f"sha{number}")
        (snapshot / f"{number}.png").symlink_to(f"../../blobs/sha{number}")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "secret.png")
    (snapshot / "secret.png").symlink_to(tmp_path / "secret.png")
    problems = load(snapshot)
    assert problems.dropped == {"a picture outside the data's folder": 1}
    assert len(problems.train) + len(problems.evaluation) == 4


# what a picture costs


def peak_mib(path) -> float:
    """Memory that preparing a picture takes above what was taken before it."""
    code = (
        "import sys, resource, numpy; from PIL import Image; from nbhelpers.problems.pictures import prepare_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare_image(sys.argv[2], 512); before = peak(); prepare_image(sys.argv[1], 512); print(peak() - before)"
    )
    small = path.parent / "small.png"
    Image.new("RGB", (64, 64)).save(small)
    done = subprocess.run([sys.executable, "-c", code, path, small], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def test_a_jpeg_of_49_megapixels_is_shrunk_while_it_is_decoded(tmp_path):
    Image.new("RGB", (7000, 7000), "red").save(tmp_path / "large.jpg")
    assert prepare_image(tmp_path / "large.jpg", 512).size == (512, 512)
    assert peak_mib(tmp_path / "large.jpg") < 40


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
def test_the_largest_picture_that_is_decoded_takes_bounded_memory(tmp_path, mode):
    Image.new(mode, (4000, 4000)).save(tmp_path / "large.png")
    assert MAX_PIXELS == 4000 * 4000
    assert peak_mib(tmp_path / "large.png") < 400


@pytest.mark.parametrize(("size", "format"), [((4001, 4000), "PNG"), ((7072, 7072), "JPEG"), ((4001, 4000), "BMP")])
def test_anything_larger_is_refused_by_the_limit_that_is_stated(size, format):
    assert size[0] * size[1] > (MAX_JPEG_PIXELS if format == "JPEG" else MAX_PIXELS)
    Image.new("L", size).save(file := io.BytesIO(), format=format)
    with pytest.raises(Unusable, match=r"more than 16 megapixels \(50 as JPEG\)"):
        prepare_image(file.getvalue(), 512)


def test_a_picture_that_is_a_program_is_not_run():
    """Pillow hands EPS to Ghostscript."""
    Image.new("RGB", (20, 20)).save(file := io.BytesIO(), format="EPS")
    with pytest.raises(Unusable, match="unreadable picture"):
        prepare_image(file.getvalue(), 512)


# in a run


def test_a_run_lists_what_it_dropped(folder, tmp_path, tiny_params):
    good = [row(pid=f"more-{n}", question=f"More {n}?", answer=str(n)) for n in range(12)]
    target = folder(*good, BAD_ROWS["a negative precision"][0], b"{", row(pid="long", question="word " * 3000))
    dataset = {"path": str(target), "max_samples": None, "split": None, "eval_fraction": 0.2}
    params = tiny_params(tmp_path / "run", training={"max_steps": 1}, dataset=dataset)
    run = RunDirectory(params.output_dir)
    problems = load_problems(params.dataset)
    train(load_policy(params.model, params.lora), problems, params, run)
    listed = run.read_jsonl(run.dropped_path)
    assert {(line["row"], line["pid"]) for line in listed if line["source"] == "dataset.path"} == {
        (16, "bad"),
        (17, None),
    }
    long = [line for line in listed if line["source"] == "training"]
    assert [line["pid"] for line in long] == (["long"] if "long" in problems.train["pid"] else [])
    assert sum(run.read_manifest()["dataset"]["dropped"].values()) == 2


def test_a_prompt_that_is_too_long_is_asked_by_nobody(tmp_path, tiny_params, monkeypatch):
    """One of 19,000 tokens took 22 GB in notebook 02, as a probe and in the selection set, before it was dropped."""
    params = tiny_params(
        tmp_path / "run", model={"max_seq_length": 500}, training={"max_steps": 1, "probes": 2},
        dataset={"max_samples": 96}, evaluation={"select_on": 4},
    )  # fmt: skip
    problems, asked, sample = load_problems(params.dataset), [], Policy.sample
    long = problems.train.map(lambda row, n: {"question": row["question"] + n % 2 * " word" * 600}, with_indices=True)
    problems = replace(problems, train=long, evaluation=long)

    def measured(self, conversations, images, **options):
        asked.append(max(map(self.prompt_length, conversations)))
        return sample(self, conversations, images, **options)

    monkeypatch.setattr(Policy, "sample", measured)
    monkeypatch.setattr(trial, "load_problems", lambda dataset: problems)
    policy = load_policy(params.model, params.lora)
    assert max(policy.prompt_length(conversation(one, params.reward)) for one in problems.train) > 500
    assert len(first_problems(problems, params)) > 10
    by_hand.find_group(policy, problems.train, params)
    train(policy, problems, params, RunDirectory(params.output_dir))
    trial.try_model(params)
    assert len(asked) == 1 + 2 + 1 + 1, "the lesson, probes twice, selection, doctor"
    assert max(asked) <= 500 - params.training.max_completion_length
