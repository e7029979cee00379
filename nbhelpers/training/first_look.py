"""What the policy answers before any training, by as many processes as will train it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from nbhelpers.params import RunParams
from nbhelpers.policy import Completion, first_that_fit, load_policy, load_processor
from nbhelpers.problems import ProblemSets, conversation, load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training.configuration import num_processes, place_among_processes
from nbhelpers.training.launching import in_processes, launch, meeting

PROBLEMS = 64


def first_problems(problems: ProblemSets, params: RunParams) -> list[dict]:
    """The training problems of a first look: the first 64 whose prompt fits, or all."""
    return first_that_fit(load_processor(params.model), problems.train, params, PROBLEMS)


def first_answers(
    params: RunParams, problems: Sequence[dict], *, progress: Callable[[int], None] | None = None
) -> list[list[Completion]]:
    """`num_generations` completions of the policy as it is for each of `first_problems`: the same ones by whatever
    number of processes. The policy is loaded for this, and gives its memory back.

    Args:
        progress: called with the number of problems answered since its last call.
    """
    if (processes := num_processes(params)) == 1:
        return _answers(params, problems, 0, progress)
    launch("nbhelpers.training.first_look", params, processes)
    parts = [_part(params, rank) for rank in range(processes)]
    rows = [row for part in parts for row in json.loads(part.read_text(encoding="utf-8"))]
    for part in parts:
        part.unlink()
    if progress:
        progress(len(rows))
    return [[Completion(**{**one, "ids": tuple(one["ids"])}) for one in group] for group in rows]


def _answers(params: RunParams, problems: Sequence[dict], first: int, progress: Callable | None = None) -> list[list]:
    policy, training = load_policy(params.model), params.training
    try:
        return policy.sample(
            [conversation(problem, params.reward) for problem in problems], [problem["image"] for problem in problems],
            max_new_tokens=training.max_completion_length, temperature=training.temperature, seed=training.seed,
            samples_per_problem=training.num_generations, first=first, progress=progress,
        )  # fmt: skip
    finally:
        policy.release()


def _part(params: RunParams, rank: int) -> Path:
    return RunDirectory(params.output_dir).path / "logs" / f"first-answers-{rank}.json"


def _answer_a_part(params: RunParams) -> None:
    problems, (rank, ranks) = first_problems(load_problems(params.dataset), params), place_among_processes()
    own = range(len(problems) * rank // ranks, len(problems) * (rank + 1) // ranks)
    with meeting():
        groups = _answers(params, problems[own.start : own.stop], own.start) if own else []
    rows = [[asdict(completion) for completion in group] for group in groups]
    _part(params, rank).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(in_processes("nbhelpers.training.first_look", _answer_a_part))
