"""The merged export is the policy with its adapter, in the layout of the published checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny_policy import policy_with_adapter

torch = pytest.importorskip("torch")

from nbhelpers.params import RunParams  # noqa: E402
from nbhelpers.policy import PolicyError, export_gguf, export_merged, load_policy  # noqa: E402
from nbhelpers.sampling import Policy  # noqa: E402
from nbhelpers.visual_math import make_problems  # noqa: E402


@pytest.fixture(scope="module")
def policy():
    policy = policy_with_adapter(std=0.02, seed=0)
    policy.model.eval()
    return policy


def logits(policy):
    problem = make_problems(1, seed=3)[0]
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": problem["question"]}]}]
    inputs = policy.processor(
        images=[[problem["image"]]], text=[policy.prompt_text(conversation)], add_special_tokens=False, return_tensors="pt"
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

    from nbhelpers.tiny_gemma import embedded_path

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


def test_unsloth_is_asked_for_gguf_with_processor_and_quantisation(policy, tmp_path):
    asked = []
    model = SimpleNamespace(save_pretrained_gguf=lambda *args, **options: asked.append((args, options)))
    unsloth = Policy(model, policy.processor, backend="unsloth", source="x")
    assert export_gguf(unsloth, tmp_path / "gguf", "q4_k_m") == tmp_path / "gguf"
    assert asked == [((str(tmp_path / "gguf"), policy.processor), {"quantization_method": "q4_k_m"})]
