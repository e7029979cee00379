"""vLLM's insides: mends for what costs it time or truth, its LoRA buffers, as tested (`runs/tested.json`).

All mends leave the result of a request as it is, but for rounding and for `accept_expanded_prompts`, which mends it.

* `Gemma3MultiModalProcessor._apply_hf_processor_tokens_only`: prompts whose pictures are expanded already.
* `PlaceholderRange.extract_embeds_range`: where a picture lies, looked up once.
* `DefaultModelState.prepare_attn`: no look for pictures among decoded tokens.
* `Sampler.sample`, `Sampler.__call__`: log-probs that stay on the GPU (`drawn`).
* `GemmaRMSNorm.register_oot`, `forward_native`: its norm as one kernel.
* `maybe_make_thread_pool`, `_run_in_subprocess`, `_warmup_ll_bf16_router_gemm`, `flashinfer_autotune`,
  `warmup_kernels`: a quicker start.
* `BaseModelLoader.load_weights`, the model's `load_weights`: the weights come from the policy instead of from a file.
* `llm_engine.model_executor.driver_worker.model_runner` and its `get_model()`: the weights that it samples from.
* `lora_manager`, `_adapter_manager`, `lora_index_to_id`, `set_lora`, `reset_lora`: the LoRA buffers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.policy.patching import override, replaced
from nbhelpers.policy.vllm.drawn import listened_to
from nbhelpers.policy.vllm.hand_over import FUSED, adapted_modules, base_weights, built_differently, matrices, place_of
from nbhelpers.policy.vllm.norm import fused_norm
from nbhelpers.policy.vllm.setup import WITHOUT_VLLM, GenerationError

ADAPTER_ID = 1


@functools.cache
def mend() -> None:
    """Apply every change to vLLM that lasts for the process; again has no effect.

    Raises:
        ImportError: vLLM is not installed.
    """
    accept_expanded_prompts()
    find_pictures_once()
    leave_pictures_out_of_decoding()
    fuse_norms()
    with contextlib.suppress(ImportError):
        from vllm.v1.worker.gpu.sample.sampler import Sampler

        listened_to(Sampler)


def accept_expanded_prompts() -> None:
    """Let vLLM take prompts whose pictures are expanded to their tokens already, as TRL and Unsloth send them.

    vLLM 0.26 expands `<start_of_image>` of a token prompt once more (`BaseMultiModalProcessor.apply`: a prompt of
    tokens counts as not expanded), so that Gemma-3 sees a second row of image tokens without features. Nothing fails:
    with the embedded model the log-probs were 1.6 nats per token away from the trainer's, and every importance weight
    was 0 (NVIDIA H200, trl 1.14.2, 2026-11-23).
    """
    from vllm.model_executor.models.gemma3_mm import Gemma3MultiModalProcessor

    def tokens_only(self: Any, prompt_tokens: list[int]) -> list[int]:
        return collapse_pictures(prompt_tokens, *_picture_tokens(self.info.get_hf_processor()))

    Gemma3MultiModalProcessor._apply_hf_processor_tokens_only = tokens_only


def collapse_pictures(ids: Sequence[int], sequence: Sequence[int], marker: int, newlines: Sequence[int]) -> list[int]:
    """Undo the processor's expansion of a picture's marker, so that vLLM can expand it itself.

    Args:
        ids: prompt tokens in which each picture is `sequence`, its first and last newline perhaps merged with a
            neighbouring one.
        sequence: the tokens of `processor.full_image_sequence`, from newline to newline.
        marker: the token `<start_of_image>`.
        newlines: the tokens of 1, 2, 3 and 4 newlines.
    """
    lines = {token: count for count, token in enumerate(newlines, start=1)}
    inner = list(sequence[1:-1])
    collapsed: list[int] = []
    place = 0
    while place < len(ids):
        if list(ids[place : place + len(inner)]) != inner:
            collapsed.append(ids[place])
            place += 1
            continue
        place += len(inner)
        if collapsed and lines.get(collapsed[-1], 0) >= 2:
            before = lines[collapsed.pop()] - 2
            collapsed += [newlines[before - 1]] if before else []
        collapsed.append(marker)
        if place < len(ids) and lines.get(ids[place], 0) >= 2:
            after = lines[ids[place]] - 2
            collapsed += [newlines[after - 1]] if after else []
            place += 1
    return collapsed


@functools.lru_cache(maxsize=4)
def _picture_tokens(processor: Any) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """`sequence`, `marker` and `newlines` of `collapse_pictures` for a Gemma-3 processor."""
    tokenizer = processor.tokenizer
    newlines = tuple(tokenizer.convert_tokens_to_ids("\n" * count) for count in (1, 2, 3, 4))
    sequence = tokenizer(processor.full_image_sequence, add_special_tokens=False)["input_ids"]
    if sequence[0] != newlines[1] or sequence[-1] != newlines[1]:
        raise GenerationError("the tokenizer does not hold two newlines as one token, as Gemma-3's does.")
    return tuple(sequence), tokenizer.convert_tokens_to_ids(processor.boi_token), newlines


def find_pictures_once() -> None:
    """Let vLLM look up once where a prompt's picture lies.

    vLLM 0.26 finds the picture's tokens of each running request anew for every token that it decodes
    (`compute_mm_prefix_ranges`, for the bidirectional attention among them), with half a dozen operations on a mask:
    time in which the GPU waits, in proportion to the batch.
    """
    from vllm.multimodal.inputs import PlaceholderRange

    find = PlaceholderRange.extract_embeds_range

    def found_once(self: Any) -> list[tuple[int, int]]:
        kept = vars(self)  # the dataclass is frozen; functools.cached_property, which it uses itself, writes here too
        if "_embeds_range" not in kept:
            kept["_embeds_range"] = find(self)
        return kept["_embeds_range"]

    PlaceholderRange.extract_embeds_range = found_once


def leave_pictures_out_of_decoding() -> None:
    """Let vLLM say where pictures lie only where one of their tokens may be a query.

    vLLM 0.26 makes a list, and a tensor of it, of the pictures of all running requests for every token that it decodes.
    A token after the picture sees it in any case; and the captured graphs of decode steps do not read that tensor.
    """
    from vllm.v1.worker.gpu.model_states.default import DefaultModelState

    prepare = DefaultModelState.prepare_attn

    def prepare_attn(self: Any, input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        if input_batch.num_scheduled_tokens.max() > 1:
            return prepare(self, input_batch, *args, **kwargs)
        with replaced(self, "supports_mm_inputs", False):
            return prepare(self, input_batch, *args, **kwargs)

    DefaultModelState.prepare_attn = prepare_attn


def fuse_norms() -> None:
    """Let vLLM build its Gemma norms with `fused_norm` (`register_oot` is vLLM's own place for such replacements)."""
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    class FusedGemmaRMSNorm(GemmaRMSNorm):
        def forward_cuda(self, x: Any, residual: Any | None = None) -> Any:
            flat = residual is None or (x.dim() == 2 and residual.is_contiguous())
            if flat and x.dim() in (2, 3) and x.stride(-1) == 1:
                return fused_norm(x, residual, self.weight, self.variance_epsilon)
            return self.forward_native(x, residual)

    GemmaRMSNorm.register_oot(FusedGemmaRMSNorm, name="GemmaRMSNorm")


@contextlib.contextmanager
def quick_start(source: str, tokenizer: Any) -> Iterator[None]:
    """Inside, vLLM starts with what this process has already: the tokenizer of `source`, the folder or hub id that vLLM
    is given.

    vLLM 0.26 loads the tokenizer once for itself and once for each processor that it builds, and keeps a pool of deep
    copies for threads that are not there: with Gemma-3's 262,144 tokens 27 s of stock TRL's start, 4 s with shallow
    copies of one. It also starts a second Python to look at the model's class, so as to keep CUDA out of this one,
    where CUDA runs already (19 s at the first start; its answer is cached). Measured on the machine of README's table,
    2026-11-23. Prompts arrive as token ids, and completions leave as such.

    On Hopper it compiles the router kernels of four mixtures of experts at every start, whatever the model, and tries
    FlashInfer's kernels: Gemma-3 has neither. And it compiles the kernels of every kind of sampling that it knows,
    which takes 18 s where none is in the cache (one NVIDIA H200, 2026-12-01); those that are asked for come with the
    first completion.
    """
    import vllm.model_executor.models.registry as registry
    import vllm.model_executor.warmup.kernel_warmup as warmup
    import vllm.renderers.hf as renderers
    import vllm.v1.worker.gpu_worker as worker
    from transformers import AutoTokenizer

    bound = AutoTokenizer.from_pretrained

    def from_pretrained(cls: type, name: Any, *args: Any, **kwargs: Any) -> Any:
        # Offline, vLLM asks for a hub id by the folder of its snapshot.
        if str(name) != source and f"models--{source.replace('/', '--')}" not in Path(name).parts:
            return bound(name, *args, **kwargs)
        twin = copy.copy(tokenizer)
        # transformers deep-copies a processor's arguments, the tokenizer among them, each time it builds one.
        override(twin, __deepcopy__=lambda self, memo: self)
        return twin

    with (
        replaced(AutoTokenizer, "from_pretrained", classmethod(from_pretrained)),
        replaced(renderers, "maybe_make_thread_pool", lambda tokenizer, copies: tokenizer),
        replaced(registry, "_run_in_subprocess", lambda function: function()),
        replaced(warmup, "_warmup_ll_bf16_router_gemm", lambda: None),
        replaced(warmup, "flashinfer_autotune", lambda runner: None),
        replaced(worker, "warmup_kernels", lambda *_: None),
    ):
        yield


@contextlib.contextmanager
def weights_from(policy_model: Any) -> Iterator[str]:
    """Inside, an engine that is started with this `load_format` copies the policy's base weights on the GPU: they are
    not read a second time, and it holds what the policy computes with, one in 4 bit too (`hand_over.unpacked`).
    """
    from vllm.model_executor.model_loader import BaseModelLoader, register_model_loader

    class PolicyLoader(BaseModelLoader):
        def download_model(self, model_config: Any) -> None:
            """The policy is here."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            loaded = model.load_weights(base_weights(policy_model))
            if missing := {name for name, _ in model.named_parameters()} - loaded:
                raise GenerationError(
                    f"the policy has no weights for {len(missing)} of vLLM's layers (such as {min(missing)}): its "
                    f"Gemma-3 is built differently from the tested version. {WITHOUT_VLLM}"
                )

    register_model_loader("policy")(PolicyLoader)
    try:
        yield "policy"
    finally:
        register_model_loader("policy")(BaseModelLoader)  # which holds no policy


def runner_of(llm: Any) -> Any:
    """The model runner of a `vllm.LLM` in this process."""
    return llm.llm_engine.model_executor.driver_worker.model_runner


def tells_what_is_drawn(llm: Any) -> bool:
    """Whether `drawn.listening` hears the sampler of a `vllm.LLM` in this process: vLLM's second model runner."""
    return hasattr(getattr(runner_of(llm), "sampler", None), "sampling_states")


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


def copy_matrices(model: Any, manager: Any) -> int:
    """Copy the policy's adapter into the buffers that vLLM's captured graphs read. Returns the number of matrix pairs
    copied.

    Args:
        model: the PEFT model that is trained.
        manager: vLLM's `LoRAModelManager`; `modules` names its layers, `lora_index_to_id` its slots.
    """
    modules = adapted_modules(model)
    slot = manager.lora_index_to_id.index(ADAPTER_ID)
    copied = 0
    for name, layer in manager.modules.items():
        place = place_of(name)
        if place is None:
            continue
        parts = [modules.get((*place[:2], part)) for part in FUSED.get(place[2], (place[2],))]
        pairs = [part and matrices(part) for part in parts]
        copied += sum(pair is not None for pair in pairs)
        if all(pair is None for pair in pairs):
            layer.reset_lora(slot)
        elif place[2] in FUSED:
            layer.set_lora(slot, [pair and pair[0] for pair in pairs], [pair and pair[1] for pair in pairs])
        else:
            layer.set_lora(slot, *pairs[0])
    if copied != len(modules):
        raise built_differently(copied, len(modules))
    return copied
