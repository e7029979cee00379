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
    """One alarm: its name, how many steps it wants to have seen, and what it says of the metrics (None: nothing).

    `alone`: it explains whatever the later rules would say, so that they are not asked. `doubt`: it doubts that the
    policy learns, so that a gain on unseen problems answers it; the others doubt what the figures are worth.
    """

    name: str
    after: int
    says: Callable[[Metrics], str | None]
    alone: bool = False
    doubt: bool = False


def alarms(metrics: Metrics, total_steps: int | None = None, *, doubts_only: bool = False) -> list[str]:
    """Sentences on what keeps this run from learning, the likeliest cause first; empty where it learns.

    Args:
        metrics: rows of `metrics.jsonl` so far.
        total_steps: of the whole run; rules on standing still wait for a third of it.
        doubts_only: those that a gain on unseen problems answers.
    """
    wait = max(5, (total_steps or 0) // 3)
    found: list[str] = []
    for rule in RULES:
        if len(metrics) >= (rule.after or wait) and (sentence := rule.says(metrics)):
            found += [sentence] if rule.doubt or not doubts_only else []
            if rule.alone:
                break
    return found


def _values(metrics: Metrics, key: str) -> np.ndarray:
    """The finite values of a key. NaN and infinity are null in `metrics.jsonl`, and themselves while it is written."""
    values = np.array([row[key] for row in metrics if isinstance(row.get(key), int | float)], float)
    return values[np.isfinite(values)]


def _beyond(key: str, limit: float, sentence: str, *, below: bool = False) -> Callable[[Metrics], str | None]:
    """Says the sentence, with the mean of a key in it, where the mean lies above the limit (or below it)."""

    def says(metrics: Metrics) -> str | None:
        values = _values(metrics, key)
        mean = float(values.mean()) if len(values) else limit
        return sentence.format(mean) if mean != limit and (mean < limit) is below else None

    return says


_NO_SIGNAL = (
    "In {:.0%} of the groups all completions earned the same reward: they carry no signal. Raise num_generations or "
    "the temperature, or use problems that the policy solves sometimes."
)
_CUT_OFF = (
    "{:.0%} of the completions were cut off at max_completion_length: they cannot earn the solution's reward. Raise "
    "training.max_completion_length."
)
_WEIGHTS_NEAR_ZERO = (
    "The mean importance weight is {:.2g}: vLLM and the trainer disagree on the same tokens, and what they disagree on "
    "teaches nothing. `nbhelpers doctor` compares versions; model.fast_inference=false trains without vLLM."
)


def _not_finite(metrics: Metrics) -> str | None:
    keys = ("grad_norm", "loss")
    broken = [row["step"] for row in metrics for key in keys if key in row and not len(_values([row], key))]
    if not broken:
        return None
    return (
        f"Gradient or loss was NaN or infinite at step {broken[0]}: what was learnt from there on is worth nothing. "
        "Train anew with a lower training.learning_rate."
    )


def _destroyed(metrics: Metrics) -> str | None:
    """Hardly any reward is left, and the policy speaks otherwise than at the start: at random, or without an end.

    Seen in the embedded model at learning rates from 0.03, a hundred times the preset's: the reward fell from 2.9 to 0
    within one to three steps while the entropy rose from 0.13 to 0.6 and more.
    """
    rewards, entropies = _values(metrics, "reward"), _values(metrics, "entropy")
    cut_off = _values(metrics, "completions/clipped_ratio")
    if len(rewards) < 4 or rewards[-3:].mean() > 0.1 * rewards[:-3].max():
        return None
    at_random = len(entropies) > 3 and entropies[-3:].mean() > 3 * entropies[0]
    without_end = len(cut_off) > 3 and cut_off[-3:].mean() > 0.5 and cut_off[0] < 0.2
    if not at_random and not without_end:
        return None
    return (
        f"The reward fell from {rewards[:-3].max():.2f} to {rewards[-3:].mean():.2f} and does not come back: the "
        "policy was destroyed, most likely by a training.learning_rate that is too large. Train anew with a lower one."
    )


def _judges_nothing(metrics: Metrics) -> str | None:
    keys = {key for row in metrics for key in row if key.startswith("rewards/") and key.endswith("/mean")}
    silent = sorted(key.split("/")[1] for key in keys if not len(_values(metrics, key)))
    if not silent:
        return None
    return (
        f"{' and '.join(silent)} gave None for every completion of {len(metrics)} steps: what cannot judge pays nobody "
        "and teaches nothing."
    )


def _drift(metrics: Metrics) -> str | None:
    """By the last five steps' gap. For gaps spread like a normal distribution KL is pi / 4 times their mean size
    squared, and a completion of n tokens weighs exp(-n KL) as a whole.
    """
    gaps, lengths = (
        _values(metrics, key) for key in ("sampling/sampling_logp_difference/mean", "completions/mean_length")
    )
    if not len(gaps) or not len(lengths):
        return None
    weight = float(np.exp(-lengths[-5:].mean() * np.pi / 4 * gaps[-5:].mean() ** 2))
    if weight >= 0.5:
        return None
    return (
        f"vLLM and the trainer drift apart: {gaps[-5:].mean():.3f} nats per token in the last steps, {gaps[0]:.3f} in "
        f"the first. A completion of mean length would weigh {weight:.2g} as a whole, and 1 is agreement: what is "
        "sampled is not what the policy would write. Lower the learning rate, or set model.fast_inference=false."
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
    Rule("not finite", 1, _not_finite, alone=True),
    Rule("policy destroyed", 4, _destroyed, alone=True),
    Rule("judges nothing", 3, _judges_nothing),
    Rule("no gradient", 3, _no_gradient),
    Rule(
        "importance weights near 0",
        3,
        _beyond("sampling/importance_sampling_ratio/mean", 0.1, _WEIGHTS_NEAR_ZERO, below=True),
    ),
    Rule("vLLM drifts", 3, _drift),
    Rule("no signal in groups", 3, _beyond("frac_reward_zero_std", 0.8, _NO_SIGNAL), doubt=True),
    Rule("cut off", 3, _beyond("completions/clipped_ratio", 0.3, _CUT_OFF), doubt=True),
    Rule("reward stands still", 0, _reward_stands_still, doubt=True),
    Rule("probes stand still", 0, _probes_stand_still, doubt=True),
)
