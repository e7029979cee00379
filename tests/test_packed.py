"""The packed loss is TRL's loss: the same log-probs, the same gradients, fewer tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_policy import policy_with_adapter, two_steps

from nbhelpers.params import RewardParams
from nbhelpers.policy import completions_as_inputs
from nbhelpers.problems import conversation
from nbhelpers.problems.drawn import make_problems
from nbhelpers.training import inside_trl, packed
from nbhelpers.training.packed import packed_log_probs

GROUPS, SIZE = 3, 4


@pytest.fixture
def policy():
    return policy_with_adapter(std=0.02)


def a_batch(policy, seed=0):
    """Groups of completions of random tokens and lengths, shuffled as TRL shuffles them: (batch, numbers of groups)."""
    problems = [problem for problem in make_problems(GROUPS, seed=3) for _ in range(SIZE)]
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (len(problems),), generator=generator)
    answers = [torch.randint(300, 600, (int(length),), generator=generator).tolist() for length in lengths]
    asked = [conversation(problem, RewardParams()) for problem in problems]
    batch, ids, mask = completions_as_inputs(policy, asked, [problem["image"] for problem in problems], answers)
    batch |= {"completion_ids": ids, "completion_mask": mask}
    order = torch.randperm(len(problems), generator=generator)
    return {name: values[order] for name, values in batch.items()}, order // SIZE


def plain_log_probs(policy, batch, temperature):
    tokens = batch["completion_ids"].shape[1]
    known = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}
    logits = policy.model(**known, logits_to_keep=tokens + 1, use_cache=False).logits[:, :-1] / temperature
    every = logits.log_softmax(dim=-1)
    entropies = -(every.exp() * every).sum(dim=-1)
    chosen = every.gather(-1, batch["completion_ids"][..., None])[..., 0]
    return chosen * batch["completion_mask"], entropies.detach() * batch["completion_mask"]


def gradients_of(policy, log_probs, weights):
    policy.model.zero_grad()
    (log_probs * weights[:, None]).sum().backward()
    return {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


def short_windows(policy, window):
    """Gemma-3's sliding layers with a window that is shorter than a prompt, and even than a picture."""
    policy.model.config.text_config.sliding_window = window
    for layer in policy.model.get_base_model().model.language_model.layers:
        layer.self_attn.sliding_window = window if layer.self_attn.is_sliding else None


@pytest.mark.parametrize("window", [512, 40, 9])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_entropies_and_gradients_are_those_of_the_rows_apart(policy, window, temperature):
    short_windows(policy, window)
    batch, groups = a_batch(policy)
    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1))
    plain, plain_entropies = plain_log_probs(policy, batch, temperature)
    expected = gradients_of(policy, plain, weights)
    ours, entropies = packed_log_probs(policy.model, batch, groups, weights != 0, temperature)
    found = gradients_of(policy, ours, weights)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-4)
    torch.testing.assert_close(entropies, plain_entropies, rtol=1e-4, atol=2e-4)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_a_picture_is_seen_whole_and_only_by_its_own_group(policy):
    """The log-probs change with the picture of the group and not with another group's."""
    batch, groups = a_batch(policy)
    learning = torch.ones(len(groups), dtype=torch.bool)
    with torch.no_grad():
        before, _ = packed_log_probs(policy.model, batch, groups, learning, 1.0)
        batch["pixel_values"] = batch["pixel_values"].clone()
        batch["pixel_values"][groups == 0] *= -1
        after, _ = packed_log_probs(policy.model, batch, groups, learning, 1.0)
    changed = (before - after).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == (groups == 0).tolist()


def test_only_real_tokens_go_through_and_a_prompt_goes_once(policy, monkeypatch):
    monkeypatch.setattr(packed, "ROWS_AT_ONCE", 1)
    batch, groups = a_batch(policy)
    seen = []
    embeddings = policy.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, args, out: seen.append(out.shape[0] * out.shape[1]))
    packed_log_probs(policy.model, batch, groups, groups >= 0, 1.0)
    hook.remove()
    firsts = [(groups == group).nonzero()[0, 0] for group in range(GROUPS)]
    width = batch["input_ids"].shape[1] - batch["completion_ids"].shape[1]
    prompts = sum(int(batch["attention_mask"][first, :width].sum()) for first in firsts)
    assert sum(seen) == prompts + int(batch["completion_mask"].sum()) < int(batch["attention_mask"].sum())


def test_a_group_without_advantage_has_log_probs_and_no_gradient(policy):
    batch, groups = a_batch(policy)
    weights = torch.where(groups == 1, 0.0, 1.0)
    whole, _ = packed_log_probs(policy.model, batch, groups, groups >= 0, 1.0)
    expected = gradients_of(policy, whole, weights)
    backward = []
    ours, _ = packed_log_probs(policy.model, batch, groups, weights != 0, 1.0)
    ours.register_hook(backward.append)
    found = gradients_of(policy, ours, weights)
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=2e-4)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))
    assert not packed_log_probs(policy.model, batch, groups, groups < 0, 1.0)[0].requires_grad


@pytest.mark.parametrize("loss_type", ["dr_grpo", "grpo", "dapo"])
def test_two_steps_with_trl_go_where_the_plain_loss_goes(policy, tmp_path, loss_type):
    """By plain gradient descent: Adam would turn what is noise around 0 into whole steps."""
    start = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    logs, moves = [], []
    for change in (lambda trainer_class: trainer_class, inside_trl.scoring_in_groups):
        trainer, adapter = two_steps(
            policy, tmp_path, trainer_class=change(inside_trl.rollout_trainer_class()), loss_type=loss_type,
            before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None),
            gradient_checkpointing=False, optim="sgd",
        )  # fmt: skip
        logs.append(
            [{key: line[key] for key in ("loss", "entropy", "grad_norm")} for line in trainer.state.log_history[:2]]
        )
        moves.append({name: value - start[name] for name, value in adapter.items()})
    for plain, ours in zip(*logs, strict=True):
        assert ours == pytest.approx(plain, rel=1e-3, abs=1e-5)
    for name, move in moves[0].items():
        assert float(move.abs().max()) > 0
        torch.testing.assert_close(moves[1][name], move, rtol=0, atol=3e-8 + 2e-3 * float(move.abs().max()), msg=name)


def test_a_step_in_which_no_group_learns_is_a_step(policy, tmp_path):
    start = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    trainer, adapter = two_steps(
        policy, tmp_path, trainer_class=inside_trl.scoring_in_groups(inside_trl.rollout_trainer_class()),
        before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None),
        gradient_checkpointing=False, reward=lambda completions, **_: [1.0] * len(completions),
    )  # fmt: skip
    assert [line["grad_norm"] for line in trainer.state.log_history[:2]] == [0.0, 0.0]
    assert all(torch.equal(value, start[name]) for name, value in adapter.items())


@pytest.mark.parametrize(
    ("other", "is_used"),
    [({}, True), ({"gradient_checkpointing": True}, False), ({"world_size": 2}, False)],
)
def test_where_the_packed_loss_is_used(policy, other, is_used):
    from types import SimpleNamespace

    config = SimpleNamespace(**{"world_size": 1, "gradient_checkpointing": False, **other})
    assert packed.packs(policy, config) is is_used
    policy.backend = "unsloth"
    assert not packed.packs(policy, config)
