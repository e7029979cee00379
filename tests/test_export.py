"""The merged export is the policy with its adapter, in the layout of the published checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tiny_policy import policy_with_adapter

from nbhelpers import cli
from nbhelpers.params.run_params import RunParams
from nbhelpers.policy.loading import load_policy
from nbhelpers.policy.policy import PolicyError
from nbhelpers.policy.saving import export_gguf, export_merged, save_final_model
from nbhelpers.problems.drawn import make_problems
from nbhelpers.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def policy():
    policy = policy_with_adapter(std=0.02, seed=0)
    policy.model.eval()
    return policy


def logits(policy):
    problem = make_problems(1, seed=3)[0]
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": problem["question"]}]}]
    inputs = policy.processor(
        images=[[problem["image"]]],
        text=[policy.prompt_text(conversation)],
        add_special_tokens=False,
        return_tensors="pt",
    )
    with torch.no_grad():
        return policy.model(**inputs).logits


def test_the_merged_model_answers_as_the_adapter_does(policy, tmp_path):
    expected = logits(policy)
    with policy.without_adapter():
        untrained = logits(policy)
    folder = export_merged(policy, tmp_path / "merged")
    torch.testing.assert_close(logits(policy), expected)  # the policy itself stays as it was
    merged = load_policy(RunParams.load("smoke", model={"name": str(folder)}).model)
    off = (logits(merged) - expected).abs().mean()
    assert off < 0.1 * (untrained - expected).abs().mean()


def test_the_names_are_the_published_checkpoints(policy, tmp_path):
    from safetensors import safe_open

    from nbhelpers.embedded.model import embedded_path

    names = []
    for folder in (export_merged(policy, tmp_path / "merged"), embedded_path()):
        with safe_open(folder / "model.safetensors", "pt") as file:
            names.append({name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())})
    assert names[0] == names[1]


def test_quantised_weights_are_refused_with_what_to_set(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(policy.model, "is_loaded_in_4bit", True, raising=False)
    with pytest.raises(PolicyError, match="load_in_4bit=false"):
        export_merged(policy, tmp_path)


def test_gguf_without_unsloth_is_refused_with_what_to_set(policy, tmp_path):
    with pytest.raises(PolicyError, match="model.backend=unsloth.*export_merged"):
        export_gguf(policy, tmp_path)


def test_unsloth_loads_what_was_trained_and_is_asked_for_gguf(policy, tmp_path, monkeypatch, capsys):
    RunDirectory(tmp_path).record_run(RunParams.load("gemma3_smoke", output_dir=tmp_path))
    save_final_model(policy, tmp_path / "final_model")
    loaded, asked = [], []

    def save_pretrained_gguf(directory, processor, *, quantization_method):
        asked.append((directory, processor, quantization_method))
        return {"gguf_directory": f"{directory}_gguf"}  # as unsloth 2026.10.7 does: beside it, not inside

    def from_pretrained(**options):
        loaded.append(options)
        return SimpleNamespace(save_pretrained_gguf=save_pretrained_gguf), policy.processor

    unsloth = ModuleType("unsloth")
    unsloth.FastVisionModel = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cli.main(["export", str(tmp_path), "--gguf", "q4_k_m"]) == 0
    (options,) = loaded
    assert options.pop("model_name") == str(tmp_path / "final_model")
    assert options == {"max_seq_length": 2048, "load_in_4bit": False, "trust_remote_code": False}
    assert asked == [(str(tmp_path / "merged"), policy.processor, "q4_k_m")]
    assert capsys.readouterr().out.strip() == str(tmp_path / "merged_gguf")


def test_the_command_exports_what_a_run_trained(policy, tmp_path, capsys):
    RunDirectory(tmp_path).record_run(RunParams.load("smoke", output_dir=tmp_path))
    save_final_model(policy, tmp_path / "final_model")
    assert cli.main(["export", str(tmp_path)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "merged"
    merged = load_policy(RunParams.load("smoke", model={"name": str(folder)}).model)
    expected = logits(policy)
    with policy.without_adapter():
        untrained = logits(policy)
    assert (logits(merged) - expected).abs().mean() < 0.1 * (untrained - expected).abs().mean()


def test_the_command_says_what_is_missing(policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)
    assert cli.main(["export", str(tmp_path)]) == 1
    assert "no params.yaml" in capsys.readouterr().err
    RunDirectory(tmp_path).record_run(RunParams.load("smoke", output_dir=tmp_path))
    assert cli.main(["export", str(tmp_path)]) == 1
    assert "run notebook 03 first" in capsys.readouterr().err
    save_final_model(policy, tmp_path / "final_model")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert cli.main(["export", str(tmp_path), "--gguf", "q8_0"]) == 1
    assert "Unsloth could not be imported" in capsys.readouterr().err
