"""A sweep: overrides times seeds, gone on with, and one table."""

from __future__ import annotations

import json
import os
import signal
import time
from unittest.mock import Mock

import pytest
import yaml
from tiny_run import TINY_DATASET, TINY_TRAINING

from nbhelpers import cli, sweep
from nbhelpers.params import ParamsError, presets_folder
from nbhelpers.runs import RunDirectory

TINY = {
    "training": {**TINY_TRAINING, "max_steps": 2, "save_steps": 1, "probes": 4, "probe_steps": 1},
    "dataset": TINY_DATASET,
    "evaluation": {"num_samples": 4, "pass_k": None, "plain_problems": 0},
}


def sweep_file(folder, **content):
    file = folder / "tried.yaml"
    file.write_text(yaml.safe_dump({"preset": "smoke", "seeds": [1, 2], "overrides": {"full": {}}} | content))
    return file


def finished_run(folder, one, after, curve=((0, 0.25), (4, 0.75), (8, 1.0)), before=0.25):
    """What a run leaves that the table reads."""
    run = one.run
    run.record_run(one.params)
    run.update_manifest(timings={"training_seconds": 2.0})
    run.append_jsonl(run.metrics_path, *({"step": step, "completions/mean_length": 10.0 + step} for step in (1, 8)))
    for step, share in curve:
        rows = [{"group": f"probe-{step}-{i}", "step": step, "pid": str(i), "role": "probe"} for i in range(4)]
        run.append_jsonl(run.samples_path, *(row | {"correct": i < 4 * share} for i, row in enumerate(rows)))
    for phase in ("before", "after"):
        rows = [{"pid": str(i), "phase": phase, "kind": "a", "question": "q", "answer": "1"} for i in range(8)]
        rows = [row | {"correct": i < 8 * (after if phase == "after" else before)} for i, row in enumerate(rows)]
        run.append_jsonl(run.predictions_path, *(row | {"completion": "", "format_ok": True} for row in rows))
    sides = {"before": {"accuracy": before}, "after": {"accuracy": after, "format_rate": 1.0, "n": 8}}
    run.write_json(run.evaluation_path, sides | {"by_group": {}, "protocol": "strict"})


def test_an_override_lies_over_common_settings_and_the_command_line_over_both(tmp_path):
    file = sweep_file(
        tmp_path,
        common={"training": {"max_steps": 5, "grpo": {"beta": 0.1}}},
        overrides={"a": None, "b": {"training": {"max_steps": 6, "grpo": {"weight_decay": 0.2}}}},
    )
    runs = sweep.load_sweep(file, output_dir=tmp_path, overrides={"training": {"save_steps": 7}})
    assert [one.name for one in runs] == ["a/1", "b/1", "a/2", "b/2"]
    assert [one.params.training.max_steps for one in runs] == [5, 6, 5, 6]
    assert {one.params.training.save_steps for one in runs} == {7}
    assert [one.params.training.seed for one in runs] == [1, 1, 2, 2]
    grpo = runs[1].params.training.grpo
    assert (grpo["beta"], grpo["weight_decay"], grpo["max_grad_norm"]) == (0.1, 0.2, 0.5)


def test_the_command_of_a_run_means_the_parameters_that_were_checked(tmp_path):
    file = sweep_file(tmp_path, overrides={"own": {"training": {"learning_rate": 1e-5, "grpo": {"beta": 1e-7}}}})
    one = sweep.load_sweep(file, output_dir=tmp_path)[0]
    arguments = cli.make_parser().parse_args(["run", *one.params.as_arguments()])
    assert cli._load(arguments)[0] == one.params


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"override": {"a": {}}}, "override is not a known key .*did you mean overrides"),
        ({"overrides": {"a/b": {}}}, "a/b"),
        ({"seeds": []}, "seeds"),
        ({"overrides": {"a": {"training": {"max_step": 3}}}}, "tried.yaml, a: training.max_step .*max_steps"),
    ],
)
def test_what_is_wrong_in_a_sweep_file_is_said_before_anything_runs(tmp_path, content, said):
    with pytest.raises(ParamsError, match=said):
        sweep.load_sweep(sweep_file(tmp_path, **content), output_dir=tmp_path)


@pytest.mark.parametrize("file", sorted((presets_folder() / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_sweeps_keep_the_problems_and_the_completions_per_step(file, tmp_path):
    runs = sweep.load_sweep(file, output_dir=tmp_path, trust_code=True)
    assert {one.seed for one in runs} == {1, 2, 3, 4, 5}
    dataset = runs[0].params.dataset
    assert all(one.params.dataset == dataset for one in runs)
    assert round(dataset.max_samples * dataset.eval_fraction) == 512
    plans = [one.params.training.batch_plan() for one in runs]
    assert {plan.completions_per_step for plan in plans} == {96}
    training = dataset.max_samples - 512
    assert training >= 10 * runs[0].params.training.probes
    assert all(training - 64 >= plan.prompts_per_step * 24 for plan in plans), "no problem is met twice"


def test_a_directory_with_another_run_is_left_alone(tmp_path):
    file = sweep_file(tmp_path)
    first = sweep.load_sweep(file, output_dir=tmp_path)[0]
    finished_run(tmp_path, first, after=0.5)
    assert first.finished
    changed = sweep.load_sweep(file, output_dir=tmp_path, overrides={"training": {"max_steps": 3}})[0]
    with pytest.raises(sweep.SweepError, match=r"other parameters \(training.max_steps\)"):
        _ = changed.finished


def test_the_table_pairs_by_seed_and_its_interval_sees_only_the_difference(tmp_path):
    runs = sweep.load_sweep(sweep_file(tmp_path, seeds=[1, 2, 3], overrides={"a": {}, "b": {}}), output_dir=tmp_path)
    after = {"a/1": 0.25, "a/2": 0.5, "a/3": 0.75, "b/1": 0.375, "b/2": 0.625, "b/3": 0.875}
    for one in runs:
        late = ((0, 0.25), (4, 0.5), (8, 0.5)) if one.name == "b/3" else ((0, 0.25), (4, 0.75), (8, 1.0))
        finished_run(tmp_path, one, after[one.name], curve=late)
    a, b = sweep.table_of(map(sweep.result_of, runs))
    assert a["against_first"] is None
    assert b["against_first"] == pytest.approx([0.125, 0.125, 0.125])  # the seeds differ by more, and alike
    assert a["gain"][0] == pytest.approx(0.25)
    assert a["gain"][1] == pytest.approx(0.25 - 4.30265 * 0.25 / 3**0.5, abs=1e-4)  # t of 2 degrees of freedom
    assert (a["steps"], a["reached"]) == (8, 3) and (b["steps"], b["reached"]) == (8, 2)
    assert a["area"] == pytest.approx((0.5 + 0.875) / 2)
    assert a["seconds"] == 2.0 and a["length"] == [11.0, 18.0]


def test_finished_runs_are_not_made_again_and_a_failed_one_stops_no_other(tmp_path, monkeypatch, capsys):
    file = sweep_file(tmp_path, seeds=[1], overrides={"a": {}, "b": {}, "c": {}})
    runs, made = sweep.load_sweep(file, output_dir=tmp_path), []
    finished_run(tmp_path, runs[0], after=0.5)

    def make(one, environment, running):
        made.append((one.name, environment["OMP_NUM_THREADS"]))
        one.run.write_text(one.run.path / "log.txt", "starting\nmemory is out\n")
        if one.override == "b":
            return 1
        finished_run(tmp_path, one, after=0.75)
        return 0

    monkeypatch.setattr(sweep, "_in_a_process", make)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with pytest.raises(sweep.SweepError, match="1 of 3 runs failed .b/1: memory is out"):
        sweep.run_sweep(runs, jobs=1, echo=lambda line: None)
    assert made == [("b/1", "3"), ("c/1", "3")]
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["override"] for row in kept["table"]] == ["a", "c"]
    assert "| c | 1 | 25.0 % | 75.0 %" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.png").is_file() and "a/1" in (tmp_path / "compare-1.html").read_text()


def test_sigterm_ends_the_runs_of_a_sweep_too(tmp_path):
    """It ended the sweep alone and left its runs training."""
    runs = sweep.load_sweep(sweep_file(tmp_path, seeds=[1], overrides={"a": {}, "b": {}}), output_dir=tmp_path)
    ended: list[str] = []

    def make(one, environment, running):
        running.add(Mock(terminate=lambda: ended.append(one.name)))
        os.kill(os.getpid(), signal.SIGTERM)
        while not ended:
            time.sleep(0.01)
        return 130

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "_in_a_process", make)
        sweep.run_sweep(runs, echo=lambda line: None)
    assert ended == ["a/1"] and signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.slow
def test_a_sweep_runs_from_the_command_and_goes_on_where_a_run_was_cut_off(tmp_path, capsys):
    tiny = TINY | {"reward": {"functions": ["tests.benchmarks.coin:coin"]}}
    file = sweep_file(tmp_path, common=tiny, seeds=[3], overrides={"coin": {}})
    command = ["sweep", str(file), "--output-dir", str(tmp_path / "out"), "--jobs", "2", "--trust-code"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "1 runs, 0 of them finished earlier" in said and "| coin | 1 |" in said
    run = RunDirectory(tmp_path / "out/coin/3")
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == [1, 2]
    trained = (run.final_model_dir / "adapter_model.safetensors").read_bytes()
    # As if it had been killed after its first step.
    run.evaluation_path.unlink()
    run.set_aside(run.final_model_dir, run.checkpoints_dir / "checkpoint-2")
    assert cli.main(command) == 0
    assert "0 of them finished earlier" in capsys.readouterr().out
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == [1, 2]
    assert (run.final_model_dir / "adapter_model.safetensors").read_bytes() == trained
    assert cli.main(command) == 0
    assert "1 of them finished earlier" in capsys.readouterr().out
