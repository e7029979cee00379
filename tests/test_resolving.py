"""The GPU's extra resolves for each Python that the package accepts, without being installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import warnings

import pytest

from nbhelpers.params.places import repository_root

ROOT = repository_root()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(ROOT is None, reason="pyproject.toml lies in the checkout")]


def resolve(version, folder, *requirements, timeout=600):
    """`pip install --dry-run` for another Python on Linux: nothing is installed, wheels' metadata alone is read."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "-q",
               "--python-version", version, "--target", str(folder), "--report", "-", "--no-input", "--retries", "1",
               *(f"--platform=manylinux_2_{minor}_x86_64" for minor in range(17, 40)),
               "--platform", "manylinux2014_x86_64", "--platform", "linux_x86_64", *requirements]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_gpu_extra_resolves(version, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if resolve(version, tmp_path, "--no-deps", "packaging", timeout=60).returncode:
        warnings.warn("NOT CHECKED: no package index can be reached, so the extra gpu was not resolved.", stacklevel=1)
        pytest.skip("no package index can be reached: the extra gpu was not resolved")
    extra = project["optional-dependencies"]
    done = resolve(version, tmp_path, *project["dependencies"], *extra["gpu"], *extra["test"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"name": "vllm"' in done.stdout and '"name": "unsloth"' in done.stdout
