"""Loading, adapting, sampling, saving."""

from __future__ import annotations

import re

import pytest
import torch

from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import LoraParams, ModelParams, RewardParams
from nbhelpers.policy.adapter import lora_target_pattern, trainable_parameters
from nbhelpers.policy.loading import load_final_model, load_policy
from nbhelpers.policy.policy import PolicyError, weights_source
from nbhelpers.policy.saving import save_final_model
from nbhelpers.problems import asking
from nbhelpers.problems.drawn import make_problems

SMOKE_MODEL = RunParams.load("smoke").model


def conversations_of(problems):
    return [asking.conversation(problem, RewardParams()) for problem in problems], [
        problem["image"] for problem in problems
    ]


def test_a_relative_folder_is_looked_for_where_doctor_looks(tmp_path, monkeypatch):
    from nbhelpers.params import places

    (tmp_path / "checkout" / "weights").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(places, "repository_root", lambda: tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert weights_source("weights") == str(tmp_path / "checkout" / "weights")
    assert weights_source("unsloth/gemma-3-4b-it") == "unsloth/gemma-3-4b-it"


def test_lora_goes_to_the_language_layers_alone_by_default():
    pattern = lora_target_pattern(LoraParams())
    assert re.fullmatch(pattern, "model.language_model.layers.0.self_attn.q_proj")
    assert re.fullmatch(pattern, "model.language_model.layers.33.mlp.down_proj")
    assert not re.fullmatch(pattern, "model.vision_tower.encoder.layers.0.self_attn.q_proj")
    assert not re.fullmatch(pattern, "model.multi_modal_projector.mm_soft_emb_norm")


@pytest.mark.parametrize(
    ("flags", "vision", "attention", "mlp"),
    [
        ({"finetune_vision_layers": True}, True, True, True),
        ({"finetune_mlp_modules": False}, False, True, False),
        ({"finetune_attention_modules": False}, False, False, True),
    ],
)
def test_each_finetune_flag_chooses_its_layers(flags, vision, attention, mlp):
    pattern = lora_target_pattern(LoraParams(**flags))
    assert bool(re.fullmatch(pattern, "model.vision_tower.encoder.layers.0.mlp.fc1")) is (vision and mlp)
    assert bool(re.fullmatch(pattern, "model.language_model.layers.1.self_attn.v_proj")) is attention
    assert bool(re.fullmatch(pattern, "model.language_model.layers.1.mlp.up_proj")) is mlp


def test_the_adapter_leaves_the_vision_tower_frozen():
    policy = load_policy(SMOKE_MODEL, LoraParams())
    counts = trainable_parameters(policy)
    assert counts["vision trained"] == 0 and counts["language trained"] > 0
    assert all("lora_" in name for name, p in policy.model.named_parameters() if p.requires_grad)


def test_greedy_sampling_does_not_depend_on_the_batch(embedded_policy):
    conversations, images = conversations_of(make_problems(6, seed=3))
    together = embedded_policy.sample(conversations, images, max_new_tokens=24)
    alone = embedded_policy.sample(conversations, images, max_new_tokens=24, batch_size=1)
    assert [group[0].text for group in together] == [group[0].text for group in alone]


def test_a_seed_repeats_a_sample_and_leaves_torch_as_it_was(embedded_policy):
    conversations, images = conversations_of(make_problems(4, seed=3))
    state = torch.random.get_rng_state()
    first, second, other = (
        embedded_policy.sample(
            conversations, images, max_new_tokens=16, temperature=1.0, samples_per_problem=3, seed=seed
        )
        for seed in (1, 1, 2)
    )
    assert first == second != other
    assert [len(group) for group in first] == [3] * 4
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_completion_that_hits_the_limit_says_so(embedded_policy):
    conversations, images = conversations_of(make_problems(2, seed=3))
    short = embedded_policy.sample(conversations, images, max_new_tokens=2)
    assert all(group[0].truncated and group[0].length == 2 for group in short)


def test_several_greedy_samples_are_refused(embedded_policy):
    conversations, images = conversations_of(make_problems(1, seed=3))
    with pytest.raises(PolicyError, match="temperature above 0"):
        embedded_policy.sample(conversations, images, max_new_tokens=4, samples_per_problem=2)


def test_prompt_length_counts_the_picture_as_the_processor_does(embedded_policy):
    problem = make_problems(1, seed=8)[0]
    conversation = asking.conversation(problem, RewardParams())
    inputs = embedded_policy.processor(
        images=[[problem["image"]]], text=[embedded_policy.prompt_text(conversation)], add_special_tokens=False
    )
    assert embedded_policy.prompt_length(conversation) == len(inputs["input_ids"][0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize(
    ("setting", "named"),
    [({"load_in_4bit": True}, "load_in_4bit"), ({"fast_inference": True}, "vLLM"), ({"backend": "unsloth"}, "unsloth")],
)
def test_what_needs_a_gpu_says_so_in_a_sentence(setting, named):
    with pytest.raises(PolicyError, match=f"(?s){named}.*needs an NVIDIA GPU"):
        load_policy(SMOKE_MODEL.model_copy(update=setting))


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(PolicyError, match="could not be loaded"):
        load_policy(SMOKE_MODEL.model_copy(update={"name": str(tmp_path / "nothing")}))


def test_final_model_round_trips(tmp_path):
    policy = load_policy(SMOKE_MODEL, LoraParams(r=4))
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    conversations, images = conversations_of(make_problems(4, seed=3))
    expected = policy.sample(conversations, images, max_new_tokens=24)
    save_final_model(policy, tmp_path / "final_model")
    loaded = load_final_model(tmp_path / "final_model", SMOKE_MODEL)
    assert loaded.sample(conversations, images, max_new_tokens=24) == expected
    with loaded.without_adapter():
        assert loaded.sample(conversations, images, max_new_tokens=24) != expected


def test_the_saved_tokenizer_still_adds_its_bos(tmp_path):
    from transformers import AutoTokenizer

    policy = load_policy(SMOKE_MODEL, LoraParams(r=4))
    save_final_model(policy, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer("1").input_ids[0] == tokenizer.bos_token_id


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(PolicyError, match="run notebook 03"):
        load_final_model(tmp_path, ModelParams())


def on_card(monkeypatch, capability, free=70.0, total=80.0):
    """A GPU that is not there, as PyTorch would report it."""
    from nbhelpers.policy import loading
    from nbhelpers.runs import Gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4" if capability < (8, 0) else "NVIDIA H100")
    monkeypatch.setattr(loading, "this_gpu", lambda **_: Gpu("NVIDIA H100", "", total, free, capability))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return loading


def test_a_card_without_bfloat16_is_refused_with_the_reason_before_anything_is_loaded(monkeypatch):
    on_card(monkeypatch, (7, 5))
    with pytest.raises(PolicyError) as raised:
        load_policy(ModelParams())
    sentence = str(raised.value)
    assert "Tesla T4 has no bfloat16" in sentence and "capability 8.0" in sentence
    assert "set model.fast_inference=false, model.load_in_4bit=false" in sentence


def test_a_card_without_bfloat16_computes_in_float32_where_nothing_needs_16_bit(monkeypatch):
    loading = on_card(monkeypatch, (7, 5))
    assert not loading.has_bfloat16()
    assert loading.choose_backend(ModelParams(fast_inference=False, load_in_4bit=False))[0] == "transformers"


@pytest.mark.parametrize(("free", "backend"), [(70.0, "transformers"), (10.0, "unsloth")])
def test_auto_says_which_backend_and_why(monkeypatch, free, backend):
    loading = on_card(monkeypatch, (9, 0), free=free, total=max(free, 12.0))
    chosen, why = loading.choose_backend(ModelParams())
    assert chosen == backend and f"backend {backend} on NVIDIA H100 with {free:.0f} GiB free" in why


def test_what_does_not_fit_is_said_before_weights_are_loaded(monkeypatch):
    loading = on_card(monkeypatch, (9, 0), free=6.0)
    monkeypatch.setattr(loading, "check_libraries", lambda *names, error: [])
    monkeypatch.setattr(loading, "load_processor", lambda params: pytest.fail("loaded"))
    with pytest.raises(PolicyError, match="6.0 of 80.0 GiB are free.*--set"):
        load_policy(ModelParams(name="unsloth/gemma-3-4b-it", backend="transformers"))


def test_a_policy_that_is_released_holds_neither_model_nor_engine():
    import weakref
    from types import SimpleNamespace

    policy, stopped = load_policy(SMOKE_MODEL), []
    core = SimpleNamespace(shutdown=lambda: stopped.append(True))
    policy.engine = SimpleNamespace(llm=SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core)))
    model = weakref.ref(policy.model)
    policy.release()
    assert stopped == [True] and model() is None and policy.engine is None
    with pytest.raises(PolicyError, match="run the cell that loads it again"):
        policy.sample([], [], max_new_tokens=4)
