"""Checkpoints that can be relied on: each is sealed once every process has written its part of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.runs import read_seal, seal
from nbhelpers.training.resuming import run_facts


def sealing_callback(params: RunParams, resumed: Path | None, *, is_main: bool) -> Any:
    """A callback for the trainer of every process; the first one seals.

    Args:
        resumed: the checkpoint that training goes on from; the seconds spent up to it are counted in.
    """
    from accelerate import PartialState
    from transformers import TrainerCallback

    class SealingCallback(TrainerCallback):
        @property
        def seconds(self) -> float:
            """Spent on training so far."""
            return round(time.perf_counter() - self.started, 2)

        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.perf_counter() - (read_seal(resumed)["seconds"] if resumed else 0)

        def on_save(self, args, state, control, **kwargs):
            PartialState().wait_for_everyone()
            if is_main:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                seal(folder, **run_facts(params, state.global_step, state.max_steps, self.seconds))

    return SealingCallback()
