"""Giving the policy's adapter to vLLM before each generation, without the base weights, which never change.

Three ways, one interface (`take`, `drop`): `MergedAdapter` writes base + adapter into vLLM's own weights, where it
holds them in 16 bit, so that vLLM runs no LoRA kernels, which cost it a quarter of each token; `inside.LoraAdapter`
copies the matrices into vLLM's LoRA buffers, where its base is quantised; `unsloth.SharedAdapter` asks Unsloth, whose
vLLM shares the policy's base weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nbhelpers.embedded import hub_name
from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError

# What vLLM can hold for a LoRA (vllm.config.lora.MaxLoRARanks, 0.26).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# vLLM keeps these projections of Gemma-3 as one matrix; the order inside it matters.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_LAYER = re.compile(r"language_model\.(?:model\.)?layers\.(\d+)\.(self_attn|mlp)\.(\w+)$")

# (layer, "self_attn" or "mlp", projection)
Place = tuple[int, str, str]


def place_of(name: str) -> Place | None:
    """Where in the language model a module of this name lies; None for one outside its layers."""
    found = _LAYER.search(name)
    return (int(found[1]), found[2], found[3]) if found else None


def built_differently(found: int, wanted: int) -> GenerationError:
    return GenerationError(
        f"vLLM has a place for {found} of the adapter's {wanted} matrices: its Gemma-3 is built differently from the "
        f"tested version. {WITHOUT_VLLM}"
    )


def vllm_rank(rank: int) -> int:
    """The smallest LoRA rank that vLLM holds and that fits `rank`."""
    if fitting := [size for size in VLLM_RANKS if size >= rank]:
        return fitting[0]
    raise GenerationError(
        f"lora.r is {rank}, and vLLM holds ranks up to {VLLM_RANKS[-1]}: lower it or set model.fast_inference=false."
    )


def adapted_modules(model: Any) -> dict[Place, Any]:
    """The layers of a PEFT model that carry its adapter.

    Raises:
        GenerationError: a part of the adapter lies outside the language layers, or is no plain LoRA.
    """
    modules = {}
    for name, module in model.named_modules():
        if "default" not in getattr(module, "lora_A", {}):
            continue
        place = place_of(name)
        if place is None:
            raise GenerationError(
                f"vLLM cannot take this adapter: {name} is outside the language layers. Set "
                "lora.finetune_vision_layers=false, or model.fast_inference=false to train the vision tower too."
            )
        if any(getattr(module, kind, {}).get("default") for kind in ("lora_bias", "use_dora")):
            raise GenerationError(f"vLLM cannot take this adapter: {name} is no plain LoRA.")
        modules[place] = module
    if not modules:
        raise GenerationError("the policy has no adapter to hand to vLLM.")
    return modules


def unpacked(weight: Any) -> Any:
    """A weight as it is multiplied with: one in 4 bit as the 16-bit matrix that each forward makes of it."""
    if type(weight).__name__ != "Params4bit":
        return weight.detach()
    from peft.utils.integrations import dequantize_bnb_weight

    return dequantize_bnb_weight(weight)


def base_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """The policy's weights without its adapter, by their names in the published checkpoints, which vLLM reads."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, weight in base.named_parameters():
        if ".lora_" not in name and not name.startswith("lm_head."):  # tied to the embedding
            yield hub_name(name.replace(".base_layer.", ".")), unpacked(weight)


def matrices(module: Any) -> tuple[Any, Any]:
    """A and the scaled B of one adapted layer: (rank, inputs) and (outputs, rank)."""
    a, b = (matrix["default"].weight.detach() for matrix in (module.lora_A, module.lora_B))
    return a, b * module.scaling["default"]


def dithered(values: Any, noise: Any) -> Any:
    """float32 `values` as bfloat16, rounded up or down so that the mean is kept. Overwrites `values`.

    Args:
        noise: int32, the shape of `values`, uniform from 0 to 65535. It is added to the 16 bits that bfloat16 has not,
            and what carries over rounds the magnitude up: with a probability of the distance to the lower neighbour. A
            value that bfloat16 holds stays as it is.
    """
    import torch

    bits = values.view(torch.int32)
    bits.add_(noise).bitwise_and_(-65536)
    return values.to(torch.bfloat16)


class MergedAdapter:
    """Writes base + adapter into the weights of vLLM's language layers.

    An update of LoRA at first is a small part of the step between two neighbouring bfloat16 numbers, and rounding to
    the nearest throws all of it away: vLLM would go on sampling from the base model for hundreds of steps. `dithered`
    keeps it on average, which is what a product of thousands of weights sees. The noise is drawn once, so the same
    adapter gives the same weights.

    Args:
        vllm_model: vLLM's Gemma-3; its layers have the parameter `weight`, (outputs, inputs), bfloat16.

    Raises:
        GenerationError (by `take`): vLLM's base weights are not the policy's, or its layers are not where they are
            expected.
    """

    def __init__(self, vllm_model: Any):
        # A module wrapped for LoRA holds the linear layer inside; such an engine has its own way.
        found = {place_of(name): getattr(module, "weight", None) for name, module in vllm_model.named_modules()}
        self._weights = {place: weight for place, weight in found.items() if place and weight is not None}
        self._model: Any = None
        # The policy's adapted layers, and for each the slice of vLLM's weights that it has there.
        self._modules: dict[Place, Any] = {}
        self._slices: dict[Place, Any] = {}
        self._noise: Any = None

    def take(self, model: Any) -> None:
        """vLLM samples from base + adapter as they are now; None, since no request needs to name an adapter."""
        import torch

        if self._model is not model:
            self._find(model)
        with torch.no_grad():
            for place, module in self._modules.items():
                a, b = matrices(module)
                merged = torch.addmm(unpacked(module.base_layer.weight).float(), b.float(), a.float())
                noise = self._noise[: merged.numel()].view_as(merged)
                self._slices[place].copy_(dithered(merged, noise))

    def drop(self) -> None:
        """vLLM samples from the base model again."""
        import torch

        with torch.no_grad():
            for place, module in self._modules.items():
                self._slices[place].copy_(unpacked(module.base_layer.weight))

    def _find(self, model: Any) -> None:
        """Find the slice of vLLM's weights that each adapted layer has, and see that it holds the same base weights."""
        import torch

        self.drop()
        modules, slices = adapted_modules(model), {}
        rows = {place: module.base_layer.out_features for place, module in modules.items()}
        for (layer, block, name), weight in self._weights.items():
            start = 0
            for part in FUSED.get(name, (name,)):
                place = (layer, block, part)
                if place not in modules:
                    break
                slices[place] = weight.detach()[start : start + rows[place]]
                start += rows[place]
        if slices.keys() != modules.keys():
            raise built_differently(len(slices), len(modules))
        for place, module in modules.items():
            base = unpacked(module.base_layer.weight)
            if slices[place].shape != base.shape or not torch.equal(slices[place], base):
                raise GenerationError(
                    f"vLLM's base weights are not the policy's (layer {place[0]}, {place[2]}), so that it would sample "
                    f"from another model. {WITHOUT_VLLM}"
                )
        self._model, self._modules, self._slices = model, modules, slices
        largest = max(slices.values(), key=lambda part: part.numel())
        self._noise = torch.randint(
            0, 65536, (largest.numel(),), dtype=torch.int32, device=largest.device,
            generator=torch.Generator(largest.device).manual_seed(20260101),
        )  # fmt: skip


def adapter_is_off(model: Any) -> bool:
    """Whether `policy.without_adapter()` holds."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(module.disable_adapters for module in model.modules() if isinstance(module, BaseTunerLayer))
