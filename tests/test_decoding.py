"""Generating in groups gives what transformers' own loop gives, with less work."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny_policy import policy_with_adapter

from nbhelpers.params import RewardParams
from nbhelpers.policy.decoding import generate_groups, in_groups, merged_adapter
from nbhelpers.problems import conversation
from nbhelpers.problems.drawn import make_problems


@pytest.fixture(scope="module")
def policy():
    return policy_with_adapter(std=0.02)


@pytest.fixture(scope="module")
def inputs(policy):
    problems = make_problems(6, seed=3)
    made = policy.inputs([conversation(p, RewardParams()) for p in problems], [p["image"] for p in problems])
    assert made["attention_mask"].min() == 0  # prompts of different lengths
    return dict(made)


def greedy(policy):
    from nbhelpers.policy.mends import end_of_turn_ids

    ends = end_of_turn_ids(policy.processor, policy.model)
    return {"max_new_tokens": 24, "do_sample": False, "top_k": None, "top_p": None, "eos_token_id": ends,
            "pad_token_id": policy.processor.tokenizer.pad_token_id}  # fmt: skip


@contextlib.contextmanager
def rows_in_each_forward(model):
    rows = []
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, args, out: rows.append(tuple(out.shape[:2])))
    yield rows
    hook.remove()


def test_greedy_completions_are_those_of_transformers_loop(policy, inputs):
    plain = policy.model.generate(**inputs, **greedy(policy))
    with rows_in_each_forward(policy.model) as rows:
        grouped = generate_groups(policy.model, inputs, 3, **greedy(policy))
    assert torch.equal(grouped, plain.repeat_interleave(3, dim=0))
    prompts, length = inputs["input_ids"].shape
    assert rows[0] == (prompts, length) and rows[1] == (prompts * 3, 1), "a prompt is read once, not once a completion"
    ended = [3 * int((plain[:, length:] != 0).sum(dim=1).gt(step).sum()) for step in range(1, len(rows))]
    assert [batch for batch, _ in rows[1:]] == ended and ended[-1] < ended[0], "what has ended leaves the batch"


def test_a_prompt_longer_than_the_sliding_window_is_read_as_transformers_reads_it(inputs):
    policy = policy_with_adapter(std=0.02)
    text = policy.model.config.text_config
    text.sliding_window = 20
    for layer in policy.model.get_base_model().model.language_model.layers:
        layer.self_attn.sliding_window = 20 if layer.self_attn.is_sliding else None
    plain = policy.model.generate(**inputs, **greedy(policy))
    assert torch.equal(generate_groups(policy.model, inputs, 2, **greedy(policy)), plain.repeat_interleave(2, dim=0))


def test_samples_of_a_group_differ_and_repeat_with_the_seed(policy, inputs):
    options = greedy(policy) | {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(generate_groups(policy.model, inputs, 4, **options))
    assert torch.equal(drawn[0], drawn[1]) and not drawn[0].equal(drawn[2])
    assert len({tuple(row.tolist()) for row in drawn[0][:4]}) > 1


def test_a_token_is_drawn_with_the_probability_that_the_policy_gives_it(policy, inputs):
    """The first token after one prompt, drawn 4,000 times."""
    one = {name: values[:1] for name, values in inputs.items()}
    options = greedy(policy) | {"max_new_tokens": 1, "do_sample": True, "temperature": 4.0, "top_k": 0, "top_p": 1.0}
    torch.manual_seed(0)
    drawn = generate_groups(policy.model, one, 4000, **options)[:, -1]
    with torch.no_grad():
        expected = (policy.model(**one).logits[0, -1] / 4.0).softmax(dim=-1)
    seen = torch.bincount(drawn, minlength=len(expected)) / len(drawn)
    assert float(expected.max()) < 0.95
    assert float((seen - expected).abs().max()) < 0.03


@pytest.mark.parametrize("repeated", [True, False])
def test_rows_as_trl_lays_them_out_are_read_once_where_they_repeat(policy, inputs, repeated):
    from transformers import GenerationConfig

    rows = {name: values.repeat_interleave(2, dim=0) for name, values in inputs.items()}
    if not repeated:  # the same words about another picture
        rows["pixel_values"] = rows["pixel_values"].roll(1, dims=0)
    config = GenerationConfig(**greedy(policy))
    plain = policy.model.generate(**rows, generation_config=config)
    with in_groups(policy.model, 2), rows_in_each_forward(policy.model) as seen:
        assert torch.equal(policy.model.generate(**rows, generation_config=config), plain)
    assert seen[0][0] == (len(inputs["input_ids"]) if repeated else len(rows["input_ids"]))
    assert "generate" not in vars(policy.model)


class TestMergedAdapter:
    def test_logits_and_gradients_are_those_of_the_layers_apart_and_the_weights_stay(self, policy, inputs):
        before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
        found = []
        for context in (contextlib.nullcontext(), merged_adapter(policy.model)):
            policy.model.zero_grad()
            with context:
                logits = policy.model(**inputs).logits
                logits.log_softmax(dim=-1)[..., 7].mean().backward()
            gradients = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
            found.append((logits.detach(), gradients))
        policy.model.zero_grad()
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
        assert found[0][1].keys() == found[1][1].keys() and len(found[0][1]) > 10
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert all(torch.equal(before[name], p) for name, p in policy.model.named_parameters())
        assert not any("forward" in vars(module) for module in policy.model.modules())

    def test_a_policy_without_its_adapter_is_the_base_model(self, policy, inputs):
        with policy.without_adapter(), torch.no_grad():
            alone = policy.model(**inputs).logits
            with merged_adapter(policy.model):
                torch.testing.assert_close(policy.model(**inputs).logits, alone)
        with torch.no_grad():
            assert not torch.allclose(policy.model(**inputs).logits, alone, atol=1e-2)

    @pytest.mark.parametrize(("change", "merges"), [("none", True), ("bfloat16", False), ("dropout", False)])
    def test_only_what_is_exact_is_merged(self, change, merges):
        policy = policy_with_adapter(lora={"dropout": 0.5 if change == "dropout" else 0.0})
        policy.model.train()
        if change == "bfloat16":
            policy.model.to(torch.bfloat16)
        with merged_adapter(policy.model):
            assert any("forward" in vars(module) for module in policy.model.modules()) is merges


def test_unsloth_keeps_its_own_generate(policy, monkeypatch):
    asked = []
    monkeypatch.setattr(policy, "backend", "unsloth")
    monkeypatch.setattr(
        policy.model, "generate", lambda **options: asked.append(options) or torch.zeros(4, 99, dtype=torch.long)
    )
    problem = make_problems(1, seed=3)[0]
    asking = [conversation(problem, RewardParams())]
    policy.sample(asking, [problem["image"]], max_new_tokens=4, temperature=1.0, samples_per_problem=4)
    assert asked[0]["num_return_sequences"] == 4 and "custom_generate" not in asked[0]
