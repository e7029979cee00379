"""Shared by all tests: parameters of a training run so small that it takes seconds."""

from __future__ import annotations

import os
import signal

import pytest
from tiny_run import TINY_DATASET, TINY_EVALUATION, TINY_TRAINING
from undrawn import without_pictures
from workers import number_of_workers

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["NBHELPERS_BATCH"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: their threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun with `&` by a shell: what the tests start would ignore an interrupt as well, and some wait for its end.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config) -> int:
    """What `-n auto` means here."""
    return number_of_workers(config.args, config.option.markexpr)


@pytest.fixture
def undrawn():
    """For tests that read hundreds of drawn problems' texts and look at no picture."""
    with without_pictures():
        yield


@pytest.fixture(scope="session")
def tiny_params():
    """`tiny_params(output_dir, training={...})`: the smoke preset cut down to 3 steps and a few problems."""
    from nbhelpers.params.run_params import RunParams

    def make(output_dir, **sections):
        merged = {
            "training": {**TINY_TRAINING, **sections.pop("training", {})},
            "dataset": {**TINY_DATASET, **sections.pop("dataset", {})},
            "evaluation": {**TINY_EVALUATION, **sections.pop("evaluation", {})},
        }
        return RunParams.load("smoke", output_dir=output_dir, **merged, **sections)

    return make


@pytest.fixture(scope="session")
def embedded_policy():
    """The untrained embedded policy, loaded once; tests must not change its weights."""
    from nbhelpers.params.run_params import RunParams
    from nbhelpers.policy.loading import load_policy

    return load_policy(RunParams.load("smoke").model)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, tiny_params):
    """A finished run of 3 steps: (params, run directory, policy before training's weights by name, result)."""
    from nbhelpers.policy.loading import load_policy
    from nbhelpers.problems import loading
    from nbhelpers.runs.directory import RunDirectory
    from nbhelpers.training.trainer import train

    params = tiny_params(tmp_path_factory.mktemp("run"))
    run = RunDirectory(params.output_dir)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in policy.model.named_parameters()}
    result = train(policy, loading.load_problems(params.dataset), params, run)
    return {"params": params, "run": run, "policy": policy, "before": before, "result": result}
