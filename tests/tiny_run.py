"""The sections that cut a run down to seconds, for the fixtures and for notebooks run by papermill."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_TRAINING = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 3,
    "save_steps": 2,
    "max_completion_length": 24,
    "probes": 0,
}
TINY_DATASET = {"max_samples": 48}
TINY_EVALUATION = {"num_samples": 16}
