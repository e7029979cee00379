"""The embedded policy with an adapter that has learnt something, and two GRPO steps with it, for tests that compare
adapters.
"""

from __future__ import annotations

import contextlib


def randomise_adapter(policy, *, std=0.05, seed=3) -> None:
    """Give the adapter's B matrices, which start at 0, values of this spread."""
    import torch

    torch.manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=std)


def policy_with_adapter(*, std=0.05, seed=3, **sections):
    from nbhelpers.params.run_params import RunParams
    from nbhelpers.policy.loading import load_policy

    params = RunParams.load("smoke", **sections)
    policy = load_policy(params.model, params.lora)
    randomise_adapter(policy, std=std, seed=seed)
    return policy


def some_problems(number):
    """Problems as TRL takes them: `prompt` and `image`."""
    from datasets import Dataset

    from nbhelpers.problems.drawn import make_problems

    problems = make_problems(number, seed=5)
    content = [[{"type": "image"}, {"type": "text", "text": problem["question"]}] for problem in problems]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": parts}] for parts in content],
            "image": [problem["image"] for problem in problems],
        }
    )


def by_length(completions, **_):
    """A reward that differs within most groups."""
    return [float(len(c[0]["content"])) for c in completions]


def two_steps(
    policy, folder, *, trainer_class=None, built_inside=None, before=lambda trainer: None, reward=by_length, **arguments
):
    """Two GRPO steps with TRL: (trainer, adapter afterwards). The policy gets its adapter back as it was.

    Args:
        trainer_class: TRL's `GRPOTrainer`, or one made from it.
        built_inside: a context for the trainer's construction.
        before: called with the trainer before it trains.
        reward: a reward function.
        arguments: of GRPOConfig.
    """
    import torch
    from trl import GRPOConfig, GRPOTrainer

    start = {
        name: parameter.detach().clone()
        for name, parameter in policy.model.named_parameters()
        if parameter.requires_grad
    }
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=4,
        max_steps=2,
        learning_rate=1e-3,
        max_completion_length=12,
        bf16=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        beta=0.0,
        seed=1,
        **arguments,
    )
    torch.manual_seed(0)
    with built_inside or contextlib.nullcontext():
        trainer = (trainer_class or GRPOTrainer)(
            model=policy.model,
            processing_class=policy.processor,
            args=config,
            train_dataset=some_problems(8),
            reward_funcs=reward,
        )
    before(trainer)
    trainer.train()
    end = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters() if name in start}
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if name in start:
                parameter.copy_(start[name])
    return trainer, end
