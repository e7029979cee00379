"""TODO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbhelpers.grading import Delimiters, Verdict, check_format, grade
from nbhelpers.rewards.functions import GRADING_COLUMNS, completion_text, make_reward_funcs
from nbhelpers.rewards.groups import GroupStatistics, group_statistics

if TYPE_CHECKING:
    from nbhelpers.params import RewardParams


@dataclass(frozen=True, slots=True)
class Preview:
    """What the rewards would pay for completions of the policy as it is.

    Attributes:
        rewards: Function name to one value a completion, in the order given.
        totals: The weighted sum a completion.
        verdicts: The grader's verdict a completion.
        groups: Statistics of the totals.
        correct: Share of completions that are right, 0 to 1.
        formatted: Share of completions with both blocks well formed.
        unparsed: Share of completions in which no answer could be read.
        warning: A sentence when there is little to learn from these rewards, else "".
    """

    rewards: dict[str, list[float | None]]
    totals: list[float | None]
    verdicts: list[Verdict]
    groups: GroupStatistics
    correct: float
    formatted: float
    unparsed: float
    warning: str

    def table(self) -> list[dict[str, float | str]]:
        """One row a reward: mean, lowest, highest, and the share of groups in which it differs between completions."""
        rows = []
        size = self.groups.rewards.shape[1]
        for name, values in [*self.rewards.items(), ("total", self.totals)]:
            judged = [value for value in values if value is not None]
            if not judged:
                rows.append(
                    {
                        "reward": name,
                        "mean": math.nan,
                        "lowest": math.nan,
                        "highest": math.nan,
                        "groups that differ": 0.0,
                    }
                )
                continue
            rows.append(
                {
                    "reward": name,
                    "mean": float(np.mean(judged)),
                    "lowest": min(judged),
                    "highest": max(judged),
                    "groups that differ": 1 - group_statistics(values, size).zero_variance,
                }
            )
        return rows


def preview(
    problems: Sequence[dict[str, Any]],
    completions: Sequence[Sequence[Any]],
    reward_params: RewardParams,
    *,
    lengths: Sequence[Sequence[int]] | None = None,
    max_completion_length: int | None = None,
    scale: str = "none",
) -> Preview:
    """Pays every completion of every problem with the configured rewards, before any training.

    Args:
        problems: Problem rows.
        completions: For each problem its group of completions, all groups of one size.
        reward_params: The section `reward`.
        lengths: Tokens of each completion, for `overlong`.
        max_completion_length: As for `make_reward_funcs`.
        scale: As for `group_statistics`.
    """
    sizes = {len(group) for group in completions}
    if len(problems) != len(completions) or len(sizes) != 1:
        raise ValueError(
            f"{len(problems)} problems with {len(completions)} groups of sizes {sorted(sizes)}: "
            "give one group a problem, all of one size"
        )
    size = sizes.pop()
    texts = [completion_text(text) for group in completions for text in group]
    rows = [problem for problem in problems for _ in range(size)]
    columns = {
        key: [row.get(key) for row in rows] for key in ("pid", "question", "answer", "metadata", *GRADING_COLUMNS)
    }
    if lengths is not None:
        columns["completion_ids"] = [range(length) for group in lengths for length in group]
    functions = make_reward_funcs(reward_params, max_completion_length=max_completion_length)
    names = [function.__name__ for function in functions]
    paid = {
        name: function(prompts=[row.get("question") for row in rows], completions=texts, **columns)
        for name, function in zip(names, functions, strict=True)
    }
    weights = reward_params.weights or [1.0] * len(names)
    totals = [_weighted(values, weights) for values in zip(*paid.values(), strict=True)]
    marks = Delimiters(
        reward_params.reasoning_start,
        reward_params.reasoning_end,
        reward_params.solution_start,
        reward_params.solution_end,
    )
    verdicts = [
        grade(text, row["answer"], delimiters=marks, **{key: row.get(key) for key in GRADING_COLUMNS})
        for text, row in zip(texts, rows, strict=True)
    ]
    forms = [check_format(text, marks) for text in texts]
    correct = float(np.mean([verdict.correct for verdict in verdicts]))
    unparsed = float(np.mean([verdict.parsed is None for verdict in verdicts]))
    groups = group_statistics(totals, size, scale)
    return Preview(
        rewards=paid,
        totals=totals,
        verdicts=verdicts,
        groups=groups,
        correct=correct,
        formatted=float(np.mean([form.reasoning and form.solution for form in forms])),
        unparsed=unparsed,
        warning=_warning(correct, unparsed, groups.zero_variance, size),
    )


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """TRL's sum: a None is left out, and a completion that no function judged has no total."""
    judged = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return sum(judged) if judged else None


def _warning(correct: float, unparsed: float, zero_variance: float, size: int) -> str:
    if correct < 0.02:
        cause = (
            f"; from {unparsed:.0%} no answer can be read at all, so look at the format first" if unparsed > 0.5 else ""
        )
        return (
            f"Only {correct:.1%} of the completions are right{cause}. Correctness pays almost nobody, so training would "
            "polish the format alone. Use easier problems, a stronger policy, or a short supervised warm-up."
        )
    if correct > 0.98:
        return (
            f"{correct:.1%} of the completions are right already: correctness pays almost everybody, so there is nothing "
            "left to learn from it. Use harder problems."
        )
    if zero_variance > 0.8:
        return (
            f"In {zero_variance:.0%} of the groups all {size} completions earn the same: they carry no signal. Sample more "
            "completions a prompt, raise the temperature, or choose problems of middling difficulty."
        )
    return ""
