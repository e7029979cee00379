"""The tests are shared among a few processes, and are one process where somebody looks into them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import workers
from tiny_run import REPOSITORY


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, gigabytes)`: what `number_of_workers` sees."""

    def make(cores, gigabytes=64):
        process = SimpleNamespace(cpu_affinity=lambda: range(cores))
        monkeypatch.setattr(workers.psutil, "Process", lambda: process)
        memory = SimpleNamespace(available=gigabytes * 1e9)
        monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: memory)

    return make


@pytest.mark.parametrize(
    ("cores", "gigabytes", "number"), [(1, 64, 0), (2, 64, 2), (16, 64, 4), (16, 7, 2), (16, 4, 0), (3, 64, 3)]
)
def test_there_is_a_worker_for_each_core_with_memory_and_four_at_most(machine, cores, gigabytes, number):
    machine(cores, gigabytes)
    assert workers.number_of_workers(["tests"], "not gpu") == number


def test_one_file_and_the_gpus_tests_are_run_without_workers(machine, tmp_path):
    machine(16)
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for file in files:
        file.touch()
    one, other = map(str, files)
    assert workers.number_of_workers([one, f"{one}::test_a"], "") == 0
    assert workers.number_of_workers([one, other], "") == 2 and workers.number_of_workers([str(tmp_path)], "") == 4
    assert workers.number_of_workers(["tests"], "gpu") == 0


@pytest.mark.parametrize("alone", ["--pdb", "-n0"])
def test_a_debugger_finds_one_process(alone, tmp_path):
    """As README says; xdist gives up its workers for `--pdb` where their number is `auto`."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"`{alone}`" in re.search(r"The second line runs the tests.*?\n\n", text, re.S)[0]
    (tmp_path / "conftest.py").write_text("pytest_xdist_auto_num_workers = lambda config: 2\n")
    for name in "ab":
        (tmp_path / f"test_{name}.py").write_text(
            "import os\ndef test_it(): assert 'PYTEST_XDIST_WORKER' not in os.environ"
        )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "auto", "--dist", "loadfile"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    for more, code in (([alone], 0), ([], 1)):
        done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout
