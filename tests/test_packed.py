"""The packed loss is TRL's loss: the same log-probs, the same gradients, fewer tokens."""

from __future__ import annotations

import pytest
import torch
from tiny_policy import by_length, policy_with_adapter, two_steps

from nbhelpers.params import RewardParams
from nbhelpers.policy import completions_as_inputs
from nbhelpers.problems import conversation
from nbhelpers.problems.drawn import make_problems
from nbhelpers.training import fused, inside_trl, log_softmax, packed
from nbhelpers.training.log_softmax import chosen_log_probs
from nbhelpers.training.packed import packed_log_probs

GROUPS, SIZE = 3, 4


def slow(*values):
    """One arm among several of a kind: run with -m slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def policy():
    return policy_with_adapter(std=0.02)


@pytest.fixture
def flex_on_the_cpu(monkeypatch):
    """FlexAttention as plain arithmetic, which PyTorch refuses a gradient on a CPU, in layers that are not compiled."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr(fused, "compiled", lambda layer: layer.forward)


@pytest.fixture
def policy_in_half(policy):
    """As on a GPU: the base model in bfloat16, the adapter in float32."""
    for parameter in policy.model.parameters():
        parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()
    return policy


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


def prompt_tokens(batch, groups, of):
    firsts = [(groups == group).nonzero()[0, 0] for group in of]
    width = batch["input_ids"].shape[1] - batch["completion_ids"].shape[1]
    return sum(int(batch["attention_mask"][first, :width].sum()) for first in firsts)


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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [512, 40, 9])
@pytest.mark.parametrize(("temperature", "through_flex"), [(1.0, False), (0.7, False), (0.7, True)])
def test_log_probs_entropies_and_gradients_are_those_of_the_rows_apart(
    policy, flex_on_the_cpu, window, temperature, through_flex
):
    short_windows(policy, window)
    batch, groups = a_batch(policy)
    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1))
    plain, plain_entropies = plain_log_probs(policy, batch, temperature)
    expected = gradients_of(policy, plain, weights)
    ours, entropies = packed_log_probs(
        policy.model, batch, groups, weights != 0, temperature,
        lengths=fused.Lengths(256, at_once=True) if through_flex else None,
    )  # fmt: skip
    found = gradients_of(policy, ours, weights)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-4)
    torch.testing.assert_close(entropies, plain_entropies, rtol=1e-4, atol=2e-4)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()), msg=name)


def errors_in_half(policy, lengths=None):
    """How far both paths in bfloat16 are from the truth, which is the rows apart with the same weights in float32:
    {"plain" or "packed": root mean squares over log-probs and entropies (nats), the gradients' gap as a share of their
    norm}. The policy ends in float32.
    """
    short_windows(policy, 40)
    batch, groups = a_batch(policy)
    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1))
    batch = {name: values.to(policy.model.device) for name, values in batch.items()}
    groups, weights = groups.to(policy.model.device), weights.to(policy.model.device)
    kind, mask, found = groups.device.type, batch["completion_mask"].bool(), {}
    for path in ("plain", "packed", "truth"):
        if path == "truth":
            policy.model.float()
        with torch.autocast(kind, torch.bfloat16, enabled=path != "truth"):
            if path == "packed":
                told = packed_log_probs(policy.model, batch, groups, weights != 0, 0.7, lengths=lengths)
            else:
                told = plain_log_probs(policy, batch, 0.7)
            gradients = gradients_of(policy, told[0], weights)
        flat = torch.cat([gradients[name].flatten().float() for name in sorted(gradients)])
        found[path] = [values.detach().float()[mask] for values in told] + [flat]
    *nats, gradient = found.pop("truth")
    return {
        path: [float((ours - true).square().mean().sqrt()) for ours, true in zip(values, nats, strict=True)]
        + [float((flat - gradient).norm() / gradient.norm())]
        for path, (*values, flat) in found.items()
    }


def as_near_to_the_truth(errors):
    """Whether packing adds no error to bfloat16's own: a quarter more at most, and 0.005 for what is near 0."""
    pairs = zip(errors["packed"], errors["plain"], strict=True)
    return all(packed <= 1.25 * plain + 0.005 for packed, plain in pairs)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("through_flex", [False, True])
def test_in_bfloat16_it_is_as_near_to_float32_as_the_rows_apart_are(policy_in_half, flex_on_the_cpu, through_flex):
    """Seen on a CPU: log-probs 0.069 nats off packed and 0.085 apart, entropies 0.015 and 0.019, gradients 2.4 % and
    2.8 %; the two paths are 0.23 nats from each other at most.
    """
    errors = errors_in_half(policy_in_half, fused.Lengths(256, at_once=True) if through_flex else None)
    assert as_near_to_the_truth(errors), errors
    assert all(error > 1e-3 for error in errors["plain"])  # it was in bfloat16


def test_a_path_that_loses_more_than_rounding_is_told():
    assert not as_near_to_the_truth({"plain": [0.08, 0.02, 0.03], "packed": [0.12, 0.02, 0.03]})


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
    prompts = prompt_tokens(batch, groups, range(GROUPS))
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


def test_a_row_without_advantage_is_left_out_where_the_sampler_told_its_log_probs(policy):
    batch, groups = a_batch(policy)
    weights = torch.randn(len(groups), generator=torch.Generator().manual_seed(1))
    weights[::3] = 0.0  # some of a group
    weights[groups == 1] = 0.0  # and a whole one
    whole, entropies = packed_log_probs(policy.model, batch, groups, groups >= 0, 1.0)
    expected = gradients_of(policy, whole, weights)
    known, seen = torch.full_like(whole, -2.0), []
    known[0, 0] = torch.nan
    hook = policy.model.get_input_embeddings().register_forward_hook(
        lambda *given: seen.append(given[1][0].ne(0).sum())
    )
    ours, ours_entropies = packed_log_probs(policy.model, batch, groups, weights != 0, 1.0, known=known)
    hook.remove()
    found = gradients_of(policy, ours, weights)
    learns, is_token = weights != 0, batch["completion_mask"].bool()
    torch.testing.assert_close(ours[learns], whole[learns], rtol=1e-5, atol=2e-4)
    torch.testing.assert_close(ours_entropies[learns], entropies[learns], rtol=1e-4, atol=2e-4)
    left_out = ours_entropies[~learns].flatten()[1:][is_token[~learns].flatten()[1:]]
    assert torch.equal(ours[~learns], -ours_entropies[~learns]) and set(left_out.tolist()) == {2.0}
    assert ours[0, 0].item() == 0.0  # unknown even to the sampler
    assert sum(seen) == prompt_tokens(batch, groups, (0, 2)) + int(batch["completion_mask"][learns].sum())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("tokens", [5, 8, 20])
def test_chosen_log_probs_are_those_of_the_whole_softmax(monkeypatch, tokens):
    monkeypatch.setattr(log_softmax, "CHUNK", 32)
    torch.manual_seed(0)
    hidden, head = torch.randn(tokens, 16, requires_grad=True), torch.randn(50, 16)
    chosen, weights = torch.randint(50, (tokens,)), torch.randn(tokens)
    every = (hidden @ head.t() / 0.7).log_softmax(dim=-1)
    expected = every.gather(-1, chosen[:, None])[:, 0]
    (gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    found, entropies = chosen_log_probs(hidden, head, chosen, 0.7)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(dim=-1))
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), hidden)[0], gradient)
    assert not entropies.requires_grad and not chosen_log_probs(hidden.detach(), head, chosen, 0.7)[0].requires_grad


def test_in_bfloat16_a_token_that_is_almost_sure_has_the_gradient_of_float32():
    """Its gradient is a difference of nearly equal vectors, which must not be taken after rounding."""
    torch.manual_seed(0)
    head = torch.randn(50, 64).bfloat16()
    hidden = (0.2 * head[:8].float()).bfloat16().requires_grad_()
    chosen = torch.arange(8)
    exact = hidden.detach().float().requires_grad_()
    known, _ = chosen_log_probs(exact, head.float(), chosen, 1.0)
    (expected,) = torch.autograd.grad(known.sum(), exact)
    assert known.exp().min() > 0.95
    found, _ = chosen_log_probs(hidden, head, chosen, 1.0)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    off = (gradient.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert off.max() < 0.2  # the logits themselves are rounded


@pytest.mark.parametrize(
    ("loss_type", "recomputes"), [("dr_grpo", False), slow("grpo", False), slow("dapo", False), ("dr_grpo", True)]
)
def test_two_steps_with_trl_go_where_the_plain_loss_goes(policy, tmp_path, loss_type, recomputes):
    """By plain gradient descent: Adam would turn what is noise around 0 into whole steps."""
    start = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    logs, moves = [], []
    for change in (lambda trainer_class: trainer_class, inside_trl.scoring_in_groups):
        trainer, adapter = two_steps(
            policy, tmp_path, trainer_class=change(inside_trl.rollout_trainer_class()), loss_type=loss_type,
            before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None),
            gradient_checkpointing=recomputes, optim="sgd",
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


def test_a_loss_waits_neither_for_pixels_nor_for_tokens(policy, tmp_path, monkeypatch):
    """What rows are put together from is in main memory before the first loss, and each picture was looked at once."""
    from nbhelpers.training.vision_cache import FrozenVisionCache

    asked, known, there = [], [], []
    cache, keys, score = FrozenVisionCache(policy.model), FrozenVisionCache._keys, packed._score
    copies = inside_trl._in_main_memory

    def counted(self, pixel_values):
        asked.append(len(pixel_values))
        return keys(self, pixel_values)

    def in_main_memory(inputs):
        there.append(inside_trl.HERE + "input_ids" in inputs)
        return copies(inputs)

    monkeypatch.setattr(FrozenVisionCache, "_keys", counted)
    monkeypatch.setattr(packed, "_score", lambda *args: known.append("features" in args[2]) or score(*args))
    monkeypatch.setattr(inside_trl, "_in_main_memory", in_main_memory)
    two_steps(
        policy, tmp_path, trainer_class=inside_trl.scoring_in_groups(inside_trl.rollout_trainer_class()),
        before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None), gradient_checkpointing=False,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    cache.detach()
    assert sorted(there) == [False] * 2 + [True] * 4  # rollouts, and their losses
    assert known == [True] * len(known) and len(known) >= 4
    assert asked.count(4) == 2  # the four groups of a rollout
    assert len(asked) <= 4  # what is generated asks as well


def test_a_step_in_which_no_group_learns_is_a_step(policy, tmp_path):
    start = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    trainer, adapter = two_steps(
        policy, tmp_path, trainer_class=inside_trl.scoring_in_groups(inside_trl.rollout_trainer_class()),
        before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None),
        gradient_checkpointing=False, reward=lambda completions, **_: [1.0] * len(completions),
    )  # fmt: skip
    assert [line["grad_norm"] for line in trainer.state.log_history[:2]] == [0.0, 0.0]
    assert all(torch.equal(value, start[name]) for name, value in adapter.items())


def test_a_length_is_compiled_when_the_time_lost_without_it_has_paid_for_it(monkeypatch):
    monkeypatch.setattr(fused, "PAYS", 10_000)
    lengths = fused.Lengths(4100)
    assert lengths.ladder == [384, 1024, 1664, 2304, 2944, 3584, 4224]
    assert [lengths.pad(3000) for _ in range(4)] == [None, None, None, 3584]
    assert lengths.pad(3100) == 3584 and lengths.pad(4100) is None
    assert [lengths.pad(1000) for _ in range(3)] == [3584] * 3  # 2,560 tokens of padding each
    assert lengths.pad(1000) == 1024 and lengths.compiled == {1024, 3584}
    assert [lengths.pad(600) for _ in range(3)] == [1024] * 3
    tight = fused.Lengths(4100, at_once=True)
    assert tight.pad(100) == 4224 and tight.pad(4100) == 4224


@pytest.mark.parametrize("window", [512, 40])
def test_blocks_are_those_of_the_pairs_that_see_each_other(policy, window):
    from torch.nn.attention.flex_attention import create_block_mask

    batch, groups = a_batch(policy)
    row = packed.pack(batch, (groups == 0).nonzero()[:, 0].tolist())
    missing = 384 - len(row.ids)
    parts = torch.nn.functional.pad(row.parts, (0, missing), value=-1)[None]
    positions, types = (torch.nn.functional.pad(values, (0, missing))[None] for values in (row.positions, row.types))
    ours, dense = (make(positions, parts, types, window) for make in (fused.block_masks, packed.masks))
    for kind, mask in ours.items():
        known = create_block_mask(mask.mask_mod, 1, 1, 384, 384, device="cpu")
        assert torch.equal(mask.to_dense(), known.to_dense()) and mask.seq_lengths == known.seq_lengths
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(mask, name), getattr(known, name)), name
        places = torch.arange(384)
        assert torch.equal(mask.mask_mod(None, None, places[:, None], places), dense[kind][0, 0])


@pytest.mark.parametrize("longest", [1, 127, 128, 129, 1000, 4546])
def test_every_row_finds_a_length(longest):
    ladder = fused.Lengths(longest).ladder
    assert ladder == sorted(set(ladder)) and ladder[-1] >= longest and all(length % 128 == 0 for length in ladder)
    assert len(ladder) <= fused.STEPS


def test_the_packed_loss_is_for_the_model_as_transformers_has_it(policy):
    assert packed.packs(policy)
    policy.backend = "unsloth"
    assert not packed.packs(policy)


def trained_over_an_engine(policy, folder, trainer_class, reward, **arguments):
    """Two steps of plain gradient descent with vLLM's stand-in: what was logged, and how far the adapter moved."""
    from test_generation import engine_for

    start = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    engine = engine_for(policy)
    engine.noise = 0.02
    trainer, adapter = two_steps(
        policy, folder, trainer_class=trainer_class, reward=reward, built_inside=inside_trl.generating_with(engine),
        before=lambda trainer: setattr(trainer, "on_rollout", lambda *_: None), use_vllm=True, vllm_mode="colocate",
        gradient_checkpointing=False, optim="sgd", vllm_importance_sampling_mode="token_truncate", **arguments,
    )  # fmt: skip
    return trainer.state.log_history[:2], {name: value - start[name] for name, value in adapter.items()}


def mostly_equal(completions, **_):
    """The first group of each step earns nothing, and the first completion of every other what its group does."""
    return [0.0 if place < 4 else float([1, 0, 2, 1][place % 4]) for place in range(len(completions))]


@pytest.mark.parametrize(
    ("loss_type", "reward"),
    [slow("dr_grpo", by_length), ("dr_grpo", mostly_equal), slow("grpo", mostly_equal), slow("dapo", mostly_equal),
     slow("bnpo", mostly_equal)],
)  # fmt: skip
def test_in_parts_and_beside_vllm_a_step_goes_where_trls_goes(policy, tmp_path, loss_type, reward):
    """Micro-batches of whole groups instead of shuffled rows, rows without advantage left out: the same sum."""
    parts = {"gradient_accumulation_steps": 2, "loss_type": loss_type}
    rollout = inside_trl.rollout_trainer_class()
    ours_class = inside_trl.scoring_in_groups(rollout)
    plain, expected = trained_over_an_engine(policy, tmp_path, rollout, reward, **parts)
    ours, found = trained_over_an_engine(policy, tmp_path, ours_class, reward, **parts)
    for theirs, line in zip(plain, ours, strict=True):
        for name in ("reward", "completions/mean_length", "grad_norm"):
            assert line[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6), name
    for name, move in expected.items():
        assert float(move.abs().max()) > 0
        torch.testing.assert_close(found[name], move, rtol=0, atol=3e-8 + 2e-3 * float(move.abs().max()), msg=name)
    for name in ("sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"):
        assert ours[0][name] == pytest.approx(plain[0][name], rel=0.3 if reward is mostly_equal else 1e-3)


@pytest.mark.parametrize(("loss_type", "stays"), [("dr_grpo", True), ("bnpo", False)])
def test_a_group_stays_together_where_any_order_will_do(policy, tmp_path, loss_type, stays):
    seen = []

    def watch(trainer):
        compute = trainer.compute_loss
        trainer.on_rollout = lambda *_: None
        trainer.compute_loss = lambda model, inputs, **more: (
            seen.append(inputs["group"]) or compute(model, inputs, **more)
        )

    two_steps(
        policy, tmp_path, trainer_class=inside_trl.scoring_in_groups(inside_trl.rollout_trainer_class()), before=watch,
        gradient_accumulation_steps=2, gradient_checkpointing=False, loss_type=loss_type,
    )  # fmt: skip
    whole = [group.tolist() == sorted(group.tolist()) and len(set(group.tolist())) == 2 for group in seen]
    assert len(whole) == 4 and all(whole) is stays
