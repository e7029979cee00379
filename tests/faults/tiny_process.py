"""Tiny training in a process of its own, for faults that only a real process can have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tiny_run import TINY_DATASET, TINY_TRAINING

from nbhelpers.runs import RunDirectory

PATIENCE = 600  # seconds that a process of the tests may take on a machine that does other things as well
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NBHELPERS_BATCH": "1"}


def settings(training=TINY_TRAINING, dataset=TINY_DATASET, **sections) -> list[str]:
    """`--set` for the tiny run."""
    sections = {"training": training, "dataset": dataset, **sections}
    pairs = [(section, key, value) for section, values in sections.items() for key, value in values.items()]
    return [part for section, key, value in pairs for part in ("--set", f"{section}.{key}={json.dumps(value)}")]


def tiny_training(folder: Path, **training) -> subprocess.Popen:
    """Training with these settings, begun in `folder`."""
    command = [sys.executable, "-m", "nbhelpers.training", "smoke", "--output-dir", str(folder)]
    command += settings({**TINY_TRAINING, **training})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int, seconds: float = PATIENCE) -> int:
    """Return once a step is in the metrics, with the last one that is."""
    run, end = RunDirectory(folder), time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if (lines := run.read_jsonl(run.metrics_path)) and lines[-1]["step"] >= step:
            return lines[-1]["step"]
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached: {process.poll()}\n{process.communicate()[1][-2000:]}")
