"""Training without a notebook, in one process or several."""

from __future__ import annotations

import sys

from nbhelpers.params import RunParams
from nbhelpers.policy import load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training.configuration import is_first_process, launched, num_processes
from nbhelpers.training.launching import beside_processes, in_processes, is_followed
from nbhelpers.training.recording import log_line
from nbhelpers.training.resuming import check
from nbhelpers.training.trainer import train


def main(argv: list[str] | None = None) -> int:
    """Train one preset: `python -m nbhelpers.training full --set training.num_processes=auto`, or by a launcher:
    `accelerate launch -m nbhelpers.training full`.
    """
    return in_processes("nbhelpers.training", _train, argv)


def _train(params: RunParams) -> None:
    check(params)
    model = beside_processes(params, 1 if launched() else num_processes(params))
    policy = load_policy(model, params.lora, params.training)
    run, on_log = RunDirectory(params.output_dir), None if is_followed() else log_line
    result = train(policy, load_problems(params.dataset), params, run, on_log=on_log)
    if is_first_process():
        print(f"{result.steps} steps in {result.seconds:.0f} s; adapter in {result.final_model}")


if __name__ == "__main__":
    sys.exit(main())
