"""GRPOConfig from parameters: what is checked before a model is loaded, what TRL is given, what became of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from enum import EnumMeta
from typing import Any, get_args, get_type_hints

from nbhelpers.params import BatchPlan, ParamsError, PlainError, RunParams, did_you_mean
from nbhelpers.policy import Policy, choose_backend, has_bfloat16, libraries, trainable_parameters
from nbhelpers.runs import RunDirectory, check_libraries


class TrainingError(PlainError, RuntimeError):
    """Training could not start or go on; the message says what to do. What was computed before it is on disk."""


def check(params: RunParams) -> BatchPlan:
    """The arithmetic of a step, and what training would refuse, before a model is loaded.

    Raises:
        ParamsError: `training.grpo` asks for TRL's way to a served vLLM, or a field or value that GRPOConfig has
            not. With the Unsloth backend that is found out in `train`, because Unsloth has to be imported before TRL.
        TrainingError: a library that this run uses is not as it was tested.
    """
    if (mode := params.training.grpo.get("vllm_mode", "colocate")) != "colocate":
        raise ParamsError(
            f"training.grpo.vllm_mode is {mode!r}: here model.vllm_server=auto, or an address, serves every process by "
            "one vLLM, to which the adapter alone goes. Leave vllm_mode out, or set 'colocate'."
        )
    backend, _ = choose_backend(params.model, params.training)
    check_libraries("trl", *libraries(params.model, backend), error=TrainingError)
    if backend != "unsloth":
        _check_fields(params.training.grpo)
    return params.training.batch_plan(num_processes=num_processes(params))


def _check_fields(grpo: dict[str, Any]) -> None:
    """`training.grpo` against GRPOConfig's own annotations; TRL takes `beta: abc` and fails in the first step."""
    from pydantic import TypeAdapter, ValidationError
    from trl import GRPOConfig

    known = {field.name for field in dataclasses.fields(GRPOConfig)}
    # Unsloth puts a generated class over TRL's, whose own fields need not have annotations that can be resolved.
    kinds = get_type_hints(next(kind for kind in GRPOConfig.__mro__ if kind.__module__.startswith("trl.")))
    for key, value in grpo.items():
        if key not in known:
            hint = did_you_mean(key, known)
            raise ParamsError(f"training.grpo names {key!r}, which is no field of TRL's GRPOConfig{hint}")
        if key not in kinds:
            continue
        for names in (kind for kind in get_args(kinds[key]) if isinstance(kind, EnumMeta)):
            allowed = [str(name.value) for name in names]
            if isinstance(value, str) and value not in allowed:
                raise ParamsError(f"training.grpo.{key} has no value {value!r}{did_you_mean(value, allowed)}")
        try:
            meant = TypeAdapter(kinds[key]).validate_python(value)
        except ValidationError as error:
            raise ParamsError(f"training.grpo.{key} is {value!r}: {error.errors()[0]['msg']}.") from error
        if isinstance(value, str) and not isinstance(meant, str):
            raise ParamsError(f"training.grpo.{key} is the text {value!r}: write {meant!r}.")


def grpo_config(arguments: dict[str, Any]) -> Any:
    """TRL's GRPOConfig of `grpo_arguments`.

    Raises:
        ParamsError: TRL refused their combination, or a value.
    """
    from trl import GRPOConfig

    try:
        return GRPOConfig(**arguments)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"TRL refuses these settings of training: {error}") from error


def grpo_arguments(
    params: RunParams, plan: BatchPlan, run: RunDirectory, *, on_gpu: bool, never: Sequence[int] = ()
) -> dict[str, Any]:
    """The GRPOConfig fields that the parameters mean; `training.grpo` has the last word.

    What is set here although TRL has a default: dr_grpo divides by a constant length and does not scale advantages by
    the group's spread (https://arxiv.org/abs/2503.20783), so `scale_rewards` is "none" with it; bfloat16 only where a
    GPU is.

    vLLM's log-probs differ from the trainer's, by rounding at least, and the loss weighs with their ratio. TRL's
    `sequence_mask` weighs a completion by the product over its tokens, whose spread grows with the length: at 0.13 nats
    per token others saw weights of 1e-6 and gradients of 1e-9, and 0.99 again with `token_truncate`
    (williamium3000/trl-projects, 2026-05). Unsloth 2026.10 switches the correction off, and with it every line on it,
    where it is not asked for by name; it costs Unsloth one forward pass without gradients per batch.

    `logging_nan_inf_filter` has the CPU wait for each micro-batch, to log another loss in place of one that is none.

    Args:
        never: token ids that no completion may hold.

    Raises:
        ParamsError: `training.grpo` names a field that GRPOConfig has not.
    """
    _check_fields(params.training.grpo)
    training, model = params.training, params.model
    arguments: dict[str, Any] = {
        "output_dir": str(run.checkpoints_dir),
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "num_generations": training.num_generations,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.num_train_epochs or 1,
        "max_steps": training.max_steps or -1,
        "loss_type": training.loss_type,
        "scale_rewards": "none" if training.loss_type == "dr_grpo" else "group",
        "max_completion_length": training.max_completion_length,
        "temperature": training.temperature,
        "beta": 0.0,
        "seed": training.seed,
        "save_steps": training.save_steps,
        "save_total_limit": 2,
        "reward_weights": params.reward.weights,
        "bf16": on_gpu and has_bfloat16(),
        "gradient_checkpointing": on_gpu and bool(model.use_gradient_checkpointing),
        "use_vllm": model.fast_inference,
        "vllm_mode": "colocate",
        "vllm_max_model_length": model.max_seq_length,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
        **_for_any_number_of_processes(params),
    }
    vllm = model.fast_inference
    ruled_out = {"logit_bias": dict.fromkeys(never, -100.0)} if vllm else {"suppress_tokens": list(never)}
    arguments["generation_kwargs"] = {**ruled_out, **(arguments.get("generation_kwargs") or {})}
    return arguments


def _for_any_number_of_processes(params: RunParams) -> dict[str, Any]:
    """`training.grpo`, and what keeps a step the same where several processes share it."""
    # Every step goes through every adapted language layer; the vision tower's last one may be stepped over.
    grpo = {"ddp_find_unused_parameters": params.lora.finetune_vision_layers, **params.training.grpo}
    if grpo.get("steps_per_generation"):  # as many completions at once as one process would generate
        one = params.training.batch_plan().per_device_train_batch_size
        grpo["generation_batch_size"] = one * grpo.pop("steps_per_generation")
    return grpo


def num_processes(params: RunParams) -> int:
    """Processes that train together: as their launcher says, otherwise as `training.num_processes` does.

    Raises:
        TrainingError: there are fewer GPUs than processes asked for.
    """
    import torch

    if launched():
        return int(os.environ["WORLD_SIZE"])
    serves = params.model.starts_server
    asked, gpus = params.training.num_processes, max(0, torch.cuda.device_count() - serves)
    if asked == "auto":
        return max(params.training.processes_that_share(gpus))
    if asked > 1 and 0 < gpus < asked:
        raise TrainingError(
            f"training.num_processes is {asked}, and there are {gpus} GPUs{' beside the one that serves' * serves}: "
            f"each process takes one. Allowed are 1 to {gpus}, or auto."
        )
    return asked


def launched() -> bool:
    """Whether this process is one of several that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def place_among_processes() -> tuple[int, int]:
    """This process's rank, and the number of processes that work together."""
    return (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if launched() else (0, 1)


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def record_configuration(
    run: RunDirectory, asked: dict, effective: Any, policy: Policy, plan: BatchPlan, problems: int
) -> None:
    """Put the effective GRPOConfig into the manifest, and a notice on each value that a library changed."""
    for key, value in asked.items():
        now = getattr(effective, key, value)
        now = getattr(now, "value", now)
        if key not in {"output_dir", "report_to", "generation_kwargs"} and now != value and not (value == -1 and now):
            run.add_notice(f"{key}: {value!r} was asked for, the library made it {now!r}.")
    plain = (int, float, str, bool, list, dict, type(None))
    run.update_manifest(
        grpo_config={key: value for key, value in effective.to_dict().items() if isinstance(value, plain)},
        batch={"completions_per_step": plan.completions_per_step, "prompts_per_step": plan.prompts_per_step},
        backend=policy.backend,
        model_revision=policy.revision,
        trainable_parameters=trainable_parameters(policy),
        training_problems=problems,
    )
