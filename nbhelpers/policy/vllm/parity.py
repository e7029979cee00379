"""Whether vLLM and the trainer agree on the log-probs of what is sampled, asked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy.policy import Policy
from nbhelpers.policy.scoring import completion_logits, completions_as_inputs
from nbhelpers.policy.vllm.engine import Engine
from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError

# Nats per token, on average.
PARITY_WARN = 0.05
PARITY_STOP = 0.5


@dataclass(frozen=True)
class ParityReport:
    """How far vLLM's log-probs of the sampled tokens lie from the trainer's, in nats.

    `mean` and `max` of the absolute difference over `tokens` tokens. `weight` is the mean importance weight of a
    completion, min(1, exp(sum of differences)): near 0 means that the completions teach nothing.
    """

    mean: float
    max: float
    tokens: int
    weight: float

    @property
    def stops(self) -> bool:
        return not self.mean <= PARITY_STOP

    def __str__(self) -> str:
        return (
            f"vLLM and the trainer differ by {self.mean:.4f} nats per token on average and {self.max:.3f} at most "
            f"({self.tokens} tokens; mean importance weight {self.weight:.2f})"
        )


def parity_report(vllm_logps: Any, trainer_logps: Any, mask: Any) -> ParityReport:
    """Compare two tensors (completions, tokens) of log-probs where `mask` is true.

    A token without a finite log-prob on both sides counts as an infinite difference: it is what a broken hand-over
    looks like.
    """
    import torch

    mask = mask.bool()
    difference = (trainer_logps.double() - vllm_logps.double()).masked_fill(~mask, 0.0)
    difference = torch.nan_to_num(difference, nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    tokens = int(mask.sum())
    if tokens == 0:
        raise GenerationError("vLLM gave no token to compare: every completion was empty.")
    weights = difference.sum(dim=1).clamp(max=0.0).exp()
    return ParityReport(
        float(difference.abs().sum() / tokens), float(difference.abs().max()), tokens, float(weights.mean())
    )


def judge_parity(report: ParityReport) -> str | None:
    """None where the two agree, a warning's sentence where they nearly do.

    Raises:
        GenerationError: the mean gap is above `PARITY_STOP`.
    """
    if report.stops:
        raise GenerationError(
            f"{report}. Training would go on without an error and learn nothing, since completions with such a gap get "
            "an importance weight of 0. What usually causes it: a vLLM of another version than the tested pins, "
            "weights saved under names that vLLM reads as another model, or a base model that is quantised on one side "
            f"only (model.load_in_4bit). {WITHOUT_VLLM}"
        )
    if not report.mean <= PARITY_WARN:
        return f"{report}. Up to {PARITY_WARN} is rounding; above it the gradient is biased. {WITHOUT_VLLM}"
    return None


def verify(
    policy: Policy, engine: Engine, conversations: Sequence[list[dict]], images: Sequence[Any]
) -> tuple[ParityReport, str | None]:
    """Compare vLLM with the trainer on a few prompts before the first step: the report, which is printed, and a warning
    or None.

    Raises:
        GenerationError: they differ so much that nothing would be learnt.
    """
    report = check_parity(policy, engine, conversations, images)
    print(f"Parity: {report}", flush=True)
    return report, judge_parity(report)


def check_parity(policy: Policy, engine: Engine, conversations, images, *, max_new_tokens: int = 32) -> ParityReport:
    """Sample one completion per conversation with vLLM and ask both sides for the log-probs of its tokens."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    prompts = policy.prompt_ids(conversations)
    if policy.has_adapter:
        engine.take_adapter(policy.model)
    ids, logps = engine.generate(prompts, list(images), max_tokens=max_new_tokens, temperature=1.0, seed=0)
    inputs, ids_NT, mask_NT = completions_as_inputs(policy, conversations, images, ids)
    sampled_NT = pad_sequence([torch.tensor(values, dtype=torch.float64) for values in logps], batch_first=True)
    was_training = policy.model.training
    policy.model.eval()
    try:
        with torch.no_grad():
            logits = completion_logits(policy, inputs, tokens=ids_NT.shape[1])
    finally:
        policy.model.train(was_training)
    trainer_NT = torch.log_softmax(logits, dim=-1).gather(-1, ids_NT.unsqueeze(-1)).squeeze(-1)
    return parity_report(sampled_NT, trainer_NT.cpu(), mask_NT.cpu())
