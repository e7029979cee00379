"""The model card, `final_model/README.md`: what the adapter was made from, how, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from nbhelpers.params import RunParams
from nbhelpers.runs import RunDirectory, read_seal

# What is known of a source's terms; the key is part of its name.
DATA_LICENCES = {
    "embedded": "drawn on the spot by this project: Apache License 2.0",
    "mathvista": "CC BY-SA 4.0; a test set: its licence forbids training on it; its pictures keep their sources' terms",
    "geometry3k": "MIT (see its data card)",
}
UNKNOWN = "not known to this project: see the data's own page"
GEMMA = "Gemma Terms of Use, https://ai.google.dev/gemma/terms, which also cover models trained from it"
CARD = "README.md"


def write_card(run: RunDirectory, params: RunParams) -> None:
    """Write the card of `final_model/`, with the figures of `evaluation.json` where there is one."""
    sealed = read_seal(run.final_model_dir)
    if sealed is None:  # an adapter of another origin
        return
    card = card_text(params, sealed, run.read_manifest(), run.read_json(run.evaluation_path))
    run.write_text(run.final_model_dir / CARD, card)


def card_text(
    params: RunParams, sealed: Mapping[str, Any], manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> str:
    """The card as Markdown with the metadata that the Hugging Face hub reads."""
    name, data = params.model.name, params.dataset
    base = "the tiny Gemma-3 of nbhelpers, made from nothing" if name == "embedded" else f"`{name}`"
    head: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "image-text-to-text"}
    head |= {"license": "apache-2.0" if name == "embedded" else "gemma" if "gemma" in name.lower() else "other"}
    head |= {"tags": ["grpo", "trl", "lora", "vision", "mathematics"]}
    if name != "embedded":
        head["base_model"] = name
    selected = sealed.get("selected") or {"step": sealed["step"], "chosen": "the last step"}
    training, lora, reward = params.training, params.lora, params.reward
    counts, versions = manifest.get("dataset", {}), manifest.get("versions", {})
    terms = "Apache License 2.0" if name == "embedded" else GEMMA if "gemma" in name.lower() else "see the base model"
    lines = [
        f"# LoRA adapter for {base}, trained with GRPO on pictures of mathematics",
        "",
        f"- **Base**: {base}"
        + (f" at {params.model.revision}" if params.model.revision else "")
        + f". Terms: {terms}.",
        f"- **Training data**: `{data.path}`, split `{data.split}`, {counts.get('train', '?')} problems, fingerprint "
        f"`{counts.get('fingerprint', '?')}`. Licence: {licence_of(data.path)}.",
        f"- **Checkpoint**: step {selected['step']}, {selected['chosen']}.",
        f"- **Reward**: {', '.join(f'`{function}`' for function in reward.functions)}; answers as "
        f"`{reward.reasoning_start}\u2026{reward.reasoning_end}{reward.solution_start}\u2026{reward.solution_end}`.",
        f"- **Settings**: loss `{training.loss_type}`, {training.num_generations} completions a prompt, learning rate "
        f"{training.learning_rate:g}, {sealed['step']} steps, at most {training.max_completion_length} tokens, "
        f"temperature {training.temperature:g}, LoRA r {lora.r} and alpha {lora.alpha}, seed {training.seed}.",
        "- **Versions**: " + ", ".join(f"{package} {version}" for package, version in versions.items()) + ".",
        "",
        "## Measured",
        "",
        *_figures(evaluation, params),
        "",
        "One training seed. Only the end of a reasoning was rewarded: what it says on the way was not checked.",
    ]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def licence_of(path: str) -> str:
    """The terms of a source of problems, as far as they are known."""
    return next((terms for name, terms in DATA_LICENCES.items() if name in path.lower()), UNKNOWN)


def _figures(evaluation: Mapping[str, Any] | None, params: RunParams) -> list[str]:
    if not evaluation or not evaluation.get("after"):
        return ["Not evaluated yet."]
    after, difference = evaluation["after"], evaluation.get("difference") or {}
    source = params.dataset.eval_path or params.dataset.path
    temperature = evaluation.get("decoding", {}).get("temperature", 0)
    said = [
        f"{after['n']} problems of `{source}` that were not trained on, protocol `{evaluation.get('protocol')}`, "
        f"temperature {temperature:g}: accuracy {100 * after['accuracy']:.1f} %, "
        f"format kept {100 * after['format_rate']:.1f} %."
    ]
    if difference.get("accuracy") is not None:
        low, high = difference["ci95"]
        said.append(
            f"The base model under the same prompt: {100 * evaluation['before']['accuracy']:.1f} %; difference "
            f"{100 * difference['accuracy']:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, paired)."
        )
    return said
