"""The run directory: rows survive a killed process, the manifest is never half written, nothing imports torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nbhelpers.params.run_params import RunParams
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.machine import hardware, versions


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_nothing_is_created_before_something_is_written(run):
    assert run.read_jsonl(run.metrics_path) == []
    assert run.read_manifest() == {}
    assert run.read_json(run.evaluation_path) is None
    assert run.set_aside() is None
    assert not run.path.exists()


def test_rows_come_back_as_they_were_appended(run):
    rows = [{"text": "π\n\u2028\u0085<b>五</b>", "value": 1.5, "none": None, "list": [1, "a"]}, {"text": ""}]
    for row in rows:
        run.append_jsonl(run.samples_path, row)
    assert run.read_jsonl(run.samples_path) == rows


def test_a_row_is_one_line(run):
    run.append_jsonl(run.metrics_path, {"step": 1})
    content = run.metrics_path.read_bytes()
    assert content == b'{"step": 1}\n'


def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_append(run):
    for step in (1, 2):
        run.append_jsonl(run.metrics_path, {"step": step})
    whole = run.metrics_path.read_bytes()
    for cut in range(len(whole)):
        run.metrics_path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n")
        assert [row["step"] for row in run.read_jsonl(run.metrics_path)] == [1, 2][:complete]
        run.append_jsonl(run.metrics_path, {"step": 9})
        assert [row["step"] for row in run.read_jsonl(run.metrics_path)] == [*[1, 2][:complete], 9]


def test_a_torn_line_longer_than_the_read_buffer_is_cut_off(run):
    run.append_jsonl(run.metrics_path, {"step": 1})
    with open(run.metrics_path, "ab") as file:
        file.write(b'{"text": "' + b"x" * 200_000)
    run.append_jsonl(run.metrics_path, {"step": 2})
    assert run.read_jsonl(run.metrics_path) == [{"step": 1}, {"step": 2}]


def test_a_broken_line_elsewhere_is_named(run):
    run.append_jsonl(run.metrics_path, {"step": 1})
    run.metrics_path.write_bytes(b"{broken\n" + run.metrics_path.read_bytes())
    with pytest.raises(ValueError, match="metrics.jsonl is damaged: line 1 is not JSON"):
        run.read_jsonl(run.metrics_path)


def test_brackets_without_end_are_damage(run):
    run.write_text(run.manifest_path, "[" * 200_000)
    with pytest.raises(ValueError, match="manifest.json is damaged: it is not JSON"):
        run.read_manifest()


def test_figures_of_numpy_and_infinities_become_plain_json(run):
    row = {"loss": np.float32(0.5), "n": np.int64(3), "nan": float("nan"), "inf": np.inf, "ok": np.bool_(True)}
    run.append_jsonl(run.metrics_path, {**row, "path": run.path})
    (line,) = run.metrics_path.read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "loss": 0.5, "n": 3, "nan": None, "inf": None, "ok": True, "path": str(run.path)
    }  # fmt: skip


def test_a_lone_surrogate_in_sampled_text_is_kept(run):
    run.append_jsonl(run.samples_path, {"completion": "a\ud800b"})
    assert run.read_jsonl(run.samples_path) == [{"completion": "a\ud800b"}]


def test_manifest_entries_merge_and_sentences_are_said_once(run):
    run.update_manifest(timings={"load": 1.0}, backend="transformers")
    run.update_manifest(timings={"train": 2.0}, backend="unsloth")
    run.add_warning("No signal.")
    run.add_warning("No signal.")
    run.add_notice("Rounded.")
    assert run.read_manifest() == {
        "timings": {"load": 1.0, "train": 2.0},
        "backend": "unsloth",
        "warnings": ["No signal."],
        "notices": ["Rounded."],
    }


def test_a_failed_write_keeps_the_old_manifest_and_leaves_no_litter(run):
    run.update_manifest(backend="transformers")
    with pytest.raises(TypeError):
        run.update_manifest(backend=object())
    assert run.read_manifest() == {"backend": "transformers"}
    assert [path.name for path in run.path.iterdir()] == ["manifest.json"]


def test_recording_the_same_run_again_keeps_what_was_noted(run):
    params = RunParams.load("smoke", output_dir=run.path)
    run.record_run(params)
    run.add_notice("Rounded.")
    run.record_run(RunParams.load("smoke", output_dir=run.path, training={"resume": True}))
    assert run.read_manifest()["notices"] == ["Rounded."]
    run.record_run(params)
    manifest = run.read_manifest()
    assert manifest["notices"] == ["Rounded."]
    assert manifest["seeds"] == {"dataset": 42, "training": 42}
    assert manifest["parameters"] == params.as_dict()
    assert manifest["versions"]["trl"]
    assert RunParams.load(str(run.params_path)).training == params.training
    run.record_run(RunParams.load("smoke", output_dir=run.path, training={"seed": 1}))
    assert "notices" not in run.read_manifest()


def test_earlier_results_are_set_aside_not_lost(run):
    run.update_manifest(backend="transformers")
    assert run.set_aside() is None
    picture = run.image_file(Image.new("RGB", (4, 4)))
    for step in (1, 2):
        run.append_jsonl(run.metrics_path, {"step": step})
        folder = run.set_aside()
        assert folder == run.path / "previous" / str(step)
        assert RunDirectory(folder).read_jsonl(folder / "metrics.jsonl") == [{"step": step}]
        assert not run.metrics_path.exists() and not run.manifest_path.exists()
    assert (run.path / picture).is_file()
    run.append_jsonl(run.predictions_path, {"pid": "1"})
    run.append_jsonl(run.metrics_path, {"step": 3})
    run.set_aside(run.predictions_path)
    assert run.metrics_path.exists() and not run.predictions_path.exists()


def test_a_picture_is_saved_once_by_its_content(run):
    red, blue = Image.new("RGB", (8, 4), "red"), Image.new("RGB", (8, 4), "blue")
    first, again, other = run.image_file(red), run.image_file(red.copy()), run.image_file(blue)
    assert first == again != other
    assert first.startswith("images/") and first.endswith(".png")
    assert run.image_file(Image.new("RGB", (4, 8), "red")) != first
    with Image.open(run.path / first) as saved:
        assert (saved.size, saved.getpixel((0, 0))) == ((8, 4), (255, 0, 0))
    assert len(list(run.images_dir.iterdir())) == 3


def test_versions_and_hardware_are_those_of_this_machine():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["nbhelpers"] and found["transformers"]
    machine = hardware()
    assert machine["cpu"] and machine["cores"] >= 1 and machine["memory_gib"] > 0


def test_params_and_run_directory_import_without_torch_and_fast():
    code = (
        "import sys, nbhelpers.params, nbhelpers.runs as r; r.versions(); r.hardware();"
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_row_that_the_disk_takes_only_in_part_is_an_error_and_leaves_whole_rows(tmp_path):
    """A write may take a part without an error; here the limit on a file's size stands for a full disk."""
    code = (
        "import resource, sys; from nbhelpers.runs import RunDirectory\n"
        "run = RunDirectory(sys.argv[1]); run.append_jsonl(run.metrics_path, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n    run.append_jsonl(run.metrics_path, {'step': 2, 'text': 'x' * 200})\n"
        "except OSError as error:\n    print('said', error.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("said")
    run = RunDirectory(tmp_path)
    assert run.read_jsonl(run.metrics_path) == [{"step": 1}]
    run.append_jsonl(run.metrics_path, {"step": 3})
    assert run.read_jsonl(run.metrics_path) == [{"step": 1}, {"step": 3}]
