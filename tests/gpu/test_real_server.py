"""A real `vllm serve`, on the second of two GPUs or beside the policy on one: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_policy import policy_with_adapter, randomise_adapter, some_problems

from nbhelpers.runs.directory import RunDirectory

pytestmark = pytest.mark.gpu


@pytest.fixture
def served(monkeypatch):
    """The embedded policy, and the engine of a server that it has started."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("vllm")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    import nbhelpers.policy.vllm.engine as module
    from nbhelpers.params import ModelParams

    share = 0.6
    if torch.cuda.device_count() == 1:
        share = 0.3
        monkeypatch.setattr(module, "_gpu_of_its_own", lambda: "0")
    model = {"fast_inference": True, "vllm_server": "auto", "gpu_memory_utilization": share, "max_seq_length": 512}
    policy = policy_with_adapter(model=model)
    return policy, module.start_engine(policy, ModelParams(name="embedded", load_in_4bit=False, **model))


def test_the_server_takes_each_adapter_and_a_run_of_another_process_learns_with_it(served, tmp_path):
    from nbhelpers.policy import verify

    (policy, engine), problems = served, some_problems(8)
    for seed in (1, 2):
        randomise_adapter(policy, std=0.3, seed=seed)  # far from the base model, and from each other
        report, _ = verify(policy, engine, problems["prompt"], problems["image"], length=40, mode="token_truncate")
        print(report)
        assert report.mean < 0.05
    settings = ("model.fast_inference=true", f"model.vllm_server={engine.url}", "training.probes=0")
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "nbhelpers.cli", "run", "smoke", "--notebooks", "3", "--output-dir", str(tmp_path)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = RunDirectory(tmp_path)
    lines = run.read_jsonl(run.metrics_path)
    rewards = [line["reward"] for line in lines]
    print(rewards, [round(line["step_time"], 2) for line in lines])
    assert all(0.9 < line["sampling/importance_sampling_ratio/mean"] < 1.1 for line in lines)
    assert sum(rewards[-5:]) - sum(rewards[:5]) > 2.5  # five steps could gain 20
