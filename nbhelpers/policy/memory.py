"""How much GPU memory a run takes, from the shapes alone: what `nbhelpers doctor` tells before, and what decides about
recomputing.

Nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbhelpers.params import RunParams, resolve_path

GIB = 2**30


# Gemma-3's parameters in billions: language model without embeddings, embeddings, vision tower with projector.
SIZES = {"4b": (3.21, 0.67, 0.42), "12b": (10.76, 1.01, 0.42), "27b": (25.6, 1.41, 0.42)}


SHAPES = {
    "4b": (34, 2560, 10240, 2048, 262_208), "12b": (48, 3840, 15360, 4096, 262_208), "27b": (62, 5376, 21504, 4096, 262_208),
}  # fmt: skip


NF4_BYTES = 0.53  # 4 bits and the doubly quantised scales


# bfloat16 logits, their float32 copy, and the gradient of each at its largest.
LOGIT_BYTES = 12


@dataclass(frozen=True)
class TextShape:
    """What the memory of a forward pass through the language model depends on."""

    layers: int
    hidden: int
    intermediate: int
    attention: int  # heads times their width
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> TextShape:
        """From a `Gemma3TextConfig`, or from its dictionary in a config.json, which may leave defaults out."""
        defaults = {"num_attention_heads": 8, "head_dim": 256, "vocab_size": 262_208}
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", *defaults)
        given = config if isinstance(config, Mapping) else {name: getattr(config, name) for name in names}
        layers, hidden, intermediate, heads, width, vocabulary = ({**defaults, **given}[name] for name in names)
        return cls(layers, hidden, intermediate, heads * width, vocabulary)


def kept_activations(shape: TextShape, sequences: int, tokens: int, completion: int) -> float:
    """Bytes of a training forward with LoRA on every layer that keeps its activations for the backward pass.

    Args:
        sequences: completions in one forward.
        tokens: of the longest prompt with its completion.
        completion: tokens of the longest completion, which get logits.

    A layer keeps, in bfloat16, the input of each of its seven LoRA matrices, of its norms, of the activation and of
    attention. Counted that way Gemma-3 4B takes 139 KB a token and layer: 12.8 GiB for 4 completions of 256 tokens and
    40.6 GiB for 8 of 512, where 13.0 and 40.8 were measured beside weights and vLLM (NVIDIA H200, 2026-11-23).
    """
    layer = 16 * shape.hidden + 8 * shape.intermediate + 8 * shape.attention
    return sequences * (tokens * shape.layers * layer + completion * shape.vocabulary * LOGIT_BYTES)


def fits(needed: float, free: float, total: float) -> bool:
    """Whether `needed` more bytes may be planned with. A twentieth of the GPU stays for the optimiser and what the
    allocator cannot use.
    """
    return needed <= free - total / 20


def parameter_count(params: RunParams) -> tuple[float, float, float] | None:
    """Billions of parameters of the language layers, the embeddings and the vision part; None for a model of unknown
    size.
    """
    config = _config(params)
    if config is None:
        return SIZES.get(_published_size(params))
    text, vision = config
    shape = TextShape.of(text)
    groups = text.get("num_key_value_heads", 4) * text.get("head_dim", 256)
    layer = shape.hidden * 2 * (shape.attention + groups) + 3 * shape.hidden * shape.intermediate
    tower = vision["num_hidden_layers"] * (
        4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"]
    )
    return shape.layers * layer / 1e9, shape.vocabulary * shape.hidden / 1e9, tower / 1e9


def text_shape(params: RunParams) -> TextShape | None:
    """The language model's shape; None for a model of unknown size."""
    config = _config(params)
    if config is not None:
        return TextShape.of(config[0])
    known = SHAPES.get(_published_size(params))
    return TextShape(*known) if known else None


def _config(params: RunParams) -> tuple[dict, dict] | None:
    """Text and vision part of a local checkpoint's config.json."""
    folder = resolve_path(params.model.name)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_text())
    return (
        (config["text_config"], config["vision_config"])
        if config.get("text_config") and config.get("vision_config")
        else None
    )


def _published_size(params: RunParams) -> str | None:
    """Which of `SIZES` the name of a published checkpoint means."""
    return next((key for key in SIZES if f"-{key}-" in f"{params.model.name.lower()}-"), None)


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
    language, embeddings, vision = (billions * 1e9 for billions in size)
    per_parameter = NF4_BYTES if params.model.load_in_4bit else 2
    weights = (language * per_parameter + (embeddings + vision) * 2) / GIB
    training, shape = params.training, text_shape(params)
    completions = training.batch_plan().per_device_train_batch_size
    tokens, completion = params.model.max_seq_length, training.max_completion_length
    adapter = shape.layers * params.lora.r * 75_000
    if not params.model.use_gradient_checkpointing:
        activations = kept_activations(shape, completions, tokens, 0)
    else:
        activations = completions * tokens * shape.hidden * shape.layers * 2
    if params.model.backend != "transformers":
        logits = completion * shape.vocabulary * LOGIT_BYTES
    else:  # `training.log_probs_in_chunks` goes with recomputed activations
        logits = (
            0 if params.model.use_gradient_checkpointing else completions * completion * shape.vocabulary * LOGIT_BYTES
        )
    parts = {
        "adapter and optimiser": adapter * 16 / GIB,
        "logits": logits / GIB,
        "activations": activations / GIB,
        "CUDA": 0.8,
    }
    if params.model.fast_inference:
        parts["vLLM with weights"] = params.model.gpu_memory_utilization * total
        if params.model.backend == "transformers":
            parts["weights"] = weights
    else:
        parts["weights"] = weights
    return parts
