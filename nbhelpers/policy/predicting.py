"""Predicting: a policy's completions of problems, graded, as rows of `predictions.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from nbhelpers.grading import GRADING_COLUMNS, PROBLEM_COLUMNS, Delimiters, check_format, grade
from nbhelpers.params import RunParams
from nbhelpers.policy.policy import Policy, PolicyError
from nbhelpers.problems import conversation, kind_of, prompt_text
from nbhelpers.runs import RunDirectory


def predict(
    policy: Policy,
    problems: Any,
    params: RunParams,
    run: RunDirectory,
    *,
    phase: str,
    temperature: float = 0.0,
    samples_per_problem: int = 1,
    seed: int | None = None,
    plain: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict]:
    """One graded prediction (a row of `predictions.jsonl`) per problem and sample.

    Args:
        temperature: 0 for greedy decoding.
        seed: of the sampling; by default training's.
        plain: ask without the output format.
        progress: called with the phase, the problems answered so far and all of them.
    """
    problems = list(problems)  # a picture is decoded each time that a data set is asked for it
    form = None if plain else params.reward
    conversations = [conversation(problem, form) for problem in problems]
    images = [problem["image"] for problem in problems]
    done = 0

    def report(finished: int) -> None:
        nonlocal done
        done += finished
        if progress:
            progress(phase, done, len(conversations))

    completions = policy.sample(
        conversations,
        images,
        max_new_tokens=params.training.max_completion_length,
        temperature=temperature,
        samples_per_problem=samples_per_problem,
        seed=params.training.seed if seed is None else seed,
        progress=report,
    )
    rows = []
    for problem, image, group in zip(problems, images, completions, strict=True):
        shared = {"phase": phase, "pid": problem["pid"], "kind": kind_of(problem)}
        shared |= {key: problem.get(key) for key in PROBLEM_COLUMNS}
        shared |= {"image": run.image_file(image), "prompt": prompt_text(problem, form)}
        for completion in group:
            blocks = check_format(completion.text, params.reward.delimiters)
            written = {"completion": completion.text, "length": completion.length, "truncated": completion.truncated}
            verdict = grade_row(completion.text, problem, params.reward.delimiters, params.evaluation.protocol)
            rows.append({**shared, **written, "format_ok": blocks.reasoning and blocks.solution, **verdict})
    return rows


def which_fit(policy: Policy, conversations: Sequence[list[dict]], params: RunParams) -> tuple[list[int], list[int]]:
    """The places of the prompts that leave room for a completion in `model.max_seq_length`, and every prompt's tokens.

    A prompt is never cut, because a cut through its image tokens makes every later step fail.
    """
    room = params.model.max_seq_length - params.training.max_completion_length
    lengths = [policy.prompt_length(one) for one in conversations]
    return [place for place, length in enumerate(lengths) if length <= room], lengths


def first_that_fit(policy: Policy, problems: Any, params: RunParams, count: int) -> list[dict]:
    """The first `count` problems, with their pictures, whose prompt leaves room for a completion. One that does not
    would take the memory of thousands of tokens.

    Args:
        problems: a data set with the columns of a problem.

    Raises:
        PolicyError: none does.
    """
    rows = problems.remove_columns("image")
    fit = (place for place, row in enumerate(rows) if which_fit(policy, [conversation(row, params.reward)], params)[0])
    if not (places := list(islice(fit, count))):
        raise PolicyError(
            f"none of {len(problems)} prompts leaves room for a completion of training.max_completion_length "
            f"{params.training.max_completion_length} in model.max_seq_length {params.model.max_seq_length}: raise the "
            "one or lower the other."
        )
    return list(problems.select(places))


def grade_row(completion: str, problem: dict, delimiters: Delimiters, protocol: str = "strict") -> dict:
    """The grader's verdict on one completion as the columns `correct`, `parsed`, `reason`."""
    columns = {key: problem.get(key) for key in GRADING_COLUMNS}
    verdict = grade(completion, problem["answer"], delimiters=delimiters, protocol=protocol, **columns)
    return {"correct": verdict.correct, "parsed": verdict.parsed, "reason": verdict.reason}
