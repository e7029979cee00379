"""The largest batch is tried before the first step, and nothing of it stays."""

from __future__ import annotations

import pytest
import torch
from tiny_policy import policy_with_adapter, some_problems, two_steps
from transformers import TrainerCallback
from trl import GRPOTrainer

from nbhelpers.training import inside_trl
from nbhelpers.training.fitting import rehearse


@pytest.fixture(scope="module")
def policy():
    return policy_with_adapter()


class Rehearsing(TrainerCallback):
    """Rehearses when training begins, as `train` does on a GPU, and keeps what the loss was given."""

    def __init__(self, policy, trainer):
        self.policy, self.trainer, self.seen = policy, trainer, []

    def on_train_begin(self, args, state, control, **kwargs):
        problems = some_problems(8)
        lengths = [self.policy.prompt_length(prompt) for prompt in problems["prompt"]]
        compute = self.trainer.compute_loss

        def watched(model, inputs):
            self.seen.append({key: getattr(value, "shape", value) for key, value in inputs.items()})
            return compute(model, inputs)

        self.trainer.compute_loss = watched
        rehearse(self.trainer, self.policy, problems, lengths)
        del self.trainer.compute_loss
        self.longest = max(lengths)


def test_a_run_with_a_rehearsal_learns_and_logs_the_same(policy, tmp_path):
    callbacks = []

    def add(trainer):
        callbacks.append(Rehearsing(policy, trainer))
        trainer.add_callback(callbacks[0])

    plain, expected = two_steps(policy, tmp_path / "plain")
    rehearsed, trained = two_steps(policy, tmp_path / "rehearsed", before=add)
    for name, value in expected.items():
        assert torch.equal(trained[name], value), name
    timeless = [
        [
            {k: v for k, v in line.items() if "time" not in k and "per_second" not in k}
            for line in trainer.state.log_history
        ]
        for trainer in (plain, rehearsed)
    ]
    assert timeless[0] == timeless[1]
    (seen,) = callbacks[0].seen
    assert seen["completion_ids"] == (8, 12) and seen["prompt_ids"] == (8, callbacks[0].longest)
    assert seen["pixel_values"][0] == 8


def test_with_vllm_the_loss_gets_what_it_weighs_with(policy, tmp_path):
    from test_generation import engine_for

    callbacks = []

    def add(trainer):
        callbacks.append(Rehearsing(policy, trainer))
        trainer.add_callback(callbacks[0])

    two_steps(
        policy, tmp_path, trainer_class=inside_trl.scoring_in_groups(GRPOTrainer), before=add,
        built_inside=inside_trl.generating_with(engine_for(policy)), use_vllm=True, vllm_mode="colocate",
        gradient_checkpointing=False,
    )  # fmt: skip
    assert callbacks[0].seen[0]["sampling_per_token_logps"] == (8, 12)


def test_memory_that_runs_out_leaves_no_gradient_behind(policy, tmp_path, monkeypatch):
    def add(trainer):
        def out_of_memory(model, inputs):
            half_done = next(p for p in policy.model.parameters() if p.requires_grad)
            half_done.grad = torch.zeros_like(half_done)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        trainer.compute_loss = out_of_memory
        trainer.add_callback(Rehearsing(policy, trainer))

    with pytest.raises(torch.cuda.OutOfMemoryError):
        two_steps(policy, tmp_path, before=add)
    assert all(parameter.grad is None for parameter in policy.model.parameters())
