"""Parameters of a run: typed sections, presets that build on each other, and errors that say what to write
instead.

A run is described by six sections (`model`, `lora`, `dataset`, `reward`, `training`, `evaluation`). Their
defaults are the reference recipe, `params/full.yaml`. A preset changes some of them, a user's own file may
build on a preset, and the sections of a notebook's parameters cell (or `--set`) change single keys on top of
that:

>>> params = RunParams.load("smoke", training={"max_steps": 5})
>>> params.training.max_steps
5
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

_PACKAGE = Path(__file__).resolve().parent

# YAML 1.1 reads 5e-6 (no dot, or no sign) as text; a person who writes it means the number.
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def _exponent_to_float(value: Any) -> Any:
    if isinstance(value, str) and _EXPONENT.fullmatch(value.strip()):
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(_exponent_to_float)]


class ParamsError(ValueError):
    """A parameter that cannot be used: the message says where it stands, what was given, what is accepted."""


class _Section(BaseModel):
    # Frozen: what is written to params.yaml at the start stays what the run uses.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelParams(_Section):
    """Which policy is trained and how it is loaded.

    `name` is a hub id, a local folder, or `embedded` for the tiny Gemma-3 that ships with the package.
    `backend` is `unsloth`, `transformers`, or `auto` (Unsloth where it works). `fast_inference` generates
    with vLLM, which takes `gpu_memory_utilization` of the GPU's memory. `max_seq_length` counts image, prompt
    and completion tokens together. `use_gradient_checkpointing`: `unsloth` is Unsloth's own on its backend and, on
    the transformers backend, recomputes activations only where the memory does not hold them.
    """

    name: str = Field("unsloth/gemma-3-4b-it", min_length=1)
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    load_in_4bit: bool = True
    use_gradient_checkpointing: Literal["unsloth", True, False] = "unsloth"
    max_seq_length: int = Field(2048, ge=64)
    fast_inference: bool = True
    gpu_memory_utilization: Number = Field(0.5, gt=0, lt=1)


class LoraParams(_Section):
    """The adapter: rank, scale and which parts of the model get one. GRPO here trains the language layers
    only.
    """

    r: int = Field(16, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: Number = Field(0.0, ge=0, lt=1)
    finetune_vision_layers: bool = False
    finetune_language_layers: bool = True
    finetune_attention_modules: bool = True
    finetune_mlp_modules: bool = True

    @model_validator(mode="after")
    def _trains_something(self) -> LoraParams:
        if not (self.finetune_vision_layers or self.finetune_language_layers):
            raise ValueError(
                "finetune_vision_layers and finetune_language_layers are both false: nothing would be trained"
            )
        if not (self.finetune_attention_modules or self.finetune_mlp_modules):
            raise ValueError(
                "finetune_attention_modules and finetune_mlp_modules are both false: nothing would be trained"
            )
        return self


AnswerType = Literal["text", "integer", "float", "list"]


class DatasetParams(_Section):
    """Where the problems come from and how they are cut.

    `path`: a hub id, `embedded`, or a local folder, parquet or JSONL file. `split`: null takes every split.
    `max_samples` limits the rows before the cut into training and evaluation. `image_size` is the longest
    side in pixels; smaller pictures are left alone. Without `eval_path` or `eval_split`, `eval_fraction` of
    the rows is held back for evaluation; with either, that source is the evaluation set and every row of
    `path` trains. `eval_samples` limits the evaluation set. `answer_types` keeps only these types of answer.
    """

    path: str = Field("AI4Math/MathVista", min_length=1)
    split: str | None = "testmini"
    max_samples: int | None = Field(None, ge=2)
    image_size: int = Field(512, ge=16)
    eval_path: str | None = Field(None, min_length=1)
    eval_split: str | None = None
    eval_samples: int | None = Field(None, ge=1)
    eval_fraction: Number = Field(0.2, gt=0, lt=1)
    seed: int = Field(42, ge=0)
    answer_types: list[AnswerType] | None = Field(None, min_length=1)


# Rewards that the package brings; anything else in `reward.functions` is the user's own `module:function`.
REWARD_FUNCTIONS = ("formatting", "correctness", "closeness", "overlong", "repetition")
_OWN_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class RewardParams(_Section):
    """The output format that is asked for and what it earns.

    `formatting_reward` is paid for each of the two well-formed blocks, `correctness_reward` for a right
    answer. `functions` names the rewards that are summed, each times its entry in `weights` (null: all 1).
    """

    reasoning_start: str = Field("<REASONING>", min_length=1)
    reasoning_end: str = Field("</REASONING>", min_length=1)
    solution_start: str = Field("<SOLUTION>", min_length=1)
    solution_end: str = Field("</SOLUTION>", min_length=1)
    formatting_reward: Number = Field(1.0, ge=0)
    correctness_reward: Number = Field(2.0, ge=0)
    functions: list[str] = Field(default_factory=lambda: ["formatting", "correctness"], min_length=1)
    weights: list[Number] | None = None

    @field_validator("functions")
    @classmethod
    def _known_functions(cls, functions: list[str]) -> list[str]:
        for name in functions:
            if name not in REWARD_FUNCTIONS and not _OWN_FUNCTION.fullmatch(name):
                raise ValueError(
                    f"{name!r} is neither a reward of the package ({', '.join(REWARD_FUNCTIONS)}) "
                    f"nor your own as module:function{_did_you_mean(name, REWARD_FUNCTIONS)}"
                )
        if len(set(functions)) < len(functions):
            raise ValueError(f"a reward is named twice in {functions}")
        return functions

    @model_validator(mode="after")
    def _consistent(self) -> RewardParams:
        marks = {
            "reasoning_start": self.reasoning_start,
            "reasoning_end": self.reasoning_end,
            "solution_start": self.solution_start,
            "solution_end": self.solution_end,
        }
        for key, mark in marks.items():
            if mark != mark.strip():
                raise ValueError(f"{key} {mark!r} begins or ends with a blank, which a model cannot be held to")
            for other, text in marks.items():
                if other != key and mark in text:
                    raise ValueError(
                        f"{key} {mark!r} occurs inside {other} {text!r}: the blocks could not be told apart"
                    )
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise ValueError(
                f"weights has {len(self.weights)} entries for {len(self.functions)} functions: give one weight a function"
            )
        return self


# TRL 1.14.2, GRPOTrainer._compute_loss.
LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo", "luspo", "cispo", "sapo", "vespo"]

# GRPOConfig fields with a place of their own in the sections, so not in `training.grpo` as well.
_OWN_PLACE = {
    **{
        key: f"training.{key}"
        for key in (
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "num_generations",
            "max_steps",
            "num_train_epochs",
            "loss_type",
            "max_completion_length",
            "temperature",
            "save_steps",
            "seed",
        )
    },
    "output_dir": "output_dir",
    "resume_from_checkpoint": "training.resume",
    "reward_weights": "reward.weights",
    "use_vllm": "model.fast_inference",
    "vllm_gpu_memory_utilization": "model.gpu_memory_utilization",
    "vllm_max_model_length": "model.max_seq_length",
    "gradient_checkpointing": "model.use_gradient_checkpointing",
}


@dataclass(frozen=True)
class BatchPlan:
    """How many completions one optimiser step learns from.

    `per_device_train_batch_size` counts completions, as TRL does. `prompts_per_step` is whole unless
    `grpo.steps_per_generation` spreads a group over several steps. `notices` says what was changed and why.
    """

    per_device_train_batch_size: int
    completions_per_step: int
    prompts_per_step: float
    notices: list[str]


class TrainingParams(_Section):
    """The GRPO run. Names and meanings are those of TRL's `GRPOConfig`, whose other fields go into `grpo`.

    Exactly one of `max_steps` (optimiser steps) and `num_train_epochs` says how long to train.
    `per_device_train_batch_size` counts completions. `resume`: continue from the last checkpoint in the
    output folder, where there is one; false starts anew.
    """

    per_device_train_batch_size: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(2, ge=1)
    learning_rate: Number = Field(5e-6, gt=0)
    num_generations: int = Field(4, ge=2)
    max_steps: int | None = Field(None, ge=1)
    num_train_epochs: Number | None = Field(2.0, gt=0)
    loss_type: LossType = "dr_grpo"
    max_completion_length: int = Field(512, ge=1)
    temperature: Number = Field(1.0, gt=0)
    save_steps: int = Field(50, ge=1)
    resume: bool = False
    seed: int = Field(42, ge=0)
    grpo: dict[str, Any] = Field(
        default_factory=lambda: {
            "scale_rewards": "none",
            "beta": 0.0,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "adam_beta2": 0.99,
            "weight_decay": 0.1,
            "max_grad_norm": 0.1,
        }
    )

    @field_validator("grpo")
    @classmethod
    def _no_second_place(cls, grpo: dict[str, Any]) -> dict[str, Any]:
        for key in grpo:
            if key in _OWN_PLACE:
                raise ValueError(f"{key} has its own place, {_OWN_PLACE[key]}: set it there")
        # YAML leaves 1e-3 as text here too, and TRL would fail on it long after the model has been loaded.
        return {key: _exponent_to_float(value) for key, value in grpo.items()}

    @model_validator(mode="after")
    def _one_length(self) -> TrainingParams:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            given = "neither" if self.max_steps is None else "both"
            raise ValueError(
                f"{given} of max_steps and num_train_epochs given: set one of them and leave the other null"
            )
        return self

    def batch_plan(self, num_processes: int = 1) -> BatchPlan:
        """The batch that is really used on `num_processes` processes.

        A generation batch must hold whole groups of `num_generations` completions. Where the configured sizes
        do not give that, `per_device_train_batch_size` is rounded up to the next multiple of
        `num_generations`.
        """
        device, group, notices = self.per_device_train_batch_size, self.num_generations, []
        accumulation = self.gradient_accumulation_steps
        steps_per_generation = self.grpo.get("steps_per_generation") or accumulation
        generated = device * num_processes * steps_per_generation
        # A generation_batch_size of the user's own is checked by TRL, which names it.
        if generated % group and not self.grpo.get("generation_batch_size"):
            rounded = -(-device // group) * group
            notices.append(
                f"per_device_train_batch_size is {rounded} instead of {device}: {device} x {num_processes} "
                f"process{'es' if num_processes > 1 else ''} x {steps_per_generation} accumulation steps = "
                f"{generated} completions do not divide into groups of num_generations = {group}."
            )
            device = rounded
        completions = device * num_processes * accumulation
        prompts = completions / group if completions % group else completions // group
        return BatchPlan(device, completions, prompts, notices)


class EvaluationParams(_Section):
    """How the policy is judged before (`baseline`) and after training.

    `num_samples`: problems of the evaluation set, null takes all. `temperature` 0 is greedy. `protocol`
    `strict` is this project's grader, `mathvista` follows the official MathVista scorer.
    """

    num_samples: int | None = Field(None, ge=1)
    temperature: Number = Field(0.0, ge=0)
    samples_per_problem: int = Field(1, ge=1)
    protocol: Literal["strict", "mathvista"] = "strict"
    baseline: bool = True

    @model_validator(mode="after")
    def _greedy_once(self) -> EvaluationParams:
        if self.temperature == 0 and self.samples_per_problem > 1:
            raise ValueError(
                f"samples_per_problem is {self.samples_per_problem} with temperature 0, which gives the same "
                "completion every time: raise the temperature or leave samples_per_problem at 1"
            )
        return self


SECTIONS: dict[str, type[_Section]] = {
    "model": ModelParams,
    "lora": LoraParams,
    "dataset": DatasetParams,
    "reward": RewardParams,
    "training": TrainingParams,
    "evaluation": EvaluationParams,
}
_TOP_LEVEL = ("preset", "output_dir", *SECTIONS)


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
        layers, root = _preset_layers(preset)
        layers.append((source, _checked_layer(source, {k: v for k, v in given.items() if v is not None})))

        values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        sources: dict[tuple[str, ...], str] = {}
        folder: str | Path = default_output_root() / _preset_name(preset)
        for layer_source, layer in layers:
            for name in SECTIONS:
                _lay_over(values[name], layer.get(name) or {}, name, layer_source, sources)
            if layer.get("output_dir") is not None:
                folder = _own_output_dir(layer_source, layer["output_dir"])
        sections = {}
        for name, section in SECTIONS.items():
            try:
                sections[name] = section.model_validate(values[name])
            except ValidationError as error:
                raise ParamsError(_sentences(name, section, error, sources, source)) from None
        _check_across(sections)
        if output_dir is not None:
            folder = _own_output_dir(source, str(output_dir))
        if _is_path(preset):
            preset = str(_preset_file(preset, source, None))
        run = cls(preset=preset, output_dir=Path(os.path.abspath(Path(folder).expanduser())), **sections)
        run._root = root
        return run

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, in the order of a parameter file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """A parameter file that gives this very run again: every key is in it, so no file of yours is needed."""
        return yaml.safe_dump({**self.as_dict(), "preset": self._root}, sort_keys=False, allow_unicode=True)


def repository_root() -> Path | None:
    """The top folder of the checkout that this package is imported from, None for an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "params").is_dir() else None


def default_output_root() -> Path:
    """`outputs/` of the checkout, wherever the notebook was started; of the current folder for an installed
    wheel.
    """
    return (repository_root() or Path.cwd()) / "outputs"


def presets_folder() -> Path:
    """The folder of the shipped parameter files."""
    root = repository_root()
    return root / "params" if root else _PACKAGE / "_params"


def available_presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def resolve_path(path: str | Path) -> Path | None:
    """An existing local path: absolute, or relative to the current folder, or else to the repository root;
    None if neither.
    """
    path = Path(path).expanduser()
    for folder in (Path.cwd(), repository_root()):
        if folder is not None and (folder / path).exists():
            return Path(os.path.abspath(folder / path))
    return None


def parse_overrides(settings: list[str]) -> dict[str, dict[str, Any]]:
    """`["training.max_steps=5", "training.grpo.beta=0.04"]` as sections for `RunParams.load`; values are read
    as YAML.
    """
    sections: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise ParamsError(f"--set {setting}: expected section.key=value, such as training.max_steps=5.")
        if keys[0] not in SECTIONS:
            raise ParamsError(
                _ended(
                    f"--set {setting}: {keys[0]!r} is not a section ({', '.join(SECTIONS)}){_did_you_mean(keys[0], SECTIONS)}"
                )
            )
        if not text.strip():
            raise ParamsError(f"--set {setting}: no value given; write null for none, '' for an empty text.")
        try:
            value = yaml.load(text, Loader=_UniqueKeys)
        except (yaml.YAMLError, ParamsError) as error:
            raise ParamsError(
                f"--set {setting}: the value cannot be read as YAML ({_one_line(error)}); put text with "
                "special characters between quotes, as in 'key=\"...\"'."
            ) from None
        place = sections.setdefault(keys[0], {})
        for key in keys[1:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ParamsError(f"--set {setting}: {key!r} was set to a value before and cannot hold {keys[-1]!r}.")
        place[keys[-1]] = value
    return sections


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise ParamsError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


def _is_path(preset: str) -> bool:
    return preset.endswith((".yaml", ".yml")) or "/" in preset or os.sep in preset


def _preset_name(preset: str) -> str:
    return Path(preset).stem if _is_path(preset) else preset


def _preset_file(preset: Any, asked_by: str, beside: Path | None) -> Path:
    """The file of a preset; a path is looked for beside the file that names it, then by `resolve_path`."""
    if not isinstance(preset, str) or not preset:
        raise ParamsError(
            f"{asked_by}: preset was given {preset!r}; expected the name of a preset "
            f"({', '.join(available_presets())}) or the path of a parameter file."
        )
    if _is_path(preset):
        found = beside / preset if beside and (beside / preset).is_file() else resolve_path(preset)
        if found is None or not found.is_file():
            raise ParamsError(f"{asked_by}: there is no parameter file {preset!r}{_looked_in()}.")
        return Path(os.path.abspath(found))
    file = presets_folder() / f"{preset}.yaml"
    if not file.is_file():
        names = available_presets()
        raise ParamsError(
            f"{asked_by}: there is no preset {preset!r} among {', '.join(names)} (a file of your own is "
            + _ended(f"given by its path, ending in .yaml){_did_you_mean(preset, names)}")
        )
    return file


def _looked_in() -> str:
    root = repository_root()
    both = f" or in {root}" if root and root != Path.cwd() else ""
    return f" in {Path.cwd()}{both}"


def _preset_layers(preset: str) -> tuple[list[tuple[str, dict]], str]:
    """The chain of parameter files, the most general first, and the shipped preset at its root."""
    layers: list[tuple[str, dict]] = []
    chain: list[Path] = []
    asked_by, beside, wanted = "parameters", None, preset
    while True:
        file = _preset_file(wanted, asked_by, beside)
        if file in chain:
            names = " -> ".join(str(_short(link)) for link in [*chain, file])
            raise ParamsError(f"{asked_by}: the presets build on each other in a circle ({names}).")
        chain.append(file)
        label = str(_short(file))
        layer = _checked_layer(label, _read(file, label))
        layers.insert(0, (label, layer))
        shipped = file.parent == presets_folder()
        base = layer.get("preset")
        if shipped and base in (None, file.stem):
            return layers, file.stem
        if base is None:
            raise ParamsError(
                f"{label} does not say what it builds on: begin it with a line such as `preset: full` ({', '.join(available_presets())})."
            )
        asked_by, beside, wanted = label, file.parent, base


def _read(file: Path, label: str) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ParamsError(f"{label} is not valid YAML: {_one_line(error)}.") from None
    except ParamsError as error:
        raise ParamsError(f"{label}, {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{label} cannot be read: {_one_line(error)}.") from None


def _short(file: Path) -> Path:
    """Relative to the current folder or the checkout where it lies inside, for messages."""
    for folder in (Path.cwd(), repository_root()):
        if folder and file.is_relative_to(folder):
            return file.relative_to(folder)
    return file


def _checked_layer(source: str, layer: Any) -> dict[str, Any]:
    """One file or the given sections: a mapping of known sections, each a mapping."""
    if layer is None:
        return {}
    if not isinstance(layer, dict):
        raise ParamsError(f"{source}: expected sections ({', '.join(SECTIONS)}), found {_given(layer)}.")
    for name, section in layer.items():
        if name not in _TOP_LEVEL:
            owners = [section for section, params in SECTIONS.items() if name in params.model_fields]
            hint = (
                f"; it is a key of {' and '.join(owners)}: write it there"
                if owners
                else _did_you_mean(name, _TOP_LEVEL)
            )
            raise ParamsError(_ended(f"{source}: {name!r} is not a section ({', '.join(_TOP_LEVEL)}){hint}"))
        if name in SECTIONS and section is not None and not isinstance(section, dict):
            raise ParamsError(
                f"{source}: the section {name} holds its keys and values, but was given {_given(section)}."
            )
    return layer


def _own_output_dir(source: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ParamsError(f"{source}: output_dir was given {_given(value)}; expected the path of a folder, or null.")
    return value


def _lay_over(values: dict, layer: dict, section: str, source: str, sources: dict[tuple[str, ...], str]) -> None:
    """Set the layer's keys in `values` and note where each came from."""
    if section == "training":
        for key, other in (("max_steps", "num_train_epochs"), ("num_train_epochs", "max_steps")):
            if layer.get(key) is not None and other not in layer:
                values[other] = None
    for key, value in layer.items():
        sources[section, str(key)] = source
        if section == "training" and key == "grpo" and isinstance(value, dict):
            base = values.get("grpo")
            value = {**base, **value} if isinstance(base, dict) else dict(value)
        values[key] = value


def _check_across(sections: dict[str, Any]) -> None:
    window, completion = sections["model"].max_seq_length, sections["training"].max_completion_length
    if completion >= window:
        raise ParamsError(
            f"training.max_completion_length is {completion}, but model.max_seq_length is {window}, and must "
            "hold the picture, the prompt and the completion: raise max_seq_length or shorten the completions."
        )


def _sentences(
    section: str,
    params: type[_Section],
    error: ValidationError,
    sources: dict[tuple[str, ...], str],
    default: str,
) -> str:
    return "\n".join(_sentence(section, params, item, sources, default) for item in error.errors())


def _sentence(
    section: str,
    params: type[_Section],
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
        hint = place if elsewhere else _did_you_mean(loc[0], known)
        if not hint and section == "training":
            hint = "; other fields of TRL's GRPOConfig go into training.grpo"
        return _ended(f"{source}: {key} is not a known key ({', '.join(known)}){hint}")
    if item["type"] == "value_error":
        return _ended(f"{source}: {key}: {item['ctx']['error']}")
    field = params.model_fields[loc[0]]
    expected = _expectation(params.model_json_schema()["properties"][loc[0]])
    near = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        near = _did_you_mean(item["input"], re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    shown = field.default if isinstance(field.default, str) else _given(field.default)
    default = "" if field.default_factory or field.default is None else f" (default {shown})"
    return _ended(f"{source}: {key} was given {_given(item['input'])}; expected {expected}{default}{near}")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else sentence + "."


def _all_sources(section: str, sources: dict[tuple[str, ...], str]) -> str:
    """For a rule over several keys: every place that set some of them."""
    return ", ".join(dict.fromkeys(source for (name, _), source in sources.items() if name == section))


def _expectation(schema: dict[str, Any]) -> str:
    """A JSON schema of one key in words: "a whole number of at least 1, or null"."""
    if "anyOf" in schema:
        return ", or ".join(_expectation(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(
            str(value).lower() if isinstance(value, bool) else str(value) for value in schema["enum"]
        )
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        return "text" if not schema.get("minLength") else "text that is not empty"
    if kind == "array":
        items = _expectation(schema["items"]).replace("one of ", "")
        return f"a list of {items}" if schema["items"].get("type") != "number" else "a list of numbers"
    if kind == "object":
        return "keys and values"
    words = "a whole number" if kind == "integer" else "a number"
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "of at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    return " ".join([words, " and ".join(bounds)]).strip()


def _given(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "keys and values"
    return repr(value)


def _did_you_mean(word: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(word).lower(), [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
