"""The LoRA adapter: where it goes, attaching it, and what can be said about it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nbhelpers.params import LoraParams
from nbhelpers.policy.policy import Policy, PolicyError

ATTENTION_MODULES = {
    "language": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "vision": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
MLP_MODULES = {"language": ("gate_proj", "up_proj", "down_proj"), "vision": ("fc1", "fc2")}
TOWERS = {"language": "language_model", "vision": "vision_tower"}


def lora_target_pattern(lora: LoraParams) -> str:
    """The regular expression of module names that get an adapter: by default the language model's alone."""
    parts = []
    for tower, wanted in (("language", lora.finetune_language_layers), ("vision", lora.finetune_vision_layers)):
        names = (
            ATTENTION_MODULES[tower] * lora.finetune_attention_modules + MLP_MODULES[tower] * lora.finetune_mlp_modules
        )
        if wanted and names:
            parts.append(rf"(?:.*\.)?{TOWERS[tower]}\..*\.(?:{'|'.join(names)})")
    return "|".join(parts)


def attach_lora(policy: Policy, lora: LoraParams, *, seed: int = 42) -> None:
    """Wrap `policy.model` with a fresh LoRA adapter; every other parameter is frozen. Torch's generators are left as
    they were.

    A 4-bit base is left as it is loaded: peft's `prepare_model_for_kbit_training` would turn what is not quantised, the
    embeddings and the vision tower, into float32, 2.2 GB more for Gemma-3 4B and of no use where nothing of it is
    trained.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        task_type="CAUSAL_LM",
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


def adapter_base(path: Path) -> str | None:
    """The base model that a saved adapter names."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        raise PolicyError(f"{path} holds no trained adapter (adapter_config.json is missing): run notebook 03 first.")
    return json.loads(config.read_text())["base_model_name_or_path"]


def weights_digests(policy: Policy) -> dict[str, str | None]:
    """What tells one set of weights from another: `base`, of a local folder's files (their sizes, and the first and the
    last MiB of each; None for a hub id, whose commit says it), and `adapter`, of every adapted matrix (None without).
    """
    base = adapter = None
    if (folder := Path(policy.source)).is_dir():
        content = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                content.update(f"{path.name} {path.stat().st_size}".encode() + file.read(2**20))
                file.seek(max(0, path.stat().st_size - 2**20))
                content.update(file.read())
        base = content.hexdigest()[:16]
    if policy.has_adapter:
        content = hashlib.sha256()
        for name, parameter in sorted(policy.model.named_parameters()):
            if "lora_" in name:
                content.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
        adapter = content.hexdigest()[:16]
    return {"base": base, "adapter": adapter}


def adapter_norm(policy: Policy) -> float:
    """Euclidean norm of all LoRA B matrices: 0 for an adapter that has learnt nothing."""
    squares = (float(p.detach().float().pow(2).sum()) for n, p in policy.model.named_parameters() if "lora_B" in n)
    return sum(squares) ** 0.5
