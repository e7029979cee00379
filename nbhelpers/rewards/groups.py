"""What GRPO makes of a group's rewards: the baseline, the spread, the advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Rewards cut into groups of completions of one prompt.

    Attributes:
        rewards: Shape (groups, num_generations).
        means: Mean reward of each group, shape (groups,): the baseline.
        spreads: Standard deviation of each group with the n - 1 of TRL, shape (groups,).
        advantages: Reward minus the group's mean, divided by the spread when `scale` is "group"; as `rewards`.
        zero_variance: Share of groups, 0 to 1, whose rewards are all equal: they move nothing.
    """

    rewards: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    advantages: np.ndarray
    zero_variance: float


def group_statistics(rewards: Sequence[float | None], num_generations: int, scale: str = "none") -> GroupStatistics:
    """Mean, spread and advantages of every group, as TRL's GRPOTrainer computes them.

    Args:
        rewards: One total per completion, groups one after the other. None (nobody could judge) counts in no mean.
        num_generations: Completions per group.
        scale: "none" (Dr. GRPO) or "group" (GRPO), TRL's `scale_rewards`.

    Raises:
        ValueError: The number of rewards is no multiple of `num_generations`, or `scale` is unknown.
    """
    if num_generations < 1 or not len(rewards) or len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {num_generations}")
    if scale not in ("none", "group"):
        raise ValueError(f"scale {scale!r} is unknown: use 'none' or 'group'")
    values = np.array(rewards, dtype=float).reshape(-1, num_generations)  # a None becomes NaN
    judged = np.ma.masked_invalid(values)
    means = judged.mean(axis=1).filled(0.0)
    apart = (judged - means[:, None]).filled(0.0)
    spreads = judged.std(axis=1, ddof=1).filled(0.0)
    # TRL adds the same 1e-4 so that a group without spread does not divide by zero.
    advantages = apart / (spreads[:, None] + 1e-4) if scale == "group" else apart
    return GroupStatistics(values, means, spreads, advantages, float(np.mean(spreads < 1e-8)))


def signal_chance(rate: float, num_generations: int) -> float:
    """The chance that a group of `num_generations` completions holds right and wrong ones.

    A correctness reward needs that to teach anything. `rate` is the probability, 0 to 1, that a completion is right.
    """
    return 1 - rate**num_generations - (1 - rate) ** num_generations
