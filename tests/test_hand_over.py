"""The policy's adapter on vLLM's side, with stand-ins for vLLM's layers (tests/gpu has the real ones)."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_policy import policy_with_adapter

from nbhelpers.policy.vllm.hand_over import (
    MergedAdapter,
    adapted_modules,
    base_weights,
    dithered,
    vllm_rank,
)
from nbhelpers.policy.vllm.inside import ADAPTER_ID, copy_matrices
from nbhelpers.policy.vllm.setup import GenerationError


@pytest.fixture(scope="module")
def policy():
    return as_on_a_gpu(policy_with_adapter(std=0.1))


def as_on_a_gpu(policy):
    """The policy with a bfloat16 base; its adapter stays float32."""
    for name, parameter in policy.model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    return policy


def layers_of(policy):
    return policy.model.config.text_config.num_hidden_layers


def wrapped(policy, layer, block, part):
    return policy.model.get_submodule(f"base_model.model.model.language_model.layers.{layer}.{block}.{part}")


def test_the_rank_is_one_that_vllm_holds():
    assert [vllm_rank(r) for r in (1, 4, 16, 48)] == [1, 8, 16, 64]
    with pytest.raises(GenerationError, match="lora.r is 600"):
        vllm_rank(600)


def test_an_adapter_on_the_vision_tower_is_refused_by_name():
    policy = policy_with_adapter(lora={"finetune_vision_layers": True})
    with pytest.raises(GenerationError, match="vision_tower.*finetune_vision_layers=false"):
        adapted_modules(policy.model)


def test_vllm_gets_every_weight_of_the_base_by_its_published_name_and_nothing_of_the_adapter(policy):
    from safetensors.torch import load_file

    published = load_file(Path(policy.source) / "model.safetensors")
    given = dict(base_weights(policy.model))
    assert given.keys() == published.keys()
    assert all(torch.equal(given[name], weight) for name, weight in published.items())


def test_vllm_gets_weights_in_4_bit_as_the_policy_multiplies_with_them(policy, monkeypatch):
    """With a stand-in for bitsandbytes, which is not part of the CPU's set (tests/gpu has the real one)."""
    import peft.utils.integrations as integrations

    class Params4bit(torch.nn.Parameter):
        pass

    copied, layer = copy.deepcopy(policy.model), "base_model.model.model.language_model.layers.1.mlp.down_proj"
    linear = copied.get_submodule(layer).base_layer
    whole, linear.weight = linear.weight.detach(), Params4bit(torch.zeros(8, 1), requires_grad=False)
    monkeypatch.setattr(integrations, "dequantize_bnb_weight", lambda weight: whole)
    given = dict(base_weights(copied))["language_model.model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(given, whole)
    vllm = FakeVllm(policy)
    before = vllm.weights()
    merged = MergedAdapter(vllm)
    merged.take(copied)
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(vllm.weights()[name], before[name])
    merged.drop()
    assert torch.equal(vllm.weights()[name], before[name])


class TestDithered:
    def noise(self, *shape):
        return torch.randint(0, 65536, shape, dtype=torch.int32, generator=torch.Generator().manual_seed(1))

    def test_what_bfloat16_holds_stays(self):
        values = torch.randn(64, 64).bfloat16()
        assert torch.equal(dithered(values.float(), self.noise(64, 64)), values)

    def test_the_result_is_one_of_the_two_neighbours(self):
        values = torch.randn(1000)
        rounded = dithered(values.clone(), self.noise(1000)).float()
        down = (values.view(torch.int32) & -65536).view(torch.float32)
        up = ((values.view(torch.int32) & -65536) + 65536).view(torch.float32)
        assert ((rounded == down) | (rounded == up)).all()

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_a_small_update_is_kept_on_average_where_rounding_to_the_nearest_loses_it(self, sign):
        base = torch.full((200_000,), 0.03).bfloat16().float()
        update = sign * 2e-5  # a sixth of the step between neighbours there
        assert torch.equal((base + update).bfloat16().float(), base)
        kept = dithered(base + update, self.noise(200_000)).float().sub(base).mean().item()
        assert kept == pytest.approx(update, rel=0.02)


class FakeVllm(torch.nn.Module):
    """The language layers of vLLM's Gemma-3 around the policy's base weights, with q, k, v and gate, up as one matrix
    each.
    """

    def __init__(self, policy):
        super().__init__()
        self.language_model = torch.nn.Module()
        self.language_model.model = torch.nn.Module()
        self.language_model.model.layers = torch.nn.ModuleList()
        for layer in range(layers_of(policy)):

            def base(block, *parts, layer=layer):
                weights = [wrapped(policy, layer, block, part).base_layer.weight for part in parts]
                linear = torch.nn.Module()
                linear.weight = torch.nn.Parameter(
                    torch.cat([weight.detach().clone() for weight in weights]), requires_grad=False
                )
                return linear

            attention, mlp = torch.nn.Module(), torch.nn.Module()
            attention.qkv_proj, attention.o_proj = (
                base("self_attn", "q_proj", "k_proj", "v_proj"),
                base("self_attn", "o_proj"),
            )
            attention.q_norm = torch.nn.RMSNorm(4)
            mlp.gate_up_proj, mlp.down_proj = base("mlp", "gate_proj", "up_proj"), base("mlp", "down_proj")
            both = torch.nn.Module()
            both.self_attn, both.mlp = attention, mlp
            self.language_model.model.layers.append(both)

    def weights(self):
        return {name: parameter.clone() for name, parameter in self.named_parameters()}


class TestMergedAdapter:
    def test_vllms_layers_compute_what_the_policy_computes(self, policy):
        vllm = FakeVllm(policy)
        assert MergedAdapter(vllm).take(policy.model) is None
        layer = vllm.language_model.model.layers[1]
        for linear, block, parts in (
            (layer.self_attn.qkv_proj, "self_attn", ("q_proj", "k_proj", "v_proj")),
            (layer.self_attn.o_proj, "self_attn", ("o_proj",)),
            (layer.mlp.gate_up_proj, "mlp", ("gate_proj", "up_proj")),
            (layer.mlp.down_proj, "mlp", ("down_proj",)),
        ):
            modules = [wrapped(policy, 1, block, part) for part in parts]
            x = torch.randn(200, linear.weight.shape[1])
            with torch.no_grad():
                expected = torch.cat(
                    [
                        x @ (module.base_layer.weight.float() + module.get_delta_weight("default")).T
                        for module in modules
                    ],
                    dim=1,
                )
                gap = x @ linear.weight.float().T - expected
                base = x @ torch.cat([module.base_layer.weight for module in modules]).float().T - expected
            assert gap.abs().mean() < 0.01 * expected.abs().mean() < 0.1 * base.abs().mean()
            assert abs(gap.mean()) < 0.01 * expected.abs().mean()

    def test_the_same_adapter_gives_the_same_weights_and_dropping_it_the_base(self, policy):
        vllm = FakeVllm(policy)
        before, adapter = vllm.weights(), MergedAdapter(vllm)
        adapter.take(policy.model)
        once = vllm.weights()
        adapter.take(policy.model)
        assert all(torch.equal(value, once[name]) for name, value in vllm.weights().items())
        assert not any(torch.equal(before[name], once[name]) for name in once if "norm" not in name)
        adapter.drop()
        assert all(torch.equal(value, before[name]) for name, value in vllm.weights().items())

    def test_other_base_weights_are_refused(self, policy):
        vllm = FakeVllm(policy)
        vllm.language_model.model.layers[2].mlp.down_proj.weight.data[0, 0] += 1
        with pytest.raises(GenerationError, match="layer 2, down_proj"):
            MergedAdapter(vllm).take(policy.model)

    def test_a_layer_that_vllm_has_not_is_an_error_not_a_loss(self, policy):
        vllm = FakeVllm(policy)
        del vllm.language_model.model.layers[3]
        with pytest.raises(GenerationError, match="21 of the adapter's 28"):
            MergedAdapter(vllm).take(policy.model)

    def test_an_adapter_on_attention_alone_leaves_the_other_layers(self, policy):
        attention = as_on_a_gpu(policy_with_adapter(lora={"finetune_mlp_modules": False}))
        vllm = FakeVllm(policy)
        before = vllm.weights()
        MergedAdapter(vllm).take(attention.model)
        changed = {
            name.split(".")[-2] for name, value in vllm.weights().items() if not torch.equal(value, before[name])
        }
        assert changed == {"qkv_proj", "o_proj"}


class FakeLayer:
    """Takes LoRA matrices as vLLM 0.26's layers do: lists for fused projections, single tensors otherwise."""

    def __init__(self):
        self.slots = {}

    def set_lora(self, slot, a, b):
        self.slots[slot] = (a, b)

    def reset_lora(self, slot):
        self.slots[slot] = None


def fake_lora_manager(layers, prefix="language_model.model.layers"):
    names = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
    modules = {f"{prefix}.{number}.{name}": FakeLayer() for number in range(layers) for name in names}
    modules["language_model.lm_head"] = FakeLayer()
    return SimpleNamespace(modules=modules, lora_index_to_id=[ADAPTER_ID])


class TestLoraMatrices:
    def test_vllms_layers_compute_what_the_policy_computes(self, policy):
        manager = fake_lora_manager(layers_of(policy))
        assert copy_matrices(policy.model, manager) == layers_of(policy) * 7
        for name, parts in (("self_attn.qkv_proj", ("q", "k", "v")), ("mlp.gate_up_proj", ("gate", "up"))):
            a, b = manager.modules[f"language_model.model.layers.1.{name}"].slots[0]
            for place, part in enumerate(parts):
                module = wrapped(policy, 1, name.split(".")[0], f"{part}_proj")
                x = torch.randn(5, module.in_features)
                with torch.no_grad():
                    expected = x @ module.get_delta_weight("default").T
                torch.testing.assert_close(x @ a[place].T @ b[place].T, expected, rtol=1e-4, atol=1e-5)

    def test_an_untouched_layer_is_reset(self, policy):
        manager = fake_lora_manager(layers_of(policy))
        extra = manager.modules["language_model.model.layers.99.mlp.down_proj"] = FakeLayer()
        copy_matrices(policy.model, manager)
        assert extra.slots == {0: None}
        assert manager.modules["language_model.lm_head"].slots == {}

    def test_a_matrix_without_a_place_in_vllm_is_an_error_not_a_loss(self, policy):
        with pytest.raises(GenerationError, match="doctor"):
            copy_matrices(policy.model, fake_lora_manager(1))
