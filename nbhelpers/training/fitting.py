"""What the GPU's memory decides: what is kept for the backward pass, what is compiled from the start, and what to
change where it does not suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbhelpers.params import BatchPlan, RunParams, extends
from nbhelpers.policy import (
    GIB,
    Policy,
    fits,
    has_bfloat16,
    packed_activations,
    packed_tokens,
    ways_to_fit,
)
from nbhelpers.training.fused import Lengths
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

    if (
        not packs(policy)
        or policy.model.device.type != "cuda"
        or config.gradient_checkpointing
        or not _compiles(params)
    ):
        return None
    completions = min(plan.per_device_train_batch_size, params.training.num_generations)
    uncompiled = _kept(policy, params, plan, prompt, fused=False)
    at_once = not fits(uncompiled, *torch.cuda.mem_get_info())
    return Lengths(packed_tokens(params.training, completions, prompt), at_once=at_once)


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
