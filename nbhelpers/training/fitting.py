"""What the GPU's memory decides: what is kept for the backward pass, what is compiled from the start, and what to
change where it does not suffice. The largest batch that can come is tried before the first step, so that memory runs
out then or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nbhelpers.params import BatchPlan, RunParams, extends
from nbhelpers.policy import (
    GIB,
    Policy,
    completions_as_inputs,
    fits,
    has_bfloat16,
    packed_activations,
    packed_tokens,
    ways_to_fit,
)
from nbhelpers.training.fused import Lengths
from nbhelpers.training.inside_trl import loss_inputs, without_a_trace
from nbhelpers.training.packed import packs


def must_recompute(
    policy: Policy, params: RunParams, plan: BatchPlan, longest_prompt: int, tell: Callable[[str], None]
) -> bool:
    """Whether activations are recomputed in the backward pass: always or never where `model.use_gradient_checkpointing`
    says so; with "unsloth" on the transformers backend, where the GPU's free memory does not hold them.
    """
    import torch

    if params.model.use_gradient_checkpointing != "unsloth" or policy.backend != "transformers":
        return bool(params.model.use_gradient_checkpointing)
    needed = _kept(policy, params, plan, longest_prompt, fused=_compiles(params))
    free, total = torch.cuda.mem_get_info()
    if not fits(needed, free, total):
        return True
    tell(
        f"Activations are kept for the backward pass, which saves a second forward pass: {needed / GIB:.1f} GiB of "
        f"{free / GIB:.1f} GiB free. model.use_gradient_checkpointing=true recomputes them always."
    )
    return False


def _compiles(params: RunParams) -> bool:
    """Whether layers may be compiled: in bfloat16, and not over weights in 4 bit, with which it was not tried."""
    return has_bfloat16() and not params.model.load_in_4bit


def _kept(policy: Policy, params: RunParams, plan: BatchPlan, prompt: int, *, fused: bool) -> float:
    text, completions = policy.model.config.text_config.to_dict(), plan.per_device_train_batch_size
    return packed_activations(text, params.training, completions, prompt, fused=fused)


def row_lengths(policy: Policy, params: RunParams, config: Any, plan: BatchPlan, prompt: int) -> Lengths | None:
    """To which lengths packed rows are padded for compiled layers; None where nothing is compiled: without a GPU, or
    where activations are recomputed.
    """
    import torch

    on_gpu = policy.model.device.type == "cuda"
    if not (on_gpu and packs(policy) and _compiles(params)) or config.gradient_checkpointing:
        return None
    completions = min(plan.per_device_train_batch_size, params.training.num_generations)
    uncompiled = _kept(policy, params, plan, prompt, fused=False)
    at_once = not fits(uncompiled, *torch.cuda.mem_get_info())
    return Lengths(packed_tokens(params.training, completions, prompt), at_once=at_once)


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


def out_of_memory(error: Exception, params: RunParams, step: int, *, recomputes: bool) -> str:
    """The sentence on a GPU that ran out of memory, with what to change, the least costly first."""
    share = params.model.gpu_memory_utilization
    lower = 0.0 if share == "auto" else share * 0.7
    ways = ways_to_fit(params.model, params.training, lower, recomputes=recomputes)
    same = [way for way in ways if extends([way.partition("=")[0]])]
    goes_on = f" With {' or '.join(same)} the run itself can go on (training.resume=extend)." if same else ""
    return (
        f"The GPU ran out of memory at step {step + 1} ({str(error).splitlines()[0]}). Try, in this order: "
        + ", ".join(f"--set {way}" for way in ways)
        + f".{goes_on} The others make another run."
    )
