"""The page on GRPO computes what TRL computes, and leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from tiny_policy import policy_with_adapter

from nbhelpers.params import RunParams
from nbhelpers.policy import scoring
from nbhelpers.problems import load_problems
from nbhelpers.training import beside_trl, by_hand
from nbhelpers.training.beside_trl import differences, reckon_by_hand, reckon_by_trl


def smoke(**training):
    return RunParams.load("smoke", dataset={"max_samples": 64}, training=training)


@pytest.fixture(scope="module")
def policy():
    return policy_with_adapter(std=0.02)


@pytest.fixture(scope="module")
def group(policy):
    train = load_problems(smoke().dataset).train  # the first problem's group is clipped nearly whole after three steps
    return by_hand.find_group(policy, train.select(range(1, len(train))), smoke(), tries=8)


def fingerprint(policy):
    adapter = torch.cat([p.detach().flatten() for p in policy.model.parameters() if p.requires_grad])
    grads = [p.grad for p in policy.model.parameters() if p.grad is not None]
    return adapter.clone(), len(grads), policy.model.training, torch.random.get_rng_state(), random.getstate()


def test_the_group_that_is_shown_has_something_to_teach(group):
    assert len(group.rows) == 4 and {row["correct"] for row in group.rows} == {True, False}
    assert (
        [len(words) for words in group.words_GT]
        == group.mask_GT.sum(dim=1).tolist()
        == [row["length"] for row in group.rows]
    )
    assert group.rewards_G.tolist() == [sum(row["rewards"].values()) for row in group.rows]


def test_advantages_sum_to_nothing_and_those_over_the_spread_have_spread_one():
    rewards_G = torch.tensor([4.0, 2.0, 2.0, 0.0])
    assert by_hand.advantages(rewards_G).tolist() == [2.0, 0.0, 0.0, -2.0]
    assert float(by_hand.advantages(rewards_G, by_spread=True).std()) == pytest.approx(1.0, abs=1e-3)


def test_a_clipped_token_gains_nothing_more_and_has_no_gradient():
    logp_GT = torch.tensor([[0.5, -0.5, 0.1]], requires_grad=True)
    gain = by_hand.surrogate(logp_GT, torch.zeros(1, 3), torch.tensor([2.0]))
    gain.sum().backward()
    assert gain[0].tolist() == pytest.approx([2.4, 2 * np.exp(-0.5), 2 * np.exp(0.1)])
    assert (logp_GT.grad == 0).tolist() == [[True, False, False]]


@pytest.mark.parametrize("age", [0, 3], ids=["fresh", "three steps old"])
@pytest.mark.parametrize("loss_type", ["dr_grpo", "grpo"])
def test_loss_log_probs_and_gradients_are_trls_own(policy, group, loss_type, age):
    params = smoke(loss_type=loss_type, learning_rate=3e-4)
    old_GT = by_hand.log_probs(policy, group).detach()
    with by_hand.after_steps(policy, group, params, steps=age):
        ours = reckon_by_hand(policy, group, params, old_GT)
        theirs = reckon_by_trl(policy, group, params, old_GT)
    ratio_GT = torch.exp(ours.logp_GT - old_GT)
    assert float((ratio_GT - 1).abs().max()) > 0.05 if age else torch.equal(ratio_GT, torch.ones_like(ratio_GT))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(ours.logp_GT, theirs.logp_GT, rtol=1e-4, atol=1e-5)
    assert ours.gradients.keys() == theirs.gradients.keys() and len(ours.gradients) > 10
    for name, gradient in theirs.gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-4, atol=1e-5)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in theirs.gradients.values())
    assert differences(ours, theirs)["gradients, largest gap (share of the largest)"] < 1e-4


def test_a_group_whose_answers_all_earn_the_same_is_compared_too():
    nothing = beside_trl.Reckoning(0.0, torch.zeros(4, 3), {"lora_B": torch.zeros(2, 2)})
    assert set(differences(nothing, nothing).values()) == {0.0}


@pytest.mark.parametrize("short", [False, True])
def test_the_lesson_looks_at_the_picture_once(policy, group, monkeypatch, short):
    """Otherwise it looked four times in every pass, and where memory is short that took most of it."""
    looked = []
    tower = type(policy.model.get_base_model().model.vision_tower)
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *args, **given: looked.append(1) or forward(*args, **given))
    for module in (scoring, beside_trl):
        monkeypatch.setattr(module, "short_of_memory", lambda *args: short)
    beside_trl.compare_with_trl(policy, group, smoke(), steps=2)
    assert not looked
    features = policy.model.get_base_model().model.get_image_features(group.inputs["pixel_values"]).pooler_output
    torch.testing.assert_close(group.features.expand_as(features), features)
    assert len(looked) == 1


def test_where_memory_is_short_the_numbers_are_the_same(policy, group, monkeypatch):
    params, before = smoke(), fingerprint(policy)
    plenty = [reckon(policy, group, params) for reckon in (reckon_by_hand, reckon_by_trl)]
    recomputed = []
    layer = type(policy.model.get_base_model().model.language_model.layers[0])
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args, **given: recomputed.append(1) or forward(*args, **given))
    for module in (scoring, beside_trl):
        monkeypatch.setattr(module, "short_of_memory", lambda *args: True)
    for roomy, reckon in zip(plenty, (reckon_by_hand, reckon_by_trl), strict=True):
        recomputed.clear()
        short = reckon(policy, group, params)
        assert len(recomputed) >= 2 * policy.model.config.text_config.num_hidden_layers
        torch.testing.assert_close(short.logp_GT, roomy.logp_GT, rtol=1e-4, atol=1e-5)
        for name, gradient in roomy.gradients.items():
            torch.testing.assert_close(short.gradients[name], gradient, rtol=1e-4, atol=1e-5)
    assert not policy.model.get_base_model().is_gradient_checkpointing
    assert all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, fingerprint(policy), strict=True)
    )


def test_where_memory_is_short_unsloths_own_checkpointing_is_not_asked(policy, group, monkeypatch):
    """It is reentrant: a completion that goes through by its number alone would have no gradient."""
    checkpoint = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "_unsloth_pristine_checkpoint", checkpoint, raising=False)
    monkeypatch.setattr(
        torch.utils.checkpoint, "checkpoint",
        lambda function, *args, **asked: checkpoint(function, *args, **{**asked, "use_reentrant": True}),
    )  # fmt: skip
    monkeypatch.setattr(scoring, "short_of_memory", lambda *args: True)
    short = reckon_by_hand(policy, group, smoke())
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in short.gradients.values())


def test_the_logged_loss_of_dr_grpo_pays_for_length(policy, group):
    params = smoke()
    A_G = by_hand.advantages(group.rewards_G)
    expected = -(A_G * group.mask_GT.sum(dim=1)).mean() / params.training.max_completion_length
    assert reckon_by_hand(policy, group, params).loss == pytest.approx(float(expected), abs=1e-6)


def test_nothing_is_left_of_a_step(policy, group):
    before = fingerprint(policy)
    old_GT = by_hand.log_probs(policy, group).detach()
    with by_hand.after_steps(policy, group, smoke(), steps=2):
        torch.rand(3), random.random(), np.random.rand()
        assert not torch.equal(by_hand.log_probs(policy, group).detach(), old_GT)
        assert not torch.equal(fingerprint(policy)[0], before[0])
    reckon_by_trl(policy, group, smoke())
    after = fingerprint(policy)
    assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, after, strict=True))


def test_training_after_the_walk_is_what_it_would_have_been(tiny_params, tmp_path, trained_run):
    from nbhelpers.policy import load_policy
    from nbhelpers.runs import RunDirectory
    from nbhelpers.training import train

    params = tiny_params(tmp_path)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    problems = load_problems(params.dataset)
    group = by_hand.find_group(policy, problems.train, params, tries=4)
    with by_hand.after_steps(policy, group, params, steps=2):
        reckon_by_trl(policy, group, params)
    train(policy, problems, params, RunDirectory(tmp_path))
    assert (tmp_path / "samples.jsonl").read_bytes() == trained_run["run"].samples_path.read_bytes()
