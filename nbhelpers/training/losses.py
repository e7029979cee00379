"""TODO."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from nbhelpers.policy import Engine


@functools.cache
def _generation_class() -> type:
    from trl.generation.vllm_generation import VLLMGeneration

    class AdapterOnlyGeneration(VLLMGeneration):
        """TRL's interface to vLLM over an `Engine` that is already there."""

        engine: Engine

        def _init_vllm(self) -> None:
            self.llm = self.engine.llm

        def sync_weights(self) -> None:
            self.engine.take_adapter(self.accelerator.unwrap_model(self.model))

        def generate(self, prompts, images, num_generations, profiler=None):
            group = num_generations if _repeats(prompts, num_generations) else 1
            pictures = None if images is None else [row[0] if row else None for row in images[::group]]
            with profiler or contextlib.nullcontext():
                ids, logps = self.engine.generate(
                    prompts[::group],
                    pictures,
                    n=group,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    top_k=self.top_k,
                    min_p=self.min_p or 0.0,
                    repetition_penalty=self.repetition_penalty,
                    max_tokens=self.max_completion_length,
                    **self.generation_kwargs,
                )
            return (
                prompts,
                ids,
                [[[value] for value in row] for row in logps],
                [[[token] for token in row] for row in ids],
            )

    return AdapterOnlyGeneration


def _repeats(prompts: Sequence[list[int]], group: int) -> bool:
    """Whether `prompts` are groups of `group` equal prompts in a row, as TRL's sampler lays them out."""
    return len(prompts) % group == 0 and all(
        prompts[start] == prompts[start + place] for start in range(0, len(prompts), group) for place in range(1, group)
    )


@contextlib.contextmanager
def generating_with(engine: Engine) -> Iterator[None]:
    """Inside, a `GRPOTrainer` that is built takes `engine` for its colocated vLLM instead of starting its own."""
    import trl.trainer.grpo_trainer as module

    original = module.VLLMGeneration
    module.VLLMGeneration = type("BoundGeneration", (_generation_class(),), {"engine": engine})
    try:
        yield
    finally:
        module.VLLMGeneration = original


@functools.cache
def weights_from_the_loss(trainer_class: type) -> type:
    """`trainer_class` with the vLLM importance weights computed in the loss's own forward.

    They correct for the difference between vLLM's and the trainer's probabilities. TRL runs the policy once more over
    the whole batch for them; where each batch is used for one update, that forward gives the log-probs that the loss
    computes anyway (`old_per_token_logps` is then `per_token_logps.detach()`, as TRL does itself without vLLM).
    """

    class ImportanceWeightsFromTheLoss(trainer_class):
        @property
        def _one_update_a_batch(self) -> bool:
            generate_every = self.args.steps_per_generation * self.num_iterations
            return self.use_vllm and self.args.gradient_accumulation_steps % generate_every == 0

        def _generate_and_score_completions(self, inputs):
            corrected = self.vllm_importance_sampling_correction
            self.vllm_importance_sampling_correction = corrected and not (
                self.model.training and self._one_update_a_batch
            )
            try:
                return super()._generate_and_score_completions(inputs)
            finally:
                self.vllm_importance_sampling_correction = corrected

        def _compute_loss(self, model, inputs):
            self._loss_inputs = inputs if "importance_sampling_ratio" not in inputs and self.model.training else None
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self._loss_inputs = None

        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            inputs = getattr(self, "_loss_inputs", None)
            if inputs is not None and self.use_vllm and self.vllm_importance_sampling_correction:
                mask = inputs["completion_mask"]
                ratio, gaps = importance_weights(
                    result[0].detach(),
                    inputs["sampling_per_token_logps"],
                    mask,
                    mode=self.vllm_importance_sampling_mode,
                    low=self.vllm_importance_sampling_clip_min,
                    high=self.vllm_importance_sampling_clip_max,
                )
                inputs["importance_sampling_ratio"] = ratio
                weights = ratio.flatten() if ratio.shape[1] == 1 else ratio[mask.bool()]
                metrics = self._metrics["train"]
                if gaps.numel():
                    gather = self.accelerator.gather
                    metrics["sampling/sampling_logp_difference/mean"].append(gather(gaps.mean()).mean().item())
                    metrics["sampling/sampling_logp_difference/max"].append(gather(gaps.max()).max().item())
                    metrics["sampling/importance_sampling_ratio/mean"].append(gather(weights.mean()).mean().item())
            return result

    return ImportanceWeightsFromTheLoss


def importance_weights(
    logps: Any, sampling_logps: Any, mask: Any, *, mode: str, low: float | None, high: float | None
) -> tuple[Any, Any]:
    """TRL's correction for sampling with vLLM (`GRPOTrainer._generate_and_score_completions`, 1.14.2).

    Args:
        logps, sampling_logps, mask: (completions, tokens).
        mode: token_truncate, token_mask, sequence_truncate or sequence_mask.

    Returns:
        The weights, (completions, tokens) or (completions, 1), and the absolute log-prob gaps of the tokens under the
        mask.
    """
    import torch

    raw = logps - sampling_logps
    difference = torch.nan_to_num(raw * mask, nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    if mode.endswith("truncate"):
        ratio = torch.clamp(ratio, min=low, max=high) if low is not None or high is not None else ratio
    else:
        outside = torch.zeros_like(ratio, dtype=torch.bool)
        if low is not None:
            outside |= ratio < low
        if high is not None:
            outside |= ratio > high
        ratio = ratio.masked_fill(outside, 0.0)
    gaps = raw.abs()[mask.bool() & ~torch.isnan(raw)]
    return ratio, gaps


def log_probs_in_chunks(trainer: Any) -> None:
    """Let TRL take the log-probs without ever holding all logits, whose (tokens, 262208) matrix and copies are 6 GiB
    for four completions of 512 tokens: exact, a little slower, and for where memory is short.

    TRL 1.14.2 offers it as `use_liger_kernel`, which asks for the package liger-kernel, replaces parts of the model,
    and needs none of that for this (`GRPOTrainer._chunked_logps`). It is switched on here after the trainer is built.
    """
    from trl.trainer.grpo_trainer import _ForwardRedirection

    trainer.use_liger_kernel = True
    trainer._forward_redirection = _ForwardRedirection()
