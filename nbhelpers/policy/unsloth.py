"""The Unsloth backend: `FastVisionModel` with vLLM over the same weights.

Unsloth rewrites transformers, trl and peft when it is imported, so it comes before them; its settings are read from the
environment at that moment. It runs on an NVIDIA GPU only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbhelpers.params import LoraParams, ModelParams
from nbhelpers.policy.policy import Policy, PolicyError
from nbhelpers.policy.vllm.setup import compilation, mend, quick_start

# What has to be imported after Unsloth for its rewriting to reach it.
REWRITTEN = ("trl", "peft", "transformers.models.gemma3.modeling_gemma3")


def import_unsloth() -> list[str]:
    """Import Unsloth with its settings in place; returns sentences on what a person should know.

    `UNSLOTH_VLLM_STANDBY` (vLLM sleeps while the policy learns) has to be set before the import. Unsloth 2026.10 calls
    it unstable for vision models and switches it off unless `UNSLOTH_VLLM_STANDBY_VISION=1`; so it stays off here too,
    unless the user sets both.
    """
    notices = []
    if "unsloth" not in sys.modules:
        early = [name for name in REWRITTEN if name in sys.modules]
        if early:
            notices.append(
                f"{', '.join(early)} was imported before Unsloth, which then cannot speed it up: load the policy first, in a fresh kernel."
            )
        if (
            os.environ.get("UNSLOTH_VLLM_STANDBY", "0") != "0"
            and os.environ.get("UNSLOTH_VLLM_STANDBY_VISION", "0") == "0"
        ):
            notices.append(
                "UNSLOTH_VLLM_STANDBY is set, and Unsloth switches it off for vision models; UNSLOTH_VLLM_STANDBY_VISION=1 forces it."
            )
        # Statistics are a download, and the run must not depend on the network.
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        # It would compile each block of the model, forward and backward, in the first step: not done after 145 s for
        # the embedded model (NVIDIA H200, unsloth 2026.10.7), while a step without takes 1.5 s. For a run of many hours
        # UNSLOTH_COMPILE_DISABLE=0 may pay. Its loss is compiled all the same, and again when completions are of
        # another length (45 s each time for Gemma-3 4B in 4 bit). TORCHDYNAMO_DISABLE=1 spares that and is worse: 40
        # GiB instead of 16 and 11.6 s a step instead of 8 (2026-11-24).
        os.environ.setdefault("UNSLOTH_COMPILE_DISABLE", "1")
    try:
        import unsloth  # noqa: F401
    except (ImportError, NotImplementedError) as error:
        raise PolicyError(
            f"Unsloth could not be imported ({str(error).splitlines()[0]}): pip install 'nbhelpers[gpu]', or set "
            "model.backend=transformers. `nbhelpers doctor` says what is missing."
        ) from error
    return notices


def load_unsloth_policy(
    params: ModelParams, lora: LoraParams | None, source: str, *, completions: int = 32, seed: int = 42
) -> Policy:
    """Load the base model with Unsloth and, with `lora`, attach a fresh adapter.

    Args:
        source: folder or hub id of the base weights.
        completions: most completions that vLLM generates at once; its graphs are captured up to this size.
        seed: of the adapter's first weights.

    Raises:
        PolicyError: Unsloth or the weights cannot be had, or the settings do not go together.
    """
    notices = import_unsloth()
    from unsloth import FastVisionModel

    if params.fast_inference and lora is not None and lora.finetune_vision_layers:
        raise PolicyError(
            "lora.finetune_vision_layers=true does not go with model.fast_inference=true: vLLM shares the weights and takes an adapter "
            "on the language layers only. Set one of them to false."
        )
    options: dict[str, Any] = {}
    if params.fast_inference:
        mend()
        options = {
            "fast_inference": True,
            "gpu_memory_utilization": params.gpu_memory_utilization,
            "max_num_seqs": completions,
            "max_lora_rank": lora.r if lora is not None else 16,
            "compilation_config": compilation(completions),
        }
    with vllm_started_quickly() if params.fast_inference else contextlib.nullcontext():
        model, processor = _from_pretrained(
            source, params, use_gradient_checkpointing=params.use_gradient_checkpointing, **options
        )
    if lora is not None:
        model = FastVisionModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias="none",
            finetune_vision_layers=lora.finetune_vision_layers,
            finetune_language_layers=lora.finetune_language_layers,
            finetune_attention_modules=lora.finetune_attention_modules,
            finetune_mlp_modules=lora.finetune_mlp_modules,
            use_gradient_checkpointing=params.use_gradient_checkpointing,
            random_state=seed,
        )
    return Policy(model, processor, backend="unsloth", source=source, notices=notices)


def load_saved(path: Path, params: ModelParams) -> Policy:
    """Load a saved `final_model/` with its base model by Unsloth, for its exports.

    Raises:
        PolicyError: Unsloth or the base weights cannot be had.
    """
    notices = import_unsloth()
    model, processor = _from_pretrained(str(path), params)
    return Policy(model, processor, backend="unsloth", source=str(path), notices=notices)


def _from_pretrained(source: str, params: ModelParams, **options: Any) -> tuple[Any, Any]:
    from unsloth import FastVisionModel

    try:
        return FastVisionModel.from_pretrained(
            model_name=source, max_seq_length=params.max_seq_length, load_in_4bit=params.load_in_4bit, **options
        )
    except OSError as error:
        raise PolicyError(
            f"{source} (model.name={params.name!r}) could not be loaded by Unsloth: {str(error).splitlines()[0]}"
        ) from error


@contextlib.contextmanager
def vllm_started_quickly() -> Iterator[None]:
    """Inside, the vLLM that Unsloth starts takes the short cuts of `vllm.setup.quick_start`."""
    import inspect

    import unsloth_zoo.vllm_utils as zoo
    from transformers import AutoTokenizer

    load = zoo.load_vllm

    def load_quickly(*, model_name: str, **options: Any) -> Any:
        with quick_start(model_name, AutoTokenizer.from_pretrained(model_name)):
            return load(model_name=model_name, **options)

    load_quickly.__signature__ = inspect.signature(load)  # Unsloth asks which options it has
    zoo.load_vllm = load_quickly
    try:
        yield
    finally:
        zoo.load_vllm = load


@contextlib.contextmanager
def logits_returned() -> Iterator[None]:
    """Inside, an Unsloth model returns its logits; outside it may leave them out to save memory."""
    before = os.environ.get("UNSLOTH_RETURN_LOGITS")
    os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["UNSLOTH_RETURN_LOGITS"]
        else:
            os.environ["UNSLOTH_RETURN_LOGITS"] = before
