"""environment.yml and Dockerfile install what pyproject.toml pins, and nothing that contradicts it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from nbhelpers.params.places import available_presets, repository_root

ROOT = repository_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="the files lie in the checkout, not in the wheel")
if ROOT is not None:
    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
    DOCKERFILE = (ROOT / "Dockerfile").read_text()


def pins() -> dict[str, str]:
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    return dict(requirement.split("==") for requirement in requirements if "==" in requirement)


def instructions() -> list[tuple[str, str]]:
    """(word, argument) of the Dockerfile, continued lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_the_gpu_pins_are_exact():
    assert {"torch", "vllm", "unsloth", "unsloth-zoo", "bitsandbytes", "trl", "transformers"} <= set(pins())


def test_conda_takes_the_packages_from_the_gpu_extra_alone():
    *conda, pip = ENVIRONMENT["dependencies"]
    assert pip == {"pip": ["-e .[gpu]"]}
    assert "pip" in conda
    # A package from conda beside the same one from pip would shadow the pin.
    assert not {re.split(r"[=<> ]", name)[0] for name in conda} & set(pins())


def test_every_python_is_one_that_the_package_accepts():
    versions = [name.split("=")[1] for name in ENVIRONMENT["dependencies"] if str(name).startswith("python=")]
    versions += re.findall(r"python(3\.\d+)", DOCKERFILE)
    assert set(versions) == {"3.12"}
    assert PROJECT["requires-python"] == ">=3.11,<3.13"


def test_the_image_installs_the_pins_of_pyproject_and_no_others():
    assert "p['dependencies'], *p['optional-dependencies']['gpu']" in DOCKERFILE
    assert not re.findall(r"[\w-]+==[\d.]+", DOCKERFILE)
    installs = re.findall(r"pip install ([^\n&]*)", DOCKERFILE)
    assert [install.strip() for install in installs] == ["-r /tmp/requirements.txt", "--no-deps -e ."]


def test_the_requirements_line_of_the_image_gives_the_pins(tmp_path, monkeypatch, capsys):
    code = re.search(r'python -c "(.*?)" >', DOCKERFILE, re.S)[1].replace("\\\n", "")
    monkeypatch.chdir(ROOT)
    exec(compile(code, "Dockerfile", "exec"))  # our own file's line, run as the build runs it
    lines = capsys.readouterr().out.splitlines()
    assert set(lines) == {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]}


def test_the_image_runs_the_series_as_an_ordinary_user():
    words = instructions()
    assert words[0] == ("FROM", "nvidia/cuda:13.0.1-runtime-ubuntu24.04")
    order = [word for word, _ in words]
    assert dict(words)["USER"] == "ubuntu"
    assert order.index("USER") > max(place for place, word in enumerate(order) if word in ("RUN", "COPY"))
    assert dict(words)["ENTRYPOINT"] == '["nbhelpers", "run"]'
    assert yaml.safe_load(dict(words)["CMD"])[0] in available_presets()
    assert "UNSLOTH_VLLM_STANDBY=1" in DOCKERFILE


def test_the_image_gets_the_code_the_presets_and_the_notebooks():
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")}
    needed = {"pyproject.toml", "README.md", "nbhelpers", "params", "notebooks"}
    assert not ignored & needed
    assert all((ROOT / name).exists() for name in needed)
    assert {".git", "outputs", ".venv"} <= ignored
    assert all(Path(name).parts for name in ignored)
