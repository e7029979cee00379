"""The loop: prepare the problems, start the generation, build the trainer, run it, save what was learnt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import (
    Policy,
    adapter_norm,
    keep_adapter_in_float32,
    load_policy,
    load_weights,
    never_sampled_ids,
    save_final_model,
    start_engine,
    verify,
    which_fit,
)
from nbhelpers.problems import ProblemSets, decode_once, grpo_dataset, load_problems
from nbhelpers.rewards import make_reward_funcs
from nbhelpers.runs import RunDirectory, SampleWriter, check_libraries, log_into, read_seal, stage, writing
from nbhelpers.training import inside_trl, recording, resuming, selecting, stopping
from nbhelpers.training.alarm_rules import alarms
from nbhelpers.training.card import write_card
from nbhelpers.training.configuration import (
    TrainingError,
    grpo_arguments,
    grpo_config,
    is_first_process,
    launched,
    num_processes,
    record_configuration,
)
from nbhelpers.training.fitting import must_recompute, out_of_memory, rehearsal_callback, row_lengths
from nbhelpers.training.launching import MetricsFollower, beside_processes, launch, out_of_the_way
from nbhelpers.training.packed import packs
from nbhelpers.training.vision_cache import looking_once


@dataclass(frozen=True)
class TrainingResult:
    """What a training run leaves: steps done, seconds, where the adapter lies, and how far it moved."""

    steps: int
    seconds: float
    final_model: Path
    adapter_norm: float
    resumed_from: int


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
        policy: from `load_policy(params.model, params.lora, params.training)`.
        problems: from `load_problems`; `problems.train` is used.
        on_log: called with each line of `metrics.jsonl` as it is written, with `max_steps` and `seconds_per_step`.

    Writes `metrics.jsonl`, `samples.jsonl` with `images/`, `checkpoints/`, `final_model/` and the manifest. With
    `training.resume` a run that was interrupted goes on from its last whole checkpoint, and in one that is finished
    nothing is done but that the policy gets its weights.

    Raises:
        ParamsError: the batch arithmetic or `training.grpo` does not work out (before anything is computed).
        TrainingError: the GPU's memory does not suffice, no problem fits, TRL is not as it was tested, the run that is
            to go on was begun with other settings, or one that begins at step 1 was given a policy that has learnt.
        TrainingStopped: it was interrupted, by SIGINT or SIGTERM.
        RunError: another process is writing in the run directory, or nothing can be written there.
    """
    processes = 1 if launched() else num_processes(params)
    if processes > 1 and not (where := resuming.standing(params, run)).trained:
        steps, seconds = _train_in_processes(policy, params, run, processes, on_log)
        return TrainingResult(steps, seconds, run.final_model_dir, adapter_norm(policy), where.step)
    with writing(run.path, "training") if is_first_process() else contextlib.nullcontext():
        log_into(run.path)
        where = resuming.standing(params, run)
        for sentence in where.notices if is_first_process() else ():
            print(sentence, flush=True)
        if where.trained:
            steps, seconds = _take_what_was_trained(policy, params, run, where)
        else:
            if where.checkpoint is None:
                resuming.refuse_a_trained_policy(policy, run)
            with stopping.ending_in_words(run) if is_first_process() else contextlib.nullcontext():
                steps, seconds = _train(policy, problems, params, run, where, on_log)
    return TrainingResult(steps, seconds, run.final_model_dir, adapter_norm(policy), where.step)


def _train_in_processes(
    policy: Policy, params: RunParams, run: RunDirectory, processes: int, on_log: Any
) -> tuple[int, float]:
    """`train` in other processes, which load the data and the policy themselves; this one gets the weights."""
    with out_of_the_way(policy), stopping.ending_in_words(run):
        launch("nbhelpers.training", params, processes, look=MetricsFollower(run, on_log))
    load_weights(policy, run.final_model_dir)
    sealed = read_seal(run.final_model_dir)
    return sealed["step"], sealed["seconds"]


def _train(
    policy: Policy, problems: ProblemSets, params: RunParams, run: RunDirectory, where: resuming.Standing, on_log: Any
) -> tuple[int, float]:
    untested = check_libraries("trl", error=TrainingError)
    import torch

    plan = params.training.batch_plan(num_processes=num_processes(params))
    never, on_gpu = never_sampled_ids(policy.processor), torch.cuda.is_available()
    arguments = grpo_arguments(params, plan, run, on_gpu=on_gpu, never=never)
    config = grpo_config(arguments)
    is_main = config.process_index == 0
    resuming.refuse_other_data(run, where, problems.fingerprint, plan)
    if where.step:
        resuming.refuse_another_base(run, policy)
    # The manifest has one writer: what another process has to say, the first says too.
    tell, warn = (run.add_notice, run.add_warning) if is_main else [lambda sentence: None] * 2
    if is_main:
        notices = [*problems.notices, *policy.notices, *plan.notices, *untested]
        recording.start_records(run, params, problems, where, notices)

    dataset, lengths, left_out = drop_overlong(grpo_dataset(problems.train, params), policy, params)
    of_pid = dict(zip(dataset["pid"], lengths, strict=True))
    dataset, selection = selecting.set_aside_selection(dataset, params)
    dataset, probes = selecting.set_aside_probes(dataset, params.training.probes)
    lengths = [of_pid[pid] for pid in dataset["pid"]]
    if left_out and is_main:
        run.append_jsonl(run.dropped_path, *left_out)
        warn(f"{len(left_out)} of {len(problems.train)} training problems were left out: {left_out[0]['reason']}")
    dataset = decode_once(dataset)
    generating = _start_generation(policy, params, config, dataset, run if is_main else None)
    if config.gradient_checkpointing and not must_recompute(policy, params, plan, max(lengths), tell):
        arguments["gradient_checkpointing"] = config.gradient_checkpointing = False
    trainer_class = _trainer_class(policy)
    with generating, stage("preparing the trainer"):
        trainer = _build(trainer_class, policy, params, config, dataset)
        trainer.row_lengths = row_lengths(policy, params, config, plan, max(lengths))
    recorder = recording.Recorder(SampleWriter(run, where.step or None) if is_main else None, params.reward.delimiters)
    trainer.on_rollout = recorder
    fresh: dict[str, float] = {}
    if is_main:
        trainer.add_callback(selecting.asking_callback(policy, probes, selection, params, run, where.step, fresh))
        record_configuration(run, arguments, trainer.args, policy, plan, len(dataset))
    recorded = recording.recording_callback(run, params, where.checkpoint, on_log, fresh, is_main=is_main)
    trainer.add_callback(recorded)
    if on_gpu:
        trainer.add_callback(rehearsal_callback(trainer, policy, dataset, lengths, tell))
    trainer.add_callback(stopping.soundness_callback(run, warn))

    _run(trainer, policy, params, where.checkpoint)
    policy.model = trainer.accelerator.unwrap_model(trainer.model)
    step, seconds = trainer.state.global_step, recorded.seconds
    if is_main:
        _keep(policy, params, run, step, seconds)
    return step, seconds


def _keep(policy: Policy, params: RunParams, run: RunDirectory, step: int, seconds: float) -> None:
    """What the end of training leaves: the policy, how long it took, and warnings on what was learnt."""
    selected = selecting.take_selected(policy, params, run, step)
    save_final_model(policy, run.final_model_dir, **resuming.run_facts(params, step, step, seconds), selected=selected)
    run.update_manifest(timings={"training_seconds": seconds})
    write_card(run, params)
    recording.note_state(run, "finished")
    for sentence in alarms(run.read_jsonl(run.metrics_path)):  # which a reader of the curves should not have to find
        run.add_warning(sentence)


def _take_what_was_trained(
    policy: Policy, params: RunParams, run: RunDirectory, where: resuming.Standing
) -> tuple[int, float]:
    """Give the policy the weights of the last step. A run that was killed between its last checkpoint and
    `final_model/` gets that now; where it is there, nothing is written.
    """
    load_weights(policy, where.trained)
    seconds = read_seal(where.trained)["seconds"]
    if where.trained != run.final_model_dir and is_first_process():
        recording.keep_records_up_to(run, where)
        _keep(policy, params, run, where.step, seconds)
    return where.step, seconds


def train_if_missing(params: RunParams, run: RunDirectory) -> bool:
    """Make `final_model/` where an earlier notebook has not: True if it had to be trained now.

    Raises:
        TrainingError: training was interrupted here and `training.resume` does not say to go on, or `final_model/` is
            not of the step that the records have come to.
    """
    if resuming.is_trained(params, run):
        return False
    load_and_train(params)
    return True


def load_and_train(
    params: RunParams, *, on_log: Callable[[dict], None] | None = recording.log_line
) -> tuple[Policy, ProblemSets, TrainingResult]:
    """`train` from the parameters alone: see that they can be trained, load the policy and the problems, train."""
    resuming.check(params)
    model = beside_processes(params, 1 if launched() else num_processes(params))
    policy, problems = load_policy(model, params.lora, params.training), load_problems(params.dataset)
    return policy, problems, train(policy, problems, params, RunDirectory(params.output_dir), on_log=on_log)


def drop_overlong(problems: Any, policy: Policy, params: RunParams) -> tuple[Any, list[int], list[dict]]:
    """The problems whose prompt and completion fit into `model.max_seq_length`, the tokens of each one's prompt, and a
    line of `dropped.jsonl` for each of the others.
    """
    limit, completion = params.model.max_seq_length, params.training.max_completion_length
    kept, lengths = which_fit(policy, problems["prompt"], params)
    reason = (
        f"its prompt is longer than {limit - completion} tokens (model.max_seq_length {limit} less "
        f"training.max_completion_length {completion})"
    )
    pids = problems["pid"] if len(kept) < len(lengths) else []
    left_out = [
        {"source": "training", "row": i, "pid": pids[i], "reason": reason, "tokens": lengths[i]}
        for i in sorted(set(range(len(lengths))) - set(kept))
    ]
    if not kept:
        raise TrainingError(
            f"no training problem fits: the shortest prompt has {min(lengths)} tokens and there is room for "
            f"{limit - completion}."
        )
    return problems.select(kept), [lengths[i] for i in kept], left_out


def _start_generation(
    policy: Policy, params: RunParams, config: Any, dataset: Any, run: RunDirectory | None
) -> contextlib.AbstractContextManager:
    """Start vLLM where it is asked for, and see on eight problems that it and the trainer agree; the first process
    writes down how far. Returns the context to build the trainer in.
    """
    if not params.model.fast_inference:
        return contextlib.nullcontext()
    completions = max(64, config.per_device_train_batch_size * config.steps_per_generation)
    engine = start_engine(policy, params.model, params.training, completions=completions)
    full = {"length": config.max_completion_length, "mode": config.vllm_importance_sampling_mode}
    report, warning = verify(policy, engine, dataset[:8]["prompt"], dataset[:8]["image"], **full)
    if run:
        run.update_manifest(parity=report.as_manifest())
        if warning:
            run.add_warning(warning)
    return contextlib.nullcontext() if policy.backend == "unsloth" else inside_trl.generating_with(engine)


def _trainer_class(policy: Policy) -> type:
    """TRL's trainer with what holds for this run."""
    trainer_class = inside_trl.rollout_trainer_class()
    if policy.decodes_in_groups:
        trainer_class = inside_trl.sampling_in_groups(trainer_class)
    return inside_trl.scoring_in_groups(trainer_class) if packs(policy) else trainer_class


def _build(trainer_class: type, policy: Policy, params: RunParams, config: Any, dataset: Any) -> Any:
    from transformers.trainer_callback import PrinterCallback

    trainer = trainer_class(
        model=policy.model,
        processing_class=policy.processor,
        args=config,
        reward_funcs=make_reward_funcs(params.reward, max_completion_length=params.training.max_completion_length),
        train_dataset=dataset,
    )
    if params.model.load_in_4bit:
        keep_adapter_in_float32(policy.model)
    trainer.remove_callback(PrinterCallback)  # it prints each log as a dictionary; ours is the one that is read
    return trainer


def _run(trainer: Any, policy: Policy, params: RunParams, checkpoint: Path | None) -> None:
    """Train to the end. On a GPU the first step, with what is compiled in it, is a stage of its own."""
    import torch

    try:
        with (
            contextlib.ExitStack() as first,
            looking_once(policy.model, policy.processor),
            stopping.stop_request() as request,
        ):
            trainer.add_callback(inside_trl.rollouts_callback(trainer, lambda: request.by is not None))
            if torch.cuda.is_available():
                first.enter_context(stage("first step, which compiles"))
                trainer.add_callback(recording.after_first_step(first.close))
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError as error:
        sentence = out_of_memory(
            error, params, trainer.state.global_step, recomputes=trainer.args.gradient_checkpointing
        )
        raise TrainingError(sentence) from error
    step, last = trainer.state.global_step, trainer.state.max_steps
    if request.by and step < last:
        raise stopping.TrainingStopped(f"Training was stopped by {request.by} after step {step} of {last}.")
