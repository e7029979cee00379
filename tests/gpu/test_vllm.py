"""The embedded model with the real vLLM: run on an NVIDIA GPU with the extra `gpu`, `pytest -m gpu tests/gpu`.

One process holds one engine, so the tests share it. All passed in 108 s beside one other process on one NVIDIA H200
(2026-11-24, torch 2.11.0+cu130, vllm 0.26.0, trl 1.14.2, transformers 5.17.0).
"""

from __future__ import annotations

import pytest
from tiny_policy import randomise_adapter

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    torch = pytest.importorskip("torch")
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from nbhelpers.params.run_params import RunParams
    from nbhelpers.policy.loading import load_policy
    from nbhelpers.policy.vllm.engine import start_engine
    from nbhelpers.problems import asking, loading

    params = RunParams.load(
        "smoke",
        output_dir=tmp_path_factory.mktemp("run"),
        model={"fast_inference": True, "gpu_memory_utilization": 0.1, "max_seq_length": 512},
    )
    policy = load_policy(params.model, params.lora)
    problems = loading.load_problems(params.dataset)
    engine = start_engine(policy, params.model, completions=128)
    return params, policy, problems, engine, asking.grpo_dataset(problems.train, params)[:32]


def test_vllm_and_the_trainer_agree_before_training(setting):
    from nbhelpers.policy.vllm import parity

    _, policy, _, engine, rows = setting
    assert parity.check_parity(policy, engine, rows["prompt"], rows["image"]).mean < 0.01


def test_greedy_completions_are_those_of_transformers(setting):
    _, policy, _, _, rows = setting
    ours = policy.sample(rows["prompt"], rows["image"], max_new_tokens=48)
    reference = policy._sample_with_transformers(
        rows["prompt"],
        rows["image"],
        max_new_tokens=48,
        temperature=0.0,
        samples_per_problem=1,
        seed=0,
        batch_size=32,
        progress=None,
    )
    same = sum(a[0].text == b[0].text for a, b in zip(ours, reference, strict=True))
    assert same >= 30  # bfloat16 may break a tie the other way


def test_a_smoke_run_raises_the_reward_and_stays_in_parity(setting):
    from statistics import mean

    from nbhelpers.runs.directory import RunDirectory
    from nbhelpers.training.trainer import train

    params, policy, problems, _, _ = setting
    run = RunDirectory(params.output_dir)
    result = train(policy, problems, params, run)
    lines = run.read_jsonl(run.metrics_path)
    assert result.steps == params.training.max_steps and result.adapter_norm > 0
    assert mean(line["reward"] for line in lines[-5:]) > mean(line["reward"] for line in lines[:5]) + 0.4
    assert all(line["sampling/sampling_logp_difference/mean"] < 0.05 for line in lines)


def test_vllm_without_the_adapter_is_the_base_model(setting):
    _, policy, _, _, rows = setting
    with policy.without_adapter():
        ours = policy.sample(rows["prompt"], rows["image"], max_new_tokens=48)
        reference = policy._sample_with_transformers(
            rows["prompt"],
            rows["image"],
            max_new_tokens=48,
            temperature=0.0,
            samples_per_problem=1,
            seed=0,
            batch_size=32,
            progress=None,
        )
    assert sum(a[0].text == b[0].text for a, b in zip(ours, reference, strict=True)) >= 30


@pytest.mark.parametrize("shape", [(14, 2560), (14, 8, 256), (0, 128)])
def test_a_norm_in_one_kernel_is_transformers_norm(shape):
    torch = pytest.importorskip("torch")
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    from nbhelpers.policy.vllm.norm import fused_norm

    torch.manual_seed(0)
    norm = Gemma3RMSNorm(shape[-1]).cuda().bfloat16()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(fused_norm(x, None, norm.weight, norm.eps), norm(x))


def test_an_adapter_that_is_not_handed_over_is_caught(setting, monkeypatch):
    from nbhelpers.policy.vllm import parity

    _, policy, _, engine, rows = setting
    engine.take_adapter(policy.model)
    randomise_adapter(policy, std=0.3)  # far from the base model, whose weights are large
    handed_over = parity.check_parity(policy, engine, rows["prompt"], rows["image"])
    assert handed_over.mean < 0.05
    policy.model.zero_grad()
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    monkeypatch.setattr(type(engine), "take_adapter", lambda self, model: None)
    assert parity.check_parity(policy, engine, rows["prompt"], rows["image"]).stops
