"""What training leaves in the run directory: each completion with its rewards, the metrics, and warnings on both."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbhelpers.grading import GRADER_VERSION, PROBLEM_COLUMNS
from nbhelpers.params import Delimiters, RunParams
from nbhelpers.policy import grade_row
from nbhelpers.problems import ProblemSets
from nbhelpers.rewards import own_code
from nbhelpers.runs import (
    RunDirectory,
    SampleWriter,
    TokenLogProbs,
    environment_differences,
    progress_line,
    read_seal,
    seal,
)
from nbhelpers.training.configuration import TrainingError
from nbhelpers.training.resuming import Standing, run_facts


class Recorder:
    """Writes the completions of a `RolloutTrainer` with rewards, verdict and advantage to `samples.jsonl`.

    Args:
        writer: of the first process; None in the others, whose rows go to it.
    """

    def __init__(self, writer: SampleWriter | None, delimiters: Delimiters):
        self._writer, self._delimiters = writer, delimiters
        self._groups_in_step = (0, 0)  # step, groups of it so far

    def __call__(self, trainer: Any, inputs: list[dict], completions, completion_ids, rewards, advantages) -> None:
        from accelerate.utils import gather_object

        rows = [
            self._row(trainer, *one)
            for one in zip(inputs, completions, completion_ids, rewards, advantages, strict=True)
        ]
        rows, images = gather_object(rows), gather_object([example["image"] for example in inputs])
        sampled = gather_object(self._sampled(trainer, completion_ids))
        if self._writer is not None:
            self._name_groups(rows, trainer.num_generations)
            self._writer.write(rows, images, sampled)

    @staticmethod
    def _sampled(trainer: Any, completion_ids: Sequence[list[int]]) -> list[TokenLogProbs | None]:
        """vLLM's log-probs of each completion; None where the policy sampled itself."""
        values = trainer.sampled_log_probs
        if values is None:
            return [None] * len(completion_ids)
        decode = trainer.processing_class.tokenizer.decode
        return [
            TokenLogProbs(
                [len(decode([token], skip_special_tokens=True)) for token in ids], row[: len(ids)].float().tolist()
            )
            for ids, row in zip(completion_ids, values, strict=True)
        ]

    def _row(
        self, trainer: Any, example: dict, completion, ids: list[int], rewards: list[float], advantage: float
    ) -> dict:
        text = completion if isinstance(completion, str) else completion[0]["content"]
        # A function that could not judge gave NaN.
        paid = {n: None if r != r else r for n, r in zip(trainer.reward_func_names, rewards, strict=True)}
        weighted = zip(trainer.reward_weights.tolist(), paid.values(), strict=True)
        problem = {key: example.get(key) for key in PROBLEM_COLUMNS}
        return {
            "step": trainer.state.global_step + 1,
            "pid": example["pid"],
            "kind": example["kind"],
            **problem,
            "prompt": _conversation_text(example["prompt"]),
            "completion": text,
            "rewards": paid,
            "reward": sum(weight * reward for weight, reward in weighted if reward is not None),
            "advantage": advantage,
            "length": len(ids),
            "truncated": ids[-1] not in trainer.eos_token_ids,
            **grade_row(text, problem, self._delimiters),
        }

    def _name_groups(self, rows: list[dict], num_generations: int) -> None:
        step = rows[0]["step"]
        first = self._groups_in_step[1] if self._groups_in_step[0] == step else 0
        for place, row in enumerate(rows):
            row["group"] = f"{step}-{first + place // num_generations}"
            row["index"] = place % num_generations
        self._groups_in_step = (step, first + len(rows) // num_generations)


def _conversation_text(conversation: list[dict]) -> str:
    """The words of a prompt, without the picture's place."""
    contents = [message["content"] for message in conversation]
    parts = [[{"type": "text", "text": content}] if isinstance(content, str) else content for content in contents]
    return "\n".join(part["text"] for content in parts for part in content if part.get("type") == "text")


def start_records(
    run: RunDirectory, params: RunParams, problems: ProblemSets, where: Standing, notices: Sequence[str]
) -> None:
    """A run that goes on keeps its lines up to the checkpoint; what was made of a later or an earlier policy moves to
    `previous/`, so that nothing is lost, and that is said.
    """
    code = own_code(params.reward)
    results = (run.metrics_path, run.samples_path, run.final_model_dir, run.checkpoints_dir)
    if where.step:
        keep_records_up_to(run, where)
    elif any(path.exists() for path in results):
        _say_what_moved(run.set_aside())
    earlier = run.read_manifest() if where.step else {}
    run.record_run(params, goes_on=where.step > 0)
    run.update_manifest(dataset=problems.as_manifest(), grader=GRADER_VERSION, own_rewards=code)
    if other := environment_differences(earlier, run.read_manifest()) if earlier else ():
        sentence = f"After step {where.step} the run went on in another environment: {'; '.join(other)}."
        print(sentence, flush=True)
        other_rewards = any(line.startswith("own_rewards") for line in other)  # mended, it may be, but not the same
        (run.add_warning if other_rewards else run.add_notice)(sentence)
    run.write_jsonl(run.dropped_path, problems.dropped_rows)
    note_state(run, "running")
    for notice in [*notices, *where.notices]:
        run.add_notice(notice)


def note_state(run: RunDirectory, state: str, why: str = "") -> None:
    """Put into the manifest how training stands: `running`, `finished`, `stopped` or `failed`, since when, and why.

    `running` without a process that holds the directory's lock: it was killed.
    """
    with contextlib.suppress(OSError):  # the disk may be what has failed
        at = datetime.now(UTC).isoformat(timespec="seconds")
        run.update_manifest(training={"state": state, "at": at, "why": why})


def keep_records_up_to(run: RunDirectory, where: Standing) -> None:
    """Only the records of the steps that are kept stay; what was made of another step's policy moves to `previous/`."""
    for path in (run.metrics_path, run.samples_path):
        run.write_jsonl(path, [row for row in run.read_jsonl(path) if row["step"] <= where.step])
    made = (run.final_model_dir, *run.evaluation_files, run.report_path)
    _say_what_moved(run.set_aside(*made, *where.damaged))


def _say_what_moved(folder: Path | None) -> None:
    if folder:
        print(f"Moved to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}.", flush=True)


def recording_callback(
    run: RunDirectory, params: RunParams, resumed: Path | None, on_log: Callable[[dict], None] | None,
    fresh: dict[str, float], *, is_main: bool,
) -> Any:  # fmt: skip
    """A callback for the trainer of every process. The first writes `metrics.jsonl`, calls `on_log`, and seals a
    checkpoint that all have written their part of.

    Args:
        resumed: the checkpoint that training goes on from; the seconds spent up to it are counted in.
        fresh: what others found since the last line of the metrics; it is emptied.
    """
    from accelerate import PartialState
    from transformers import TrainerCallback

    earlier = read_seal(resumed)["seconds"] if resumed else 0

    class RecordingCallback(TrainerCallback):
        @property
        def seconds(self) -> float:
            """Spent on training so far."""
            return round(earlier + time.perf_counter() - self.started, 2)

        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.first_step = time.perf_counter(), state.global_step
            if is_main:
                run.update_manifest(max_steps=state.max_steps)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not is_main or not logs or "loss" not in logs:
                return  # the summary at the end of training is of no step; a step on an old rollout has no rewards
            if not run.manifest_path.is_file():
                raise TrainingError(
                    f"{run.path} was moved or deleted while training wrote there: its manifest.json has gone. What has "
                    "been written since lies there alone."
                )
            line = {"step": state.global_step, "time": time.time(), **logs, **fresh}
            fresh.clear()
            run.append_jsonl(run.metrics_path, line)
            if on_log:
                pace = (time.perf_counter() - self.started) / max(1, state.global_step - self.first_step)
                on_log({**line, "max_steps": state.max_steps, "seconds_per_step": pace})

        def on_save(self, args, state, control, **kwargs):
            PartialState().wait_for_everyone()
            if is_main:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                seal(folder, **run_facts(params, state.global_step, state.max_steps, self.seconds))

    return RecordingCallback()


def after_first_step(call: Callable[[], None]) -> Any:
    """A callback for the trainer that calls `call` after each step, the first time before any line of metrics."""
    from transformers import TrainerCallback

    class AfterFirstStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            call()

    return AfterFirstStep()


def log_line(metrics: dict) -> None:
    """Print one readable line about a tenth as often as there are steps, and at the first and the last."""
    step, total = metrics["step"], metrics["max_steps"]
    if step in (1, total) or step % max(1, total // 10) == 0:
        print(progress_line(metrics), flush=True)
