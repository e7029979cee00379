"""Whether vLLM and the trainer agree on the log-probs of what is sampled, asked before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbhelpers.policy.policy import Policy
from nbhelpers.policy.unsloth import logits_returned
from nbhelpers.policy.vllm.engine import Engine
from nbhelpers.policy.vllm.setup import GenerationError

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
            "an importance weight of 0. What usually causes it: a vLLM of another version than the tested pins "
            "(`nbhelpers doctor` compares them), weights saved under names that vLLM reads as another model, or a base "
            "model that is quantised on one side only (model.load_in_4bit). model.fast_inference=false trains without "
            "vLLM."
        )
    if not report.mean <= PARITY_WARN:
        return (
            f"{report}. Up to {PARITY_WARN} is rounding; above it the gradient is biased. `nbhelpers doctor` compares "
            "versions."
        )
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


def check_parity(
    policy: Policy, engine: Engine, conversations, images, *, max_new_tokens: int = 32, temperature: float = 1.0
) -> ParityReport:
    """Sample one completion per conversation with vLLM and ask both sides for the log-probs of its tokens."""
    import torch

    model = policy.model
    inputs = policy.inputs(conversations, images)
    prompts = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    if policy.has_adapter:
        engine.take_adapter(model)
    ids, logps = engine.generate(prompts, list(images), max_tokens=max_new_tokens, temperature=temperature, seed=0)
    width = max(map(len, ids))
    completion, mask = torch.zeros(2, len(ids), width, dtype=torch.long)
    sampled = torch.zeros(len(ids), width, dtype=torch.float64)
    for row, (tokens, values) in enumerate(zip(ids, logps, strict=True)):
        completion[row, : len(tokens)] = torch.tensor(tokens)
        sampled[row, : len(tokens)] = torch.tensor(values, dtype=torch.float64)
        mask[row, : len(tokens)] = 1
    batch = dict(inputs)
    batch["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
    batch["attention_mask"] = torch.cat([inputs["attention_mask"], mask], dim=1)
    batch["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(completion)], dim=1)
    was_training = model.training
    model.eval()
    device = model.device
    with_logits = logits_returned() if policy.backend == "unsloth" else contextlib.nullcontext()
    try:
        with with_logits, torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(**{key: value.to(device) for key, value in batch.items()}, logits_to_keep=width + 1).logits
    finally:
        model.train(was_training)
    trainer = torch.log_softmax(logits[:, -width - 1 : -1].float() / temperature, dim=-1)
    trainer = trainer.gather(-1, completion.to(device).unsqueeze(-1)).squeeze(-1).cpu()
    return parity_report(sampled, trainer, mask)
