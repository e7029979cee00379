"""The Unsloth backend: `FastVisionModel` with vLLM over the same weights, and Unsloth's insides.

Unsloth rewrites transformers, trl and peft when it is imported, so it comes before them; its settings are read from the
environment at that moment. It runs on an NVIDIA GPU only. Touched are (tested: `runs/tested.json`):

* `load_vllm` of unsloth_zoo, wrapped while the model loads; `FastBaseModel.from_pretrained` calls it.
* `vllm_engine` and `load_lora` of the model that it returns: its vLLM, and the adapter handed over in memory.
* the `GRPOTrainer` that `PatchFastRL` generates and puts into trl: looked at right after the import.
* `UNSLOTH_RETURN_LOGITS`, without which its model may leave out its logits (set by `scoring`).
* the folder that `save_pretrained_gguf` says it wrote.
* `_unsloth_pristine_checkpoint`, where it keeps PyTorch's own checkpointing for those who need that.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from nbhelpers.params import LoraParams, ModelParams, TrainingParams
from nbhelpers.policy.memory import completions_at_once
from nbhelpers.policy.patching import replaced
from nbhelpers.policy.policy import Policy, PolicyError, loading
from nbhelpers.policy.vllm.inside import mend, quick_start
from nbhelpers.policy.vllm.setup import GenerationError, compilation
from nbhelpers.runs import compare_library

# What the generated trainer has to have for `training` to override it: methods with their arguments.
OVERRIDDEN = {
    "_get_train_sampler": ("dataset",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
}
# What has to be imported after Unsloth for its rewriting to reach it.
REWRITTEN = ("trl", "peft", "transformers.models.gemma3.modeling_gemma3")


def import_unsloth() -> list[str]:
    """Import Unsloth with its settings in place; returns sentences on what a person should know.

    `UNSLOTH_VLLM_STANDBY` (vLLM sleeps while the policy learns) has to be set before the import. Unsloth 2026.10 calls
    it unstable for vision models and switches it off unless `UNSLOTH_VLLM_STANDBY_VISION=1`; so it stays off here too,
    unless the user sets both.

    Raises:
        PolicyError: Unsloth cannot be imported, or what it makes of TRL is not what was tested.
    """
    notices = []
    standby, forced = (os.environ.get(f"UNSLOTH_VLLM_STANDBY{end}", "0") != "0" for end in ("", "_VISION"))
    if standby and not forced:
        notices.append(
            "UNSLOTH_VLLM_STANDBY is set, and Unsloth switches it off for vision models; "
            "UNSLOTH_VLLM_STANDBY_VISION=1 forces it."
        )
    if "unsloth" not in sys.modules:
        if early := [name for name in REWRITTEN if name in sys.modules]:
            notices.append(
                f"{', '.join(early)} was imported before Unsloth, which then cannot speed it up: load the policy "
                "first, in a fresh kernel."
            )
        # It would compile each block of the model, forward and backward, in the first step: not done after 145 s for
        # the embedded model (NVIDIA H200, unsloth 2026.10.7), while a step without takes 1.5 s. For a run of many hours
        # UNSLOTH_COMPILE_DISABLE=0 may pay. Its loss is compiled all the same, and again when completions are of
        # another length (45 s each time for Gemma-3 4B in 4 bit). TORCHDYNAMO_DISABLE=1 spares that and is worse: 40
        # GiB instead of 16 and 11.6 s per step instead of 8 (2026-11-24).
        os.environ.setdefault("UNSLOTH_COMPILE_DISABLE", "1")
    try:
        import unsloth  # noqa: F401
    except (ImportError, NotImplementedError) as error:
        raise PolicyError(
            f"Unsloth could not be imported ({str(error).splitlines()[0]}): pip install 'nbhelpers[gpu]', or set "
            "model.backend=transformers. `nbhelpers doctor` says what is missing."
        ) from error
    return notices


def check_generated() -> None:
    """See that the trainer which Unsloth generated takes what `training` passes; its text stands in no file before.

    Raises:
        PolicyError: a method is missing or takes other arguments.
    """
    from trl import GRPOTrainer

    for name, arguments in OVERRIDDEN.items():
        try:
            inspect.signature(getattr(GRPOTrainer, name)).bind(None, *arguments)
        except (AttributeError, TypeError) as error:
            raise PolicyError(
                f"the GRPOTrainer that Unsloth generates has no {name}({', '.join(arguments)}) ({error}). "
                f"To have what was tested: {compare_library('unsloth').remedy}."
            ) from error


def load_unsloth_policy(
    params: ModelParams, lora: LoraParams | None, source: str, *, training: TrainingParams | None, seed: int
) -> Policy:
    """Load the base model with Unsloth and, with `lora`, attach a fresh adapter.

    Args:
        source: folder or hub id of the base weights.
        training: what will be trained, beside which vLLM generates fewer completions at once.
        seed: of the adapter's first weights.

    Raises:
        PolicyError: Unsloth or the weights cannot be had, or the settings do not go together.
    """
    notices = import_unsloth()
    check_generated()
    from unsloth import FastVisionModel

    if params.fast_inference and lora is not None and lora.finetune_vision_layers:
        raise PolicyError(
            "lora.finetune_vision_layers=true does not go with model.fast_inference=true: vLLM shares the weights and "
            "takes an adapter on the language layers only. Set one of them to false."
        )
    checkpointing = {"use_gradient_checkpointing": params.use_gradient_checkpointing}
    options: dict[str, Any] = {}
    if params.fast_inference:
        mend()
        completions = completions_at_once(training, "unsloth")
        options = {
            "fast_inference": True,
            "gpu_memory_utilization": params.gpu_memory_utilization,
            "max_num_seqs": completions,
            "max_lora_rank": lora.r if lora is not None else 16,
            "compilation_config": compilation(completions),
        }
    with vllm_started_quickly() if params.fast_inference else contextlib.nullcontext():
        model, processor = _from_pretrained(source, params, **checkpointing, **options)
    if lora is not None:
        given = lora.model_dump(exclude={"alpha", "dropout"})
        model = FastVisionModel.get_peft_model(
            model,
            **given,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias="none",
            random_state=seed,
            **checkpointing,
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

    if source == params.name:
        options["revision"] = params.revision
    with loading(params):
        return FastVisionModel.from_pretrained(
            model_name=source,
            max_seq_length=params.max_seq_length,
            load_in_4bit=params.load_in_4bit,
            trust_remote_code=False,
            **options,
        )


def vllm_started_quickly() -> contextlib.AbstractContextManager:
    """Inside, the vLLM that Unsloth starts takes the short cuts of `quick_start`."""
    import unsloth_zoo.vllm_utils as zoo
    from transformers import AutoTokenizer

    load = zoo.load_vllm

    def load_quickly(*, model_name: str, **options: Any) -> Any:
        with quick_start(model_name, AutoTokenizer.from_pretrained(model_name)):
            return load(model_name=model_name, **options)

    load_quickly.__signature__ = inspect.signature(load)  # Unsloth asks which options it has
    return replaced(zoo, "load_vllm", load_quickly)


def engine_beside(model: Any) -> Any:
    """The `vllm.LLM` that Unsloth started with the model."""
    llm = getattr(model, "vllm_engine", None)
    if llm is None:
        raise GenerationError("the policy was loaded without vLLM: load it with model.fast_inference=true.")
    return llm


def pytorchs_checkpoint() -> Any:
    """`torch.utils.checkpoint.checkpoint` as PyTorch has it.

    Unsloth's in its place is reentrant whatever it is asked (unsloth_zoo 2026.10.7, `unsloth_checkpoint`), and through
    that no gradient comes to what a function finds around it, only to its arguments.
    """
    import torch.utils.checkpoint as module

    return getattr(module, "_unsloth_pristine_checkpoint", module.checkpoint)


class SharedAdapter:
    """The adapter of an engine that Unsloth started with the model: it goes over as tensors in memory."""

    def take(self, model: Any) -> Any:
        """The request that uses the adapter as it is now."""
        return model.load_lora("nbhelpers_adapter", load_tensors=True)

    def drop(self) -> None:
        """Nothing to undo: a request without the adapter gets the base model."""
