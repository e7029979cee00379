"""GRPO on one page: one group of completions, from its rewards to the words that a step makes likelier.

What TRL's trainer does in `train`, with nothing around it: no batches, no workers, no logging. The suffixes name the axes:
G completions of one prompt, T tokens of the longest of them. Notation of Shao et al. 2024 (https://arxiv.org/abs/2402.03300)
and Liu et al. 2025 (https://arxiv.org/abs/2503.20783). Whatever is changed here, weights, gradients and random states, is put back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import Completion, Policy, completion_logits, completions_as_inputs
from nbhelpers.problems import conversation
from nbhelpers.rewards import preview


@dataclass(frozen=True)
class Group:
    """One problem and G completions of its prompt, as text for a person and as tensors for the policy.

    Attributes:
        rows: what `show_samples` shows, a dictionary a completion: text, reward by function, verdict with its reason.
        words_GT: the text of each token, G lists of their own length.
        inputs: prompt and completions as the policy reads them; the tokens of the completions stand at the end, padded on the right.
        ids_GT: the completions' token ids.
        mask_GT: 1 where a completion has a token, 0 where it is padded.
        rewards_G: the weighted sum of the configured rewards.
    """

    problem: dict[str, Any]
    rows: list[dict[str, Any]]
    words_GT: list[list[str]]
    inputs: dict[str, Any]
    ids_GT: Any
    mask_GT: Any
    rewards_G: Any


def find_group(policy: Policy, problems: Any, params: RunParams, *, tries: int = 16) -> Group:
    """Sample a group for each of the first `tries` problems and keep the one that has most to teach: right and wrong
    answers side by side, and the largest spread of rewards."""
    some = [problems[place] for place in range(min(tries, len(problems)))]
    sampled = policy.sample(
        [conversation(problem, params.reward) for problem in some],
        [problem["image"] for problem in some],
        max_new_tokens=params.training.max_completion_length,
        temperature=params.training.temperature,
        samples_per_problem=params.training.num_generations,
        seed=params.training.seed,
    )
    groups = [_group(policy, problem, completions, params) for problem, completions in zip(some, sampled, strict=True)]
    mixed = [group for group in groups if len({row["correct"] for row in group.rows}) > 1]
    return max(mixed or groups, key=lambda group: float(group.rewards_G.std()))


def _group(policy: Policy, problem: dict[str, Any], completions: list[Completion], params: RunParams) -> Group:
    import torch

    texts, ids = [c.text for c in completions], [list(c.ids) for c in completions]
    prompt = conversation(problem, params.reward)
    paid = preview([problem], [texts], params.reward, lengths=[[c.length for c in completions]],
                   max_completion_length=params.training.max_completion_length)  # fmt: skip
    rewards = [{name: values[place] for name, values in paid.rewards.items()} for place in range(len(texts))]
    rows = [
        {**problem, "completion": c.text, "length": c.length, "truncated": c.truncated, "rewards": by_function, "reward": total,
         "correct": verdict.correct, "reason": verdict.reason}
        for c, by_function, total, verdict in zip(completions, rewards, paid.totals, paid.verdicts, strict=True)
    ]  # fmt: skip
    inputs, ids_GT, mask_GT = completions_as_inputs(policy, [prompt] * len(ids), [problem["image"]] * len(ids), ids)
    words = [[policy.processor.tokenizer.decode([token]) for token in tokens] for tokens in ids]
    return Group(
        problem,
        rows,
        words,
        inputs,
        ids_GT,
        mask_GT,
        torch.tensor([t or 0.0 for t in paid.totals], device=ids_GT.device),
    )


# The algorithm -------------------------------------------------------------------------------------------------------------


def advantages(rewards_G: Any, *, by_spread: bool = False) -> Any:
    """A = r - mean(r); the first GRPO also divided by the group's standard deviation (`by_spread`)."""
    centred_G = rewards_G - rewards_G.mean()
    return centred_G / (rewards_G.std() + 1e-4) if by_spread else centred_G


def log_probs(policy: Policy, group: Group, temperature: float = 1.0) -> Any:
    """log pi(token | picture, prompt, tokens before it) of every completion token, (G, T), with its graph for `backward`."""
    logits_GTV = completion_logits(policy, group.inputs, tokens=group.ids_GT.shape[1])
    logp_GTV = (logits_GTV / temperature).log_softmax(dim=-1)
    return logp_GTV.gather(-1, group.ids_GT.unsqueeze(-1)).squeeze(-1) * group.mask_GT


def surrogate(logp_GT: Any, old_logp_GT: Any, A_G: Any, *, low: float = 0.2, high: float = 0.2) -> Any:
    """min(ratio * A, clip(ratio) * A) of each token: what a step may gain, and no more than a ratio between 1 - low and 1 + high brings.

    `old_logp_GT` is the policy that wrote the completions; for a fresh group it is `logp_GT.detach()`, and the ratio is 1.
    """
    import torch

    ratio_GT, A_G1 = torch.exp(logp_GT - old_logp_GT), A_G.unsqueeze(1)
    return torch.min(ratio_GT * A_G1, ratio_GT.clamp(1 - low, 1 + high) * A_G1)


def loss(surrogate_GT: Any, mask_GT: Any, *, loss_type: str = "dr_grpo", max_completion_length: int) -> Any:
    """dr_grpo: the sum over all tokens, divided by G times the length limit L, so that every token weighs the same.
    grpo: each completion's mean over its own tokens first, so that the words of a long wrong answer weigh less."""
    summed_G = (surrogate_GT * mask_GT).sum(dim=1)
    if loss_type == "dr_grpo":
        return -summed_G.sum() / (len(summed_G) * max_completion_length)
    return -(summed_G / mask_GT.sum(dim=1)).mean()


@contextlib.contextmanager
def after_steps(policy: Policy, group: Group, params: RunParams, *, steps: int = 1) -> Iterator[None]:
    """Inside, the policy has taken `steps` optimiser steps on this one group, so that the group is that much older than it."""
    import torch

    training = params.training
    A_G = advantages(group.rewards_G, by_spread=training.loss_type == "grpo")
    with as_it_was(policy):
        trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=training.learning_rate, weight_decay=0.0)
        old_logp_GT = log_probs(policy, group, training.temperature).detach()
        for _ in range(steps):
            gain_GT = surrogate(log_probs(policy, group, training.temperature), old_logp_GT, A_G)
            loss(gain_GT, group.mask_GT, loss_type=training.loss_type,
                 max_completion_length=training.max_completion_length).backward()  # fmt: skip
            optimiser.step()
            optimiser.zero_grad()
        yield


# Leaving no trace ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_it_was(policy: Policy) -> Iterator[None]:
    """Afterwards the adapter, its gradients, the model's mode and every random state are what they were before."""
    import numpy as np
    import torch

    model = policy.model
    kept = [(p, p.data, p.data.clone(), p.grad) for p in model.parameters() if p.requires_grad]
    states, mode = (random.getstate(), np.random.get_state()), model.training
    with torch.random.fork_rng():
        try:
            for parameter, *_ in kept:
                parameter.grad = None
            yield
        finally:
            for parameter, data, values, grad in kept:
                parameter.data, parameter.grad = data.copy_(values), grad
            model.train(mode)
            random.setstate(states[0])
            np.random.set_state(states[1])
