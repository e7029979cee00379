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


def resolve(version, *requirements, timeout=300):
    """For another Python on Linux: nothing is installed, and of the wheels their metadata alone is fetched, while pip
    would fetch all of them, which are gigabytes.
    """
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate",
        "--only-binary=:all:", "--python-version", version, "--python-platform=x86_64-manylinux_2_39", "-",
    ]  # fmt: skip
    return subprocess.run(command, input="\n".join(requirements), capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def wanted():
    if resolve("3.12", "packaging", timeout=60).returncode:
        warnings.warn("NOT CHECKED: no package index can be reached, so the extra gpu was not resolved.", stacklevel=1)
        pytest.skip("no package index can be reached: the extra gpu was not resolved")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]
    return {"gpu": extra["gpu"], "all": [*project["dependencies"], *extra["gpu"], *extra["test"]]}


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_gpu_extra_resolves(version, wanted):
    done = resolve(version, *wanted["all"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(wanted["gpu"]) <= set(done.stdout.splitlines())


def test_a_set_that_contradicts_itself_is_seen(wanted):
    done = resolve("3.11", *wanted["all"], "torch==2.13.0")
    assert done.returncode != 0 and "torch==2.13.0" in done.stderr
