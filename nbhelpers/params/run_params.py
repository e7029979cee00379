"""`RunParams`: the sections of one run, laid over one another and checked, or a sentence that says why not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from nbhelpers.params.files import checked_layer, preset_layers
from nbhelpers.params.places import presets_folder, repository_root
from nbhelpers.params.sections import (
    SECTIONS,
    DatasetParams,
    EvaluationParams,
    LoraParams,
    ModelParams,
    RewardParams,
    TrainingParams,
)
from nbhelpers.params.sentences import ParamsError, as_given, did_you_mean, expectation, owners
from nbhelpers.params.trust import Layer, given_layers, injected_names, not_only_data, refuse_code_from_data


class RunParams(BaseModel):
    """Every parameter of one run. Make it with `RunParams.load`.

    `preset` is the name of a shipped preset or the absolute path of a file of your own, `output_dir` the absolute path
    of the run directory.
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
        source: str = "parameters cell",
        trust_code: bool = False,
        layers: Iterable[Layer] = (),
        **sections: dict[str, Any] | None,
    ) -> RunParams:
        """Read a preset and lay the given sections over it, key by key (`training.grpo` too).

        `preset` is the name of a shipped preset or the path of a parameter file of your own, which may build on another
        by its `preset:` line. `sections` are `model`, `lora`, `dataset`, `reward`, `training` and `evaluation`, and
        `source` is what an error calls them; `layers` lie between the two. A section that sets one of `max_steps` and
        `num_train_epochs` takes back the preset's other one.

        Raises `ParamsError`, before anything is loaded, for unknown presets, sections and keys, for values of the
        wrong type or range, and for code or connections that a file asks for: `trust_code` (or
        `NBHELPERS_TRUST_CODE=1`) allows those; `params/trust.py` has the rule.
        """
        _refuse_unknown_names(cls.model_fields)
        chain, files = preset_layers(preset)
        between = [Layer(name, checked_layer(name, given), is_data) for name, given, is_data in layers]
        given = {"output_dir": output_dir and str(output_dir), **sections}
        layers = [*chain, *between, *given_layers(source, checked_layer(source, given))]
        # `outputs/` of the checkout, wherever the notebook was started; of the current folder for an installed wheel.
        folder = (repository_root() or Path.cwd()) / "outputs" / files[-1].stem
        for layer in layers:
            folder = Path(layer.sections.get("output_dir") or folder)
        checked = {name: _checked_section(name, layers) for name in SECTIONS}
        refuse_code_from_data(layers, trust_code)
        window, completion = checked["model"].max_seq_length, checked["training"].max_completion_length
        if completion >= window:
            raise ParamsError(
                f"training.max_completion_length is {completion}, but model.max_seq_length is {window}, and must "
                "hold the picture, the prompt and the completion: raise max_seq_length or shorten the completions."
            )
        name = files[-1].stem if files[-1].parent == presets_folder() else str(files[-1])
        run = cls(preset=name, output_dir=Path(os.path.abspath(os.path.expanduser(folder))), **checked)
        run._root = files[0].stem
        return run

    @property
    def needs_trust(self) -> bool:
        """Whether a file with these values would be refused: they name code, or a connection."""
        return any(True for _ in not_only_data([Layer("", self.as_dict(), is_data=True)]))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, in the order of a parameter file."""
        return self.model_dump(mode="json")

    def as_arguments(self) -> list[str]:
        """What a command takes that starts from a preset, so that it means this very run: every key is set."""
        arguments = [self.preset, "--output-dir", str(self.output_dir)]
        for section in SECTIONS:
            for key, value in self.as_dict()[section].items():
                if value is not None or key not in ("max_steps", "num_train_epochs"):  # one of the two says how long
                    arguments += ["--set", f"{section}.{key}={json.dumps(value)}"]
        return arguments

    def to_yaml(self) -> str:
        """A parameter file that gives this very run again: every key is in it, so no file of yours is needed."""
        return yaml.safe_dump({**self.as_dict(), "preset": self._root}, sort_keys=False, allow_unicode=True)


def _refuse_unknown_names(known: Iterable[str]) -> None:
    """papermill sets a parameter that the notebook does not have as a variable that nothing reads, and only warns.

    Raises:
        ParamsError: names it, and where it belongs.
    """
    for name in sorted(injected_names() - set(known)):
        sections = [section for section, keys in SECTIONS.items() if name in keys.model_fields]
        hint = f"; write it as -y '{{{sections[0]}: {{{name}: ...}}}}'" if sections else did_you_mean(name, known)
        raise ParamsError(f"papermill: the notebooks have no parameter {name!r} ({', '.join(known)}){hint}")


def _checked_section(name: str, layers: list[Layer]) -> Any:
    """The section that the layers give, the later ones over the earlier."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, sections, _ in layers:
        own = sections.get(name) or {}
        if name == "training":
            for key, other in (("max_steps", "num_train_epochs"), ("num_train_epochs", "max_steps")):
                if own.get(key) is not None and other not in own:
                    values[other] = None
            if isinstance(own.get("grpo"), dict) and isinstance(values.get("grpo"), dict):
                own = own | {"grpo": values["grpo"] | own["grpo"]}
        values |= own
        sources |= dict.fromkeys(map(str, own), source)
    try:
        return SECTIONS[name].model_validate(values)
    except ValidationError as error:
        sentences = [_sentence(name, item, sources) for item in error.errors()]
        raise ParamsError(*dict.fromkeys(sentences)) from None


def _sentence(section: str, error: dict[str, Any], sources: dict[str, str]) -> str:
    """One of pydantic's errors for a person; `sources` says where each key of the section came from."""
    fields, loc = SECTIONS[section].model_fields, [str(part) for part in error["loc"]]
    # A rule over several keys names every place that set some of them.
    place = f"{sources[loc[0]] if loc else ', '.join(dict.fromkeys(sources.values()))}: {'.'.join([section, *loc])}"
    if error["type"] in ("extra_forbidden", "invalid_key"):  # a number, say, is no key at all
        hint = owners(loc[0], SECTIONS) or did_you_mean(loc[0], fields)
        if not hint and section == "training":
            hint = "; other fields of TRL's GRPOConfig go into training.grpo"
        return f"{place} is not a known key ({', '.join(fields)}){hint}"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    field, given = fields[loc[0]], error["input"]
    schema = SECTIONS[section].model_json_schema()["properties"][loc[0]]
    near = ""
    if len(schema.get("anyOf", ())) > 1 and len(loc) > 1 and not loc[1].isdigit():  # pydantic has an error for each
        place = f"{sources[loc[0]]}: {section}.{loc[0]}"
    elif error["type"] == "literal_error" and isinstance(given, str):
        near = did_you_mean(given, re.findall(r"'([^']*)'", error["ctx"]["expected"]))
    shown = field.default if isinstance(field.default, str) else as_given(field.default)
    default = "" if field.default_factory or field.default is None else f" (default {shown})"
    return f"{place} was given {as_given(given)}; expected {expectation(schema)}{default}{near}"
