"""The sections of a parameter file: their keys, what each may be, and its default."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from nbhelpers.params.sentences import ParamsError, did_you_mean
from nbhelpers.params.trust import publishes

# YAML 1.1 reads 5e-6 (no dot, or no sign) as text; a person who writes it means the number.
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def _exponent_to_float(value: Any) -> Any:
    if isinstance(value, str) and _EXPONENT.fullmatch(value.strip()):
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(_exponent_to_float)]
Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_exponent_to_float)]


class Section(BaseModel):
    """Refuses unknown keys and values of another type."""

    # Frozen: what is written to params.yaml at the start stays what the run uses.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelParams(Section):
    """Which policy is trained and how it is loaded.

    `name` is a hub id, a local folder, or `embedded` for the tiny Gemma-3 that ships with the package. `revision`: the
    commit of a hub id, null for its newest; a run's record names the one that it got. `backend` is `unsloth`,
    `transformers`, or `auto` (`policy/memory.py` has the rule). `fast_inference` generates with vLLM, which takes
    `gpu_memory_utilization` of the GPU's memory; `auto` gives it what the run needs beside the policy.
    `max_seq_length` counts image, prompt and completion tokens together.
    `use_gradient_checkpointing`: `unsloth` is Unsloth's own on its backend and, on the transformers backend, recomputes
    activations only where the memory does not hold them.
    """

    name: str = Field("unsloth/gemma-3-4b-it", min_length=1)
    revision: str | None = Field(None, min_length=1)
    backend: Literal["auto", "unsloth", "transformers"] = "auto"
    load_in_4bit: bool = True
    use_gradient_checkpointing: Literal["unsloth", True, False] = "unsloth"
    max_seq_length: int = Field(2048, ge=64)
    fast_inference: bool = True
    gpu_memory_utilization: Literal["auto"] | Share = "auto"


class LoraParams(Section):
    """The adapter: rank, scale and which parts of the model get one. GRPO here trains the language layers only."""

    r: int = Field(16, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: Number = Field(0.0, ge=0, lt=1)
    finetune_vision_layers: bool = False
    finetune_language_layers: bool = True
    finetune_attention_modules: bool = True
    finetune_mlp_modules: bool = True

    @model_validator(mode="after")
    def _trains_something(self) -> LoraParams:
        for pair in (("vision_layers", "language_layers"), ("attention_modules", "mlp_modules")):
            keys = [f"finetune_{part}" for part in pair]
            if not any(getattr(self, key) for key in keys):
                raise ValueError(f"{' and '.join(keys)} are both false: nothing would be trained")
        return self


AnswerType = Literal["text", "integer", "float", "list"]


class DatasetParams(Section):
    """Where the problems come from and how they are cut.

    `path`: a hub id, `embedded`, or a local folder, parquet or JSONL file. `split`: null takes every split.
    `max_samples` limits the rows before the cut into training and evaluation. `image_size` is the longest side in
    pixels; smaller pictures are left alone. Without `eval_path` or `eval_split`, `eval_fraction` of the rows is held
    back for evaluation; with either, that source is the evaluation set and every row of `path` trains. `eval_samples`
    limits the evaluation set. `answer_types` keeps only these types of answer. `revision` and `eval_revision`: the
    commits of `path` and `eval_path` on the hub, null for the newest.
    """

    path: str = Field("AI4Math/MathVista", min_length=1)
    revision: str | None = Field(None, min_length=1)
    split: str | None = "testmini"
    max_samples: int | None = Field(None, ge=2)
    image_size: int = Field(512, ge=16)
    eval_path: str | None = Field(None, min_length=1)
    eval_revision: str | None = Field(None, min_length=1)
    eval_split: str | None = None
    eval_samples: int | None = Field(None, ge=1)
    eval_fraction: Number = Field(0.2, gt=0, lt=1)
    seed: int = Field(42, ge=0)
    answer_types: list[AnswerType] | None = Field(None, min_length=1)


# Rewards that the package brings; anything else in `reward.functions` is the user's own `module:function`.
REWARD_FUNCTIONS = ("formatting", "correctness", "closeness", "overlong", "repetition")

_OWN_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Delimiters(NamedTuple):
    """The four marks around the two blocks of a completion."""

    reasoning_start: str = "<REASONING>"
    reasoning_end: str = "</REASONING>"
    solution_start: str = "<SOLUTION>"
    solution_end: str = "</SOLUTION>"


DEFAULT_DELIMITERS = Delimiters()


class RewardParams(Section):
    """The output format that is asked for and what it earns.

    `formatting_reward` is paid for each of the two well-formed blocks, `correctness_reward` for a right answer.
    `functions` names the rewards that are summed, each times its entry in `weights` (null: all 1). `timeout`: seconds
    that a call of a function of your own may take.
    """

    reasoning_start: str = Field(DEFAULT_DELIMITERS.reasoning_start, min_length=1)
    reasoning_end: str = Field(DEFAULT_DELIMITERS.reasoning_end, min_length=1)
    solution_start: str = Field(DEFAULT_DELIMITERS.solution_start, min_length=1)
    solution_end: str = Field(DEFAULT_DELIMITERS.solution_end, min_length=1)
    formatting_reward: Number = Field(1.0, ge=0)
    correctness_reward: Number = Field(2.0, ge=0)
    functions: list[str] = Field(default_factory=lambda: ["formatting", "correctness"], min_length=1)
    weights: list[Number] | None = None
    timeout: Number = Field(300.0, gt=0)

    @property
    def delimiters(self) -> Delimiters:
        """The four marks of this run."""
        return Delimiters(self.reasoning_start, self.reasoning_end, self.solution_start, self.solution_end)

    @field_validator("functions")
    @classmethod
    def _known_functions(cls, functions: list[str]) -> list[str]:
        for name in functions:
            if name not in REWARD_FUNCTIONS and not _OWN_FUNCTION.fullmatch(name):
                raise ValueError(
                    f"{name!r} is neither a reward of the package ({', '.join(REWARD_FUNCTIONS)}) "
                    f"nor your own as module:function{did_you_mean(name, REWARD_FUNCTIONS)}"
                )
        if len(set(functions)) < len(functions):
            raise ValueError(f"a reward is named twice in {functions}")
        return functions

    @model_validator(mode="after")
    def _consistent(self) -> RewardParams:
        marks = self.delimiters._asdict()
        for key, mark in marks.items():
            if mark != mark.strip():
                raise ValueError(f"{key} {mark!r} begins or ends with a blank, which a model cannot be held to")
            for other, text in marks.items():
                if other != key and mark in text:
                    where = f"occurs inside {other} {text!r}"
                    raise ValueError(f"{key} {mark!r} {where}: the blocks could not be told apart")
        if self.weights is not None and len(self.weights) != len(self.functions):
            counts = f"{len(self.weights)} entries for {len(self.functions)} functions"
            raise ValueError(f"weights has {counts}: give one weight per function")
        return self


# TRL 1.14.2, GRPOTrainer._compute_loss.
LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo", "luspo", "cispo", "sapo", "vespo"]

# GRPOConfig's fields that have a place outside `training`, or another name; the others of this kind are keys of it.
_OWN_PLACE = {
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

    `per_device_train_batch_size` counts completions, as TRL does; it and `gradient_accumulation_steps` are of one
    process.
    `prompts_per_step` is whole unless `grpo.steps_per_generation` spreads a group over several steps. `notices` says
    what was changed and why.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    completions_per_step: int
    prompts_per_step: float
    notices: list[str]


class TrainingParams(Section):
    """The GRPO run. Names and meanings are those of TRL's `GRPOConfig`, whose other fields go into `grpo`.

    Exactly one of `max_steps` (optimiser steps) and `num_train_epochs` says how long to train.
    `per_device_train_batch_size` counts completions. `resume`: true continues from the last whole checkpoint in the
    output folder, where there is one, with the settings of the run; `extend` also with another length; false starts
    anew. `probes`: problems that are kept out of training and answered every `probe_steps` steps, so that one problem
    can be seen early and late; 0 for none.
    `num_processes`: processes that share each step, on a GPU each; `auto` takes all GPUs, or as many as can share it.
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
    probes: int = Field(8, ge=0)
    probe_steps: int = Field(10, ge=1)
    num_processes: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    eval_steps: int = Field(50, ge=1)
    resume: Literal[True, False, "extend"] = False
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
            place = f"training.{key}" if key in cls.model_fields else _OWN_PLACE.get(key)
            if place:
                raise ValueError(f"{key} has its own place, {place}: set it there")
            if publishes(key):
                raise ValueError(f"{key} would publish the run, which is done by hand, from what it leaves")
            if key == "trust_remote_code":
                raise ValueError("trust_remote_code is never on: a model's code comes from transformers alone")
        # YAML leaves 1e-3 as text here too, and TRL would fail on it long after the model has been loaded.
        return {key: _exponent_to_float(value) for key, value in grpo.items()}

    @model_validator(mode="after")
    def _one_length(self) -> TrainingParams:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            given = "neither" if self.max_steps is None else "both"
            raise ValueError(f"{given} of max_steps and num_train_epochs given: set one and leave the other null")
        return self

    def processes_that_share(self, most: int) -> list[int]:
        """The numbers of processes, up to `most`, that can share a step evenly; 1 always can."""
        fitting = []
        for processes in range(1, max(1, most) + 1):
            with contextlib.suppress(ParamsError):
                self.batch_plan(processes)
                fitting.append(processes)
        return fitting

    def batch_plan(self, num_processes: int = 1) -> BatchPlan:
        """The batch that is really used. It is that of one process, whose step `num_processes` processes share.

        A generation batch must hold whole groups of `num_generations` completions. Where the configured sizes do not
        give that, `per_device_train_batch_size` is rounded up to the next multiple of `num_generations`.

        Raises:
            ParamsError: the processes cannot share a step evenly.
        """
        device, group, notices = self.per_device_train_batch_size, self.num_generations, []
        accumulation = self.gradient_accumulation_steps
        steps_per_generation = self.grpo.get("steps_per_generation") or accumulation
        generated = device * steps_per_generation
        # A generation_batch_size of the user's own is checked by TRL, which names it.
        if generated % group and not self.grpo.get("generation_batch_size"):
            rounded = -(-device // group) * group
            notices.append(
                f"per_device_train_batch_size is {rounded} instead of {device}: {device} x {steps_per_generation} "
                f"accumulation steps = {generated} completions do not divide into groups of num_generations = {group}."
            )
            device = rounded
        completions = device * accumulation
        if num_processes > 1:
            generated = self.grpo.get("generation_batch_size") or device * steps_per_generation
            device, accumulation = _shared(completions, generated, device, num_processes)
            notices.append(
                f"{num_processes} processes share the {completions} completions of a step: each computes "
                f"{accumulation} x {device}."
            )
        prompts = completions / group if completions % group else completions // group
        return BatchPlan(device, accumulation, completions, prompts, notices)


def _shared(completions: int, generated: int, device: int, processes: int) -> tuple[int, int]:
    """Completions at once and accumulation steps of each process: as few steps as `device` completions at once allow.

    Args:
        completions, generated: in an optimiser step, and in a generation batch.
    """
    for size in range(min(device, completions // processes), 0, -1):
        if completions % (size * processes) == 0 and generated % (size * processes) == 0:
            return size, completions // (size * processes)
    fitting = [n for n in range(1, completions + 1) if completions % n == 0 and generated % n == 0]
    nearest = sorted(fitting, key=lambda n: abs(n - processes))[:4]
    raise ParamsError(
        f"training.num_processes: {processes} processes cannot share the {completions} completions of a step evenly. "
        f"Allowed nearby: {', '.join(map(str, sorted(nearest)))}; or make training.gradient_accumulation_steps a "
        f"multiple of {processes}."
    )


class EvaluationParams(Section):
    """How the policy is judged before (`baseline`) and after training.

    `num_samples`: problems of the evaluation set, null takes all. `temperature` 0 is greedy. `protocol` `strict` is
    this project's grader; `mathvista`, `mathverse`, `mathvision` and `wemath` are the benchmarks' own rules. `pass_k`:
    also sample so many answers to each of the first `pass_problems` problems, at training's temperature, for pass@1 to
    pass@k; null leaves that out.
    `plain_problems`: of so many problems (null: of all) the base model is also asked without the output format.
    `select_on`: a number (or, below 1, a share) of training problems that are not trained on but answered every
    `training.eval_steps` steps; the policy that does best on them is evaluated, null: the last.
    """

    num_samples: int | None = Field(None, ge=1)
    temperature: Number = Field(0.0, ge=0)
    samples_per_problem: int = Field(1, ge=1)
    protocol: Literal["strict", "mathvista", "mathverse", "mathvision", "wemath"] = "strict"
    baseline: bool = True
    pass_k: int | None = Field(None, ge=2)
    pass_problems: int = Field(64, ge=1)
    plain_problems: int | None = Field(None, ge=0)
    select_on: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _greedy_once(self) -> EvaluationParams:
        if self.temperature == 0 and self.samples_per_problem > 1:
            raise ValueError(
                f"samples_per_problem is {self.samples_per_problem} with temperature 0, which gives the same "
                "completion every time: raise the temperature or leave samples_per_problem at 1"
            )
        return self


SECTIONS: dict[str, type[Section]] = {
    "model": ModelParams,
    "lora": LoraParams,
    "dataset": DatasetParams,
    "reward": RewardParams,
    "training": TrainingParams,
    "evaluation": EvaluationParams,
}
