"""The default on a GPU, Unsloth with vLLM over the same weights, with the embedded model: `pytest -m gpu tests/gpu`.

Written against the sources of unsloth 2026.10.7, unsloth_zoo 2026.10.7 and vllm 0.26.0.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nbhelpers.runs.directory import RunDirectory

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch

    if not torch.cuda.is_available() or importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs an NVIDIA GPU and unsloth")
    folder = tmp_path_factory.mktemp("unsloth")
    command = [sys.executable, str(Path(__file__).with_name("unsloth_run.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return json.loads((folder / "found.json").read_text())


def test_unsloth_loads_the_model_and_generates_the_trainer(found):
    assert found["backend"] == "unsloth" and found["trainer"].startswith("Unsloth")


def test_vllm_samples_with_and_without_the_adapter(found):
    assert [len(group) for group in found["sampled"]] == [2] * 8
    assert all(text for text in found["base"])


def test_vllm_and_the_trainer_agree_before_and_after(found):
    assert max(found["parity"]) < 0.05


def test_twenty_steps_move_the_adapter_and_nothing_else(found):
    assert found["steps"] == 20 and found["adapter_norm"] > 0 and found["moved"] == []


def test_the_run_is_recorded(folder):
    run = RunDirectory(folder)
    rows = [row for row in run.read_jsonl(run.samples_path) if row.get("role") != "probe"]
    assert [line["step"] for line in run.read_jsonl(run.metrics_path)] == list(range(1, 21))
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["group"] for row in group}) == 1 and [row["index"] for row in group] == [0, 1, 2, 3]
        mean = sum(row["reward"] for row in group) / 4
        assert [row["advantage"] for row in group] == pytest.approx([row["reward"] - mean for row in group], abs=1e-4)
    assert run.read_manifest()["parity"]["lowest_weight"] > 0.9


def test_every_step_says_how_far_vllm_is_from_the_trainer(folder):
    run = RunDirectory(folder)
    for line in run.read_jsonl(run.metrics_path):
        assert line["sampling/sampling_logp_difference/mean"] < 0.05
        assert 0.9 < line["sampling/importance_sampling_ratio/mean"] < 1.1


def test_what_was_saved_loads_with_unsloth(found):
    assert found["saved_norm"] == pytest.approx(found["adapter_norm"], rel=1e-2)
