"""How much GPU memory a run takes, from the shapes alone: what `nbhelpers doctor` tells before, and what decides about recomputing.

Nothing heavy is imported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from nbhelpers.params import RunParams, resolve_path

GIB = 2**30
# Gemma-3's parameters in billions: language model without embeddings, embeddings, vision tower with projector.
SIZES = {"4b": (3.21, 0.67, 0.42), "12b": (10.76, 1.01, 0.42), "27b": (25.6, 1.41, 0.42)}
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
    def of(cls, config: object) -> TextShape:
        """From a `Gemma3TextConfig`."""
        return cls(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim,
            config.vocab_size,
        )


def kept_activations(shape: TextShape, sequences: int, tokens: int, completion: int) -> float:
    """Bytes of a training forward with LoRA on every layer that keeps its activations for the backward pass.

    Args:
        sequences: completions in one forward.
        tokens: of the longest prompt with its completion.
        completion: tokens of the longest completion, which get logits.

    A layer keeps, in bfloat16, the input of each of its seven LoRA matrices, of its norms, of the activation and of attention. Counted that
    way Gemma-3 4B takes 139 KB a token and layer: 12.8 GiB for 4 completions of 256 tokens and 40.6 GiB for 8 of 512, where 13.0 and 40.8
    were measured beside weights and vLLM (NVIDIA H200, 2026-11-23).
    """
    layer = 16 * shape.hidden + 8 * shape.intermediate + 8 * shape.attention
    return sequences * (tokens * shape.layers * layer + completion * shape.vocabulary * LOGIT_BYTES)


def parameter_count(params: RunParams) -> tuple[float, float, float] | None:
    """Billions of parameters of the language layers, the embeddings and the vision part; None for a model of unknown size."""
    folder = resolve_path(params.model.name)
    if folder is not None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        text, vision = config.get("text_config"), config.get("vision_config")
        if not text or not vision:
            return None
        hidden, inner = text["hidden_size"], text["intermediate_size"]
        heads, groups = text.get("num_attention_heads", 8), text.get("num_key_value_heads", 4)
        width = text.get("head_dim", 256)
        layer = hidden * width * (2 * heads + 2 * groups) + 3 * hidden * inner
        tower = vision["num_hidden_layers"] * (4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"])
        return text["num_hidden_layers"] * layer / 1e9, text.get("vocab_size", 262208) * hidden / 1e9, tower / 1e9
    return next((size for key, size in SIZES.items() if f"-{key}-" in f"{params.model.name.lower()}-"), None)


def memory_estimate(params: RunParams, total: float) -> dict[str, float] | None:
    """GiB of GPU memory that a preset takes, by part; None for a model of unknown size.

    An estimate from the shapes: weights (shared with vLLM by Unsloth, held twice otherwise), what `gpu_memory_utilization` gives to
    vLLM, the adapter with its gradients and AdamW's states, and the largest tensors of one micro-batch: the logits, and a layer's
    activations with gradient checkpointing. gemma3_smoke on the transformers backend at a utilisation of 0.06 is estimated at 20.7 GiB and
    took 20.7 (NVIDIA H200, 2026-11-23).

    Args:
        total: the GPU's memory in GiB.
    """
    size = parameter_count(params)
    if size is None:
        return None
    language, embeddings, vision = (billions * 1e9 for billions in size)
    per_parameter = NF4_BYTES if params.model.load_in_4bit else 2
    weights = (language * per_parameter + (embeddings + vision) * 2) / GIB
    training = params.training
    plan = training.batch_plan()
    layers = max(1.0, language / 94.4e6)
    adapter = layers * params.lora.r * 75_000
    completions = plan.per_device_train_batch_size
    vocabulary = 262_208 if embeddings > 1e8 else 1_000
    logits = completions * training.max_completion_length * vocabulary * LOGIT_BYTES
    activations = completions * params.model.max_seq_length * 2560 * layers * 2
    parts = {"adapter and optimiser": adapter * 16 / GIB, "logits": logits / GIB, "activations": activations / GIB, "CUDA": 0.8}
    if params.model.fast_inference:
        parts["vLLM with weights"] = params.model.gpu_memory_utilization * total
        if params.model.backend == "transformers":
            parts["weights"] = weights
    else:
        parts["weights"] = weights
    return parts
