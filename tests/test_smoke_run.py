"""What `nbhelpers run smoke` left in outputs/smoke. `.ci/run` and the workflow select this right after that command."""

from __future__ import annotations

import math
import re
from itertools import groupby

import nbformat
import pytest

from nbhelpers.params.run_params import RunParams
from nbhelpers.policy.adapter import adapter_norm
from nbhelpers.policy.loading import load_final_model
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.machine import versions
from nbhelpers.series import notebook_paths

pytestmark = pytest.mark.smoke_run
PARAMS = RunParams.load("smoke")
RUN = RunDirectory(PARAMS.output_dir)
PLAN = PARAMS.training.batch_plan()


@pytest.fixture(scope="module")
def samples():
    return [row for row in RUN.read_jsonl(RUN.samples_path) if row.get("role") != "probe"]


@pytest.fixture(scope="module")
def evaluation():
    return RUN.read_json(RUN.evaluation_path)


@pytest.mark.parametrize("source", notebook_paths(), ids=lambda path: path.stem[:2])
def test_every_notebook_ran_to_its_end_and_shows_no_noise(source):
    book = nbformat.read(RUN.notebooks_dir / source.name, as_version=4)
    assert not book.metadata.papermill.exception
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    written = [cell.source for cell in nbformat.read(source, as_version=4).cells if cell.cell_type == "code"]
    ran = [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in ran] == written
    for cell in cells:
        assert cell.metadata.papermill.status == "completed" and cell.execution_count, cell.source
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\n\nsays on stderr:\n{output.text[:2000]}"
            # A tqdm bar, on either stream or as a widget.
            assert not re.search(r"\d+%\|.*\| \d+/\d+|FloatProgress|HBox\(", str(output)), cell.source


def test_the_gain_is_no_luck(evaluation):
    assert evaluation["before"]["n"] == evaluation["after"]["n"] == evaluation["difference"]["n_paired"] >= 500
    low, high = evaluation["difference"]["ci95"]
    assert 0 < low <= evaluation["difference"]["accuracy"] <= high


def test_the_evaluation_is_that_of_the_kept_answers(evaluation):
    rows = RUN.read_jsonl(RUN.predictions_path)
    by_phase = {phase: {r["pid"]: r for r in rows if r["phase"] == phase} for phase in ("before", "after")}
    assert by_phase["before"].keys() == by_phase["after"].keys()
    for phase, answers in by_phase.items():
        assert len(answers) == evaluation[phase]["n"]
        right = sum(row["correct"] for row in answers.values()) / len(answers)
        assert right == pytest.approx(evaluation[phase]["accuracy"], abs=1e-9)
    kinds = {row["kind"] for row in rows}
    assert set(evaluation["by_group"]) == kinds and len(kinds) >= 6


def test_every_step_has_a_line_of_finite_numbers():
    rows = RUN.read_jsonl(RUN.metrics_path)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, PARAMS.training.max_steps + 1))
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))


def test_every_completion_is_kept_with_its_picture(samples):
    groups = {name: list(rows) for name, rows in groupby(samples, key=lambda row: row["group"])}
    assert len(samples) == PARAMS.training.max_steps * PLAN.completions_per_step
    assert len(groups) == PARAMS.training.max_steps * PLAN.prompts_per_step
    for rows in groups.values():
        assert [row["index"] for row in rows] == list(range(PARAMS.training.num_generations))
        assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-4)
        assert all(row["reward"] == pytest.approx(sum(row["rewards"].values())) and row["reason"] for row in rows)
    for picture in {row["image"] for row in samples}:
        assert (RUN.path / picture).read_bytes().startswith(b"\x89PNG")


def test_every_probe_was_asked_from_before_the_first_step_to_after_the_last(samples):
    probes = [row for row in RUN.read_jsonl(RUN.samples_path) if row.get("role") == "probe"]
    training = PARAMS.training
    asked = range(0, training.max_steps + 1, training.probe_steps)
    assert [row["step"] for row in probes] == [step for step in asked for _ in range(training.probes)]
    assert not {row["pid"] for row in probes} & {row["pid"] for row in samples}


def test_no_problem_was_trained_and_evaluated(samples):
    evaluated = {row["image"] for row in RUN.read_jsonl(RUN.predictions_path)}
    assert evaluated and not evaluated & {row["image"] for row in samples}


def test_the_reward_rose(samples):
    by_step = [[row["reward"] for row in rows] for _, rows in groupby(samples, key=lambda row: row["step"])]
    first, last = (sum(map(sum, steps)) / sum(map(len, steps)) for steps in (by_step[:5], by_step[-5:]))
    assert last > first + 0.5


def test_the_adapter_was_saved_and_loads():
    steps = sorted(int(path.name.rpartition("-")[2]) for path in RUN.checkpoints_dir.glob("checkpoint-*"))
    assert steps[-1] == PARAMS.training.max_steps
    assert (RUN.final_model_dir / "adapter_model.safetensors").is_file()
    assert adapter_norm(load_final_model(RUN.final_model_dir, PARAMS.model)) > 0


def test_the_manifest_says_what_ran():
    manifest = RUN.read_manifest()
    # Wherever the run was made or has been moved to.
    assert manifest["parameters"] | {"output_dir": str(PARAMS.output_dir)} == PARAMS.as_dict()
    assert manifest["versions"] == versions(), "another environment than this one made the run"
    assert {"seeds", "hardware", "dataset", "grpo_config", "batch", "created"} <= set(manifest)
    assert not manifest.get("warnings"), "a smoke run has nothing to warn of"
    assert RunParams.load(str(RUN.params_path), output_dir=RUN.path).as_dict() | {"preset": "smoke"} == PARAMS.as_dict()


def test_the_pages_hold_all_that_they_show(evaluation):
    report = RUN.report_path.read_text()
    assert f"{100 * evaluation['after']['accuracy']:.1f}" in report
    for page in (report, (RUN.path / "samples.html").read_text()):
        assert len(page) > 100_000 and re.search("data:image/(png|webp|jpeg);base64", page)
        assert not re.search(r"""(src|href)=["'](?!data:|#|samples\.html|report\.html)""", page), "asks for a file"
