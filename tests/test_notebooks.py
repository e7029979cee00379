"""The notebooks as files, and each of them executed by papermill alone, from another folder, with a few steps."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import papermill
import pytest
from tiny_run import REPOSITORY, TINY_TRAINING

from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import SECTIONS
from nbhelpers.series import notebook_paths

NOTEBOOKS = notebook_paths()
BY_NAME = {"ids": lambda path: path.stem[:2]}
TINY = {
    "training": {**TINY_TRAINING, "max_steps": 2, "probes": 2, "probe_steps": 1},
    "dataset": {"max_samples": 32},
    "evaluation": {"num_samples": 6, "pass_k": 2, "pass_problems": 2, "plain_problems": 2},
}


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_four():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_dataset_exploration",
        "02_reward_design",
        "03_grpo_training",
        "04_evaluation",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, **BY_NAME)
def test_outputs_and_widgets_are_stripped(path):
    book = nbformat.read(path, as_version=4)
    assert "widgets" not in book.metadata
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, **BY_NAME)
def test_exactly_one_cell_is_tagged_parameters_and_holds_literals(path):
    import ast

    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assigned = {node.target.id: ast.literal_eval(node.value) for node in ast.parse(tagged[0].source).body}
    assert assigned == {"preset": "smoke", "output_dir": None, **{section: {} for section in SECTIONS}}


@pytest.mark.parametrize("path", NOTEBOOKS, **BY_NAME)
def test_cells_are_short_and_define_nothing(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 15, cell.source
        assert not any(line.startswith(("def ", "class ", "async def ")) for line in lines), cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, **BY_NAME)
def test_papermill_sees_the_parameters(path):
    seen = papermill.inspect_notebook(str(path))
    assert set(seen) == set(RunParams.model_fields)
    for name, parameter in seen.items():  # what `papermill --help-notebook` shows
        assert parameter["inferred_type_name"] == ("dict" if name in SECTIONS else "str")
        assert len(parameter["help"]) > 20


def left_by(name: str) -> list[str]:
    """What README's table says that a notebook leaves in the run directory."""
    row = re.search(rf"^\| `{name}` \|.*\|(.*)\|$", (REPOSITORY / "README.md").read_text(), re.M)
    return re.findall(r"`([^`]+)`", row[1])


def is_looked_at(output) -> bool:
    """A picture, a table, a page or the viewer, and no bar or printed line."""
    data = output.get("data", {})
    return "image/png" in data or len(data.get("text/html", "")) > 500


# Notebook 04 trains what it evaluates. The others alone are slow tests; the series runs them anyway.
ALONE = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem[:2] != "04")) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", ALONE, **BY_NAME)
def test_a_notebook_runs_alone_from_any_folder(path, tmp_path):
    """The command that the README shows, with two steps and a few problems."""
    book = tmp_path / path.name
    parameters = [item for section, values in TINY.items() for item in ("-y", f"{{{section}: {values!r}}}")]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(path), str(book), "-f", str(REPOSITORY / "params" / "smoke.yaml"),
         *parameters, "-p", "output_dir", str(tmp_path / "run"), "--no-progress-bar"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cells = code_cells(book)
    assert all(cell.execution_count and cell.metadata.papermill.status == "completed" for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum(map(is_looked_at, outputs)) >= 3
    for name in left_by(path.stem):
        assert (tmp_path / "run" / name).exists(), name
        assert (tmp_path / "run" / name).is_file() or any((tmp_path / "run" / name).iterdir()), name
    left = {file.name for file in (tmp_path / "run").glob("*")}
    assert left_by(path.stem) or left <= {"libraries.log"}
