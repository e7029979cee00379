"""Every notebook on a GPU with the embedded model, both backends, as papermill runs it: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from nbhelpers.runs.directory import RunDirectory
from nbhelpers.series import notebook_paths

pytestmark = pytest.mark.gpu
SETTINGS = (
    "model.fast_inference=true", "model.max_seq_length=512", "training.max_steps=3", "training.save_steps=2",
    "training.per_device_train_batch_size=16", "training.num_generations=4", "training.probes=0",
    "dataset.max_samples=96", "evaluation.num_samples=16", "evaluation.pass_k=null",
)  # fmt: skip


@pytest.mark.parametrize("backend", ["transformers", "unsloth"])
def test_the_four_notebooks_run_and_say_how_far_vllm_is(backend, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs an NVIDIA GPU and {backend}")
    settings = [word for setting in (*SETTINGS, f"model.backend={backend}") for word in ("--set", setting)]
    command = [sys.executable, "-m", "nbhelpers.cli", "run", "smoke", "--output-dir", str(tmp_path), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = RunDirectory(tmp_path)
    assert {path.name for path in run.notebooks_dir.glob("*.ipynb")} == {path.name for path in notebook_paths()}
    lines, manifest = run.read_jsonl(run.metrics_path), run.read_manifest()
    assert manifest["backend"] == backend and manifest["parity"]["lowest_weight"] > 0.9
    assert all(0.9 < line["sampling/importance_sampling_ratio/mean"] < 1.1 for line in lines) and len(lines) == 3
    assert any("was tried before the first step and fits" in sentence for sentence in manifest["notices"])
    assert (tmp_path / "libraries.log").stat().st_size > 0
    shown = done.stdout.splitlines()
    assert any("starting vLLM" in line for line in shown)
    assert not [line for line in shown if line.lstrip().startswith(("INFO", "WARNING", "Unsloth:"))]
