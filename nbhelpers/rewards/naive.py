"""The rewards of the public Gemma-3 vision GRPO notebook, which compare characters: what notebook 02 starts from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nbhelpers.rewards.functions import completion_text

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
