"""Writing what was trained: the adapter with its processor, the merged model, GGUF."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbhelpers.params import ModelParams
from nbhelpers.policy.adapter import adapter_base
from nbhelpers.policy.loading import load_final_model
from nbhelpers.policy.mends import keep_one_bos, restore_bos
from nbhelpers.policy.policy import Policy, PolicyError
from nbhelpers.policy.unsloth import load_saved
from nbhelpers.runs import RunDirectory, seal


def save_final_model(policy: Policy, path: Path, *, keep_earlier: bool = True, **facts: Any) -> Path:
    """Write the LoRA adapter, tokenizer, processor and the base model's config to `path` (the reference recipe's
    `final_model/`); it loads with `load_final_model`, with peft, and on a GPU with Unsloth's `FastVisionModel`.

    The folder appears whole or not at all, sealed with `facts`, such as its step.

    Args:
        keep_earlier: whether an earlier one moves to `previous/`; otherwise this one takes its place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        unfinished.chmod(0o755)  # mkdtemp is for the owner's eyes only
        policy.model.save_pretrained(unfinished)
        _save_processor(policy, unfinished)
        policy.model.config.save_pretrained(unfinished)
        seal(unfinished, **facts)
        if keep_earlier and path.exists():
            RunDirectory(path.parent).set_aside(path)
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return path


def load_weights(policy: Policy, folder: Path) -> None:
    """Give the policy's adapter the weights of a saved one of the same shape: of `final_model/` or a checkpoint."""
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(folder), device=str(policy.model.device))
    set_peft_model_state_dict(policy.model, weights)


def _save_processor(policy: Policy, path: Path) -> None:
    """The processor as it was loaded, without the mend that training needs."""
    restore_bos(policy.processor)
    try:
        policy.processor.save_pretrained(path)
    finally:
        keep_one_bos(policy.processor)


def export_merged(policy: Policy, path: Path) -> Path:
    """Write the whole model with the adapter merged in, bfloat16, in the published checkpoint's layout, which vLLM
    reads too. The policy stays as it is: each sum is taken in float32 beside it.

    Raises:
        PolicyError: the base weights are quantised, so that there is nothing to add the adapter to.
    """
    from nbhelpers.embedded import write_checkpoint

    if getattr(policy.model, "is_loaded_in_4bit", False):
        raise PolicyError(
            "the adapter cannot be merged into 4-bit weights: load the final model with model.load_in_4bit=false first."
        )
    base = policy.model.get_base_model() if policy.has_adapter else policy.model
    write_checkpoint(base, _merged(base), Path(path))
    _save_processor(policy, path)
    return Path(path)


def _merged(base: Any) -> Iterator[tuple[str, Any]]:
    """The weights by name, those of an adapted layer with its adapter added, a layer at a time."""
    layers = dict(base.named_modules())
    for name, tensor in base.state_dict().items():
        if ".lora_" in name:
            continue
        name = name.replace(".base_layer.", ".")
        layer = layers[name.rpartition(".")[0]]
        if name.endswith(".weight") and "default" in getattr(layer, "lora_A", {}):
            tensor = tensor.float() + layer.get_delta_weight("default").detach().float()
        yield name, tensor


def export_gguf(policy: Policy, path: Path, quantization: str = "q8_0") -> Path:
    """Write the model with its adapter as GGUF for llama.cpp, where Unsloth offers it (it fetches and builds llama.cpp
    the first time).

    Args:
        path: Unsloth puts the merged model here and the GGUF files into a folder beside it, `path` with `_gguf` at its
            end.
        quantization: one of Unsloth's methods, such as q8_0, q4_k_m or bf16.

    Returns:
        The folder with the GGUF files.

    Raises:
        PolicyError: the policy was not loaded with Unsloth.
    """
    if policy.backend != "unsloth":
        raise PolicyError(
            f"GGUF is written by Unsloth, and this policy was loaded with the backend {policy.backend}: load it with "
            "model.backend=unsloth on a machine with an NVIDIA GPU. export_merged writes "
            "the merged model for transformers and vLLM."
        )
    written = policy.model.save_pretrained_gguf(str(path), policy.processor, quantization_method=quantization)
    return Path(written["gguf_directory"])


def export_final_model(path: Path, params: ModelParams, to: Path, *, gguf: str | None = None) -> Path:
    """Write what a run trained as a model of its own: `export_merged`, or `export_gguf` with `gguf` as its
    quantisation.

    An adapter that was trained over 4-bit weights is added to the 16-bit ones, as peft and Unsloth do.

    Args:
        path: a run's `final_model/`.

    Raises:
        PolicyError: nothing was trained there, the base weights cannot be had, or GGUF is asked for without Unsloth.
    """
    params = params.model_copy(update={"load_in_4bit": False, "fast_inference": False})
    if gguf is None:
        return export_merged(load_final_model(path, params), to)
    import torch

    adapter_base(path)  # says what is missing before Unsloth is imported
    if not torch.cuda.is_available():
        raise PolicyError(
            "--gguf is done by Unsloth, which needs an NVIDIA GPU, and there is none here. Run it where one is, or "
            "leave out --gguf, which needs none, and give the merged folder to llama.cpp's convert_hf_to_gguf.py."
        )
    return export_gguf(load_saved(path, params), to, gguf)
