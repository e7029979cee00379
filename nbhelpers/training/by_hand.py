"""GRPO on one page: one group of completions, from its rewards to the words that a step makes likelier.

What TRL's trainer does in `train`, with nothing around it. Left out, and why: no importance weights for a second
sampler (this very policy wrote the completions), no KL term (`beta` is 0), no batches (the losses of groups add up).

The suffixes name the axes: G completions of one prompt, T tokens of the longest of them, V words of the vocabulary.
The symbols are those of Shao et al. 2024 (https://arxiv.org/abs/2402.03300) and Liu et al. 2025
(https://arxiv.org/abs/2503.20783).
"""

from __future__ import annotations

import contextlib
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import (
    Completion,
    Policy,
    completions_as_inputs,
    first_that_fit,
    in_half,
    with_little_memory,
)
from nbhelpers.problems import conversation
from nbhelpers.rewards import preview
from nbhelpers.training.vision_cache import features_of, looked_at

# --- the algorithm, from rewards to the loss


def advantages(rewards_G: Any, *, by_spread: bool = False) -> Any:
    """A = r - mean(r). The first GRPO also divided by the group's standard deviation (`by_spread`)."""
    centred_G = rewards_G - rewards_G.mean()
    return centred_G / (rewards_G.std() + 1e-4) if by_spread else centred_G


def log_probs(policy: Policy, group: Group, temperature: float = 1.0) -> Any:
    """log pi(token | picture, prompt, tokens before it) for every token of the group, (G, T), ready for `backward`."""

    def of(logits_NV: Any, ids_N: Any) -> Any:  # N of the group's tokens: those of all would fill a small GPU
        logp_NV = (logits_NV.float() / temperature).log_softmax(dim=-1)
        return logp_NV.gather(-1, ids_N.unsqueeze(-1)).squeeze(-1)

    with looked_at(policy.model, group.features):
        return with_little_memory(policy, of, group.inputs, group.ids_GT) * group.mask_GT


def surrogate(logp_GT: Any, old_logp_GT: Any, A_G: Any, *, low: float = 0.2, high: float = 0.2) -> Any:
    """min(ratio * A, clip(ratio) * A): what each token may gain, and nothing for a ratio beyond 1 - low or 1 + high.

    `old_logp_GT` is of the policy that wrote the group. For a fresh group it is `logp_GT.detach()`: the ratio is 1, and
    the gradient is that of A * logp.
    """
    ratio_GT, A_G1 = (logp_GT - old_logp_GT).exp(), A_G.unsqueeze(1)
    return (ratio_GT * A_G1).minimum(ratio_GT.clamp(1 - low, 1 + high) * A_G1)


def loss(surrogate_GT: Any, mask_GT: Any, *, loss_type: str = "dr_grpo", max_completion_length: int) -> Any:
    """dr_grpo divides the sum over all tokens by G times the length limit: every token weighs the same.

    grpo takes each completion's mean over its own tokens first: the words of a long wrong answer weigh less.
    """
    summed_G = (surrogate_GT * mask_GT).sum(dim=1)
    if loss_type == "dr_grpo":
        return -summed_G.sum() / (len(summed_G) * max_completion_length)
    return -(summed_G / mask_GT.sum(dim=1)).mean()


@contextlib.contextmanager
def after_steps(policy: Policy, group: Group, params: RunParams, *, steps: int = 1) -> Iterator[None]:
    """Inside, the policy has taken `steps` optimiser steps on this one group; afterwards it is as it was."""
    with as_it_was(policy):
        with looked_at(policy.model, group.features):  # a backward pass may compute a forward pass once more
            take_steps(policy, group, params, steps)
        yield


def take_steps(policy: Policy, group: Group, params: RunParams, steps: int) -> None:
    """GRPO on one group, over and over: the ratio is to the policy as it was before the first step."""
    import torch

    training = params.training
    A_G = advantages(group.rewards_G, by_spread=training.loss_type == "grpo")
    adapter = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(adapter, lr=training.learning_rate, weight_decay=0.0, foreach=False)
    old_logp_GT = log_probs(policy, group, training.temperature).detach()
    for _ in range(steps):
        gain_GT = surrogate(log_probs(policy, group, training.temperature), old_logp_GT, A_G)
        limit = training.max_completion_length
        loss(gain_GT, group.mask_GT, loss_type=training.loss_type, max_completion_length=limit).backward()
        optimiser.step()
        optimiser.zero_grad()


# --- the group that it is shown on


@dataclass(frozen=True)
class Group:
    """One problem and G completions of its prompt, as text for a person and as tensors for the policy.

    Attributes:
        rows: a dictionary for each completion, as `show_samples` takes it: text, rewards, verdict with its reason.
        words_GT: the text of each token, G lists of their own length.
        inputs: what the policy reads; the tokens of the completions stand at the end, padded on the right.
        features: what the frozen vision tower says about the picture; None where it is trained.
        ids_GT, mask_GT: the completions' token ids, and 1 where there is one.
        rewards_G: the weighted sum of the configured rewards.
    """

    problem: dict[str, Any]
    rows: list[dict[str, Any]]
    words_GT: list[list[str]]
    inputs: dict[str, Any]
    features: Any
    ids_GT: Any
    mask_GT: Any
    rewards_G: Any


def find_group(policy: Policy, problems: Any, params: RunParams, *, tries: int = 16) -> Group:
    """Sample a group for each of the first `tries` problems that fit and keep the one that has most to teach: right and
    wrong answers side by side, and the largest spread of rewards."""
    some = first_that_fit(policy, problems, params, tries)
    training = params.training
    sampled = policy.sample(
        [conversation(problem, params.reward) for problem in some],
        [problem["image"] for problem in some],
        max_new_tokens=training.max_completion_length,
        temperature=training.temperature,
        samples_per_problem=training.num_generations,
        seed=training.seed,
    )
    paid = [pay(problem, completions, params) for problem, completions in zip(some, sampled, strict=True)]
    mixed = [rows for rows in paid if len({row["correct"] for row in rows}) > 1]
    best = paid.index(max(mixed or paid, key=lambda rows: statistics.stdev(row["reward"] or 0.0 for row in rows)))
    return make_group(policy, some[best], sampled[best], paid[best], params)


def pay(problem: dict[str, Any], completions: list[Completion], params: RunParams) -> list[dict[str, Any]]:
    """The rows of a group: each completion with its rewards and the grader's verdict."""
    lengths, limit = [[c.length for c in completions]], params.training.max_completion_length
    texts = [c.text for c in completions]
    paid = preview([problem], [texts], params.reward, lengths=lengths, max_completion_length=limit)
    return [
        {**problem, "completion": c.text, "length": c.length, "truncated": c.truncated, "reward": paid.totals[place],
         "rewards": {name: values[place] for name, values in paid.rewards.items()},
         "correct": paid.verdicts[place].correct, "reason": paid.verdicts[place].reason}
        for place, c in enumerate(completions)
    ]  # fmt: skip


def make_group(
    policy: Policy, problem: dict[str, Any], completions: list[Completion], rows: list[dict], params: RunParams
) -> Group:
    """Lay G completions of one problem out for the policy."""
    import torch

    ids = [list(c.ids) for c in completions]
    prompts = [conversation(problem, params.reward)] * len(ids)
    inputs, ids_GT, mask_GT = completions_as_inputs(policy, prompts, [problem["image"]] * len(ids), ids)
    words_GT = [[policy.processor.tokenizer.decode([token]) for token in tokens] for tokens in ids]
    rewards_G = torch.tensor([row["reward"] or 0.0 for row in rows], device=ids_GT.device)
    with in_half(policy):
        features = features_of(policy.model, inputs["pixel_values"][:1])
    return Group(problem, rows, words_GT, inputs, features, ids_GT, mask_GT, rewards_G)


@contextlib.contextmanager
def as_it_was(policy: Policy) -> Iterator[None]:
    """Afterwards the adapter, its gradients, the model's mode and every random state are what they were before."""
    import numpy as np
    import torch

    kept = [(p, p.data, p.data.to("cpu", copy=True), p.grad) for p in policy.model.parameters() if p.requires_grad]
    mode, states = policy.model.training, (random.getstate(), np.random.get_state())
    with torch.random.fork_rng():
        try:
            for parameter, *_ in kept:
                parameter.grad = None
            yield
        finally:
            for parameter, data, values, grad in kept:
                parameter.data, parameter.grad = data.copy_(values), grad
            policy.model.train(mode)
            random.setstate(states[0])
            np.random.set_state(states[1])
