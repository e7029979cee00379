"""What the configured rewards would pay the policy as it is: a look before any training."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbhelpers.grading import GRADING_COLUMNS, PROBLEM_COLUMNS, Verdict, check_format, grade
from nbhelpers.params import RewardParams
from nbhelpers.rewards.functions import completion_text
from nbhelpers.rewards.groups import GroupStatistics, group_statistics
from nbhelpers.rewards.making import make_reward_funcs


@dataclass(frozen=True, slots=True)
class Preview:
    """What the rewards would pay for completions of the policy as it is.

    Attributes:
        rewards: Function name to one value per completion, in the order given.
        totals: The weighted sum per completion.
        verdicts: The grader's verdict per completion.
        groups: Statistics of the totals.
        formatted: Share of completions with both blocks well formed, 0 to 1.
    """

    rewards: dict[str, list[float | None]]
    totals: list[float | None]
    verdicts: list[Verdict]
    groups: GroupStatistics
    formatted: float

    @property
    def correct(self) -> float:
        """Share of completions that are right, 0 to 1."""
        return float(np.mean([verdict.correct for verdict in self.verdicts]))

    @property
    def unparsed(self) -> float:
        """Share of completions in which no answer could be read."""
        return float(np.mean([verdict.parsed is None for verdict in self.verdicts]))

    @property
    def warning(self) -> str:
        """A sentence when there is little to learn from these rewards, else ""."""
        correct, flat = 100 * self.correct, self.groups.zero_variance
        if correct < 2:
            unread = f"; from {100 * self.unparsed:.0f} % no answer can be read at all, so look at the format first"
            return (
                f"Only {correct:.1f} % of the completions are right{unread if self.unparsed > 0.5 else ''}. "
                "Correctness pays almost nobody, so training would polish the format alone. Use easier problems, a "
                "stronger policy, or a short supervised warm-up."
            )
        if correct > 98:
            return (
                f"{correct:.1f} % of the completions are right already: correctness pays almost everybody, so there is "
                "nothing left to learn from it. Use harder problems."
            )
        if flat > 0.8:
            return (
                f"In {100 * flat:.0f} % of the groups all {self.groups.rewards.shape[1]} completions earn the same: "
                "they carry no signal. Sample more completions per prompt, raise the temperature, or choose problems "
                "of middling difficulty."
            )
        return ""

    def table(self) -> list[dict[str, float | str]]:
        """One row per reward: mean, lowest, highest, and the share of groups in which its values differ."""
        rows = []
        size = self.groups.rewards.shape[1]
        for name, values in [*self.rewards.items(), ("total", self.totals)]:
            judged = [value for value in values if value is not None] or [math.nan]
            differ = 1 - group_statistics(values, size).zero_variance
            figures = {"mean": float(np.mean(judged)), "lowest": min(judged), "highest": max(judged)}
            rows.append({"reward": name, **figures, "groups that differ": differ})
        return rows


def preview(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[Any]],
    reward_params: RewardParams,
    *,
    lengths: Sequence[Sequence[int]] | None = None,
    max_completion_length: int | None = None,
) -> Preview:
    """Pays every completion of every problem with the configured rewards, before any training.

    Args:
        problems: Problem rows.
        completions: For each problem its group of completions, all groups of one size.
        reward_params: The section `reward`.
        lengths: Tokens of each completion, for `overlong`.
        max_completion_length: As for `make_reward_funcs`.
    """
    sizes = {len(group) for group in completions}
    if len(problems) != len(completions) or len(sizes) != 1:
        raise ValueError(
            f"{len(problems)} problems with {len(completions)} groups of sizes {sorted(sizes)}: "
            "give one group per problem, all of one size"
        )
    size = sizes.pop()
    texts = [completion_text(text) for group in completions for text in group]
    rows = [problem for problem in problems for _ in range(size)]
    columns = {name: [row.get(name) for row in rows] for name in ("pid", "metadata", *PROBLEM_COLUMNS)}
    if lengths is not None:
        columns["completion_ids"] = [range(length) for group in lengths for length in group]
    functions = make_reward_funcs(reward_params, max_completion_length=max_completion_length)
    paid = {
        function.__name__: _awaited(function(prompts=columns["question"], completions=texts, **columns))
        for function in functions
    }
    weights = reward_params.weights or [1.0] * len(functions)
    totals = [_weighted(values, weights) for values in zip(*paid.values(), strict=True)]
    marks = reward_params.delimiters
    verdicts = [
        grade(text, row["answer"], delimiters=marks, **{name: row.get(name) for name in GRADING_COLUMNS})
        for text, row in zip(texts, rows, strict=True)
    ]
    forms = [check_format(text, marks) for text in texts]
    return Preview(
        rewards=paid,
        totals=totals,
        verdicts=verdicts,
        groups=group_statistics(totals, size),
        formatted=float(np.mean([form.reasoning and form.solution for form in forms])),
    )


def _awaited(paid: Any) -> list[float | None]:
    """What an asynchronous reward pays, in a thread of its own, as a notebook's thread already has a loop."""
    if not inspect.iscoroutine(paid):
        return paid
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, paid).result()


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """TRL's sum: a None is left out, and a completion that no function judged has no total."""
    judged = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(judged) if judged else None
