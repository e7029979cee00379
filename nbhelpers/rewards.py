"""Reward functions with TRL's signature, and what a group of rewards tells the policy.

TRL calls each function with keyword lists, one entry a completion: `prompts`, `completions`, `completion_ids` and every
column of the data set (`answer`, `choices`, ...). A function gives one number a completion, or None where it cannot
judge; TRL leaves a None out of the sum.

>>> formatting_reward_func(["<REASONING>90 / 2</REASONING><SOLUTION>45</SOLUTION>", "45"])
[2.0, 0.0]
"""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nbhelpers.grading import DEFAULT_DELIMITERS, Delimiters, Verdict, can_grade, check_format, grade

if TYPE_CHECKING:
    from nbhelpers.params import RewardParams

Reward = Callable[..., list[float | None]]

# The columns of a problem that grading takes; each may be absent from a data set.
GRADING_COLUMNS = ("choices", "unit", "precision", "question_type", "answer_type")


def completion_text(completion: Any) -> str:
    """The text of a completion as TRL hands it over: a string, or a list of messages whose last one counts."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], dict):
        content = completion[-1].get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, Sequence):
            return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def _rows(columns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What grading wants to know about each completion's problem, from TRL's keyword lists."""
    present = [(key, columns[key]) for key in GRADING_COLUMNS if columns.get(key) is not None]
    return [{key: column[at] for key, column in present} for at in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# The two rewards of every run
# ---------------------------------------------------------------------------------------------------------------------


def formatting_reward_func(
    completions: Sequence[Any],
    *,
    formatting_reward: float = 1.0,
    delimiters: Delimiters = DEFAULT_DELIMITERS,
    **kwargs: Any,
) -> list[float]:
    """`formatting_reward` for a well-formed reasoning block, and once more for a well-formed solution block.

    See `grading.check_format` for what counts as well formed. Whether the solution is right plays no part.
    """
    scores = []
    for completion in completions:
        form = check_format(completion_text(completion), delimiters)
        scores.append(formatting_reward * (form.reasoning + form.solution))
    return scores


def correctness_reward_func(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    *,
    correctness_reward: float = 2.0,
    delimiters: Delimiters = DEFAULT_DELIMITERS,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """`correctness_reward` for a right answer (`grading.grade`), 0 for a wrong one, None without a gold answer.

    TRL's `log_metric`, where it is given, receives the share of completions in which no answer could be read.
    """
    scores: list[float | None] = []
    unread = 0
    for completion, gold, row in zip(completions, answer, _rows(kwargs, len(completions)), strict=True):
        if not can_grade(gold, **row):
            scores.append(None)
            continue
        verdict = grade(completion_text(completion), gold, delimiters=delimiters, **row)
        unread += verdict.parsed is None
        scores.append(correctness_reward if verdict.correct else 0.0)
    if log_metric is not None and scores:
        log_metric("unparsed_rate", unread / len(scores))
    return scores


# ---------------------------------------------------------------------------------------------------------------------
# Rewards to opt in to
# ---------------------------------------------------------------------------------------------------------------------


def closeness_reward_func(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any],
    *,
    delimiters: Delimiters = DEFAULT_DELIMITERS,
    **kwargs: Any,
) -> list[float | None]:
    """1 for a right number, less than 0.5 for a wrong one, falling to 0 when it is off by the answer's own size.

    A wrong number earns `0.5 * (1 - |error| / max(|answer|, 1))`, so being right stays worth twice as much as being as
    near as can be. None where the answer is not one number (choices, texts, lists). It gives counts and readings a
    slope to climb; it also pays a policy that always says a middling number, so look at the samples.
    """
    scores: list[float | None] = []
    for completion, gold, row in zip(completions, answer, _rows(kwargs, len(completions)), strict=True):
        target = _number(gold)
        if row.get("choices") or target is None or not can_grade(gold, **row):
            scores.append(None)
            continue
        verdict = grade(completion_text(completion), gold, delimiters=delimiters, **row)
        stated = _number(verdict.parsed)
        if verdict.correct or stated is None:
            scores.append(float(verdict.correct))
        else:
            scores.append(0.5 * max(0.0, 1 - abs(stated - target) / max(abs(target), 1.0)))
    return scores


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def overlong_reward_func(
    completions: Sequence[Any],
    *,
    max_completion_length: int,
    completion_ids: Sequence[Sequence[int]] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """DAPO's soft overlong punishment: 0 up to the last fifth of `max_completion_length`, then falling to -1 at its
    end.

    Lengths are tokens and come from TRL's `completion_ids`; without them nothing can be judged. A completion that was
    cut off fills the whole length and so gets -1. Source: DAPO, section 3.4 (https://arxiv.org/abs/2503.14476), where
    the buffer is a fifth of the length as well (4,096 of 20,480 tokens).
    """
    if completion_ids is None:
        return [None] * len(completions)
    buffer = max(1, max_completion_length // 5)
    free = max_completion_length - buffer
    return [max(-1.0, min(0.0, (free - len(ids)) / buffer)) for ids in completion_ids]


def repetition_reward_func(completions: Sequence[Any], *, size: int = 3, **kwargs: Any) -> list[float]:
    """0 for a text without repeated word triples, towards -1 the larger the share of repeated ones is.

    The n-gram repetition penalty of https://arxiv.org/abs/2502.03373, over blank-separated words.
    """
    scores = []
    for completion in completions:
        words = completion_text(completion).lower().split()
        grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        scores.append(len(set(grams)) / len(grams) - 1.0 if grams else 0.0)
    return scores


BUILT_IN: MappingProxyType[str, Reward] = MappingProxyType(
    {
        "formatting": formatting_reward_func,
        "correctness": correctness_reward_func,
        "closeness": closeness_reward_func,
        "overlong": overlong_reward_func,
        "repetition": repetition_reward_func,
    }
)

# Sections to give to `RunParams.load(...)`. "correctness_only" pays for nothing but the right answer and divides by
# neither the length nor the group's spread, so that neither long nor short answers are favoured (Dr. GRPO,
# https://arxiv.org/abs/2503.20783). It needs a policy that answers in the format already.
RECIPES: MappingProxyType[str, dict[str, dict[str, Any]]] = MappingProxyType(
    {
        "two_rewards": {"reward": {"functions": ["formatting", "correctness"]}},
        "correctness_only": {
            "reward": {"functions": ["correctness"]},
            "training": {"loss_type": "dr_grpo", "grpo": {"scale_rewards": "none"}},
        },
        "graded": {"reward": {"functions": ["formatting", "correctness", "closeness"]}},
        "length_limited": {"reward": {"functions": ["formatting", "correctness", "overlong", "repetition"]}},
    }
)


def _own_function(name: str) -> Reward:
    """The user's reward `module:function`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"reward {name!r}: cannot import module {module_name!r} ({error})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(function_name, public, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"reward {name!r}: module {module_name!r} has no function {function_name!r}{hint}")
    return function


def _named(name: str, function: Reward, **settings: Any) -> Reward:
    def reward(*args: Any, **kwargs: Any) -> list[float | None]:
        return function(*args, **kwargs, **settings)

    # TRL logs rewards/<__name__>/mean.
    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = function.__doc__
    return reward


def make_reward_funcs(reward_params: RewardParams, *, max_completion_length: int | None = None) -> list[Reward]:
    """The configured rewards, in the order of `reward_params.functions`, each with a `__name__` for the logs.

    Args:
        reward_params: The section `reward`: delimiters, values, and the names of the functions. A name with a colon is
            a function of the user's own, `module:function`, with TRL's signature; it receives the data set's columns.
        max_completion_length: Tokens that a completion may have; only `overlong` needs it.

    Raises:
        ValueError: A name is no reward of the package, or the user's own function cannot be found.
    """
    delimiters = Delimiters(
        reward_params.reasoning_start,
        reward_params.reasoning_end,
        reward_params.solution_start,
        reward_params.solution_end,
    )
    settings: dict[str, dict[str, Any]] = {
        "formatting": {"formatting_reward": reward_params.formatting_reward, "delimiters": delimiters},
        "correctness": {"correctness_reward": reward_params.correctness_reward, "delimiters": delimiters},
        "closeness": {"delimiters": delimiters},
        "overlong": {"max_completion_length": max_completion_length},
    }
    functions = []
    for name in reward_params.functions:
        if ":" in name:
            own = _own_function(name)  # as it is, so that TRL sees whether it is asynchronous
            functions.append(own if hasattr(own, "__name__") else _named(name.partition(":")[2], own))
        elif name not in BUILT_IN:
            near = difflib.get_close_matches(name, BUILT_IN, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"reward {name!r} is unknown: use one of {', '.join(BUILT_IN)} or module:function{hint}")
        elif name == "overlong" and max_completion_length is None:
            raise ValueError("reward 'overlong' needs max_completion_length, the tokens that a completion may have")
        else:
            functions.append(_named(name, BUILT_IN[name], **settings.get(name, {})))
    return functions


# ---------------------------------------------------------------------------------------------------------------------
# What a group's rewards tell the policy
# ---------------------------------------------------------------------------------------------------------------------


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
        rewards: One total a completion, groups one after the other. None (nobody could judge) counts in no mean.
        num_generations: Completions a group.
        scale: "none" (Dr. GRPO) or "group" (GRPO), TRL's `scale_rewards`.

    Raises:
        ValueError: The number of rewards is no multiple of `num_generations`, or `scale` is unknown.
    """
    if num_generations < 1 or not len(rewards) or len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {num_generations}")
    if scale not in ("none", "group"):
        raise ValueError(f"scale {scale!r} is unknown: use 'none' or 'group'")
    values = np.array([np.nan if value is None else value for value in rewards], dtype=float)
    values = values.reshape(-1, num_generations)
    judged = ~np.isnan(values)
    count = judged.sum(axis=1)
    filled = np.where(judged, values, 0.0)
    means = filled.sum(axis=1) / np.maximum(count, 1)
    apart = np.where(judged, values - means[:, None], 0.0)
    spreads = np.sqrt((apart**2).sum(axis=1) / np.maximum(count - 1, 1))
    # TRL adds the same 1e-4 so that a group without spread does not divide by zero.
    advantages = apart / (spreads[:, None] + 1e-4) if scale == "group" else apart
    return GroupStatistics(values, means, spreads, advantages, float(np.mean(spreads < 1e-8)))


def signal_chance(rate: float, num_generations: int) -> float:
    """The chance that a group of `num_generations` completions, each right with probability `rate`, holds right and
    wrong
    ones: what a correctness reward needs to teach anything."""
    return 1 - rate**num_generations - (1 - rate) ** num_generations


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


# ---------------------------------------------------------------------------------------------------------------------
# What others pay, for comparison in notebook 02 and in the benchmark
# ---------------------------------------------------------------------------------------------------------------------

_REASONING = re.compile(r"<REASONING>(.*?)</REASONING>", re.S)
_SOLUTION = re.compile(r"<SOLUTION>(.*?)</SOLUTION>", re.S)


def naive_formatting_reward_func(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """The formatting reward of the public Gemma-3 vision GRPO notebook: 1 for one match of each pair of marks, whatever
    stands between them and wherever they are."""
    texts = [completion_text(completion) for completion in completions]
    return [float(sum(len(pattern.findall(text)) == 1 for pattern in (_REASONING, _SOLUTION))) for text in texts]


def naive_correctness_reward_func(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any
) -> list[float]:
    """The correctness reward of the public Gemma-3 vision GRPO notebook: 2 when the one solution equals the answer,
    character by character once line ends are taken out."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        found = _SOLUTION.findall(completion_text(completion))
        scores.append(2.0 if len(found) == 1 and found[0].replace("\n", "") == str(gold) else 0.0)
    return scores
