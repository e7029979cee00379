"""TODO."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import BatchPlan, RunParams
from nbhelpers.policy import (
    GIB,
    Policy,
    TextShape,
    adapter_norm,
    delimiters_of,
    fits,
    fused_norms,
    keep_adapter_in_float32,
    kept_activations,
    load_policy,
    never_sampled_ids,
    save_final_model,
    start_engine,
    verify,
)
from nbhelpers.problems import ProblemSets, decode_once, grpo_dataset, load_problems
from nbhelpers.rewards import make_reward_funcs
from nbhelpers.runs import RunDirectory, SampleWriter
from nbhelpers.training.configuration import check, grpo_arguments, num_processes, record_configuration
from nbhelpers.training.losses import generating_with, log_probs_in_chunks, weights_from_the_loss
from nbhelpers.training.recording import recording_trainer_class
from nbhelpers.training.vision_cache import looking_once


class TrainingError(RuntimeError):
    """Training could not start or go on; the message says what to do. What was computed before it is on disk."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run leaves: steps done, seconds, where the adapter lies, and how far it moved."""

    steps: int
    seconds: float
    final_model: Path
    adapter_norm: float
    resumed_from: int


def drop_overlong(problems: Any, policy: Policy, params: RunParams, warn: Callable[[str], None]) -> tuple[Any, int]:
    """The problems whose prompt and completion fit into `model.max_seq_length`, and the tokens of the longest prompt
    among them. A prompt is never cut, because a cut through its image tokens makes every later step fail. `warn` is
    told how many were left out.
    """
    room = params.model.max_seq_length - params.training.max_completion_length
    lengths = [policy.prompt_length(conversation) for conversation in problems["prompt"]]
    kept = [i for i, length in enumerate(lengths) if length <= room]
    if len(kept) < len(lengths):
        warn(
            f"{len(lengths) - len(kept)} of {len(lengths)} training problems were left out: their prompt is longer than {room} tokens "
            f"(model.max_seq_length {params.model.max_seq_length} less training.max_completion_length "
            f"{params.training.max_completion_length}); the longest has {max(lengths)}."
        )
    if not kept:
        raise TrainingError(
            f"no training problem fits: the shortest prompt has {min(lengths)} tokens and there is room for {room}."
        )
    return problems.select(kept), max(lengths[i] for i in kept)


def _must_recompute(
    policy: Policy, params: RunParams, plan: BatchPlan, longest_prompt: int, tell: Callable[[str], None]
) -> bool:
    """Whether activations are recomputed in the backward pass: always or never where `model.use_gradient_checkpointing`
    says so; with "unsloth" on the transformers backend, where the GPU's free memory does not hold them.
    """
    import torch

    if params.model.use_gradient_checkpointing != "unsloth" or policy.backend != "transformers":
        return bool(params.model.use_gradient_checkpointing)
    completion = params.training.max_completion_length
    shape = TextShape.of(policy.model.config.text_config)
    needed = kept_activations(shape, plan.per_device_train_batch_size, longest_prompt + completion, completion)
    free, total = torch.cuda.mem_get_info()
    if not fits(needed, free, total):
        return True
    tell(
        f"Activations are kept for the backward pass, which saves a second forward pass: {needed / GIB:.1f} GiB of "
        f"{free / GIB:.1f} GiB free. model.use_gradient_checkpointing=true recomputes them always."
    )
    return False


def train(
    policy: Policy,
    problems: ProblemSets,
    params: RunParams,
    run: RunDirectory,
    *,
    on_log: Callable[[dict], None] | None = None,
) -> TrainingResult:
    """Train the policy's adapter with GRPO and leave everything in the run directory.

    Args:
        policy: from `load_policy(params.model, params.lora, seed=params.training.seed)`.
        problems: from `data.load_problems`; `problems.train` is used.
        on_log: called with each line of `metrics.jsonl` as it is written, with `max_steps` added.

    Writes `metrics.jsonl`, `samples.jsonl` with `images/`, `checkpoints/`, `final_model/` and the manifest. A run that
    was interrupted goes on from its last checkpoint when `training.resume` is true.

    Raises:
        ParamsError: the batch arithmetic or `training.grpo` does not work out (before anything is computed).
        TrainingError: the GPU's memory does not suffice, or no problem fits.
    """
    import torch
    from trl import GRPOConfig

    plan = params.training.batch_plan(num_processes=num_processes())
    on_gpu = torch.cuda.is_available()
    arguments = grpo_arguments(params, plan, run, on_gpu=on_gpu)
    never = never_sampled_ids(policy.processor)
    if not params.model.fast_inference:
        arguments["generation_kwargs"].setdefault("suppress_tokens", never)
    else:
        arguments["generation_kwargs"].setdefault("logit_bias", dict.fromkeys(never, -100.0))
    config = GRPOConfig(**arguments)

    checkpoint = _last_checkpoint(run) if params.training.resume else None
    resumed_from = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    is_main = config.process_index == 0
    tell, warn = (run.add_notice, run.add_warning) if is_main else (_unsaid, _unsaid)  # the manifest has one writer
    if is_main:
        _start_records(run, params, problems, resumed_from)
    for notice in [*problems.notices, *policy.notices, *plan.notices]:
        tell(notice)
    fitting, longest = drop_overlong(grpo_dataset(problems.train, params), policy, params, warn)
    dataset = decode_once(fitting)

    trainer_class, generating = recording_trainer_class(), contextlib.nullcontext()
    if params.model.fast_inference:
        engine = start_engine(
            policy, params.model, completions=max(64, plan.per_device_train_batch_size * config.steps_per_generation)
        )
        report, warning = verify(policy, engine, dataset[:8]["prompt"], dataset[:8]["image"])
        if is_main:
            run.update_manifest(parity=dataclasses.asdict(report))
        if warning:
            warn(warning)
        if policy.backend == "transformers":
            trainer_class, generating = (
                weights_from_the_loss(trainer_class),
                generating_with(engine),
            )
    if config.gradient_checkpointing and not _must_recompute(policy, params, plan, longest, tell):
        arguments["gradient_checkpointing"] = config.gradient_checkpointing = False
    with generating:
        trainer = trainer_class(
            model=policy.model,
            processing_class=policy.processor,
            args=config,
            reward_funcs=make_reward_funcs(params.reward, max_completion_length=params.training.max_completion_length),
            train_dataset=dataset,
            callbacks=[_metrics_callback(run, on_log)] if is_main else None,
        )
    if params.model.load_in_4bit:
        keep_adapter_in_float32(policy.model)
    if config.gradient_checkpointing and policy.backend == "transformers":
        log_probs_in_chunks(trainer)
    _drop_printer(trainer)
    trainer.record_to(SampleWriter(run, resume_step=resumed_from) if is_main else None, delimiters_of(params.reward))
    if is_main:
        record_configuration(run, arguments, trainer.args, policy, plan, len(dataset))

    started = time.perf_counter()
    try:
        with looking_once(policy.model, policy.processor), _fast_norms(policy):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            _out_of_memory(error, params, trainer.state.global_step, recomputes=config.gradient_checkpointing)
        ) from error
    seconds = time.perf_counter() - started

    policy.model = trainer.accelerator.unwrap_model(trainer.model)
    if is_main:
        save_final_model(policy, run.final_model_dir)
        run.update_manifest(timings={"training_seconds": round(seconds, 2)})
        _warn_about_signal(run)
    return TrainingResult(trainer.state.global_step, seconds, run.final_model_dir, adapter_norm(policy), resumed_from)


def _unsaid(sentence: str) -> None:
    """What a process that is not the first has to say, the first says too."""


def _fast_norms(policy: Policy) -> contextlib.AbstractContextManager:
    """One kernel a norm where the policy is transformers' own on a GPU; Unsloth has its own."""
    return fused_norms(policy.model) if policy.backend == "transformers" else contextlib.nullcontext()


def train_if_missing(params: RunParams, run: RunDirectory) -> bool:
    """Make `final_model/` where an earlier notebook has not: True if it had to be trained now."""
    if (run.final_model_dir / "adapter_config.json").is_file():
        return False
    check(params)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, load_problems(params.dataset), params, run, on_log=log_line)
    return True


def log_line(metrics: dict) -> None:
    """Print one readable line about a tenth as often as there are steps, and at the first and the last."""
    step, total = metrics["step"], metrics["max_steps"]
    every = max(1, total // 10)
    if step == 1 or step % every == 0 or step == total:
        left = (total - step) * metrics["seconds_per_step"]
        functions = {k.split("/")[1]: v for k, v in metrics.items() if k.startswith("rewards/") and k.endswith("/mean")}
        parts = ", ".join(f"{name} {value:.2f}" for name, value in functions.items() if value is not None)
        print(
            f"step {step:>{len(str(total))}}/{total}  reward {metrics['reward']:.2f} ({parts})  "
            f"{metrics['completions/mean_length']:.0f} tokens  {metrics['seconds_per_step']:.1f} s/step  {left / 60:.1f} min left",
            flush=True,
        )


def _last_checkpoint(run: RunDirectory) -> Path | None:
    found = [p for p in run.checkpoints_dir.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def _start_records(run: RunDirectory, params: RunParams, problems: ProblemSets, resumed_from: int) -> None:
    """A resumed run keeps its lines up to the checkpoint; a new one sets earlier results aside, so that nothing is
    lost.
    """
    if resumed_from:
        run.write_jsonl(
            run.metrics_path, [line for line in run.read_jsonl(run.metrics_path) if line["step"] <= resumed_from]
        )
    elif any(path.exists() for path in (run.metrics_path, run.samples_path, run.final_model_dir)):
        run.set_aside()
    run.record_run(params)
    run.update_manifest(dataset=problems.as_manifest())


def _metrics_callback(run: RunDirectory, on_log: Callable[[dict], None] | None) -> Any:
    from transformers import TrainerCallback

    class MetricsCallback(TrainerCallback):
        """Writes TRL's metrics, one line a logging step."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.first_step = time.perf_counter(), state.global_step

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "reward" not in logs:
                return  # the summary at the end of training carries no rewards
            line = {"step": state.global_step, "time": time.time(), **logs}
            run.append_jsonl(run.metrics_path, line)
            if on_log:
                steps = max(1, state.global_step - self.first_step)
                pace = (time.perf_counter() - self.started) / steps
                on_log({**line, "max_steps": state.max_steps, "seconds_per_step": pace})

    return MetricsCallback()


def _drop_printer(trainer: Any) -> None:
    """transformers prints each log as a dictionary when its progress bar is off; ours is the one that is read."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _warn_about_signal(run: RunDirectory) -> None:
    """Warnings that a reader of the curves should not have to find alone."""
    lines = run.read_jsonl(run.metrics_path)
    if not lines:
        return
    without = sum(line.get("frac_reward_zero_std") or 0 for line in lines) / len(lines)
    if without > 0.8:
        run.add_warning(
            f"In {without:.0%} of the groups all completions earned the same reward: they carry no signal. Raise num_generations or the "
            "temperature, or use problems that the policy solves sometimes."
        )
    cut = sum(line.get("completions/clipped_ratio") or 0 for line in lines) / len(lines)
    if cut > 0.3:
        run.add_warning(
            f"{cut:.0%} of the completions were cut off at max_completion_length: they cannot earn the solution's reward."
        )
    if all(not line.get("grad_norm") for line in lines):
        run.add_warning("Every gradient was 0: the policy has not learnt anything in this run.")


def _out_of_memory(error: Exception, params: RunParams, step: int, *, recomputes: bool) -> str:
    training, model = params.training, params.model
    ways = [] if recomputes else ["model.use_gradient_checkpointing=true"]
    if training.num_generations > 2:
        ways.append(f"training.num_generations={max(2, training.num_generations // 2)}")
    ways.append(f"training.max_completion_length={training.max_completion_length // 2}")
    if not model.load_in_4bit:
        ways.append("model.load_in_4bit=true")
    if model.fast_inference:
        ways.append(f"model.gpu_memory_utilization={round(model.gpu_memory_utilization * 0.7, 2)}")
    return (
        f"The GPU ran out of memory at step {step + 1} ({str(error).splitlines()[0]}). Try, in this order: "
        + ", ".join(f"--set {way}" for way in ways)
        + ". Checkpoints so far are kept; --set training.resume=true goes on from the last one."
    )
