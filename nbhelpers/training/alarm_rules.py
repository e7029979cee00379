"""Signs that a run is not learning, as one table of rules: each reads the metrics so far and says what is wrong and
why.

Add a row to `RULES` to add an alarm. The live view, the report and the end of training all ask `alarms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rule:
    """One alarm: its name, how many steps it wants to have seen, and what it says of the metrics (None: nothing)."""

    name: str
    after: int
    says: Callable[[Metrics], str | None]


def alarms(metrics: Metrics, total_steps: int | None = None) -> list[str]:
    """Sentences on what keeps this run from learning, the likeliest cause first; empty where it learns.

    Args:
        metrics: rows of `metrics.jsonl` so far.
        total_steps: of the whole run; rules on standing still wait for a third of it.
    """
    wait = max(5, (total_steps or 0) // 3)
    found = [rule.says(metrics) for rule in RULES if len(metrics) >= (rule.after or wait)]
    return [sentence for sentence in found if sentence]


def _values(metrics: Metrics, key: str) -> np.ndarray:
    return np.array([row[key] for row in metrics if isinstance(row.get(key), int | float)], float)


def _mean(metrics: Metrics, key: str) -> float | None:
    values = _values(metrics, key)
    return float(values.mean()) if len(values) else None


def _no_signal(metrics: Metrics) -> str | None:
    without = _mean(metrics, "frac_reward_zero_std")
    if without is None or without <= 0.8:
        return None
    return (
        f"In {without:.0%} of the groups all completions earned the same reward: they carry no signal. Raise "
        "num_generations or "
        "the temperature, or use problems that the policy solves sometimes."
    )


def _cut_off(metrics: Metrics) -> str | None:
    share = _mean(metrics, "completions/clipped_ratio")
    if share is None or share <= 0.3:
        return None
    return (
        f"{share:.0%} of the completions were cut off at max_completion_length: they cannot earn the solution's "
        "reward. Raise "
        "training.max_completion_length."
    )


def _weights_near_zero(metrics: Metrics) -> str | None:
    weight = _mean(metrics, "sampling/importance_sampling_ratio/mean")
    if weight is None or weight >= 0.1:
        return None
    return (
        f"The mean importance weight is {weight:.2g}: vLLM and the trainer disagree on the same tokens, and what "
        "they disagree on "
        "teaches nothing. `nbhelpers doctor` compares versions; model.fast_inference=false trains without vLLM."
    )


def _no_gradient(metrics: Metrics) -> str | None:
    norms = _values(metrics, "grad_norm")
    if not len(norms) or np.any(norms > 0):
        return None
    return "Every gradient was 0: the policy has not learnt anything in this run."


def _reward_stands_still(metrics: Metrics) -> str | None:
    """The last third's mean reward is within its own noise (two standard errors) of the first third's."""
    rewards = _values(metrics, "reward")
    third = len(rewards) // 3
    first, last = rewards[:third], rewards[-third:]
    noise = 2 * float(np.sqrt(first.var(ddof=1) / third + last.var(ddof=1) / third)) if third > 1 else np.inf
    best = float(rewards.max()) if len(rewards) else 0.0
    if third < 2 or last.mean() - first.mean() > noise or last.mean() > 0.97 * best > 0 and first.mean() > 0.9 * best:
        return None
    return (
        f"The reward stands still: {first.mean():.2f} in the first and {last.mean():.2f} in the last third of "
        f"{len(rewards)} steps. "
        "The likeliest causes: a learning rate that is too small, too few groups with a signal, or problems beyond "
        "the policy."
    )


def _probes_stand_still(metrics: Metrics) -> str | None:
    right = _values(metrics, "probe/accuracy")
    if len(right) < 3 or right.max() > right[0] or right[0] > 0.9:
        return None
    return f"The probe problems are solved no more often than at the start ({right[0]:.0%} then, {right[-1]:.0%} now)."


RULES = (
    Rule("no gradient", 3, _no_gradient),
    Rule("importance weights near 0", 3, _weights_near_zero),
    Rule("no signal in groups", 3, _no_signal),
    Rule("cut off", 3, _cut_off),
    Rule("reward stands still", 0, _reward_stands_still),
    Rule("probes stand still", 0, _probes_stand_still),
)
