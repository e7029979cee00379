"""Loading the policy: Gemma-3 with its processor, LoRA on the layers that are trained, saving and loading the adapter.

Everything heavy is imported inside the functions: Unsloth has to be imported before transformers, trl and peft, and
which of them is needed is only known when a policy is asked for.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from nbhelpers import generation, mends, vllm_setup
from nbhelpers.params import LoraParams, ModelParams
from nbhelpers.sampling import Policy, PolicyError
from nbhelpers.unsloth_backend import load_saved, load_unsloth_policy

ATTENTION_MODULES = {"language": ("q_proj", "k_proj", "v_proj", "o_proj"), "vision": ("q_proj", "k_proj", "v_proj", "out_proj")}
MLP_MODULES = {"language": ("gate_proj", "up_proj", "down_proj"), "vision": ("fc1", "fc2")}
TOWERS = {"language": "language_model", "vision": "vision_tower"}


def choose_backend(params: ModelParams) -> tuple[str, str]:
    """Which backend `model.backend` means on this machine, and a sentence why."""
    import importlib.util

    import torch

    if params.backend != "auto":
        return params.backend, f"backend {params.backend}, as asked for"
    if not torch.cuda.is_available():
        return "transformers", "backend transformers: there is no CUDA GPU, and Unsloth needs one"
    if importlib.util.find_spec("unsloth") is None:
        return "transformers", "backend transformers: unsloth is not installed (pip install 'nbhelpers[gpu]')"
    return "unsloth", "backend unsloth: a CUDA GPU is there and unsloth is installed"


def weights_source(name: str) -> str:
    """The folder or hub id behind `model.name`; `embedded` is the tiny Gemma-3 that ships with the package."""
    if name == "embedded":
        from nbhelpers.embedded import embedded_path

        return str(embedded_path())
    return name


def load_policy(params: ModelParams, lora: LoraParams | None = None, *, seed: int = 42) -> Policy:
    """Load the base model and its processor and, with `lora`, attach a fresh adapter.

    Args:
        seed: of the adapter's first weights; a run repeats only if they do.

    Raises:
        PolicyError: the weights cannot be had, or the settings need a GPU that is not there.
    """
    import torch

    backend, why = choose_backend(params)
    if not torch.cuda.is_available():
        wants = [
            (backend == "unsloth", "model.backend=unsloth", "model.backend=transformers"),
            (params.load_in_4bit, "model.load_in_4bit=true", "model.load_in_4bit=false"),
            (params.fast_inference, "model.fast_inference=true (vLLM)", "model.fast_inference=false"),
        ]
        asked = [(setting, instead) for wanted, setting, instead in wants if wanted]
        if asked:
            raise PolicyError(
                f"{', '.join(setting for setting, _ in asked)} needs an NVIDIA GPU, and PyTorch {torch.__version__} sees none here. "
                f"Run on a GPU machine, or set {', '.join(instead for _, instead in asked)}; "
                "the embedded default (`nbhelpers run smoke`) needs no GPU. `nbhelpers doctor` says what is missing."
            )
    source = weights_source(params.name)
    if backend == "unsloth":
        vllm_setup.prepare_environment()
        policy = load_unsloth_policy(params, lora, source, seed=seed)
    else:
        policy = Policy(*_load_transformers(params, source), backend="transformers", source=source)
        if lora is not None:
            attach_lora(policy, lora, seed=seed)
    policy.notices.insert(0, why)
    mends.keep_one_bos(policy.processor)
    mends.end_of_turn_ids(policy.processor, policy.model)
    policy.processor.tokenizer.padding_side = "left"
    if params.fast_inference:
        generation.sample_with_vllm(policy, params)
    return policy


def load_processor(params: ModelParams) -> Policy:
    """The policy without its weights (`model` is None): it renders and measures prompts; a few megabytes, no GPU.

    Raises:
        PolicyError: the processor cannot be had.
    """
    source = weights_source(params.name)
    policy = Policy(None, _processor(params, source), backend="transformers", source=source)
    mends.keep_one_bos(policy.processor)
    return policy


def _load_transformers(params: ModelParams, source: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    on_gpu = torch.cuda.is_available()
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16 if on_gpu else torch.float32, "attn_implementation": "sdpa"}
    if params.load_in_4bit:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        )
    if on_gpu:
        kwargs["device_map"] = {"": torch.cuda.current_device()}
    processor = _processor(params, source)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, **kwargs)
    except OSError as error:
        raise _not_loaded(params, error) from error
    return model, processor


def _processor(params: ModelParams, source: str) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source)
    except OSError as error:
        raise _not_loaded(params, error) from error


def _not_loaded(params: ModelParams, error: OSError) -> PolicyError:
    return PolicyError(
        f"model.name={params.name!r} could not be loaded: {str(error).splitlines()[0]} "
        "Allowed are `embedded`, a local folder with the weights, or a hub id that this machine can reach "
        "(Gemma's own repository needs a token that accepted its licence; unsloth/gemma-3-4b-it does not)."
    )


def lora_target_pattern(lora: LoraParams) -> str:
    """The regular expression of module names that get an adapter: by default the language model's alone."""
    parts = []
    for tower, wanted in (("language", lora.finetune_language_layers), ("vision", lora.finetune_vision_layers)):
        names = ATTENTION_MODULES[tower] * lora.finetune_attention_modules + MLP_MODULES[tower] * lora.finetune_mlp_modules
        if wanted and names:
            parts.append(rf"(?:.*\.)?{TOWERS[tower]}\..*\.(?:{'|'.join(names)})")
    return "|".join(parts)


def attach_lora(policy: Policy, lora: LoraParams, *, seed: int = 42) -> None:
    """Wrap `policy.model` with a fresh LoRA adapter; every other parameter is frozen. Torch's generators are left as they were.

    A 4-bit base is left as it is loaded: peft's `prepare_model_for_kbit_training` would turn what is not quantised, the embeddings and the
    vision tower, into float32, 2.2 GB more for Gemma-3 4B and of no use where nothing of it is trained.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", task_type="CAUSAL_LM",
        target_modules=lora_target_pattern(lora),
    )
    device = policy.model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        policy.model = get_peft_model(policy.model, config)


def trainable_parameters(policy: Policy) -> dict[str, int]:
    """Numbers of parameters: trained and frozen, by part of the model."""
    counts = {"language trained": 0, "vision trained": 0, "language frozen": 0, "vision frozen": 0}
    for name, parameter in policy.model.named_parameters():
        tower = "vision" if "vision_tower" in name or "multi_modal_projector" in name else "language"
        counts[f"{tower} {'trained' if parameter.requires_grad else 'frozen'}"] += parameter.numel()
    return counts


def save_final_model(policy: Policy, path: Path) -> Path:
    """Write the LoRA adapter, tokenizer, processor and the base model's config to `path` (the reference recipe's
    `final_model/`); it loads with `load_final_model`, with peft, and on a GPU with Unsloth's `FastVisionModel`."""
    path = Path(path)
    policy.model.save_pretrained(path)
    _save_processor(policy, path)
    policy.model.config.save_pretrained(path)
    return path


def _save_processor(policy: Policy, path: Path) -> None:
    """The processor as it was loaded, without the mend that training needs."""
    mends.restore_bos(policy.processor)
    try:
        policy.processor.save_pretrained(path)
    finally:
        mends.keep_one_bos(policy.processor)


def export_merged(policy: Policy, path: Path) -> Path:
    """Write the whole model with the adapter merged in, bfloat16, in the published checkpoint's layout, which vLLM reads too. The policy
    stays as it is: each sum is taken in float32 beside it.

    Raises:
        PolicyError: the base weights are quantised, so that there is nothing to add the adapter to.
    """
    import torch
    from safetensors.torch import save_file

    from nbhelpers.embedded import hub_name

    if getattr(policy.model, "is_loaded_in_4bit", False):
        raise PolicyError("the adapter cannot be merged into 4-bit weights: load the final model with model.load_in_4bit=false first.")
    base = policy.model.get_base_model() if policy.has_adapter else policy.model
    added = {
        name: module.get_delta_weight("default").float()
        for name, module in base.named_modules()
        if "default" in getattr(module, "lora_A", {})
    }
    weights = {}
    with torch.no_grad():
        for name, tensor in base.state_dict().items():
            module, _, leaf = name.replace(".base_layer.", ".").rpartition(".")
            if ".lora_" in name or name.startswith("lm_head"):
                continue
            if leaf == "weight" and module in added:
                tensor = tensor.float() + added[module].to(tensor.device)
            weights[hub_name(f"{module}.{leaf}")] = tensor.to(torch.bfloat16).contiguous().cpu()
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    (path / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
    base.config.save_pretrained(path)
    base.generation_config.save_pretrained(path)
    _save_processor(policy, path)
    return path


def export_gguf(policy: Policy, path: Path, quantization: str = "q8_0") -> Path:
    """Write the model with its adapter as GGUF for llama.cpp, where Unsloth offers it (it fetches and builds llama.cpp the first time).

    Args:
        path: Unsloth puts the merged model here and the GGUF files into a folder beside it, `path` with `_gguf` at its end.
        quantization: one of Unsloth's methods, such as q8_0, q4_k_m or bf16.

    Returns:
        The folder with the GGUF files.

    Raises:
        PolicyError: the policy was not loaded with Unsloth.
    """
    if policy.backend != "unsloth":
        raise PolicyError(
            f"GGUF is written by Unsloth, and this policy was loaded with the backend {policy.backend}: load it with "
            "model.backend=unsloth on a machine with an NVIDIA GPU. export_merged writes the merged model for transformers and vLLM."
        )
    written = policy.model.save_pretrained_gguf(str(path), policy.processor, quantization_method=quantization)
    return Path(written["gguf_directory"])


def export_final_model(path: Path, params: ModelParams, to: Path, *, gguf: str | None = None) -> Path:
    """Write what a run trained as a model of its own: `export_merged`, or `export_gguf` with `gguf` as its quantisation.

    An adapter that was trained over 4-bit weights is added to the 16-bit ones, as peft and Unsloth do.

    Args:
        path: a run's `final_model/`.

    Raises:
        PolicyError: nothing was trained there, the base weights cannot be had, or GGUF is asked for without Unsloth.
    """
    params = params.model_copy(update={"load_in_4bit": False, "fast_inference": False})
    if gguf is None:
        return export_merged(load_final_model(path, params), to)
    _adapter_base(path)  # says what is missing before Unsloth is imported
    return export_gguf(load_saved(path, params), to, gguf)


def load_final_model(path: Path, params: ModelParams) -> Policy:
    """Load what `save_final_model` wrote: the base model that the adapter names, the adapter, and the saved processor.

    `params` gives the precision; its `name` is used where the base that the adapter names is not there. The backend is transformers
    (with vLLM where `fast_inference` is set), whichever one trained: both save the same adapter.
    """
    from peft import PeftModel
    from transformers import AutoProcessor

    base = _adapter_base(path)
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        base = weights_source(params.name)
    policy = load_policy(params.model_copy(update={"name": base, "backend": "transformers"}))
    policy.model = PeftModel.from_pretrained(policy.model, str(path)).eval()
    policy.processor = AutoProcessor.from_pretrained(str(path))
    policy.processor.tokenizer.padding_side = "left"
    mends.keep_one_bos(policy.processor)
    return policy


def _adapter_base(path: Path) -> str | None:
    """The base model that a saved adapter names."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        raise PolicyError(f"{path} holds no trained adapter (adapter_config.json is missing): run notebook 03 first.")
    return json.loads(config.read_text())["base_model_name_or_path"]


def adapter_norm(policy: Policy) -> float:
    """Euclidean norm of all LoRA B matrices: 0 for an adapter that has learnt nothing."""
    squares = sum(float(p.detach().float().pow(2).sum()) for n, p in policy.model.named_parameters() if "lora_B" in n)
    return math.sqrt(squares)
