"""What holds a vocabulary's logits, counted on the CPU with Gemma-3's 262,208 words, beside what the estimate says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, memory, scoring
from nbhelpers.runs import Gpu
from nbhelpers.training import by_hand
from nbhelpers.training.log_softmax import CHUNK, chosen_log_probs

WORDS, WIDTH, PROMPT = 262_208, 32, 16


@pytest.fixture(scope="module")
def policy():
    """Gemma-3 with all its words and next to nothing else, in 16 bit, with an adapter in 32."""
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "vocab_size": WORDS}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    model = get_peft_model(Gemma3ForConditionalGeneration(config).bfloat16(), LoraConfig(target_modules=["down_proj"]))
    for parameter in model.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    return Policy(model, None, backend="transformers", source="")


def a_group(completions, tokens):
    ids = torch.randint(10, 1000, (completions, PROMPT + tokens), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    answers = {"ids_GT": ids[:, PROMPT:], "mask_GT": torch.ones_like(ids[:, PROMPT:])}
    return SimpleNamespace(inputs=inputs, features=None, **answers)


def peak_of(function):
    """The most bytes that were held at once, beside what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        function()
    changes = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most


def with_all_logits(policy, group):
    """The log-probs as the lesson took them before."""
    tokens = group.ids_GT.shape[1]
    logits = policy.model(**group.inputs, logits_to_keep=tokens + 1, use_cache=False).logits[:, :-1].float()
    return logits.log_softmax(dim=-1).gather(-1, group.ids_GT.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize(("completions", "tokens", "short"), [(1, 64, False), (2, 64, False), (2, 96, True)])
def test_the_lesson_holds_the_logits_of_a_few_tokens_as_estimated(policy, monkeypatch, completions, tokens, short):
    """Within a twentieth, whatever the group's size; all logits at once take twice and three times as much here."""
    monkeypatch.setattr(scoring, "short_of_memory", lambda *args: short)
    group = a_group(completions, tokens)
    measured = peak_of(lambda: by_hand.log_probs(policy, group).sum().backward())
    assert measured == pytest.approx(memory.LOGIT_BYTES * memory.SCORED_AT_ONCE * WORDS, rel=0.05)


def test_all_logits_at_once_take_as_much_for_each_token(policy):
    """What Unsloth's loss and TRL's hold where memory is not short, and what the lesson held before."""
    group = a_group(1, 80)
    measured = peak_of(lambda: with_all_logits(policy, group).sum().backward())
    assert measured == pytest.approx(memory.LOGIT_BYTES * 80 * WORDS, rel=0.05)


def test_training_holds_a_chunk_of_logits_as_estimated():
    hidden = torch.randn(CHUNK, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    head, chosen = torch.randn(WORDS, WIDTH, dtype=torch.bfloat16), torch.randint(0, WORDS, (CHUNK,))
    measured = peak_of(lambda: chosen_log_probs(hidden, head, chosen, 1.0)[0].sum().backward())
    assert measured == pytest.approx(memory.CHUNK_BYTES * WORDS, rel=0.05)


def test_scoring_holds_no_more_than_a_policy_that_is_only_asked_is_estimated_with(policy):
    group = a_group(2, 96)
    measured = peak_of(lambda: scoring.log_probs_and_entropies(policy, group.inputs, group.ids_GT))
    params = RunParams.load("gemma3_smoke", model={"backend": "transformers"})
    estimated = memory.budget(params.model, 16, None, "transformers", Gpu("", "", 80.0, 80.0)).beside["logits"]
    assert measured <= estimated * memory.GIB * 1.05


def test_the_lesson_is_in_the_estimate_of_training():
    """Its logits are fewer than training's, and the group whose rows go through apart is counted."""

    def activations(size):
        params = RunParams.load("gemma3_smoke", training={"num_generations": size})
        found = memory.budget(params.model, 16, params.training, "transformers", Gpu("", "", 80.0, 80.0))
        return found.beside["activations"]

    assert memory.LOGIT_BYTES * memory.SCORED_AT_ONCE <= memory.CHUNK_BYTES
    assert activations(8) > 1.5 * activations(4)


def test_what_the_lesson_keeps_to_put_back_stays_out_of_the_gpus_memory(policy, monkeypatch):
    copied, asked = torch.Tensor.to, []

    def to(self, *args, **kwargs):
        asked.append((args, kwargs))
        return copied(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    with by_hand.as_it_was(policy):
        pass
    trained = sum(parameter.requires_grad for parameter in policy.model.parameters())
    assert asked.count((("cpu",), {"copy": True})) == trained > 0
