"""The same group through TRL's own trainer: what `by_hand` is checked against, in notebook 03 and in the tests."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, short_of_memory
from nbhelpers.runs import RunDirectory
from nbhelpers.training import by_hand
from nbhelpers.training.configuration import grpo_arguments, grpo_config
from nbhelpers.training.inside_trl import listening_trainer_class, log_probs_in_chunks, loss_inputs
from nbhelpers.training.vision_cache import looked_at


@dataclass(frozen=True)
class Reckoning:
    """The loss of one group with the log-probs that went into it, (G, T), and the adapter's gradients by name, these in
    main memory.
    """

    loss: float
    logp_GT: Any
    gradients: dict[str, Any]


def reckon_by_hand(policy: Policy, group: by_hand.Group, params: RunParams, old_logp_GT: Any = None) -> Reckoning:
    """`by_hand` from log-probs to gradients. `old_logp_GT` is of the policy that wrote the group; None: a fresh one."""
    training = params.training
    A_G = by_hand.advantages(group.rewards_G, by_spread=training.loss_type == "grpo")
    with by_hand.as_it_was(policy), looked_at(policy.model, group.features):
        logp_GT = by_hand.log_probs(policy, group, training.temperature)
        old_GT = logp_GT.detach() if old_logp_GT is None else old_logp_GT
        value = by_hand.loss(
            by_hand.surrogate(logp_GT, old_GT, A_G), group.mask_GT, loss_type=training.loss_type,
            max_completion_length=training.max_completion_length,
        )  # fmt: skip
        value.backward()
        return Reckoning(float(value.detach()), logp_GT.detach(), _gradients(policy))


def reckon_by_trl(policy: Policy, group: by_hand.Group, params: RunParams, old_logp_GT: Any = None) -> Reckoning:
    """TRL's `GRPOTrainer.compute_loss` on the same group, with this project's configuration. Nothing is generated."""
    import torch
    from datasets import Dataset

    G, T = group.ids_GT.shape
    alone = params.training.model_copy(update={"per_device_train_batch_size": G, "gradient_accumulation_steps": 1})
    params = params.model_copy(update={"training": alone})
    A_G = by_hand.advantages(group.rewards_G, by_spread=alone.loss_type == "grpo")
    with tempfile.TemporaryDirectory() as folder, by_hand.as_it_was(policy):
        arguments = grpo_arguments(
            params, alone.batch_plan(), RunDirectory(folder), on_gpu=group.ids_GT.device.type == "cuda"
        )
        short = short_of_memory(policy, group.inputs, T)
        config = grpo_config({**arguments, "use_vllm": False, "gradient_checkpointing": False})
        unread = Dataset.from_dict({"prompt": [[{"role": "user", "content": group.problem["question"]}]]})
        trainer = listening_trainer_class()(
            model=policy.model, processing_class=policy.processor, args=config,
            reward_funcs=lambda completions, **_: [0.0] * len(completions), train_dataset=unread,
        )  # fmt: skip
        if short:
            log_probs_in_chunks(trainer)
            policy.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        trainer.current_gradient_accumulation_steps = 1
        inputs = loss_inputs(group.inputs, group.ids_GT, group.mask_GT, A_G)
        if old_logp_GT is not None:
            inputs["old_per_token_logps"] = old_logp_GT
        policy.model.train()
        with looked_at(policy.model, group.features):
            with torch.autocast(group.ids_GT.device.type, torch.bfloat16, enabled=config.bf16):
                value = trainer.compute_loss(policy.model, inputs)
            value.backward()
        if short:
            policy.model.get_base_model().gradient_checkpointing_disable()
        return Reckoning(float(value.detach()), trainer.logps * group.mask_GT, _gradients(policy))


def _gradients(policy: Policy) -> dict[str, Any]:
    named = policy.model.named_parameters()
    return {name: p.grad.detach().to("cpu", copy=True) for name, p in named if p.grad is not None}


def compare_with_trl(policy: Policy, group: by_hand.Group, params: RunParams, *, steps: int = 8) -> str:
    """A table of both reckonings for the fresh group, and for the group when the policy is `steps` steps older."""
    if policy.backend == "unsloth":
        return "Unsloth puts a loss of its own in place of TRL's: to compare, set model.backend=transformers."
    old_GT = by_hand.log_probs(policy, group, params.training.temperature).detach()
    columns = []
    for age in (0, steps):
        with by_hand.after_steps(policy, group, params, steps=age):
            reckoned = [reckon(policy, group, params, old_GT) for reckon in (reckon_by_hand, reckon_by_trl)]
            columns.append(differences(*reckoned))
    lines = [f"{'':<52}{'fresh':>12}{f'{steps} steps old':>14}"]
    lines += [f"{name:<52}{columns[0][name]:>12.3g}{columns[1][name]:>14.3g}" for name in columns[0]]
    return "\n".join(lines)


def differences(ours: Reckoning, theirs: Reckoning) -> dict[str, float]:
    """Loss of both, the largest gap between two log-probs in nats, and that of the gradients relative to their largest
    entry (0 where all gradients are 0, as those of a group whose answers all earn the same).
    """
    import torch

    largest = max(float(gradient.abs().max()) for gradient in theirs.gradients.values())
    gaps = [(ours.gradients[name] - gradient).abs().max() for name, gradient in theirs.gradients.items()]
    return {
        "loss by hand": ours.loss,
        "loss by TRL": theirs.loss,
        "log-probs, largest gap (nats)": float((ours.logp_GT - theirs.logp_GT).abs().max()),
        "gradients, largest gap (share of the largest)": float(torch.stack(gaps).max()) / (largest or 1.0),
    }
