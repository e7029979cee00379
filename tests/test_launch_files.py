"""The examples in params/launch are files that run, and the table of expected rates is the function's."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_policy import policy_with_adapter
from tiny_run import REPOSITORY

from nbhelpers.params import ModelParams
from nbhelpers.policy.vllm import served
from nbhelpers.policy.vllm.engine import engine_arguments
from nbhelpers.policy.vllm.setup import GenerationError, free_port
from nbhelpers.runs import RunDirectory
from nbhelpers.training import expected_rate, scaling

LAUNCH = REPOSITORY / "params" / "launch"
SETTINGS = (
    "training.max_steps=1", "training.per_device_train_batch_size=8", "training.probes=0", "dataset.max_samples=64",
    "training.max_completion_length=16",
)  # fmt: skip


def start(file, folder, **environment):
    line = [str(LAUNCH / file), "smoke", "--output-dir", str(folder)]
    line += [part for setting in SETTINGS for part in ("--set", setting)]
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    whole = {**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(line, env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(folder, *started):
    """(how often the end was said, completions, whether two processes shared a step) once all have ended well."""
    said = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    run = RunDirectory(folder)
    shared = "2 processes share" in " ".join(run.read_manifest()["notices"])
    return sum(words.count("adapter in") for words in said), len(run.read_jsonl(run.samples_path)), shared


ONE_END = (1, 8, True)  # the first process alone says the end


@pytest.mark.slow
def test_one_host(tmp_path):
    assert trained(tmp_path, start("one_host.sh", tmp_path, GPUS="2")) == ONE_END


@pytest.mark.slow
def test_two_hosts(tmp_path):
    shared = {"FIRST": "127.0.0.1", "PORT": str(free_port()), "GPUS": "1"}
    assert trained(tmp_path, *(start("two_hosts.sh", tmp_path, HOST=host, **shared) for host in "01")) == ONE_END


@pytest.mark.slow
def test_slurm_with_a_stand_in_for_its_commands(tmp_path):
    """`srun` starts its line once a node."""
    stand_ins = {"scontrol": "echo 127.0.0.1", "srun": '"$@" & first=$!; "$@"; wait $first'}
    (tmp_path / "bin").mkdir()
    for name, line in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "x", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "GPUS": "1"}
    given["PORT"] = str(free_port())
    assert trained(tmp_path, start("slurm.sh", tmp_path, **given)) == ONE_END


@pytest.mark.slow
def test_a_server_that_serves(tmp_path):
    """`vllm` is the tests' stand-in, which wants vLLM's own words."""
    (tmp_path / "bin").mkdir()
    stand_in = (
        f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > {tmp_path}/words\nexec {sys.executable} -m vllm_server "$@"\n'
    )
    (tmp_path / "bin" / "vllm").write_text(stand_in)
    (tmp_path / "bin" / "vllm").chmod(0o755)
    port = str(free_port())
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PORT": port, "PYTHONPATH": path}
    server = subprocess.Popen([str(LAUNCH / "serve.sh"), "a/model", "--seed", "3"], env=env)
    try:
        engine, deadline = None, time.monotonic() + 600
        while engine is None and time.monotonic() < deadline:
            with contextlib.suppress(GenerationError):
                engine = served.served_engine(f"http://127.0.0.1:{port}", [], [], 0)
            time.sleep(0.3)
        engine.take_adapter(policy_with_adapter().model)
        assert engine.request
    finally:
        server.kill()
        server.wait()
    words = (tmp_path / "words").read_text().split("\n")
    assert words[:2] == ["serve", "a/model"] and "processed_logprobs" in words and words[-3:-1] == ["--seed", "3"]
    ours = set(served.serve_command("m", engine_arguments("m", ModelParams(), completions=4, lora_rank=8), 1))
    names = {word for word in words if word.startswith("--")} - {"--seed"}
    assert names <= ours, "vLLM knows the names that the run's own server is started with"


def test_the_module_states_the_rates_that_it_gives():
    rows = re.findall(r"^ *(64 in all|64 a GPU) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", scaling.__doc__, re.M)
    assert len(rows) == 2
    for what, *said in rows:
        for gpus, rate in zip((1, 2, 4, 8), said, strict=True):
            completions = 64 if what == "64 in all" else 64 * gpus
            assert f"{expected_rate(gpus, completions, 512):.1f}" == rate


def test_the_model_gives_back_what_it_was_made_from():
    from nbhelpers.training.scaling import expected_step

    assert expected_step(1, 64, 512) == pytest.approx(3.8 + 6.9, rel=0.01)
    sampling = expected_step(1, 4, 256) - 4 * 256 * 6.9 / 64 / 512
    assert sampling == pytest.approx(1.25, rel=0.01)
    assert expected_rate(2, 128, 512) > 1.8 * expected_rate(1, 64, 512)
