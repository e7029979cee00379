"""NaN, infinity and a destroyed policy: the run stops, or says so in the live view, the manifest and the report."""

from __future__ import annotations

import math

import pytest
import torch

from nbhelpers.policy.loading import load_policy
from nbhelpers.problems.loading import load_problems
from nbhelpers.rewards.guarding import RewardError
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.show.live import LiveView
from nbhelpers.show.report import write_report
from nbhelpers.training import trainer
from nbhelpers.training.alarm_rules import alarms
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.stopping import are_finite
from nbhelpers.training.trainer import train

# Two runs of the embedded model, 32 completions a step, as they were logged on 2026-11-24.
AT_0_03 = {
    "reward": [2.875, 3.344, 3.062, 0.0, 0.031, 0.0, 0.0],
    "entropy": [0.134, 0.037, 0.077, 0.339, 0.867, 0.591, 0.981],
    "completions/clipped_ratio": [0.0, 0.0, 0.0, 0.062, 0.281, 0.812, 0.781],
    "grad_norm": [0.023, 0.022, 0.222, 0.0, 0.05, 0.0, 0.0],
}
AT_10 = {
    "reward": [2.875, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "entropy": [0.134, 3.439, 3.191, 3.003, 2.748, 3.608, 3.214],
    "completions/clipped_ratio": [0.0, 1.0, 0.938, 1.0, 0.969, 0.938, 0.969],
    "grad_norm": [0.023, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
}


def rows(columns, **more):
    steps = range(len(columns["reward"]))
    return [{"step": at + 1, **{key: values[at] for key, values in columns.items()}, **more} for at in steps]


@pytest.mark.parametrize("logged", [AT_0_03, AT_10], ids=["rate 0.03", "rate 10"])
def test_a_destroyed_policy_is_named_and_nothing_that_misleads_beside_it(logged):
    (sentence,) = alarms(rows(logged), 7)
    assert "the policy was destroyed" in sentence and "learning_rate that is too large" in sentence


def test_it_is_named_as_soon_as_three_steps_show_it():
    assert not alarms(rows({key: values[:5] for key, values in AT_0_03.items()}), 7)
    assert alarms(rows({key: values[:6] for key, values in AT_0_03.items()}), 7)


def test_rare_rewards_that_stay_away_for_some_steps_are_not_a_destroyed_policy():
    rare = {
        "reward": [0.25, 0, 0, 0.5, 0, 0, 0, 0],
        "entropy": [0.5, 0.6, 0.4, 0.5, 0.5, 0.6, 0.5, 0.4],
        "completions/clipped_ratio": [0.1] * 8,
        "grad_norm": [0.1] * 8,
    }
    assert not [sentence for sentence in alarms(rows(rare), 100) if "destroyed" in sentence]


@pytest.mark.parametrize("value", [math.nan, math.inf, None], ids=["NaN, live", "infinity, live", "null, on disk"])
def test_a_gradient_that_is_no_number_is_not_taken_for_none(value):
    broken = rows({key: values[:3] for key, values in AT_0_03.items()})
    broken[1]["grad_norm"] = value
    (sentence,) = alarms(broken, 60)
    assert "NaN or infinite at step 2" in sentence
    assert "Every gradient was 0" not in sentence


def test_a_reward_that_judges_nothing_is_an_alarm():
    silent = rows({key: values[:3] for key, values in AT_0_03.items()}, **{"rewards/mine/mean": None})
    assert any(sentence.startswith("mine gave None for every completion") for sentence in alarms(silent, 60))


def test_norms_see_every_broken_value():
    sound = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16)]
    assert are_finite(sound) and are_finite([])
    for broken in (math.nan, math.inf, -math.inf):
        assert not are_finite([*sound, torch.tensor([0.0, broken])])


# in training


@pytest.fixture
def training(tmp_path, tiny_params):
    """Trains the tiny run with `training` sections over it; gives the run directory."""

    def start(reward_funcs=None, on_log=None, monkeypatch=None, **training):
        params = tiny_params(tmp_path / "run", training={"max_steps": 4, "save_steps": 1, **training})
        run = RunDirectory(params.output_dir)
        if reward_funcs:
            monkeypatch.setattr(trainer, "make_reward_funcs", lambda *args, **kwargs: reward_funcs)
        train(load_policy(params.model, params.lora), load_problems(params.dataset), params, run, on_log=on_log)
        return run

    return start


def test_weights_that_a_learning_rate_blew_up_end_the_run_in_a_sentence(training, tmp_path):
    with pytest.raises(TrainingError, match="weights are NaN or infinite after step 1.*There is no checkpoint yet"):
        training(learning_rate=1e30)
    run = RunDirectory(tmp_path / "run")
    assert not run.final_model_dir.exists() and not list(run.checkpoints_dir.glob("checkpoint-*"))
    assert "weights are NaN or infinite" in " ".join(run.read_manifest()["warnings"])
    assert "weights are NaN or infinite" in write_report(run.path).read_text()


def test_a_gradient_that_is_nan_stops_before_the_weights_and_names_the_last_good_checkpoint(
    training, tmp_path, monkeypatch
):
    from transformers import TrainerCallback

    class Breaks(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                next(p for p in model.parameters() if p.grad is not None).grad.fill_(math.nan)

    build = trainer._build

    def build_broken(*args, **kwargs):
        made = build(*args, **kwargs)
        made.add_callback(Breaks())
        return made

    monkeypatch.setattr(trainer, "_build", build_broken)
    with pytest.raises(TrainingError, match="gradient of step 3 is NaN or infinite.*checkpoint-2"):
        training()
    run = RunDirectory(tmp_path / "run")
    assert sorted(folder.name for folder in run.checkpoints_dir.glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
    ]
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == [1, 2]
    assert "gradient of step 3" in " ".join(run.read_manifest()["warnings"])


def test_a_reward_that_fails_in_the_third_step_keeps_the_first_two(training, tmp_path, monkeypatch):
    from nbhelpers.rewards.guarding import guarded

    def fails(completions, trainer_state=None, **_):
        return [float("nan") if trainer_state.global_step == 2 else float(i) for i in range(len(completions))]

    with pytest.raises(RewardError, match="reward 'fails' returned 'nan' for completion 1 of 8, '"):
        training([guarded("fails", fails, 5.0)], monkeypatch=monkeypatch)
    run = RunDirectory(tmp_path / "run")
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == [1, 2]
    assert {row["step"] for row in run.read_jsonl(run.samples_path)} == {1, 2}
    assert (run.checkpoints_dir / "checkpoint-2" / "adapter_model.safetensors").is_file()


def test_the_live_view_shows_the_alarm(tmp_path):
    view = LiveView(tmp_path)
    view.rows, view._begun = rows(AT_10), 0.0
    assert "the policy was destroyed" in view._page()
