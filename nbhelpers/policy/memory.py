"""How much GPU memory a run takes, from the shapes alone: what `nbhelpers doctor` tells before, and what decides about
recomputing. Nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import RunParams, resolve_path

GIB = 2**30
NF4_BYTES = 0.53  # 4 bits and the doubly quantised scales
LOGIT_BYTES = 12  # bfloat16 logits, their float32 copy, and the gradient of each at its largest

PUBLISHED = Path(__file__).with_suffix(".json")  # of Gemma-3, by the size in the name, as their config.json says
# What the language model's part of a config.json may leave out.
_DEFAULTS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}


@dataclass(frozen=True)
class TextShape:
    """What the memory of a forward pass through the language model depends on."""

    layers: int
    hidden: int
    intermediate: int
    attention: int  # query heads times their width
    groups: int  # key-value heads times their width
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TextShape:
        """From a `Gemma3TextConfig` as the dictionary in a config.json."""
        given = _DEFAULTS | dict(config)
        names = ("num_hidden_layers", "hidden_size", "intermediate_size")
        heads = (given[name] * given["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
        return cls(*(given[name] for name in names), *heads, given["vocab_size"])


def kept_activations(shape: TextShape, sequences: int, tokens: int, completion: int) -> float:
    """Bytes of a training forward with LoRA on every layer that keeps its activations for the backward pass.

    Args:
        sequences: completions in one forward.
        tokens: of the longest prompt with its completion.
        completion: tokens of the longest completion, which get logits.

    A layer keeps, in bfloat16, the input of each of its seven LoRA matrices, of its norms, of the activation and of
    attention. Counted that way Gemma-3 4B takes 139 KB per token and layer: 12.8 GiB for 4 completions of 256 tokens
    and 40.6 GiB for 8 of 512, where 13.0 and 40.8 were measured beside weights and vLLM (NVIDIA H200, 2026-11-23).
    """
    layer = 16 * shape.hidden + 8 * shape.intermediate + 8 * shape.attention
    return sequences * (tokens * shape.layers * layer + completion * shape.vocabulary * LOGIT_BYTES)


def fits(needed: float, free: float, total: float) -> bool:
    """Whether `needed` more bytes may be planned with; a twentieth stays for the optimiser and the allocator."""
    return needed <= free - total / 20


def parameter_count(params: RunParams) -> tuple[float, float, float] | None:
    """Billions of parameters of language layers, embeddings and vision part; None for a model of unknown size."""
    config = _config(params)
    if config is None:
        return None
    shape, vision = TextShape.of(config[0]), config[1]
    layer = shape.hidden * 2 * (shape.attention + shape.groups) + 3 * shape.hidden * shape.intermediate
    tower = 4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"]
    counts = (shape.layers * layer, shape.vocabulary * shape.hidden, vision["num_hidden_layers"] * tower)
    return tuple(count / 1e9 for count in counts)


def _config(params: RunParams) -> tuple[dict, dict] | None:
    """Text and vision configuration: of a local checkpoint's config.json, or of the published size in the name."""
    folder = resolve_path(params.model.name)
    if folder is not None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
    else:
        name, sizes = f"{params.model.name.lower()}-", json.loads(PUBLISHED.read_text())
        config = next((sizes[size] for size in sizes if f"-{size}-" in name), {})
    parts = (config.get("text_config"), config.get("vision_config"))
    return parts if all(parts) else None


def ways_to_fit(params: RunParams, utilization: float, *, recomputes: bool) -> list[str]:
    """Settings, as `key=value`, that take less memory, the least costly first.

    Args:
        utilization: what to lower `model.gpu_memory_utilization` to.
        recomputes: whether activations are recomputed already.
    """
    model, training = params.model, params.training
    ways = [
        (not recomputes, "model.use_gradient_checkpointing=true"),
        (model.fast_inference and utilization > 0.05, f"model.gpu_memory_utilization={utilization:.2f}"),
        (not model.load_in_4bit, "model.load_in_4bit=true"),
        (training.num_generations > 2, f"training.num_generations={max(2, training.num_generations // 2)}"),
        (True, f"training.max_completion_length={training.max_completion_length // 2}"),
    ]
    return [way for helps, way in ways if helps]


def memory_estimate(params: RunParams, total: float) -> dict[str, float] | None:
    """GiB of GPU memory that a preset takes, by part; None for a model of unknown size.

    An estimate from the shapes: weights (shared with vLLM by Unsloth, held twice otherwise), what
    `gpu_memory_utilization` gives to vLLM, the adapter with its gradients and AdamW's states, and the largest tensors
    of one micro-batch: the activations, those of one layer where they are recomputed, and the logits, of which
    Unsloth's loss holds one completion's at a time.

    Args:
        total: the GPU's memory in GiB.
    """
    size = parameter_count(params)
    if size is None:
        return None
    model, training, shape = params.model, params.training, TextShape.of(_config(params)[0])
    language, embeddings, vision = (billions * 1e9 for billions in size)
    weights = language * (NF4_BYTES if model.load_in_4bit else 2) + (embeddings + vision) * 2
    processes = max(training.processes_that_share(1 if training.num_processes == "auto" else training.num_processes))
    completions = training.batch_plan(processes).per_device_train_batch_size
    tokens, logits = model.max_seq_length, training.max_completion_length * shape.vocabulary * LOGIT_BYTES
    recomputed = bool(model.use_gradient_checkpointing)
    kept = completions * tokens * shape.hidden * shape.layers * 2
    if model.backend == "transformers":  # `training.log_probs_in_chunks` goes with recomputed activations
        logits *= 0 if recomputed else completions
    parts = {
        "adapter and optimiser": shape.layers * params.lora.r * 75_000 * 16 / GIB,
        "logits": logits / GIB,
        "activations": (kept if recomputed else kept_activations(shape, completions, tokens, 0)) / GIB,
        "CUDA": 0.8,
    }
    if model.fast_inference:
        parts["vLLM with weights"] = model.gpu_memory_utilization * total
    if model.backend == "transformers" or not model.fast_inference:
        parts["weights"] = weights / GIB
    return parts
