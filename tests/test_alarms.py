"""A run that does not learn says so, with its likeliest cause; a run that learns says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nbhelpers.training.alarm_rules import RULES, alarms

HEALTHY = {
    "frac_reward_zero_std": 0.2,
    "completions/clipped_ratio": 0.0,
    "grad_norm": 0.5,
    "sampling/importance_sampling_ratio/mean": 0.98,
    "sampling/sampling_logp_difference/mean": 0.003,
    "completions/mean_length": 400.0,
}


def run_of(steps=30, gain=1.5, **broken):
    noise = np.random.default_rng(3).normal(0, 0.1, steps)
    return [
        {"step": step + 1, "reward": 2.0 + gain * step / steps + noise[step],
         "probe/accuracy": 0.3 + gain * step / steps / 4, **HEALTHY, **broken}
        for step in range(steps)
    ]  # fmt: skip


def test_a_run_that_learns_raises_no_alarm():
    assert alarms(run_of(), 60) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"grad_norm": 0.0}, "Every gradient was 0"),
        ({"sampling/importance_sampling_ratio/mean": 1e-6}, "importance weight is 1e-06"),
        ({"sampling/sampling_logp_difference/mean": 0.13}, "0.130 nats per token in the last steps"),
        ({"frac_reward_zero_std": 0.95}, "95% of the groups"),
        ({"completions/clipped_ratio": 0.5}, "50% of the completions were cut off"),
    ],
)
def test_each_cause_is_named(broken, says):
    assert says in " ".join(alarms(run_of(**broken), 60))


def test_drift_is_judged_by_the_length_of_the_completions_and_by_the_last_steps():
    gap = "sampling/sampling_logp_difference/mean"
    short = run_of(**{gap: 0.06, "completions/mean_length": 30.0})
    assert alarms(short, 60) == []
    grown = [{**row, gap: 0.003 if row["step"] < 20 else 0.06} for row in run_of()]
    (sentence,) = alarms(grown, 60)
    assert "0.060 nats per token in the last steps, 0.003 in the first" in sentence


def test_a_reward_that_stands_still_is_an_alarm_after_a_third_of_the_run_and_not_before():
    flat = run_of(gain=0.0)
    assert any("stands still" in sentence for sentence in alarms(flat, 60))
    assert alarms(flat[:15], 60) == []


def test_a_policy_that_starts_at_the_top_is_not_accused_of_standing_still():
    full = [{**row, "reward": 4.0 - 0.01 * (row["step"] % 2), "probe/accuracy": 1.0} for row in run_of(gain=0.0)]
    assert alarms(full, 60) == []


def test_metrics_with_holes_are_read():
    assert alarms([{"step": 1}, {"step": 2, "reward": None}, {"step": 3, "probe/accuracy": None}] * 10, 30) == []


def test_every_rule_has_a_name_of_its_own():
    assert len({rule.name for rule in RULES}) == len(RULES)
