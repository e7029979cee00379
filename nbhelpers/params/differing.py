"""Where the settings of two runs differ, and which of them may change while a run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from nbhelpers.params.sentences import as_given

# What a run is made of; `evaluation` only looks at it.
_MADE_OF = ("model", "lora", "dataset", "reward", "training")
# The length, how often something is written down, and where memory goes: none of them is in the arithmetic of a step.
_EXTENDABLE = {
    "training.max_steps", "training.num_train_epochs", "training.save_steps",
    "model.use_gradient_checkpointing", "model.gpu_memory_utilization",
    *(f"training.grpo.{key}" for key in ("report_to", "run_name", "save_total_limit", "num_completions_to_print")),
}  # fmt: skip
_MAKES_NO_OTHER_RUN = {"training.resume", "training.num_processes", "model.vllm_server"}
_EXTENDABLE_BEGINNINGS = ("training.grpo.logging_", "training.grpo.log_")


def differing_settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that make another run of it, as {"training.learning_rate": (3e-4, 1e-3)}.

    `output_dir`, `preset`, `evaluation` and `_MAKES_NO_OTHER_RUN` do not. A key that one side's version of this package
    does not know is left out.

    Args:
        was, now: parameters as `RunParams.as_dict` gives them, or as a manifest holds them.
    """
    one, other = _flat(was), _flat(now)
    keys = [key for key in one | other if (key in one and key in other) or key.startswith("training.grpo.")]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def then_and_now(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each value in which two records differ, whatever they are records of."""
    one, other = flat(then), flat(now)
    return [
        f"{key}: {_shown(one.get(key))} then, {_shown(other.get(key))} now."
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key)
    ]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}\u2026 ({len(text)} characters)"


def extends(keys: Iterable[str]) -> bool:
    """Whether a run may go on (`training.resume: extend`) although these settings differ."""
    return all(key in _EXTENDABLE or key.startswith(_EXTENDABLE_BEGINNINGS) for key in keys)


def settings_table(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """A line a setting: what it is in the run and what was asked for."""
    width = max(map(len, differences))
    lines = (f"  {key:<{width}}  {as_given(was)} in the run, {as_given(now)} asked for" for key, (was, now) in
             differences.items())  # fmt: skip
    return "\n".join(lines)


def settings_digest(parameters: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that are equal where no setting differs."""
    text = json.dumps(_flat(parameters), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, its keys joined by dots: {"training": {"seed": 1}} as {"training.seed": 1}."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(parameters))  # tuples as lists, as in a file
    found = flat({section: plain[section] for section in _MADE_OF if section in plain})
    return {key: value for key, value in found.items() if key not in _MAKES_NO_OTHER_RUN}
