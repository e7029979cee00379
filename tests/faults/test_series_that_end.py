"""A series that is stopped, whose kernel dies, or asked for by mistake: a sentence; nothing is overwritten."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest
from tiny_process import ENVIRONMENT, PATIENCE, settings, wait_for_step
from tiny_run import REPOSITORY, TINY_TRAINING

from nbhelpers import series
from nbhelpers.params import RunParams
from nbhelpers.runs import RunDirectory, RunError, flaw, writing
from nbhelpers.training import TrainingError

SHIPPED = "preset = 'smoke'\noutput_dir = None\ntraining = {}"


def notebook(path, *sources, parameters=SHIPPED):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "p", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def run_notebook(tmp_path):
    """Run one notebook with these cells as a series; gives the lines that the series prints."""

    def go(*sources, name="01_a", **given):
        lines = []
        params = RunParams.load("smoke", output_dir=tmp_path / "run")
        book = notebook(tmp_path / f"{name}.ipynb", *sources, **given)
        series.run_series(params, notebooks=[book], echo=lines.append)
        return lines

    go.executed = tmp_path / "run" / "notebooks"
    return go


def test_a_kernel_that_is_killed_is_a_sentence_and_what_it_printed_is_kept(run_notebook):
    with pytest.raises(series.SeriesError, match=r"01_a.ipynb ended because its kernel died: .*01_a\.failed\.ipynb$"):
        run_notebook("print('so far')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "so far" in (run_notebook.executed / "01_a.failed.ipynb").read_text()


def test_a_series_that_fails_leaves_the_finished_notebook_and_one_that_succeeds_moves_it(run_notebook):
    run_notebook("print('first')")
    with pytest.raises(series.SeriesError, match="ValueError: broken"):
        run_notebook("raise ValueError('broken')")
    assert "first" in (run_notebook.executed / "01_a.ipynb").read_text()
    lines = run_notebook("print('second')")
    assert "second" in (run_notebook.executed / "01_a.ipynb").read_text()
    kept = run_notebook.executed.parent / "previous" / "1"
    assert f"The earlier 01_a.ipynb moved to {kept}." in lines and "first" in (kept / "01_a.ipynb").read_text()


def test_an_error_for_a_person_is_one_line_in_the_notebook(run_notebook):
    with pytest.raises(series.SeriesError):
        run_notebook("from nbhelpers.params import RunParams", "RunParams.load('smok')")
    cells = nbformat.read(run_notebook.executed / "01_a.failed.ipynb", as_version=4).cells
    (shown,) = [out.traceback for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert len(shown) == 1 and shown[0].startswith("ParamsError: parameters: there is no preset 'smok'")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_steps", "write it as -y '{training: {max_steps: ...}}'"), ("trainin", "did you mean training")],
)
def test_papermill_is_not_given_a_parameter_that_nothing_reads(tmp_path, name, hint):
    book = REPOSITORY / "notebooks" / "01_dataset_exploration.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as refused:
        papermill.execute_notebook(str(book), str(tmp_path / "out.ipynb"), {name: 5}, progress_bar=False)
    assert f"no parameter '{name}'" in refused.value.evalue and hint in refused.value.evalue
    assert len(refused.value.traceback) == 1


def test_an_interrupted_run_is_not_trained_again_by_notebook_04_and_other_settings_stop_first(tmp_path):
    params = RunParams.load("smoke", output_dir=tmp_path)
    run = RunDirectory(tmp_path)
    run.record_run(params)
    run.append_jsonl(run.metrics_path, {"step": 3})
    with pytest.raises(TrainingError, match="interrupted after step 3. To go on: nbhelpers run"):
        series.run_series(params, notebooks=series.select_notebooks("4"), echo=print)
    (run.checkpoints_dir / "checkpoint-2").mkdir(parents=True)
    other = RunParams.load("smoke", output_dir=tmp_path, training={"resume": True, "learning_rate": 1.0})
    with pytest.raises(TrainingError, match="learning_rate"):
        series.run_series(other, echo=print)
    assert not run.notebooks_dir.exists()


def test_two_series_do_not_write_in_one_directory(tmp_path):
    code = (
        "import sys, pathlib; from nbhelpers.runs import writing\nwith writing(pathlib.Path(sys.argv[1]), 'a'): input()"
    )
    for place in (tmp_path, tmp_path / "notebooks"):  # somebody trains there, or a series runs there
        first = subprocess.Popen([sys.executable, "-c", code, str(place)], stdin=subprocess.PIPE)
        while not (place / ".writer").is_file() or not (place / ".writer").read_text():
            time.sleep(0.02)
        with pytest.raises(RunError, match=f"process {first.pid}"):
            series.run_series(RunParams.load("smoke", output_dir=tmp_path), echo=print)
        first.communicate(b"\n")
    with writing(tmp_path, "b"):
        pass


def start_series(folder, *more, **training):
    command = [sys.executable, "-m", "nbhelpers.cli", "run", "smoke", "--notebooks", "3", "--output-dir", str(folder)]
    command += [*settings({**TINY_TRAINING, **training}), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM"])
def test_a_series_that_is_stopped_leaves_a_checkpoint_and_one_sentence(tmp_path, end):
    process = start_series(tmp_path, max_steps=300, save_steps=100)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.Signals[end])
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in said
    assert re.search(rf"nbhelpers: Stopped by {end}\. 03_grpo_training.ipynb failed in cell .*stopped by SIGINT", said)
    assert said.count("To go on: nbhelpers run") == 1
    assert [folder.name for folder in (tmp_path / "checkpoints").glob("checkpoint-*") if not flaw(folder)]


@pytest.mark.slow
def test_a_training_kernel_that_is_killed_is_a_sentence_with_step_and_command(tmp_path):
    process = start_series(tmp_path, max_steps=300, save_steps=2)
    wait_for_step(process, tmp_path, 3)
    os.kill(int(re.search(r'"pid": ?(\d+)', (tmp_path / ".writer").read_text())[1]), signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and said.count("Traceback") == 0
    assert "its kernel died" in said and re.search(r"checkpoint-\d+ is whole\. To go on: nbhelpers run", said)
