"""Giving the policy's adapter to vLLM before each generation, without the base weights, which never change.

Three ways, one interface (`take`, `drop`):

* `MergedAdapter` writes base + adapter into vLLM's own weights, where both sides hold the base in 16 bit. vLLM then
  runs no LoRA kernels,
  which cost it a quarter of each token.
* `LoraAdapter` copies the matrices into vLLM's LoRA buffers, where the base is quantised.
* `SharedAdapter` asks Unsloth, whose vLLM shares the policy's base weights.
"""

from __future__ import annotations

import re
from typing import Any

ADAPTER_ID = 1


# What vLLM can hold for a LoRA (vllm.config.lora.MaxLoRARanks, 0.26).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


# vLLM keeps these projections of Gemma-3 as one matrix; the order inside it matters.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


_LAYER = re.compile(r"language_model\.(?:model\.)?layers\.(\d+)\.(self_attn|mlp)\.(\w+)$")


# (layer, "self_attn" or "mlp", projection)
Place = tuple[int, str, str]


class HandOverError(RuntimeError):
    """vLLM cannot take this adapter; the message says what to set."""


def _place(name: str) -> Place | None:
    """Where in the language model a module of this name lies; None for one outside its layers."""
    found = _LAYER.search(name)
    return (int(found[1]), found[2], found[3]) if found else None


def _built_differently(found: int, wanted: int) -> HandOverError:
    return HandOverError(
        f"vLLM has a place for {found} of the adapter's {wanted} matrices: its Gemma-3 is built differently from the tested "
        "version. `nbhelpers doctor` compares versions; model.fast_inference=false trains without vLLM."
    )


def vllm_rank(rank: int) -> int:
    """The smallest LoRA rank that vLLM holds and that fits `rank`."""
    for size in VLLM_RANKS:
        if size >= rank:
            return size
    raise HandOverError(
        f"lora.r is {rank}, and vLLM holds ranks up to {VLLM_RANKS[-1]}: lower it or set model.fast_inference=false."
    )


def adapted_modules(model: Any) -> dict[Place, Any]:
    """The layers of a PEFT model that carry its adapter.

    Raises:
        HandOverError: a part of the adapter lies outside the language layers, or is no plain LoRA.
    """
    modules = {}
    for name, module in model.named_modules():
        if "default" not in getattr(module, "lora_A", {}):
            continue
        place = _place(name)
        if (
            place is None
            or getattr(module, "lora_bias", {}).get("default")
            or getattr(module, "use_dora", {}).get("default")
        ):
            raise HandOverError(
                f"vLLM cannot take this adapter: {name} is "
                + (
                    "no plain LoRA."
                    if place
                    else "outside the language layers. Set lora.finetune_vision_layers=false, or "
                )
                + ("" if place else "model.fast_inference=false to train the vision tower too.")
            )
        modules[place] = module
    if not modules:
        raise HandOverError("the policy has no adapter to hand to vLLM.")
    return modules


def matrices(module: Any) -> tuple[Any, Any]:
    """A and the scaled B of one adapted layer: (rank, inputs) and (outputs, rank)."""
    return module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach() * module.scaling[
        "default"
    ]


def dithered(values: Any, noise: Any) -> Any:
    """float32 `values` as bfloat16, rounded up or down so that the mean is kept. Overwrites `values`.

    Args:
        noise: int32, the shape of `values`, uniform from 0 to 65535. It is added to the 16 bits that bfloat16 has not,
            and what
            carries over rounds the magnitude up: with a probability of the distance to the lower neighbour. A value
            that bfloat16 holds stays as it is.
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
        HandOverError (by `take`): vLLM's base weights are not the policy's, or its layers are not where they are
        expected.
    """

    def __init__(self, vllm_model: Any):
        self._weights: dict[Place, Any] = {}
        for name, module in vllm_model.named_modules():
            # A module wrapped for LoRA holds the linear layer inside; such an engine has its own way.
            place, weight = _place(name), getattr(module, "weight", None)
            if place is not None and weight is not None:
                self._weights[place] = weight
        self._model: Any = None
        self._modules: dict[
            Place, Any
        ] = {}  # the policy's adapted layers, and for each the slice of vLLM's weights that it has there
        self._slices: dict[Place, Any] = {}
        self._noise: Any = None

    def take(self, model: Any) -> None:
        """vLLM samples from base + adapter from now on, as they are now. Returns None: no request needs to name an
        adapter.
        """
        import torch

        if self._model is not model:
            self._find(model)
        with torch.no_grad():
            for place, module in self._modules.items():
                a, b = matrices(module)
                merged = torch.addmm(module.base_layer.weight.float(), b.float(), a.float())
                noise = self._noise[: merged.numel()].view_as(merged)
                self._slices[place].copy_(dithered(merged, noise))

    def drop(self) -> None:
        """vLLM samples from the base model again."""
        import torch

        with torch.no_grad():
            for place, module in self._modules.items():
                self._slices[place].copy_(module.base_layer.weight)

    def _find(self, model: Any) -> None:
        """Find the slice of vLLM's weights that each adapted layer has, and see that it holds the same base weights."""
        import torch

        self.drop()
        modules = adapted_modules(model)
        slices, bases = {}, {place: module.base_layer.weight.detach() for place, module in modules.items()}
        for (layer, block, name), weight in self._weights.items():
            start = 0
            for part in FUSED.get(name, (name,)):
                place = (layer, block, part)
                if place not in bases:
                    break
                rows = bases[place].shape[0]
                slices[place] = weight.detach()[start : start + rows]
                start += rows
        if slices.keys() != bases.keys():
            raise _built_differently(len(slices), len(bases))
        for place, base in bases.items():
            if slices[place].shape != base.shape or not torch.equal(slices[place], base):
                raise HandOverError(
                    f"vLLM's base weights are not the policy's (layer {place[0]}, {place[2]}), so that it would sample from another model. "
                    "`nbhelpers doctor` compares versions; model.fast_inference=false trains without vLLM."
                )
        self._model, self._modules, self._slices = model, modules, slices
        largest = max(bases.values(), key=lambda base: base.numel())
        generator = torch.Generator(largest.device).manual_seed(20260101)
        self._noise = torch.randint(
            0, 65536, (largest.numel(),), dtype=torch.int32, device=largest.device, generator=generator
        )


def copy_matrices(model: Any, lora_manager: Any, adapter_id: int = ADAPTER_ID) -> int:
    """Copy the policy's adapter into the buffers that vLLM's captured graphs read. Returns the number of matrix pairs
    copied.

    Args:
        model: the PEFT model that is trained.
        lora_manager: vLLM's `LoRAModelManager`; `modules` names its layers, `lora_index_to_id` its slots.
    """
    modules = adapted_modules(model)
    slot = lora_manager.lora_index_to_id.index(adapter_id)
    copied = 0
    for name, layer in lora_manager.modules.items():
        place = _place(name)
        if place is None:
            continue
        number, block, projection = place
        parts = [modules.get((number, block, part)) for part in FUSED.get(projection, (projection,))]
        pairs = [part and matrices(part) for part in parts]
        copied += sum(pair is not None for pair in pairs)
        if all(pair is None for pair in pairs):
            layer.reset_lora(slot)
        elif projection in FUSED:
            layer.set_lora(slot, [pair and pair[0] for pair in pairs], [pair and pair[1] for pair in pairs])
        else:
            layer.set_lora(slot, *pairs[0])
    if copied != len(modules):
        raise _built_differently(copied, len(modules))
    return copied


class LoraAdapter:
    """Hands an adapter to an engine that was started with `enable_lora`, without a file and without the base weights.

    Args:
        runner: vLLM's model runner; its `lora_manager` holds the buffers.
    """

    def __init__(self, runner: Any):
        self._runner = runner
        self._request: Any = None

    def take(self, model: Any) -> Any:
        """Copy the adapter as it is now. Returns the request that uses it."""
        import torch
        from vllm.lora.request import LoRARequest

        workers = self._runner.lora_manager
        if self._request is None:
            self._request = LoRARequest("policy", ADAPTER_ID, "in memory")
            # A place-holder takes a slot; its matrices are overwritten below and before each generation.
            with workers.dummy_lora_cache():
                workers.add_dummy_lora(self._request, rank=model.peft_config["default"].r)
            workers._adapter_manager.activate_adapter(ADAPTER_ID)
        with torch.no_grad():
            copy_matrices(model, workers._adapter_manager)
        torch.cuda.synchronize()
        return self._request

    def drop(self) -> None:
        """Nothing to undo: a request without the adapter gets the base model."""


class SharedAdapter:
    """The adapter of an engine that Unsloth started with the model: it goes over as tensors in memory."""

    def take(self, model: Any) -> Any:
        return model.load_lora("nbhelpers_adapter", load_tensors=True)

    def drop(self) -> None:
        """Nothing to undo: a request without the adapter gets the base model."""


def adapter_is_off(model: Any) -> bool:
    return any(getattr(module, "_disable_adapters", False) for module in model.modules())
