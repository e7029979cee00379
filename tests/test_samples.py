"""Samples on disk: written once, read without loading, right under interruption."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_run import HOSTILE, make_run

from nbhelpers.grading import ERRORS, error_kind
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.files import json_of_lines, line_blocks, without_collecting
from nbhelpers.runs.samples import (
    CHANGES,
    FILTERS,
    ORDERS,
    SampleStore,
    SampleWriter,
    TokenLogProbs,
    read_log_probs,
)

SAMPLES = "samples.jsonl"
RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def row(step, place=0, index=0, *, pid="p", kind="count", correct=False, reward=0.0, text="I see 3.", truncated=False):
    return {
        "step": step,
        "group": f"{step}-{place}",
        "index": index,
        "pid": pid,
        "kind": kind,
        "question": "How many?",
        "answer": "3",
        "completion": text,
        "rewards": {"formatting": 1.0, "correctness": reward},
        "reward": reward,
        "advantage": 0.0,
        "length": 4,
        "truncated": truncated,
        "correct": correct,
    }


def group(step, place=0, *, rights=(), size=2, **values):
    return [
        row(step, place, index, correct=index in rights, reward=2.0 * (index in rights), **values)
        for index in range(size)
    ]


def write(folder, *groups, resume_step=None):
    writer = SampleWriter(RunDirectory(folder), resume_step)
    for rows in groups:
        writer.write(rows, [RED] * len(rows))


def rows_of(store):
    return [row for number in store.groups() for row in store.group(number).rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), steps=6, prompts=8, problems=16, evaluation=8)


def test_what_was_written_is_read_back_in_order(tmp_path):
    write(tmp_path, group(1), group(2, rights=(0,)))
    store = SampleStore(tmp_path)
    assert [(r["step"], r["index"], r["correct"]) for r in rows_of(store)] == [
        (1, 0, False),
        (1, 1, False),
        (2, 0, True),
        (2, 1, False),
    ]
    assert store.steps == [1, 2]


def test_a_picture_is_saved_once_whatever_the_number_of_completions(tmp_path):
    writer = SampleWriter(RunDirectory(tmp_path))
    writer.write(group(1, size=4), [RED] * 4)
    writer.write(group(2, size=4), [BLUE.copy(), RED.copy(), RED, BLUE])
    assert len(list((tmp_path / "images").iterdir())) == 2
    pictures = [Image.open(tmp_path / row["image"]).getpixel((0, 0)) for row in rows_of(SampleStore(tmp_path))]
    assert pictures == [(255, 0, 0)] * 4 + [(0, 0, 255), (255, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_one_image_per_row_is_required(tmp_path):
    with pytest.raises(ValueError, match="2 rows and 1 images"):
        SampleWriter(RunDirectory(tmp_path)).write(group(1), [RED])


def test_a_new_writer_begins_anew(tmp_path):
    write(tmp_path, group(1), group(2))
    write(tmp_path, group(1))
    assert len(SampleStore(tmp_path)) == 2


def test_a_resumed_run_does_not_double_the_steps_after_its_checkpoint(tmp_path):
    write(tmp_path, group(1), group(2), group(3))
    with open(tmp_path / SAMPLES, "ab") as file:
        file.write(b'{"step": 4, "gro')  # killed here
    write(tmp_path, group(3), group(4), resume_step=2)
    store = SampleStore(tmp_path)
    assert [row["step"] for row in rows_of(store)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert store.steps == [1, 2, 3, 4]


def test_a_running_run_is_followed(tmp_path):
    writer = SampleWriter(RunDirectory(tmp_path))
    store = SampleStore(tmp_path)
    assert (len(store), store.groups(), store.groups(text="a"), store.steps) == (0, [], [], [])
    writer.write(group(1), [RED, RED])
    assert (store.refresh(), store.refresh()) == (2, 0)
    writer.write(group(2, rights=(0, 1)), [RED, RED])
    assert store.refresh() == 2
    assert store.groups(show="all right") == [1]


def test_a_line_that_is_still_being_written_waits(tmp_path):
    write(tmp_path, group(1))
    whole = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(whole + whole[:25])
    store = SampleStore(tmp_path)
    assert len(store) == 2
    (tmp_path / SAMPLES).write_bytes(whole + whole)
    assert store.refresh() == 2


def test_a_writer_cuts_off_what_a_killed_one_left_half_written(tmp_path):
    write(tmp_path, group(1))
    with open(tmp_path / SAMPLES, "ab") as file:
        file.write(b'{"step": 2, "gro')
    RunDirectory(tmp_path).append_jsonl(tmp_path / SAMPLES, *group(3))
    assert SampleStore(tmp_path).steps == [1, 3]


def test_a_damaged_line_is_left_out(tmp_path):
    write(tmp_path, group(1))
    whole = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(whole + b"\x00\x00 not json\n\xff\n[1]\n{}\n" + whole)
    store = SampleStore(tmp_path)
    assert len(store) == 4 and store.refresh() == 0
    assert rows_of(store)[3]["index"] == 1


@pytest.mark.parametrize("size", [1, 7, 8, 30, 1000])
def test_a_file_read_in_blocks_is_the_file(size):
    text = b'{"a": 1}\n' + b"[" + b"2, " * 20 + b"2]\n\nno JSON\n" + b'{"b": [1\n2]}\n"\xff"\n' + b'"\\n"\n{"torn'
    values = [value for block in line_blocks(io.BytesIO(text), size) for value in json_of_lines(block)]
    assert values == [{"a": 1}, [2] * 21, "\n"]
    assert gc.isenabled()
    with pytest.raises(ValueError), without_collecting():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_probes_are_found_among_the_others(tmp_path):
    rows = [row | {"role": "probe"} for row in group(3, pid="asked")]
    write(tmp_path, group(1), rows, group(2, pid="probe"))
    assert [row["pid"] for row in rows_of(SampleStore(tmp_path, role="probe"))] == ["asked", "asked"]
    assert SampleStore(tmp_path).steps == [1, 2]


def test_a_file_begun_anew_under_an_open_store_is_read_again(tmp_path):
    write(tmp_path, group(1), group(2), group(3))
    store = SampleStore(tmp_path)
    write(tmp_path, group(1, pid="other", rights=(1,)))
    store.refresh()
    assert [row["pid"] for row in rows_of(store)] == ["other", "other"]


def test_a_file_cut_back_and_grown_again_under_an_open_store_is_read_again(tmp_path):
    write(tmp_path, group(1), group(2), group(3))
    store = SampleStore(tmp_path)
    write(tmp_path, group(2, rights=(0, 1)), group(3), group(4), resume_step=1)
    assert store.refresh() == 8
    assert (store.steps, store.groups(show="all right")) == ([1, 2, 3, 4], [1])
    (tmp_path / SAMPLES).unlink()
    assert (store.refresh(), len(store)) == (0, 0)


def test_filters_find_the_groups_that_they_name(tmp_path):
    write(
        tmp_path,
        group(1, 0, pid="a", rights=()),
        group(1, 1, pid="b", rights=(0,), kind="sum"),
        group(1, 2, pid="c", rights=(0, 1)),
        group(2, 0, pid="a", rights=(0, 1)),
        group(2, 1, pid="c", rights=(), truncated=True),
    )
    store = SampleStore(tmp_path)
    expected = {
        "all": [0, 1, 2, 3, 4],
        "some wrong": [0, 1, 4],
        "all wrong": [0, 4],
        "mixed": [1],
        "all right": [2, 3],
        "zero variance": [0, 2, 3, 4],
        "wrong to right": [0, 3],
        "right to wrong": [2, 4],
        "cut off": [4],
    }
    assert {name: store.groups(show=name) for name in FILTERS} == expected
    assert store.groups(pid="a") == [0, 3]
    assert store.groups(kind="sum") == [1]
    assert store.groups(step=2, show="all wrong") == [4]
    assert store.groups(pid="nobody") == store.groups(kind="nothing") == []
    found = store.group(1)
    assert (found.name, found.step, found.pid, found.kind) == ("1-1", 1, "b", "sum")
    assert (len(found.rows), found.share) == (2, 0.5)


def test_groups_are_sorted_by_what_is_asked_for_and_else_as_sampled(tmp_path):
    write(
        tmp_path,
        [{**r, "length": 9, "advantage": 0.5} for r in group(1, 0, rights=(0,))],
        [{**r, "length": 3, "advantage": -2.0} for r in group(1, 1, rights=(0, 1))],
        group(2, 0),
    )
    expected = {
        "sampled": [0, 1, 2],
        "spread": [0, 1, 2],
        "advantage": [1, 0, 2],
        "longest": [0, 2, 1],
        "shortest": [1, 2, 0],
        "best paid": [1, 0, 2],
        "worst paid": [2, 0, 1],
    }
    assert {order: SampleStore(tmp_path).groups(order=order) for order in ORDERS} == expected
    with pytest.raises(ValueError, match="did you mean longest"):
        SampleStore(tmp_path).groups(order="longets")


def test_vllm_s_log_probs_lie_beside_the_samples_and_cost_four_characters_a_token(tmp_path):
    run, tokens = RunDirectory(tmp_path), TokenLogProbs([2, 4, 3, 0], [-0.1234, -9.5, 0.0, float("-inf")])
    writer = SampleWriter(run)
    writer.write(group(1), [RED, RED], [tokens, None])
    writer.write(group(2), [RED, RED], [tokens, tokens])
    assert b"log_probs" not in (tmp_path / SAMPLES).read_bytes()
    found = read_log_probs(run)
    first = TokenLogProbs.unpacked(found["1-0/0"])
    assert list(found) == ["1-0/0", "2-0/0", "2-0/1"] and first.lengths == tokens.lengths
    assert first.log_probs == pytest.approx([-0.1234, -9.5, 0.0, -6e4], rel=1e-3)
    many = TokenLogProbs([4] * 256, [-0.5] * 256).packed()
    assert sum(map(len, many.values())) == 344 + 684
    SampleWriter(run, resume_step=1)
    assert list(read_log_probs(run)) == ["1-0/0"]
    assert run.set_aside() and not read_log_probs(run)


def test_an_error_has_its_kind():
    right, wrong = {"correct": True}, {"correct": False, "parsed": "4"}
    rows = [right, {"correct": None}, wrong, {**wrong, "parsed": None}, {**wrong, "truncated": True}]
    rows += [{**wrong, "completion": "3 + 4 = 8"}, {**wrong, "completion": "3 + 4 = 7"}]
    found = [error_kind(row) for row in rows]
    assert found == [None, None, "no work shown", "no answer", "cut off", "arithmetic", "wrong object"]
    assert set(ERRORS) == {*found, "format"} - {None}  # a rollout's answer is not looked for outside its block


def test_pairs_and_probes_are_groups_of_one_problem_early_to_late(tmp_path):
    write(tmp_path, group(1))
    asked = [{**row(step, pid=pid, correct=step == last), "role": "probe", "group": f"probe-{step}-{pid}"}
             for step in (0, 5, 9) for pid, last in (("a", 9), ("b", 0))]  # fmt: skip
    run = RunDirectory(tmp_path)
    run.append_jsonl(run.samples_path, *asked)
    probes = SampleStore(tmp_path, "probe")
    assert [[one["step"] for one in probes.group(number).rows] for number in probes.groups()] == [[0, 5, 9]] * 2
    assert {show: probes.groups(show=show) for show in CHANGES} == {
        "all": [0, 1], "fixed": [0], "broken": [1], "still wrong": [], "still right": []
    }  # fmt: skip
    answers = {"a": (0, 0), "b": (1, 0), "c": (0, 1), "d": (1, 1)}
    run.write_jsonl(
        run.predictions_path,
        [
            {"phase": phase, "pid": pid, "kind": "k", "completion": "", "correct": bool(right[at])}
            for at, phase in enumerate(("before", "after"))
            for pid, right in answers.items()
        ],
    )
    pairs = SampleStore(tmp_path, "evaluation")
    assert {show: pairs.groups(show=show) for show in CHANGES} == {
        "all": [0, 1, 2, 3], "fixed": [2], "broken": [1], "still wrong": [0], "still right": [3]
    }  # fmt: skip
    assert len(SampleStore(tmp_path)) == 2


def test_a_problem_met_once_has_not_changed(tmp_path):
    write(tmp_path, group(1, 0, pid="a", rights=()), group(1, 1, pid="b", rights=(0, 1)))
    store = SampleStore(tmp_path)
    assert store.groups(show="wrong to right") == store.groups(show="right to wrong") == []


def test_an_unknown_filter_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean all wrong"):
        SampleStore(tmp_path).groups(show="all worng")


def test_a_reward_that_could_not_judge_is_not_a_zero_variance_group(tmp_path):
    rows = [{**r, "reward": None, "correct": None} for r in group(1)]
    write(tmp_path, rows)
    assert SampleStore(tmp_path).groups(show="zero variance") == []


@pytest.mark.parametrize(
    "wanted", ["TRIANGLE", "triangle abc", "Straße", "試題", 'say "yes"', "back\\slash", "50 % of"]
)
def test_search_finds_text_as_it_was_written(tmp_path, wanted):
    text = 'The Triangle ABC, Straße, 試題, say "yes", back\\slash, 50 % of it'
    write(tmp_path, group(1, text="nothing here"), group(2, text=text))
    assert SampleStore(tmp_path).groups(text=wanted) == [1]


def test_search_does_not_look_into_names_of_fields(tmp_path):
    write(tmp_path, group(1))
    assert SampleStore(tmp_path).groups(text="truncated") == []


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_survives_the_disk(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    write(folder, group(1, text=text))
    assert rows_of(SampleStore(folder))[1]["completion"] == text


def test_hostile_texts_survive_the_disk(tmp_path):
    write(tmp_path, *[group(step, text=text) for step, text in enumerate(HOSTILE.values(), 1)])
    assert [row["completion"] for row in rows_of(SampleStore(tmp_path))[::2]] == list(HOSTILE.values())


def test_numbers_of_libraries_become_numbers_and_nan_becomes_null(tmp_path):
    import numpy as np

    rows = [{**r, "reward": np.float32(1.5), "length": np.int64(3), "advantage": float("nan")} for r in group(1)]
    write(tmp_path, rows)
    line = json.loads((tmp_path / SAMPLES).read_text().splitlines()[0], parse_constant=pytest.fail)
    assert (line["reward"], line["length"], line["advantage"]) == (1.5, 3, None)


def test_the_same_rows_give_the_same_file(run, tmp_path):
    again = make_run(tmp_path, steps=6, prompts=8, problems=16, evaluation=8)
    assert (again / SAMPLES).read_bytes() == (run / SAMPLES).read_bytes()


def test_looking_at_samples_needs_no_torch():
    modules = ", ".join(f"nbhelpers.show.{name}" for name in ("viewer", "report", "training_plots"))
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
