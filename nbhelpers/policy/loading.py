"""Loading a policy: which backend, the base model with its processor, and what training saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nbhelpers.params import LoraParams, ModelParams, TrainingParams
from nbhelpers.policy.adapter import adapter_base, attach_lora
from nbhelpers.policy.memory import better_backend, give_vllm_its_share, this_gpu
from nbhelpers.policy.mends import end_of_turn_ids, keep_one_bos
from nbhelpers.policy.policy import Policy, PolicyError, loading, weights_source
from nbhelpers.policy.unsloth import import_unsloth, load_unsloth_policy
from nbhelpers.policy.vllm.engine import sample_with_vllm
from nbhelpers.policy.vllm.setup import prepare_environment
from nbhelpers.runs import check_libraries, flaw, read_seal, stage


def choose_backend(params: ModelParams, training: TrainingParams | None = None) -> tuple[str, str]:
    """Which backend `model.backend` means on this machine (`better_backend` has the rule), and a sentence on it where
    there was a choice.
    """
    import importlib.util

    import torch

    if params.backend != "auto":
        return params.backend, ""
    if not torch.cuda.is_available():
        return "transformers", ""
    if params.served:
        return "transformers", "backend transformers: it goes with a served vLLM"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "transformers", "backend transformers: Unsloth was not tried with several processes"
    if importlib.util.find_spec("unsloth") is None:
        return "transformers", "backend transformers: unsloth is not installed (pip install 'nbhelpers[gpu]')"
    if not has_bfloat16():
        return "transformers", "backend transformers, in float32: this card has no bfloat16"
    gpu = this_gpu(emptied=True)
    backend = better_backend(params, training, gpu)
    reason = {
        "transformers": "policy and vLLM fit side by side",
        "unsloth": "the weights are held once for policy and vLLM, which saves memory",
    }[backend]
    return backend, f"backend {backend} on {gpu.name} with {gpu.free:.0f} GiB free: {reason}"


def has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16: compute capability 8.0 or more. Gemma-3 overflows in float16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def libraries(params: ModelParams, backend: str) -> list[str]:
    """The libraries with private names that a policy with these settings uses."""
    vllm, unsloth = ["vllm"] * params.colocated, ["unsloth", "unsloth-zoo"] * (backend == "unsloth")
    return ["transformers", *vllm, *unsloth]


def import_libraries(backend: str, *, vllm: bool, training: bool) -> None:
    """Import what loading a policy, sampling from it and training it import themselves when they come to it."""
    if vllm or backend == "unsloth":
        prepare_environment()
    if backend == "unsloth":
        import_unsloth()
    import peft  # noqa: F401
    import transformers.models.gemma3.modeling_gemma3  # noqa: F401
    from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

    if training:
        from trl import GRPOConfig, GRPOTrainer  # noqa: F401
    if vllm:
        from vllm import LLM, SamplingParams  # noqa: F401


def flaw_of_checkpoint(folder: Path) -> str | None:
    """What is wrong with a folder that is to be `model.name`, None where nothing is. Weights come as safetensors alone:
    a pickle runs what its author put into it.
    """
    if not (folder / "config.json").is_file():
        return f"{folder} holds no config.json"
    if any(folder.glob("*.safetensors")):
        return None
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds its weights as a pickle ({pickles[0]}), which is a program and is not loaded: convert it "
            "on a machine that may run it, by save_pretrained of transformers, which writes safetensors"
        )
    return f"{folder} holds no *.safetensors"


def load_policy(
    params: ModelParams, lora: LoraParams | None = None, training: TrainingParams | None = None, *, seed: int = 42
) -> Policy:
    """Load the base model and its processor and, with `lora`, attach a fresh adapter.

    Args:
        training: what the policy is loaded for: it needs memory beside vLLM, and its seed is the adapter's.
        seed: of the adapter's first weights, without `training`; a run repeats only if they do.

    Raises:
        PolicyError: the weights cannot be had, the settings need a GPU that is not there, or a library is not as it
            was tested.
    """
    import torch

    backend, why = choose_backend(params, training)
    seed = training.seed if training else seed
    asked = needs_gpu(params, backend)
    if asked and not torch.cuda.is_available():
        raise PolicyError(
            f"{', '.join(asked)} needs an NVIDIA GPU, and PyTorch {torch.__version__} sees none here. Run on a GPU "
            f"machine, or set {', '.join(asked.values())}; the embedded default (`nbhelpers run smoke`) needs no GPU. "
            "`nbhelpers doctor` says what is missing."
        )
    if asked and not has_bfloat16():
        raise PolicyError(
            f"{', '.join(asked)} computes in 16 bit, and {torch.cuda.get_device_name()} has no bfloat16, while Gemma-3 "
            "overflows in float16. Use a card of compute capability 8.0 or more (A100, RTX 30xx or later), or "
            f"float32: set {', '.join(asked.values())}."
        )
    untested = check_libraries(*libraries(params, backend), error=PolicyError)
    source = weights_source(params.name)
    if asked:
        room = params.model_copy(update={"name": source})
        shared = give_vllm_its_share(room, lora.r if lora else 16, training, backend, this_gpu())
        if backend == "unsloth":  # its vLLM starts with the model; the other's share is what the policy leaves
            params = params.model_copy(update={"gpu_memory_utilization": shared.gpu_memory_utilization})
    if Path(source).is_dir() and (wrong := flaw_of_checkpoint(Path(source))):
        raise PolicyError(f"model.name={params.name!r} cannot be loaded: {wrong}.")
    if backend == "unsloth":
        prepare_environment()
        with stage("loading weights and starting vLLM" if params.fast_inference else "loading weights"):
            policy = load_unsloth_policy(params, lora, source, training=training, seed=seed)
        _ready(policy)
    else:
        with stage("loading weights"):
            policy = load_processor(params)
            policy.model = _load_transformers(params, source)
        if lora is not None:
            attach_lora(policy, lora, seed=seed)
    policy.notices[:0] = [why] * bool(why) + untested
    end_of_turn_ids(policy.processor, policy.model)
    if params.fast_inference:
        sample_with_vllm(policy, params, training)
    return policy


def needs_gpu(params: ModelParams, backend: str) -> dict[str, str]:
    """The settings that work on an NVIDIA GPU alone, each with what to set without one."""
    asked = [
        (backend == "unsloth", "model.backend=unsloth", "model.backend=transformers"),
        (params.colocated or params.starts_server, "model.fast_inference=true (vLLM)", "model.fast_inference=false"),
        (params.load_in_4bit, "model.load_in_4bit=true", "model.load_in_4bit=false"),
    ]
    return {setting: instead for wanted, setting, instead in asked if wanted}


def _ready(policy: Policy) -> None:
    """The mends that every processor gets."""
    keep_one_bos(policy.processor)
    policy.processor.tokenizer.padding_side = "left"


def load_processor(params: ModelParams) -> Policy:
    """The policy without its weights (`model` is None): it renders and measures prompts; a few megabytes, no GPU.

    Raises:
        PolicyError: the processor cannot be had.
    """
    from transformers import AutoProcessor

    source = weights_source(params.name)
    with loading(params):
        processor = AutoProcessor.from_pretrained(source, revision=params.revision or "main", trust_remote_code=False)
    policy = Policy(None, processor, backend="transformers", source=source)
    _ready(policy)
    return policy


def _load_transformers(params: ModelParams, source: str) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    on_gpu = torch.cuda.is_available()
    kwargs: dict[str, Any] = {"revision": params.revision or "main"}
    kwargs |= {"dtype": torch.bfloat16 if has_bfloat16() else torch.float32, "attn_implementation": "sdpa"}
    # Nothing that came with the weights is run, nor is it asked on the console whether it may be.
    kwargs |= {"use_safetensors": True, "trust_remote_code": False}
    if params.load_in_4bit:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    if on_gpu:
        kwargs["device_map"] = {"": torch.cuda.current_device()}
    with loading(params):
        return AutoModelForImageTextToText.from_pretrained(source, **kwargs)


def load_final_model(path: Path, params: ModelParams) -> Policy:
    """Load what `save_final_model` wrote: the base model that the adapter names, the adapter, and the saved processor.

    `params` gives the precision; its `name` is used where the base that the adapter names is not there. The backend is
    transformers (with vLLM where `fast_inference` is set), whichever one trained: both save the same adapter.
    """
    from peft import PeftModel
    from transformers import AutoProcessor

    path = Path(path)
    base = adapter_base(path)
    if read_seal(path) and (wrong := flaw(path)):
        again = "Run notebook 03 with training.resume=true to write it again."
        instead = "Take another checkpoint of the run, or its final_model/."
        raise PolicyError(f"{path} is damaged: {wrong}. {again if path.name == 'final_model' else instead}")
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        base = weights_source(params.name)
    if not (path / "adapter_model.safetensors").is_file():
        raise PolicyError(f"{path} holds no adapter_model.safetensors; an adapter as a pickle (.bin) is not loaded.")
    revision = params.revision if base == params.name else None  # another repository has other commits
    policy = load_policy(params.model_copy(update={"name": base, "revision": revision, "backend": "transformers"}))
    policy.model = PeftModel.from_pretrained(policy.model, str(path)).eval()
    policy.processor = AutoProcessor.from_pretrained(str(path), trust_remote_code=False)
    _ready(policy)
    return policy
