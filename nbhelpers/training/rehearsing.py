"""The largest batch that can come, tried before the first step, so that memory runs out then or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nbhelpers.policy import GIB, Policy, completions_as_inputs
from nbhelpers.training.inside_trl import loss_inputs, without_a_trace


def rehearse(trainer: Any, policy: Policy, problems: Any, lengths: Sequence[int]) -> None:
    """One forward and backward pass of the loss on a full batch of the longest prompts with completions of full length;
    its gradients, metrics and random numbers are dropped.

    Putting the longest problems first would change what a run samples; this changes nothing.

    Args:
        trainer: inside `train`, where its model is prepared.
        problems: with `prompt` and `image`.
        lengths: tokens of each problem's prompt.

    Raises:
        torch.cuda.OutOfMemoryError: such a batch does not fit.
    """
    import torch

    size, group = trainer.args.per_device_train_batch_size, trainer.num_generations
    longest = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    rows = [problems[longest[place // group % len(longest)]] for place in range(size)]
    filler = [policy.processor.tokenizer.eos_token_id] * trainer.args.max_completion_length
    batch, ids_NT, mask_NT = completions_as_inputs(
        policy, [row["prompt"] for row in rows], [row["image"] for row in rows], [filler] * size
    )
    signs = torch.tensor([1.0, -1.0], device=ids_NT.device).repeat(size)[:size]
    inputs = loss_inputs(batch, ids_NT, mask_NT, signs)
    inputs["group"] = torch.arange(size, device=ids_NT.device) // group
    if trainer.use_vllm:
        inputs["sampling_per_token_logps"] = torch.zeros_like(ids_NT, dtype=torch.float32)
        if policy.backend == "unsloth":  # its loss takes the weights from these two
            inputs["old_per_token_logps"] = torch.zeros_like(ids_NT, dtype=torch.float32)
    model = trainer.model_wrapped
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    try:
        with without_a_trace(trainer):
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs)
            trainer.accelerator.backward(loss)
    finally:
        model.zero_grad(set_to_none=True)


def rehearsal_callback(
    trainer: Any, policy: Policy, problems: Any, lengths: Sequence[int], tell: Callable[[str], None]
) -> Any:
    """A callback that rehearses when training begins, and tells how much memory that took."""
    import torch
    from transformers import TrainerCallback

    class RehearsalCallback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            torch.cuda.reset_peak_memory_stats()
            rehearse(trainer, policy, problems, lengths)
            peak = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.empty_cache()
            tell(
                f"The longest prompt ({max(lengths)} tokens) with completions of {args.max_completion_length} tokens "
                f"was tried before the first step and fits: PyTorch held {peak:.1f} GiB at most."
            )

    return RehearsalCallback()
