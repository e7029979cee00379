"""Training without a notebook, in one process or several."""

from __future__ import annotations

import sys

from nbhelpers.params import RunParams
from nbhelpers.training.configuration import is_first_process
from nbhelpers.training.launching import in_processes, is_followed
from nbhelpers.training.recording import log_line
from nbhelpers.training.trainer import load_and_train


def main(argv: list[str] | None = None) -> int:
    """Train one preset: `python -m nbhelpers.training full --set training.num_processes=auto`, or by a launcher:
    `accelerate launch -m nbhelpers.training full`.
    """
    return in_processes("nbhelpers.training", _train, argv)


def _train(params: RunParams) -> None:
    *_, result = load_and_train(params, on_log=None if is_followed() else log_line)
    if is_first_process():
        print(f"{result.steps} steps in {result.seconds:.0f} s; adapter in {result.final_model}")


if __name__ == "__main__":
    sys.exit(main())
