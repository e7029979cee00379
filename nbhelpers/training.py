"""GRPO training: TRL's `GRPOTrainer` with this project's parameters, its mends, and a record of everything sampled.

Run by notebook 03, and by `accelerate launch -m nbhelpers.training PRESET [--set section.key=value]` on several GPUs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers import data, gemma_norm, generation, grading, memory, mends, vision_cache
from nbhelpers.params import BatchPlan, ParamsError, RewardParams, RunParams
from nbhelpers.policy import adapter_norm, choose_backend, load_policy, save_final_model, trainable_parameters
from nbhelpers.rewards import make_reward_funcs
from nbhelpers.run_directory import RunDirectory
from nbhelpers.samples import SampleWriter
from nbhelpers.sampling import Policy

PROBLEM_COLUMNS = ("question", "choices", "unit", "precision", "answer", "question_type", "answer_type")


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


def check(params: RunParams) -> BatchPlan:
    """The arithmetic of a step, and what training would refuse, before a model is loaded.

    Raises:
        ParamsError: `training.grpo` names a field that GRPOConfig has not. With the Unsloth backend that is found out
            in `train`, because
            Unsloth has to be imported before TRL.
    """
    if choose_backend(params.model)[0] != "unsloth":
        _refuse_unknown_fields(params.training.grpo)
    return params.training.batch_plan(num_processes=_num_processes())


def _refuse_unknown_fields(grpo: dict[str, Any]) -> None:
    from trl import GRPOConfig

    known = {f.name for f in dataclasses.fields(GRPOConfig)}
    for key in grpo:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f" The nearest is {nearest[0]!r}." if nearest else ""
            raise ParamsError(f"training.grpo names {key!r}, which is no field of TRL's GRPOConfig.{hint}")


def grpo_arguments(params: RunParams, plan: BatchPlan, run: RunDirectory, *, on_gpu: bool) -> dict[str, Any]:
    """The GRPOConfig fields that the parameters mean; `training.grpo` has the last word.

    What is set here although TRL has a default: dr_grpo divides by a constant length and does not scale advantages by
    the group's spread (https://arxiv.org/abs/2503.20783), so `scale_rewards` is "none" with it; bfloat16 only where a
    GPU is.

    Raises:
        ParamsError: `training.grpo` names a field that GRPOConfig has not.
    """
    _refuse_unknown_fields(params.training.grpo)
    training = params.training
    arguments: dict[str, Any] = {
        "output_dir": str(run.checkpoints_dir),
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
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
        "save_steps": training.save_steps or 500,
        "save_strategy": "steps" if training.save_steps else "no",
        "save_total_limit": 2,
        "reward_weights": params.reward.weights,
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu and bool(params.model.use_gradient_checkpointing),
        "use_vllm": params.model.fast_inference,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": params.model.gpu_memory_utilization,
        "vllm_max_model_length": params.model.max_seq_length,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
    }
    arguments.update(training.grpo)
    arguments["generation_kwargs"] = dict(arguments.get("generation_kwargs") or {})
    return arguments


@functools.cache
def _trainer_class() -> type:
    """`GRPOTrainer` of the TRL that is imported (Unsloth replaces it), with a record of each rollout."""
    from accelerate.utils import gather_object
    from trl import GRPOTrainer

    class RecordingGRPOTrainer(GRPOTrainer):
        """Writes every completion with its rewards, verdict and advantage to `samples.jsonl`."""

        def record_to(self, writer: SampleWriter | None, delimiters: grading.Delimiters) -> None:
            self._writer, self._delimiters = writer, delimiters
            self._groups_in_step = (0, 0)

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            start = self.accelerator.process_index * len(prompts)
            self._scored = (inputs, completions, completion_ids_list, rewards[start : start + len(prompts)].tolist())
            return rewards

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                rows, images = self._rollout_rows(output["advantages"].tolist())
                rows, images = gather_object(rows), gather_object(images)
                if self._writer is not None:
                    self._writer.write(self._name_groups(rows), images)
            return output

        def _rollout_rows(self, advantages: list[float]) -> tuple[list[dict], list]:
            inputs, completions, completion_ids, rewards = self._scored
            weights = self.reward_weights.tolist()
            rows = []
            for example, completion, ids, row_rewards, advantage in zip(
                inputs, completions, completion_ids, rewards, advantages, strict=True
            ):
                text = completion if isinstance(completion, str) else completion[0]["content"]
                by_function = {
                    n: None if r != r else r for n, r in zip(self.reward_func_names, row_rewards, strict=True)
                }
                total = sum(w * r for w, r in zip(weights, by_function.values(), strict=True) if r is not None)
                problem = {key: example.get(key) for key in PROBLEM_COLUMNS}
                rows.append(
                    {
                        "step": self.state.global_step + 1,
                        "pid": example["pid"],
                        "kind": example["kind"],
                        **problem,
                        "prompt": _conversation_text(example["prompt"]),
                        "completion": text,
                        "rewards": by_function,
                        "reward": total,
                        "advantage": advantage,
                        "length": len(ids),
                        "truncated": ids[-1] not in self.eos_token_ids,
                        **grade_row(text, problem, self._delimiters),
                    }
                )
            return rows, [example["image"] for example in inputs]

        def _name_groups(self, rows: list[dict]) -> list[dict]:
            step = rows[0]["step"]
            first = self._groups_in_step[1] if self._groups_in_step[0] == step else 0
            for place, row in enumerate(rows):
                row["group"] = f"{step}-{first + place // self.num_generations}"
                row["index"] = place % self.num_generations
            self._groups_in_step = (step, first + len(rows) // self.num_generations)
            return rows

    return RecordingGRPOTrainer


def _conversation_text(conversation: list[dict]) -> str:
    """The words of a prompt, without the picture's place."""
    parts = []
    for message in conversation:
        content = message["content"]
        parts += (
            [content] if isinstance(content, str) else [part["text"] for part in content if part.get("type") == "text"]
        )
    return "\n".join(parts)


def grade_row(completion: str, problem: dict, delimiters: grading.Delimiters, protocol: str = "strict") -> dict:
    """The grader's verdict on one completion as the columns `correct`, `parsed`, `reason`."""
    verdict = grading.grade(
        completion,
        problem["answer"],
        delimiters=delimiters,
        protocol=protocol,
        **{key: problem.get(key) for key in ("choices", "unit", "precision", "question_type", "answer_type")},
    )
    return {"correct": verdict.correct, "parsed": verdict.parsed, "reason": verdict.reason}


def delimiters_of(reward: RewardParams) -> grading.Delimiters:
    return grading.Delimiters(reward.reasoning_start, reward.reasoning_end, reward.solution_start, reward.solution_end)


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
    shape = memory.TextShape.of(policy.model.config.text_config)
    needed = memory.kept_activations(shape, plan.per_device_train_batch_size, longest_prompt + completion, completion)
    free, total = torch.cuda.mem_get_info()
    if not memory.fits(needed, free, total):
        return True
    tell(
        f"Activations are kept for the backward pass, which saves a second forward pass: {needed / memory.GIB:.1f} GiB of "
        f"{free / memory.GIB:.1f} GiB free. model.use_gradient_checkpointing=true recomputes them always."
    )
    return False


def train(
    policy: Policy,
    problems: data.ProblemSets,
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

    plan = params.training.batch_plan(num_processes=_num_processes())
    on_gpu = torch.cuda.is_available()
    arguments = grpo_arguments(params, plan, run, on_gpu=on_gpu)
    never = mends.never_sampled_ids(policy.processor)
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
    fitting, longest = drop_overlong(data.grpo_dataset(problems.train, params), policy, params, warn)
    dataset = data.decode_once(fitting)

    trainer_class, generating = _trainer_class(), contextlib.nullcontext()
    if params.model.fast_inference:
        engine = generation.start_engine(
            policy, params.model, completions=max(64, plan.per_device_train_batch_size * config.steps_per_generation)
        )
        report, warning = generation.verify(policy, engine, dataset[:8]["prompt"], dataset[:8]["image"])
        if is_main:
            run.update_manifest(parity=dataclasses.asdict(report))
        if warning:
            warn(warning)
        if policy.backend == "transformers":
            trainer_class, generating = (
                generation.weights_from_the_loss(trainer_class),
                generation.generating_with(engine),
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
        mends.keep_adapter_in_float32(policy.model)
    if config.gradient_checkpointing and policy.backend == "transformers":
        log_probs_in_chunks(trainer)
    _drop_printer(trainer)
    trainer.record_to(SampleWriter(run, resume_step=resumed_from) if is_main else None, delimiters_of(params.reward))
    if is_main:
        _record_configuration(run, arguments, trainer.args, policy, plan, len(dataset))

    started = time.perf_counter()
    try:
        with vision_cache.looking_once(policy.model, policy.processor), _fast_norms(policy):
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


def log_probs_in_chunks(trainer: Any) -> None:
    """Let TRL take the log-probs without ever holding all logits, whose (tokens, 262208) matrix and copies are 6 GiB
    for four completions of 512 tokens: exact, a little slower, and for where memory is short.

    TRL 1.14.2 offers it as `use_liger_kernel`, which asks for the package liger-kernel, replaces parts of the model,
    and needs none of that for this (`GRPOTrainer._chunked_logps`). It is switched on here after the trainer is built.
    """
    from trl.trainer.grpo_trainer import _ForwardRedirection

    trainer.use_liger_kernel = True
    trainer._forward_redirection = _ForwardRedirection()


def _fast_norms(policy: Policy) -> contextlib.AbstractContextManager:
    """One kernel a norm where the policy is transformers' own on a GPU; Unsloth has its own."""
    return gemma_norm.fused_norms(policy.model) if policy.backend == "transformers" else contextlib.nullcontext()


def train_if_missing(params: RunParams, run: RunDirectory) -> bool:
    """Make `final_model/` where an earlier notebook has not: True if it had to be trained now."""
    if (run.final_model_dir / "adapter_config.json").is_file():
        return False
    check(params)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, data.load_problems(params.dataset), params, run, on_log=log_line)
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


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _take_own_gpu() -> None:
    """Of several processes each works on the GPU of its rank; without this all of them would load the model on the
    first.
    """
    import torch

    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _last_checkpoint(run: RunDirectory) -> Path | None:
    found = [p for p in run.checkpoints_dir.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def _start_records(run: RunDirectory, params: RunParams, problems: data.ProblemSets, resumed_from: int) -> None:
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


def _record_configuration(
    run: RunDirectory, asked: dict, effective: Any, policy: Policy, plan: BatchPlan, problems: int
) -> None:
    """Put the effective GRPOConfig into the manifest, and a notice on each value that a library changed."""
    values = effective.to_dict()
    for key, value in asked.items():
        now = getattr(effective, key, value)
        now = getattr(now, "value", now)
        if key not in {"output_dir", "report_to", "generation_kwargs"} and now != value and not (value == -1 and now):
            run.add_notice(f"{key}: {value!r} was asked for, the library made it {now!r}.")
    run.update_manifest(
        grpo_config={k: v for k, v in values.items() if isinstance(v, (int, float, str, bool, list, dict, type(None)))},
        batch={"completions_per_step": plan.completions_per_step, "prompts_per_step": plan.prompts_per_step},
        backend=policy.backend,
        trainable_parameters=trainable_parameters(policy),
        training_problems=problems,
    )


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


def main(argv: list[str] | None = None) -> int:
    """Train one preset without a notebook: `accelerate launch -m nbhelpers.training full --set training.max_steps=5`."""
    import argparse
    import sys

    from nbhelpers.params import parse_overrides

    parser = argparse.ArgumentParser(prog="python -m nbhelpers.training", description=main.__doc__)
    parser.add_argument("preset", nargs="?", default="smoke")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--output-dir")
    arguments = parser.parse_args(argv)
    try:
        params = RunParams.load(
            arguments.preset, output_dir=arguments.output_dir, **parse_overrides(arguments.overrides)
        )
        run = RunDirectory(params.output_dir)
        check(params)
        _take_own_gpu()
        policy = load_policy(params.model, params.lora, seed=params.training.seed)
        result = train(policy, data.load_problems(params.dataset), params, run, on_log=log_line)
    except (ParamsError, TrainingError, RuntimeError, OSError) as error:
        print(f"nbhelpers.training: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":
        print(f"{result.steps} steps in {result.seconds:.0f} s; adapter in {result.final_model}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
