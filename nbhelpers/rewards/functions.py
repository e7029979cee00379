"""The reward functions, with TRL's signature so that they drop into any GRPOTrainer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from nbhelpers.grading import GRADING_COLUMNS, Verdict, can_grade, check_format, grade
from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters

Reward = Callable[..., list[float | None]]


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


def _verdicts(
    completions: Sequence[Any], answers: Sequence[Any], delimiters: Delimiters, columns: dict[str, Any]
) -> list[Verdict | None]:
    """The grader's verdict on each completion, None without a gold answer; `columns` are TRL's keyword lists."""
    present = {name: columns[name] for name in GRADING_COLUMNS if columns.get(name) is not None}
    verdicts = []
    for at, (completion, gold) in enumerate(zip(completions, answers, strict=True)):
        row = {name: column[at] for name, column in present.items()}
        judged = can_grade(gold, **row)
        verdicts.append(grade(completion_text(completion), gold, delimiters=delimiters, **row) if judged else None)
    return verdicts


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
    forms = [check_format(completion_text(completion), delimiters) for completion in completions]
    return [formatting_reward * (form.reasoning + form.solution) for form in forms]


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
    verdicts = _verdicts(completions, answer, delimiters, kwargs)
    if log_metric is not None and verdicts:
        log_metric("unparsed_rate", sum(v is not None and v.parsed is None for v in verdicts) / len(verdicts))
    return [None if verdict is None else correctness_reward * verdict.correct for verdict in verdicts]


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
    choices = kwargs.get("choices") or [None] * len(completions)
    verdicts = _verdicts(completions, answer, delimiters, kwargs)
    for verdict, gold, offered in zip(verdicts, answer, choices, strict=True):
        target, stated = _as_number(gold), _as_number(verdict and verdict.parsed)
        if offered or target is None or verdict is None:
            scores.append(None)
        elif verdict.correct or stated is None:
            scores.append(float(verdict.correct))
        else:
            scores.append(0.5 * max(0.0, 1 - abs(stated - target) / max(abs(target), 1.0)))
    return scores


def _as_number(text: Any) -> float | None:
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
    """DAPO's soft overlong punishment: 0 up to the last fifth of `max_completion_length`, then down to -1 at its end.

    Lengths are tokens and come from TRL's `completion_ids`; without them nothing can be judged. A truncated completion
    fills the whole length and so gets -1. Source: DAPO, section 3.4 (https://arxiv.org/abs/2503.14476), where
    the buffer is a fifth of the length as well (4,096 of 20,480 tokens).
    """
    if completion_ids is None:
        return [None] * len(completions)
    buffer = max(1, max_completion_length // 5)
    free = max_completion_length - buffer
    return [max(-1.0, min(0.0, (free - len(ids)) / buffer)) for ids in completion_ids]


def repetition_reward_func(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """0 for a text without repeated word triples, towards -1 the larger the share of repeated ones is.

    The n-gram repetition penalty of https://arxiv.org/abs/2502.03373, over blank-separated words.
    """
    scores = []
    for completion in completions:
        words = completion_text(completion).lower().split()
        triples = list(zip(words, words[1:], words[2:], strict=False))
        scores.append(len(set(triples)) / len(triples) - 1.0 if triples else 0.0)
    return scores


# The rewards of the public Gemma-3 vision GRPO notebook, which compare characters: what notebook 02 starts from.
_REASONING = re.compile(r"<REASONING>(.*?)</REASONING>", re.S)
_SOLUTION = re.compile(r"<SOLUTION>(.*?)</SOLUTION>", re.S)


def naive_formatting_reward_func(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """1 for one match of each pair of marks, whatever stands between them and wherever they are."""
    texts = [completion_text(completion) for completion in completions]
    return [float(sum(len(pattern.findall(text)) == 1 for pattern in (_REASONING, _SOLUTION))) for text in texts]


def naive_correctness_reward_func(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any
) -> list[float]:
    """2 when the one solution equals the answer, character by character once line ends are taken out."""
    scores = []
    for completion, gold in zip(completions, answer, strict=True):
        found = _SOLUTION.findall(completion_text(completion))
        scores.append(2.0 if len(found) == 1 and found[0].replace("\n", "") == str(gold) else 0.0)
    return scores


BUILT_IN: dict[str, Reward] = {
    "formatting": formatting_reward_func,
    "correctness": correctness_reward_func,
    "closeness": closeness_reward_func,
    "overlong": overlong_reward_func,
    "repetition": repetition_reward_func,
}

# Sections to give to `RunParams.load(...)`. "correctness_only" pays for nothing but the right answer and divides by
# neither the length nor the group's spread, so that neither long nor short answers are favoured (Dr. GRPO,
# https://arxiv.org/abs/2503.20783). It needs a policy that answers in the format already.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "two_rewards": {"reward": {"functions": ["formatting", "correctness"]}},
    "correctness_only": {
        "reward": {"functions": ["correctness"]},
        "training": {"loss_type": "dr_grpo", "grpo": {"scale_rewards": "none"}},
    },
    "graded": {"reward": {"functions": ["formatting", "correctness", "closeness"]}},
    "length_limited": {"reward": {"functions": ["formatting", "correctness", "overlong", "repetition"]}},
}
