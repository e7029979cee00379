"""The series and the command line."""

from __future__ import annotations

import nbformat
import pytest

from nbhelpers import cli, series
from nbhelpers.params.run_params import RunParams


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


def test_a_failing_cell_stops_the_series_and_keeps_the_notebook(tmp_path):
    bad = notebook(tmp_path / "01_bad.ipynb", "print('fine')", "raise ValueError('a broken cell')", "print('never')")
    after = notebook(tmp_path / "02_after.ipynb", "print('never')")
    params = RunParams.load("smoke", output_dir=tmp_path / "run")
    with pytest.raises(series.SeriesError, match="01_bad.ipynb failed in cell .*ValueError: a broken cell"):
        series.run_series(params, notebooks=[bad, after], echo=lambda line: None)
    kept = nbformat.read(tmp_path / "run" / "notebooks" / "01_bad.ipynb", as_version=4)
    assert "fine" in str([cell.get("outputs") for cell in kept.cells])
    assert not (tmp_path / "run" / "notebooks" / "02_after.ipynb").exists()


def test_the_command_says_what_is_wrong_with_a_parameter_and_exits_1(capsys):
    assert cli.main(["run", "smoke", "--set", "training.max_step=5"]) == 1
    assert "max_steps" in capsys.readouterr().err


def test_the_command_names_the_presets_there_are(capsys):
    assert cli.main(["run", "smok"]) == 1
    assert "smoke" in capsys.readouterr().err


def test_importing_nbhelpers_imports_nothing_heavy():
    import subprocess
    import sys

    modules = "nbhelpers, nbhelpers.params, nbhelpers.policy, nbhelpers.training, nbhelpers.evaluation, nbhelpers.cli"
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'unsloth', 'vllm', 'bitsandbytes'}"
    code = f"import sys, {modules}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)
