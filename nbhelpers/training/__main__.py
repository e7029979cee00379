"""Training without a notebook, for launchers of several processes."""

from __future__ import annotations

import argparse
import os
import sys

from nbhelpers.params import ParamsError, RunParams, parse_overrides
from nbhelpers.policy import load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory
from nbhelpers.training.configuration import is_first_process
from nbhelpers.training.recording import log_line
from nbhelpers.training.resuming import check
from nbhelpers.training.stopping import TrainingStopped
from nbhelpers.training.trainer import train


def _take_own_gpu() -> None:
    """Of several processes each works on the GPU of its rank; without this all of them would load the model on the
    first.
    """
    import torch

    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def main(argv: list[str] | None = None) -> int:
    """Train one preset: `accelerate launch -m nbhelpers.training full --set training.max_steps=5`."""
    parser = argparse.ArgumentParser(prog="python -m nbhelpers.training", description=main.__doc__)
    parser.add_argument("preset", nargs="?", default="smoke")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides")
    parser.add_argument("--output-dir")
    parser.add_argument("--trust-code", action="store_true", help="let the parameter file bring code of its own")
    arguments = parser.parse_args(argv)
    try:
        sections = parse_overrides(arguments.overrides)
        trusted = {"source": "--set", "trust_code": arguments.trust_code}
        params = RunParams.load(arguments.preset, output_dir=arguments.output_dir, **trusted, **sections)
        run = RunDirectory(params.output_dir)
        check(params)
        _take_own_gpu()
        policy = load_policy(params.model, params.lora, params.training)
        result = train(policy, load_problems(params.dataset), params, run, on_log=log_line)
    except (ParamsError, RuntimeError, OSError) as error:
        if is_first_process() or not isinstance(error, TrainingStopped):
            print(f"nbhelpers.training: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    if is_first_process():
        print(f"{result.steps} steps in {result.seconds:.0f} s; adapter in {result.final_model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
