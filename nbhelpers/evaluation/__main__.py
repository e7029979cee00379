"""Evaluation in several processes: each answers a part of the problems, the first one writes."""

from __future__ import annotations

import sys

from nbhelpers.evaluation.evaluating import evaluate
from nbhelpers.params import RunParams
from nbhelpers.policy import load_final_model
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training import in_processes, meeting


def _evaluate(params: RunParams) -> None:
    run = RunDirectory(params.output_dir)
    with meeting():
        policy = load_final_model(run.final_model_dir, params.model)
        evaluate(policy, load_problems(params.dataset), params, run, progress=_say)


def _say(what: str, done: int, count: int) -> None:
    print(f"{what}: {done} of {count} problems answered", flush=True)


if __name__ == "__main__":
    sys.exit(in_processes("nbhelpers.evaluation", _evaluate))
