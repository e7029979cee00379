"""The series and the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import papermill
import pytest

from nbhelpers import cli, series
from nbhelpers.evaluation.protocol import EvaluationStopped
from nbhelpers.params import PlainError
from nbhelpers.params.run_params import RunParams
from nbhelpers.runs import Gpu
from nbhelpers.training.stopping import TrainingStopped


def notebook(path, *sources, parameters="preset = 'smoke'\noutput_dir = None\ntraining = {}"):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    )
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [(None, "01 02 03 04"), ("3-4", "03 04"), ("2", "02"), ("1,3", "01 03"), ("1, 3-4", "01 03 04")],
)
def test_notebooks_are_chosen_by_number(selection, numbers):
    assert [path.name[:2] for path in series.select_notebooks(selection)] == numbers.split()


@pytest.mark.parametrize("selection", ["5", "0", "3-2", "three", ""])
def test_a_selection_that_makes_no_sense_is_refused(selection):
    with pytest.raises(series.SeriesError, match="expected numbers from 1 to 4"):
        series.select_notebooks(selection)


def test_parameters_reach_the_notebooks_and_their_output_is_passed_on(tmp_path):
    book = notebook(tmp_path / "01_a.ipynb", "print(preset, output_dir, training)")
    lines = []
    params = RunParams.load("smoke", output_dir=tmp_path / "run")
    series.run_series(params, overrides={"training": {"max_steps": 5}}, notebooks=[book], echo=lines.append)
    assert any("smoke" in line and "{'max_steps': 5}" in line for line in lines)
    assert (tmp_path / "run" / "notebooks" / "01_a.ipynb").is_file()


def test_the_next_kernel_imports_while_this_one_works_and_leaves_nothing_in_the_notebook(tmp_path, monkeypatch):
    seen = "import os, sys; print('transformers' in sys.modules, 'trl' in sys.modules, names)"
    clean = "names = [name for name in dir() if not name.startswith('_')]"
    sources = (clean, seen, "print('kernel', os.getpid())")
    books = [notebook(tmp_path / f"{name}.ipynb", *sources) for name in ("01_a", "02_b", "03_c")]
    monkeypatch.setattr(series, "_backend_to_import", lambda params: "transformers")
    lines = []
    series.run_series(RunParams.load("smoke", output_dir=tmp_path / "run"), notebooks=books, echo=lines.append)
    found = [re.match("(True|False) (True|False) (.*)", line.strip()) for line in lines if "] " not in line]
    rows = [one.groups() for one in found if one]
    assert [row[:2] for row in rows] == [("False", "False"), ("True", "False"), ("True", "True")]
    assert len({row[2] for row in rows}) == 1
    kernels = [int(line.split()[-1]) for line in lines if "kernel" in line]
    assert len(set(kernels)) == 3 and not any(map(is_running, kernels))
    second = nbformat.read(tmp_path / "run" / "notebooks" / "02_b.ipynb", as_version=4)
    assert [cell.execution_count for cell in second.cells if cell.cell_type == "code"][-1] == len(sources) + 2


@pytest.mark.parametrize(
    ("settings", "free", "expected"),
    [({}, 78.0, "transformers"), ({"backend": "unsloth"}, 78.0, "unsloth"), ({"backend": "unsloth"}, 20.0, ""),
     ({}, None, "")],
)  # fmt: skip
def test_what_the_next_kernel_imports_is_what_its_notebook_will_use(monkeypatch, settings, free, expected):
    monkeypatch.setattr(series, "find_gpus", lambda: [Gpu("a card", "", 80.0, free)] if free else [])
    assert series._backend_to_import(RunParams.load("gemma3_smoke", model=settings)) == expected
    assert series._backend_to_import(RunParams.load("smoke")) == ""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_kernel_that_was_prepared_ends_with_a_series_that_fails(tmp_path, monkeypatch):
    bad, after = (notebook(tmp_path / f"{name}.ipynb", "raise ValueError") for name in ("01_bad", "02_after"))
    monkeypatch.setattr(series, "_backend_to_import", lambda params: "transformers")
    prepared = []
    start = series._Kernels.prepare
    monkeypatch.setattr(series._Kernels, "prepare", lambda self, line: (start(self, line), prepared.append(self.next)))
    with pytest.raises(series.SeriesError, match="01_bad"):
        series.run_series(RunParams.load("smoke", output_dir=tmp_path / "run"), notebooks=[bad, after], echo=print)
    assert len(prepared) == 1 and not prepared[0].is_alive()


def test_a_failing_cell_stops_the_series_and_keeps_the_notebook(tmp_path):
    bad = notebook(tmp_path / "01_bad.ipynb", "print('fine')", "raise ValueError('a broken cell')", "print('never')")
    after = notebook(tmp_path / "02_after.ipynb", "print('never')")
    params = RunParams.load("smoke", output_dir=tmp_path / "run")
    with pytest.raises(series.SeriesError, match="01_bad.ipynb failed in cell .*ValueError: a broken cell"):
        series.run_series(params, notebooks=[bad, after], echo=lambda line: None)
    kept = nbformat.read(tmp_path / "run" / "notebooks" / "01_bad.failed.ipynb", as_version=4)
    assert "fine" in str([cell.get("outputs") for cell in kept.cells])
    assert not (tmp_path / "run" / "notebooks" / "02_after.ipynb").exists()


def test_a_kernel_has_nothing_to_complain_of(tmp_path, capfd):
    book = notebook(tmp_path / "01_a.ipynb", "print('fine')")
    series.run_series(RunParams.load("smoke", output_dir=tmp_path / "run"), notebooks=[book], echo=lambda line: None)
    said = "".join(capfd.readouterr()) + (tmp_path / "run" / "notebooks" / "01_a.ipynb").read_text()
    assert "fine" in said
    assert not {"encryption", "WARNING", "Warning"} & set(re.findall(r"\w+", said)), said


def test_without_the_series_settings_the_kernel_still_warns(tmp_path, capfd):
    """When this fails, `series._kernel_config` can go."""
    book = notebook(tmp_path / "01_a.ipynb", "print('fine')")
    papermill.execute_notebook(str(book), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False)
    assert "TCP without encryption" in capfd.readouterr().err


def test_the_command_says_what_is_wrong_with_a_parameter_and_exits_1(capsys):
    assert cli.main(["run", "smoke", "--set", "training.max_step=5"]) == 1
    assert "max_steps" in capsys.readouterr().err


def test_the_command_names_the_presets_there_are(capsys):
    assert cli.main(["run", "smok"]) == 1
    assert "smoke" in capsys.readouterr().err


def test_every_error_that_speaks_to_a_person_is_a_sentence_and_its_exit_code(capsys, monkeypatch, tmp_path):
    """130, as a shell has it, for what a person stopped; 1 for all else."""
    for error in (PlainError, TrainingStopped, EvaluationStopped, *PlainError.__subclasses__(), FileNotFoundError):
        monkeypatch.setattr(cli, "_report", lambda arguments, error=error: (_ for _ in ()).throw(error("what to do.")))
        assert cli.main(["report", str(tmp_path)]) == (130 if error.__name__.endswith("Stopped") else 1)
        assert capsys.readouterr().err == "nbhelpers: what to do.\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "_report", lambda arguments: {}["no such key"])
    with pytest.raises(KeyError):
        cli.main(["report", str(tmp_path)])


def test_an_interrupted_command_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "_report", lambda arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["report", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_one_run_is_not_compared(capsys, tmp_path):
    assert cli.main(["compare", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("nbhelpers: ")


def test_every_name_that_a_face_promises_is_there():
    from nbhelpers import show

    for name in show.__all__:
        assert getattr(show, name) is not None


def test_help_is_there_at_once():
    command = [sys.executable, "-X", "importtime", "-m", "nbhelpers.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "execute the four notebooks" in done.stdout
    # What takes time is imports; the command's own need none of the wings.
    assert not [line for line in done.stderr.splitlines() if "nbhelpers." in line and "nbhelpers.cli" not in line]


def test_importing_nbhelpers_imports_nothing_heavy():
    modules = "nbhelpers, nbhelpers.params, nbhelpers.policy, nbhelpers.training, nbhelpers.evaluation, nbhelpers.cli"
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'unsloth', 'vllm', 'bitsandbytes'}"
    code = f"import sys, {modules}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)
