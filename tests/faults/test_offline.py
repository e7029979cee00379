"""The embedded model trains without asking anybody: no connection beyond this machine, no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tiny_process import settings
from tiny_run import REPOSITORY, TINY_TRAINING

SILENCED = ("HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "UNSLOTH_DISABLE_STATISTICS")
# Python runs a module of this name before anything else. Each name that is looked up and each address that is connected
# to is written down and refused.
HOOK = """
import os, socket

def note(where):
    host = where[0] if isinstance(where, tuple) else where
    host = host.decode() if isinstance(host, bytes) else host
    if host not in ("localhost", "127.0.0.1", "::1", "", None):
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError(f"no connection to {host} here")

class Socket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            note(address)
        return super().connect(address)

    def connect_ex(self, address):
        if self.family != socket.AF_UNIX:
            note(address)
        return super().connect_ex(address)

lookup = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    note(host)
    return lookup(host, *args, **kwargs)

socket.socket, socket.getaddrinfo = Socket, getaddrinfo
"""


@pytest.fixture
def attempts(tmp_path):
    """Runs Python with the hook and with a user's plain environment; gives the hosts that it tried to reach."""

    def run(*command: str, **environment: str) -> list[str]:
        (tmp_path / "sitecustomize.py").write_text(HOOK)
        log = tmp_path / "attempts"
        log.touch()
        plain = {key: value for key, value in os.environ.items() if key not in {"HF_HUB_OFFLINE", "CI", *SILENCED}}
        plain |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "ATTEMPTS": str(log), **environment}
        subprocess.run([sys.executable, *command], env=plain, check=True, capture_output=True, cwd=tmp_path)
        return log.read_text().splitlines()

    return run


def training(tmp_path):
    """What follows `python -m nbhelpers.training`."""
    given = settings(TINY_TRAINING | {"max_steps": 1, "save_steps": 1})
    return ["smoke", "--output-dir", str(tmp_path / "run"), *given]


def test_training_evaluating_and_reporting_reach_for_nobody(attempts, tmp_path):
    whole = (
        "from nbhelpers import problems, policy, evaluation, show, runs\n"
        "from nbhelpers.params import RunParams\n"
        "from nbhelpers.training.__main__ import main\n"
        f"assert main({training(tmp_path)!r}) == 0\n"
        "few = {'num_samples': 4, 'pass_k': 2, 'pass_problems': 2, 'plain_problems': 2}\n"
        f"params = RunParams.load({str(tmp_path / 'run' / 'params.yaml')!r}, evaluation=few)\n"
        "run = runs.RunDirectory(params.output_dir)\n"
        "trained = policy.load_final_model(run.final_model_dir, params.model)\n"
        "evaluation.evaluate(trained, problems.load_problems(params.dataset), params, run)\n"
        "show.write_report(run.path)\n"
        "policy.export_final_model(run.final_model_dir, params.model, run.path / 'merged')\n"
    )
    assert attempts("-c", whole) == []
    assert (tmp_path / "run" / "final_model" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "merged").is_dir()


@pytest.mark.slow
def test_the_hook_sees_trl_s_telemetry_where_a_person_asks_for_it(attempts, tmp_path):
    """Once this fails, TRL sends none any more."""
    command = ["-m", "nbhelpers.training", *training(tmp_path)]
    assert "huggingface.co" in attempts(*command, HF_HUB_DISABLE_TELEMETRY="0")


def test_the_hook_sees_an_attempt(attempts):
    asks = "import urllib.request as r\ntry: r.urlopen('http://example.org')\nexcept OSError: pass"
    assert attempts("-c", asks) == ["example.org"]


def test_a_person_s_own_word_on_telemetry_stands():
    code = f"import os, nbhelpers; print([os.environ[name] for name in {SILENCED}])"
    plain = {key: value for key, value in os.environ.items() if key not in SILENCED}
    for own in ({}, {"HF_HUB_DISABLE_TELEMETRY": "0", "VLLM_NO_USAGE_STATS": "0"}):
        done = subprocess.run([sys.executable, "-c", code], env=plain | own, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str([own.get(name, "1") for name in SILENCED])


def test_importing_the_package_first_silences_the_hub():
    code = "import nbhelpers; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    plain = {key: value for key, value in os.environ.items() if key not in {"HF_HUB_OFFLINE", *SILENCED}}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
