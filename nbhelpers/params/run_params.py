"""TODO."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from nbhelpers.params.files import (
    checked_layer,
    is_path,
    lay_over,
    own_output_dir,
    preset_file,
    preset_layers,
    preset_name,
)
from nbhelpers.params.places import default_output_root
from nbhelpers.params.sections import (
    SECTIONS,
    DatasetParams,
    EvaluationParams,
    LoraParams,
    ModelParams,
    RewardParams,
    Section,
    TrainingParams,
)
from nbhelpers.params.sentences import ParamsError, as_given, did_you_mean, ended, expectation


class RunParams(BaseModel):
    """Every parameter of one run. Make it with `RunParams.load`.

    `preset` is the name of a shipped preset or the absolute path of a file of your own, `output_dir` the
    absolute path of the run directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    output_dir: Path
    model: ModelParams = Field(default_factory=ModelParams)
    lora: LoraParams = Field(default_factory=LoraParams)
    dataset: DatasetParams = Field(default_factory=DatasetParams)
    reward: RewardParams = Field(default_factory=RewardParams)
    training: TrainingParams = Field(default_factory=TrainingParams)
    evaluation: EvaluationParams = Field(default_factory=EvaluationParams)
    # The shipped preset at the bottom of `preset`.
    _root: str = PrivateAttr("full")

    @classmethod
    def load(
        cls,
        preset: str = "smoke",
        *,
        output_dir: str | Path | None = None,
        model: dict | None = None,
        lora: dict | None = None,
        dataset: dict | None = None,
        reward: dict | None = None,
        training: dict | None = None,
        evaluation: dict | None = None,
        source: str = "parameters cell",
    ) -> RunParams:
        """Read a preset and lay the given sections over it, key by key (`training.grpo` too).

        `preset` is the name of a shipped preset or the path of a parameter file of your own, which may build
        on another by its `preset:` line. `source` is what an error calls the sections given here. A section
        that sets one of `max_steps` and `num_train_epochs` takes back the preset's other one.

        Raises `ParamsError`, before anything is loaded, for unknown presets, sections and keys, and for
        values of the wrong type or range.
        """
        given = {
            "model": model,
            "lora": lora,
            "dataset": dataset,
            "reward": reward,
            "training": training,
            "evaluation": evaluation,
        }
        layers, root = preset_layers(preset)
        layers.append((source, checked_layer(source, {k: v for k, v in given.items() if v is not None})))

        values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        sources: dict[tuple[str, ...], str] = {}
        folder: str | Path = default_output_root() / preset_name(preset)
        for layer_source, layer in layers:
            for name in SECTIONS:
                lay_over(values[name], layer.get(name) or {}, name, layer_source, sources)
            if layer.get("output_dir") is not None:
                folder = own_output_dir(layer_source, layer["output_dir"])
        sections = {}
        for name, section in SECTIONS.items():
            try:
                sections[name] = section.model_validate(values[name])
            except ValidationError as error:
                raise ParamsError(_sentences(name, section, error, sources, source)) from None
        _check_across(sections)
        if output_dir is not None:
            folder = own_output_dir(source, str(output_dir))
        if is_path(preset):
            preset = str(preset_file(preset, source, None))
        run = cls(preset=preset, output_dir=Path(os.path.abspath(Path(folder).expanduser())), **sections)
        run._root = root
        return run

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, in the order of a parameter file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """A parameter file that gives this very run again: every key is in it, so no file of yours is needed."""
        return yaml.safe_dump({**self.as_dict(), "preset": self._root}, sort_keys=False, allow_unicode=True)


def _check_across(sections: dict[str, Any]) -> None:
    window, completion = sections["model"].max_seq_length, sections["training"].max_completion_length
    if completion >= window:
        raise ParamsError(
            f"training.max_completion_length is {completion}, but model.max_seq_length is {window}, and must "
            "hold the picture, the prompt and the completion: raise max_seq_length or shorten the completions."
        )


def _sentences(
    section: str,
    params: type[Section],
    error: ValidationError,
    sources: dict[tuple[str, ...], str],
    default: str,
) -> str:
    return "\n".join(_sentence(section, params, item, sources, default) for item in error.errors())


def _sentence(
    section: str,
    params: type[Section],
    item: dict[str, Any],
    sources: dict[tuple[str, ...], str],
    default: str,
) -> str:
    loc = tuple(str(part) for part in item["loc"])
    source = sources.get((section, loc[0]), default) if loc else _all_sources(section, sources) or default
    key = ".".join((section, *loc))
    if item["type"] == "extra_forbidden":
        known = list(params.model_fields)
        elsewhere = [name for name, other in SECTIONS.items() if loc[0] in other.model_fields]
        place = f"; it is a key of {' and '.join(elsewhere)}: write it there"
        hint = place if elsewhere else did_you_mean(loc[0], known)
        if not hint and section == "training":
            hint = "; other fields of TRL's GRPOConfig go into training.grpo"
        return ended(f"{source}: {key} is not a known key ({', '.join(known)}){hint}")
    if item["type"] == "value_error":
        return ended(f"{source}: {key}: {item['ctx']['error']}")
    field = params.model_fields[loc[0]]
    expected = expectation(params.model_json_schema()["properties"][loc[0]])
    near = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        near = did_you_mean(item["input"], re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    shown = field.default if isinstance(field.default, str) else as_given(field.default)
    default = "" if field.default_factory or field.default is None else f" (default {shown})"
    return ended(f"{source}: {key} was given {as_given(item['input'])}; expected {expected}{default}{near}")


def _all_sources(section: str, sources: dict[tuple[str, ...], str]) -> str:
    """For a rule over several keys: every place that set some of them."""
    return ", ".join(dict.fromkeys(source for (name, _), source in sources.items() if name == section))
