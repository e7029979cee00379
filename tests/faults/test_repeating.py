"""The same run twice: from a manifest alone, with what differs named."""

from __future__ import annotations

import json
import shutil

import pytest

from nbhelpers import cli, series
from nbhelpers.params import SECTIONS, ParamsError, RunParams
from nbhelpers.policy import load_policy
from nbhelpers.problems import load_problems
from nbhelpers.repeating import file_of_manifest, report_differences
from nbhelpers.runs import RunDirectory
from nbhelpers.training import train


@pytest.fixture
def first(trained_run, tmp_path):
    shutil.copytree(trained_run["run"].path, tmp_path / "first")
    return RunDirectory(tmp_path / "first")


def test_a_run_is_repeated_from_its_manifest_with_the_same_samples(first, monkeypatch, capsys, tmp_path):
    """The command with training in place of the notebooks."""

    def run_series(params, **_):
        policy = load_policy(params.model, params.lora, seed=params.training.seed)
        train(policy, load_problems(params.dataset), params, RunDirectory(params.output_dir))

    monkeypatch.setattr(series, "run_series", run_series)
    assert cli.main(["run", "--from-manifest", str(first.manifest_path)]) == 0
    again = RunDirectory(tmp_path / "first-again")
    was, now = (run.read_manifest() for run in (first, again))
    assert now["grpo_config"] | {"output_dir": ""} == was["grpo_config"] | {"output_dir": ""}
    for section in SECTIONS:
        assert now["parameters"][section] == was["parameters"][section]
    assert again.samples_path.read_bytes() == first.samples_path.read_bytes()
    said = capsys.readouterr().out
    assert "Environment: the same." in said
    assert "samples.jsonl" not in said  # the last digits of gradients may differ inside one process
    assert again.read_manifest()["repeated"]["environment"] == []


def test_what_differs_is_named_with_its_place(first, tmp_path):
    shutil.copytree(first.path, tmp_path / "again")
    again = RunDirectory(tmp_path / "again")
    again.update_manifest(versions={"trl": "9.9"}, hardware={"cores": 64})
    rows = first.read_jsonl(first.samples_path)
    changed = next(at for at, row in enumerate(rows) if row["step"] == 2)
    again.write_jsonl(again.samples_path, [*rows[:changed], {**rows[changed], "reward": 9}, *rows[changed + 1 :]])
    lines = first.read_jsonl(first.metrics_path)
    again.write_jsonl(again.metrics_path, [{**line, "time": 0} for line in lines])
    said = report_differences(first.manifest_path, again)
    assert "versions.trl: " in said and '"9.9" now' in said and "hardware.cores: " in said and "64 now" in said
    assert "samples.jsonl: differs from step 2 on" in said and "metrics.jsonl" not in said


def test_a_manifest_is_data(first, tmp_path):
    manifest = json.loads(first.manifest_path.read_text())
    manifest["parameters"]["reward"]["functions"] = ["os:system"]
    first.manifest_path.write_text(json.dumps(manifest))
    file = file_of_manifest(first.manifest_path, str(tmp_path / "again"))
    with pytest.raises(ParamsError, match="os:system, which is code"):
        RunParams.load(str(file))


@pytest.mark.parametrize("content", ["", "[]", '{"parameters": 3}', "not JSON"])
def test_a_file_that_is_no_manifest_is_a_sentence(tmp_path, content, capsys):
    (tmp_path / "manifest.json").write_text(content)
    assert cli.main(["run", "--from-manifest", str(tmp_path / "manifest.json")]) == 1
    assert "is no manifest.json of a run" in capsys.readouterr().err
