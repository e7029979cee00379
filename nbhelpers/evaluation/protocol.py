"""The frozen protocol: what an evaluation was made under, so that it can be repeated and differences can be named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nbhelpers.evaluation.answering import Pass, batch_of
from nbhelpers.grading import GRADER_VERSION, PROBLEM_COLUMNS
from nbhelpers.params import PlainError, RunParams, then_and_now
from nbhelpers.policy import Policy, weights_digests, which_fit
from nbhelpers.problems import ProblemSets, conversation, prompt_text
from nbhelpers.runs import RunDirectory, hardware, versions


class EvaluationStopped(PlainError, RuntimeError):
    """Evaluation was interrupted and can go on."""

    exit_code = 130


class EvaluationError(PlainError, RuntimeError):
    """An evaluation cannot be made or repeated; the message says why and what to do."""


def choose_problems(policy: Policy, problems: ProblemSets, params: RunParams) -> tuple[Any, dict[str, Any]]:
    """The problems that are evaluated, and those left out because their prompt leaves no room: {"overlong": how many,
    "pids": [...], "room": tokens}.

    Raises:
        EvaluationError: no prompt fits.
    """
    chosen, wanted = problems.evaluation, params.evaluation.num_samples
    if wanted is not None:
        chosen = chosen.select(range(min(wanted, len(chosen))))
    rows = list(chosen.remove_columns("image"))
    kept, lengths = which_fit(policy, [conversation(row, params.reward) for row in rows], params)
    room = params.model.max_seq_length - params.training.max_completion_length
    if not kept:
        raise EvaluationError(
            f"no evaluation problem fits: the shortest prompt has {min(lengths)} tokens and there is room for {room} "
            "(model.max_seq_length less training.max_completion_length): raise the one or lower the other."
        )
    out = sorted(set(range(len(rows))) - set(kept))
    left_out = {"overlong": len(out), "pids": [rows[place]["pid"] for place in out], "room": room}
    return (chosen.select(kept) if out else chosen), left_out


def conditions(
    policy: Policy, problems: ProblemSets, chosen: Any, params: RunParams, passes: Sequence[Pass]
) -> dict[str, Any]:
    """The record of an evaluation: model, data, prompts, problems with a digest of all that the model and the grader
    see of each, passes, grader, libraries and machine.
    """
    import torch

    settings, first = params.evaluation, chosen[0]
    found = hardware()
    record = {
        "model": {
            "name": params.model.name,
            "revision": policy.revision,
            "backend": policy.backend,
            "sampler": "vllm" if params.model.fast_inference else "transformers",
            "load_in_4bit": params.model.load_in_4bit,
            **weights_digests(policy),
        },
        "data": {"source": problems.source, "revisions": problems.revisions, "image_size": params.dataset.image_size},
        "prompts": {
            "training": policy.prompt_text(conversation(first, params.reward)),
            "plain": policy.prompt_text(conversation(first, None)),
        },
        "problems": {row["pid"]: problem_digest(row, params) for row in chosen},
        "passes": [one.as_record() for one in passes],
        "decoding": {
            "max_new_tokens": params.training.max_completion_length,
            "seed": params.training.seed,
            "problems_per_batch": batch_of(params),
            # vLLM's own switch: a text then depends on its prompt alone, not on what is computed beside it.
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT") == "1",
        },
        "grader": {"version": GRADER_VERSION, "protocol": settings.protocol},
        "versions": versions(),
        "machine": {
            "cpu": found["cpu"],
            "gpus": [gpu["name"] for gpu in found["gpus"]],
            "threads": torch.get_num_threads(),
        },
    }
    return json.loads(json.dumps(record))  # as a file gives it back


def problem_digest(problem: Mapping[str, Any], params: RunParams) -> str:
    """Twelve hexadecimal digits of what is asked and how it is graded: words, picture, answer and its columns."""
    image = problem["image"]
    content = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes())
    columns = [problem[key] for key in PROBLEM_COLUMNS]
    content.update(json.dumps([prompt_text(problem, params.reward), *columns], default=str).encode())
    return content.hexdigest()[:12]


def begin(run: RunDirectory, record: Mapping[str, Any]) -> bool:
    """Ready the run's files: True where an evaluation under this very record was interrupted and goes on. Others, and
    finished ones, move to `previous/`.
    """
    goes_on = run.read_json(run.evaluating_path) == record and not run.evaluation_path.exists()
    if not goes_on:
        run.set_aside(*run.evaluation_files)
        run.write_json(run.evaluating_path, record)
    return goes_on


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing in which two records differ; none where an evaluation is repeated as it was."""
    sentences = then_and_now(
        *({key: part for key, part in record.items() if key != "problems"} for record in (then, now))
    )
    asked, again = then.get("problems", {}), now.get("problems", {})
    gone, new = len(asked.keys() - again.keys()), len(again.keys() - asked.keys())
    changed = [pid for pid in asked.keys() & again.keys() if asked[pid] != again[pid]]
    if gone or new:
        sentences.append(f"problems: {gone} of {len(asked)} are gone, {new} are new.")
    if changed:
        sentences.append(f"problems: {len(changed)} are not as they were, such as {min(changed)}.")
    return sentences
