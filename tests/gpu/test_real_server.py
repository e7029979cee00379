"""A real `vllm serve` on the second of two GPUs: `pytest -m gpu tests/gpu/test_real_server.py`."""

from __future__ import annotations

import pytest
from tiny_policy import policy_with_adapter, randomise_adapter, some_problems

pytestmark = pytest.mark.gpu


def test_the_server_takes_each_adapter_and_agrees_with_the_trainer():
    torch = pytest.importorskip("torch")
    pytest.importorskip("vllm")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    from nbhelpers.params import ModelParams
    from nbhelpers.policy import start_engine, verify

    model = {"fast_inference": True, "vllm_server": "auto", "gpu_memory_utilization": 0.6, "max_seq_length": 512}
    policy, problems = policy_with_adapter(model=model), some_problems(8)
    engine = start_engine(policy, ModelParams(name="embedded", load_in_4bit=False, **model))
    for seed in (1, 2):
        randomise_adapter(policy, std=0.3, seed=seed)  # far from the base model, and from each other
        report, _ = verify(policy, engine, problems["prompt"], problems["image"], length=40, mode="token_truncate")
        assert report.mean < 0.05
