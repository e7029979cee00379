"""How much GPU memory a run takes, from the shapes alone: what `nbhelpers doctor` tells before, what vLLM is given, and
what decides about recomputing and the backend. Nothing heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import ModelParams, RunParams, TrainingParams, resolve_path
from nbhelpers.policy.policy import PolicyError
from nbhelpers.runs import Gpu, gpu_processes

GIB = 2**30
NF4_BYTES = 0.53  # 4 bits and the doubly quantised scales
CUDA = 0.8  # GiB that the driver and the libraries take
VLLM_WORK = 2.5  # GiB of a 4B shape that vLLM needs beside weights and keys: its profile run, pictures, graphs; rough
PROMPT = 512  # tokens of a picture with its question, as vLLM's keys are planned; a longer one waits for room
# Bytes per word of the vocabulary, counted on a CPU with Gemma-3's 262,208 words (`tests/test_memory.py`).
LOGIT_BYTES = 12  # and per token: bfloat16 logits, their float32 copy, and the gradient of each at its largest
SCORED_AT_ONCE = 64  # tokens whose logits notebook 03's lesson and the scoring of completions hold at once
CHUNK_BYTES = 2048  # what `training.log_softmax` makes of a chunk; twice that if compiled

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


def kept_activations(shape: TextShape, tokens: int, *, row: int = 0, fused: bool = False) -> float:
    """Bytes that a training forward with LoRA on every layer keeps for the backward pass.

    Args:
        tokens: that go through the layers together, a packed group's prompt counted once.
        row: tokens of a packed row, whose mask every layer keeps where it is not compiled.
        fused: whether the layers are compiled (`training.fused`).

    Counted from the operations: compiled layers keep seven tensors as wide as the hidden states, three as wide as the
    MLP, queries, keys, values and what attention makes of them, in 16 bit; others keep copies in float32 beside them,
    for norms and adapters. Gemma-3 4B, per layer and token: 110 KB compiled and 181 KB not, where 111 and 190 were
    measured on an NVIDIA H100 (2026-11-24; the rows and totals stand in the test).
    """
    if fused:
        layer = 14 * shape.hidden + 6 * shape.intermediate + 4 * (shape.attention + shape.groups)
    else:
        layer = 26 * shape.hidden + 8 * shape.intermediate + 14 * shape.attention + 4 * shape.groups + 2 * row
    return tokens * shape.layers * layer


def completions_at_once(training: TrainingParams | None, backend: str) -> int:
    """That vLLM generates at once; more of them beside nothing that is trained, as a preview and an evaluation have.
    Unsloth's 128 are not 256 because it takes that number for its own choice.
    """
    beside, alone = (32, 128) if backend == "unsloth" else (64, 256)
    return beside if training else alone


def fits(needed: float, free: float, total: float) -> bool:
    """Whether `needed` more bytes may be planned with; a twentieth stays for the optimiser and the allocator."""
    return needed <= free - total / 20


def parameter_count(name: str) -> tuple[float, float, float] | None:
    """Billions of parameters of language layers, embeddings and vision part of `model.name`; None for a model of
    unknown size.
    """
    config = _config(name)
    if config is None:
        return None
    shape, vision = TextShape.of(config[0]), config[1]
    layer = shape.hidden * 2 * (shape.attention + shape.groups) + 3 * shape.hidden * shape.intermediate
    tower = 4 * vision["hidden_size"] ** 2 + 2 * vision["hidden_size"] * vision["intermediate_size"]
    counts = (shape.layers * layer, shape.vocabulary * shape.hidden, vision["num_hidden_layers"] * tower)
    return tuple(count / 1e9 for count in counts)


def _config(name: str) -> tuple[dict, dict] | None:
    """Text and vision configuration: of a local checkpoint's config.json, or of the published size in the name."""
    folder = resolve_path(name)
    if folder is not None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
    else:
        sizes = json.loads(PUBLISHED.read_text())
        config = next((sizes[size] for size in sizes if f"-{size}-" in f"{name.lower()}-"), {})
    parts = (config.get("text_config"), config.get("vision_config"))
    return parts if all(parts) else None


def ways_to_fit(model: ModelParams, training: TrainingParams, utilization: float, *, recomputes: bool) -> list[str]:
    """Settings, as `key=value`, that take less memory, the least costly first.

    Args:
        utilization: what to lower `model.gpu_memory_utilization` to, where it is a number.
        recomputes: whether activations are recomputed already.
    """
    number = model.colocated and model.gpu_memory_utilization != "auto"
    ways = [
        (not recomputes, "model.use_gradient_checkpointing=true"),
        (number and utilization > 0.05, f"model.gpu_memory_utilization={utilization:.2f}"),
        (not model.load_in_4bit, "model.load_in_4bit=true"),
        (training.num_generations > 2, f"training.num_generations={max(2, training.num_generations // 2)}"),
        (True, f"training.max_completion_length={training.max_completion_length // 2}"),
        (model.colocated, "model.fast_inference=false"),
    ]
    return [way for helps, way in ways if helps]


@dataclass(frozen=True)
class Budget:
    """GiB that one run takes.

    Attributes:
        beside: by part, what is not vLLM's and not weights: the adapter with its gradients and AdamW's states, the
            largest tensors of one micro-batch or of notebook 03's lesson (activations; where they are recomputed every
            layer's input and what one layer takes beyond the logits, which are gone by then; and logits, of which
            Unsloth's loss holds one completion's at a time), CUDA. Without training CUDA and logits that are scored.
        weights: of the policy; Unsloth shares them with vLLM, the transformers backend holds them twice.
        least, wanted: what vLLM needs with its weights, for one sequence of full length and for all that it generates
            at once. What is between is filled with keys and values; with less of them completions wait.
        in_4bit: whether vLLM's weights are.
    """

    beside: dict[str, float]
    weights: float
    least: float
    wanted: float
    shared: bool
    in_4bit: bool

    @property
    def around(self) -> float:
        """All that is not vLLM's."""
        return sum(self.beside.values()) + (0.0 if self.shared else self.weights)

    def for_vllm(self, gpu: Gpu, *, loaded: bool = False) -> float:
        """GiB for vLLM out of what is free, a twentieth of that kept back; below `least` it does not fit.

        Args:
            loaded: whether the policy's weights are on the card already.
        """
        free = gpu.free + (self.weights if loaded and not self.shared else 0.0)
        return min(self.wanted, 0.95 * free - self.around)


def budget(
    model: ModelParams, rank: int, training: TrainingParams | None, backend: str, gpu: Gpu, *, loaded: bool = False,
    completions: int | None = None,
) -> Budget | None:  # fmt: skip
    """What a run takes by its shapes; None for a model of unknown size.

    A policy in 4 bit computes in 16 bit, with weights that it unpacks in each forward. vLLM gets them unpacked, which
    samples from the same policy in half the time, where keys for a quarter of what it generates at once fit beside;
    else in 4 bit as well.

    Args:
        rank: of the adapter.
        training: None where nothing is trained.
        loaded: whether the policy's weights are on the card already.
        completions: that vLLM generates at once; None: as it is started here.
    """
    found = _budget(model, rank, training, backend, completions, in_4bit=False)
    if found is None or found.shared or not model.load_in_4bit:
        return found
    share = model.gpu_memory_utilization
    given = found.for_vllm(gpu, loaded=loaded) if share == "auto" else share * gpu.total
    if given >= found.least + (found.wanted - found.least) / 4:
        return found
    return _budget(model, rank, training, backend, completions, in_4bit=True)


def _budget(
    model: ModelParams, rank: int, training: TrainingParams | None, backend: str, completions: int | None, *,
    in_4bit: bool,
) -> Budget | None:  # fmt: skip
    size = parameter_count(model.name)
    if size is None:
        return None
    shape, shared = TextShape.of(_config(model.name)[0]), backend == "unsloth" and model.colocated
    language, embeddings, vision = (billions * 1e9 / GIB for billions in size)
    whole = 2 * (language + embeddings + vision)
    packed = language * NF4_BYTES + 2 * (embeddings + vision)
    weights = packed if model.load_in_4bit else whole
    beside = {"logits": LOGIT_BYTES * SCORED_AT_ONCE * shape.vocabulary / GIB}
    length = model.max_seq_length
    if training is not None:
        beside = _training_parts(model, rank, training, backend, shape)
        length = min(length, PROMPT + training.max_completion_length)
    beside |= {"CUDA": CUDA}
    if shared or completions is None:
        completions = completions_at_once(training, backend)
    per_token = 4 * shape.layers * shape.groups / GIB  # keys and values in 16 bit
    base = (weights if shared else packed if in_4bit else whole) + VLLM_WORK
    least, wanted = (
        base + per_token * model.max_seq_length,
        base + per_token * max(model.max_seq_length, completions * length),
    )
    return Budget(beside, weights, least, wanted, shared, in_4bit or (shared and model.load_in_4bit))


def _training_parts(model, rank: int, training: TrainingParams, backend: str, shape: TextShape) -> dict[str, float]:
    processes = max(training.processes_that_share(1 if training.num_processes == "auto" else training.num_processes))
    completions = training.batch_plan(processes).per_device_train_batch_size
    recomputed = bool(model.use_gradient_checkpointing)
    tokens, logits = completions * model.max_seq_length, LOGIT_BYTES * training.max_completion_length
    if packed := backend == "transformers":
        prompt = model.max_seq_length - training.max_completion_length
        # The lesson lets TRL reckon a group with its rows apart.
        apart = training.num_generations * (min(PROMPT, prompt) + training.max_completion_length)
        tokens = max(packed_tokens(training, completions, prompt), apart if recomputed else 0)
        logits = CHUNK_BYTES * (1 if recomputed else 2)
    logits *= shape.vocabulary
    kept = kept_activations(shape, tokens, fused=packed and not recomputed and not model.load_in_4bit)
    if recomputed:
        inputs = tokens * shape.hidden * shape.layers * 2  # of each layer
        kept = inputs + max(0.0, kept / shape.layers - logits)
    return {
        "adapter and optimiser": shape.layers * rank * 75_000 * 16 / GIB,
        "logits": logits / GIB,
        "activations": kept / GIB,
    }


def packed_tokens(training: TrainingParams, completions: int, prompt: int) -> int:
    """Tokens of so many completions of full length in rows that hold each group's prompt once."""
    return -(-completions // training.num_generations) * prompt + completions * training.max_completion_length


def packed_activations(
    text: Mapping[str, Any], training: TrainingParams, completions: int, prompt: int, *, fused: bool
) -> float:
    """Bytes that a forward pass over a micro-batch of packed groups keeps, beside weights and gradients.

    Args:
        text: a `Gemma3TextConfig` as the dictionary in a config.json.
        completions: of full length, in one micro-batch.
        prompt: tokens of the longest.
        fused: as in `kept_activations`.
    """
    shape, row = TextShape.of(text), packed_tokens(training, min(completions, training.num_generations), prompt)
    kept = kept_activations(shape, packed_tokens(training, completions, prompt), row=row, fused=fused)
    return kept + CHUNK_BYTES * (2 if fused else 1) * shape.vocabulary


def memory_estimate(params: RunParams, gpu: Gpu, backend: str) -> dict[str, float] | None:
    """GiB of GPU memory that a preset takes on this card, by part; None for a model of unknown size. With
    `gpu_memory_utilization: auto` vLLM's part is what fits, or the least that it needs.
    """
    found = budget(params.model, params.lora.r, params.training, backend, gpu)
    if found is None:
        return None
    parts, share = dict(found.beside), params.model.gpu_memory_utilization
    if params.model.colocated:
        given = max(found.least, found.for_vllm(gpu)) if share == "auto" else share * share_of(gpu, backend)
        parts["vLLM with weights"] = given
    return parts if found.shared else parts | {"weights": found.weights}


def share_of(gpu: Gpu, backend: str) -> float:
    """GiB that `gpu_memory_utilization` is a share of: vLLM counts from the whole card, Unsloth from what is free."""
    return gpu.free if backend == "unsloth" else gpu.total


def better_backend(model: ModelParams, training: TrainingParams | None, gpu: Gpu) -> str:
    """The rule of `backend: auto` where both are installed: transformers where it fits, else Unsloth.

    Measured (README, "On a GPU"): a step in 4 bit takes 7.7 s with transformers and 8 s with Unsloth, and the first
    update comes after 53 s instead of 140 s, since nothing of the loss is compiled; in 16 bit only transformers was
    measured, at a third of stock TRL's time. Unsloth holds the weights once for policy and vLLM, so that it fits where
    transformers does not. A model of unknown size goes to Unsloth in 4 bit.
    """
    found = budget(model, 16, training, "transformers", gpu)
    if found is None:
        return "unsloth" if model.load_in_4bit else "transformers"
    needed = found.least if model.colocated else 0.0
    return "transformers" if found.for_vllm(gpu) >= needed else "unsloth"


def this_gpu(*, emptied: bool = False) -> Gpu:
    """The GPU that PyTorch works on, in GiB; what this process has put by counts as free, and with `emptied` all that
    it holds, so that a cell run again gets the same answer.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - (0 if emptied else torch.cuda.memory_allocated())
    return Gpu(torch.cuda.get_device_name(), "", total / GIB, free / GIB, torch.cuda.get_device_capability())


def give_vllm_its_share(
    model: ModelParams, rank: int, training: TrainingParams | None, backend: str, gpu: Gpu, *, loaded: bool = False,
    completions: int | None = None,
) -> ModelParams:  # fmt: skip
    """`model` as vLLM is started: a number for `gpu_memory_utilization: auto`, and whether its weights are in 4 bit.

    Args:
        rank, training, loaded, completions: as in `budget`.

    Raises:
        PolicyError: the run does not fit, with what to change and who else uses the card.
    """
    found = budget(model, rank, training, backend, gpu, loaded=loaded, completions=completions)
    in_4bit = model.load_in_4bit if found is None else found.in_4bit
    if not model.colocated or model.gpu_memory_utilization != "auto":
        return model.model_copy(update={"load_in_4bit": in_4bit})
    given = gpu.free / 2 if found is None else found.for_vllm(gpu, loaded=loaded)
    if found is not None and given < found.least:
        raise PolicyError(does_not_fit(model, training, found, gpu))
    share = min(max(int(1000 * given / share_of(gpu, backend)) / 1000, 0.001), 0.95)
    return model.model_copy(update={"gpu_memory_utilization": share, "load_in_4bit": in_4bit})


def does_not_fit(model: ModelParams, training: TrainingParams | None, found: Budget, gpu: Gpu) -> str:
    """What a run needs, what is free, who has the rest, and what to change."""
    needed = (found.around + found.least) / 0.95
    recomputes = bool(model.use_gradient_checkpointing)
    ways = ways_to_fit(model, training or TrainingParams(), 0.0, recomputes=recomputes)
    if not found.shared:
        ways.insert(0, "model.backend=unsloth")
    others = gpu_processes()
    taken = f" Other processes on the card: {', '.join(others)}." if others else ""
    return (
        f"{model.name} needs about {needed:.1f} GiB of GPU memory with these settings, vLLM's least share of "
        f"{found.least:.1f} included, and {gpu.free:.1f} of {gpu.total:.1f} GiB are free.{taken} To fit: "
        + ", or ".join(f"--set {way}" for way in ways)
        + "."
    )
