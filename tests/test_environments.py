"""Around the package: conda and Docker install what pyproject.toml pins; CI and the hooks run the same commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from copy import deepcopy
from pathlib import PurePosixPath

import nbformat
import pytest
import yaml

from nbhelpers.params.places import available_presets, repository_root
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.series import notebook_paths

ROOT = repository_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="the files lie in the checkout, not in the wheel")
if ROOT is not None:
    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
    DOCKERFILE = (ROOT / "Dockerfile").read_text()
    WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "smoke.yml").read_text())


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


def is_left_out(path: str) -> bool:
    """Docker's rule: a pattern leaves out what it names from the top, or at any depth after `**/`, and all below it."""
    place = PurePosixPath(path)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return any(
        folder.match(pattern.removeprefix("**/"))
        and (pattern.startswith("**/") or len(folder.parts) == len(PurePosixPath(pattern).parts))
        for pattern in lines
        if pattern and not pattern.startswith("#")
        for folder in [place, *place.parents][:-1]
    )


def test_the_image_gets_the_code_the_presets_and_the_notebooks():
    for name in ("pyproject.toml", "README.md", "LICENSE", "nbhelpers", "params", "notebooks"):
        files = [path for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
        kept = [path for path in files if not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)]
        assert kept, name
        for path in kept:
            assert not is_left_out(path.relative_to(ROOT).as_posix()), path


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "outputs/smoke/samples.jsonl", "tests/test_params.py", ".ci/run",
     ".github/workflows/smoke.yml", "nbhelpers/runs/__pycache__/samples.pyc", "nbhelpers.egg-info/PKG-INFO"],
)  # fmt: skip
def test_the_image_holds_nothing_else(path):
    assert is_left_out(path)


def test_the_licence_is_named_and_there():
    assert PROJECT["license"] == "Apache-2.0"
    (name,) = PROJECT["license-files"]
    text = (ROOT / name).read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    python = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python ::" in name}
    assert python == {"3.11", "3.12"}


# what runs on every push


def commands(text: str) -> list[str]:
    """The project's own tools in a script, without the folder of the environment."""
    lines = [line.strip().removeprefix(".venv/bin/") for line in text.splitlines()]
    return [line for line in lines if re.match(r"(pip|ruff|nbhelpers|pytest)\b", line)]


def test_a_push_runs_what_ci_runs_in_the_same_order():
    steps = WORKFLOW["jobs"]["smoke"]["steps"]
    torch, *pushed = commands("\n".join(step.get("run", "") for step in steps))
    assert pushed == commands((ROOT / ".ci" / "run").read_text())
    (pin,) = PROJECT["optional-dependencies"]["cpu"]
    assert torch == f"pip install {pin} --index-url https://download.pytorch.org/whl/cpu"


def test_ci_runs_the_two_lines_of_the_readme():
    block = re.search(r"## Start\n+```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    lines = [line.removeprefix(".venv/bin/") for part in block.splitlines() for line in part.split(" && ")]
    ci = (ROOT / ".ci" / "run").read_text().replace("pip install -q", "pip install").replace("pytest -q", "pytest")
    environment, *rest = lines
    assert environment.startswith("python3 -m venv") and environment.rpartition(" ")[2] == ".venv"
    assert [line for line in commands(ci) if line in rest] == rest
    assert commands(ci)[-1] == "pytest"  # the closing line is the default tests' own


def test_every_test_is_run_somewhere():
    """By default, after the smoke run, or on a machine with a GPU."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in options["markers"]}
    default = " and ".join(f"not {name}" for name in sorted(markers))
    assert options["addopts"] == f"-n auto --dist loadfile -m '{default}'"
    (selected,) = re.findall(r'-m "(.*)"', (ROOT / ".ci" / "run").read_text())
    assert selected == f"({' or '.join(sorted(markers - {'gpu'}))}) and not gpu"


def test_every_supported_python_is_pushed_through_and_leaves_what_a_reviewer_reads():
    job = WORKFLOW["jobs"]["smoke"]
    assert set(job["strategy"]["matrix"]["python"]) == {"3.11", "3.12"}
    upload = job["steps"][-1]
    assert upload["uses"].startswith("actions/upload-artifact@") and upload["if"] == "always()"
    run = RunDirectory(ROOT / "outputs" / "smoke")
    kept = {ROOT / path for path in upload["with"]["path"].split()}
    assert {run.notebooks_dir, run.report_path} <= kept
    assert all(path.is_relative_to(run.path) for path in kept)


# before a commit


def hooks() -> dict[str, dict]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    return {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}


def test_the_hooks_need_nothing_but_the_extra_test():
    assert set(hooks()) == {"ruff-check", "ruff-format", "nbstripout"}
    assert {hook["language"] for hook in hooks().values()} == {"system"}
    tools = {shlex.split(hook["entry"])[0] for hook in hooks().values()}
    assert tools <= set(PROJECT["optional-dependencies"]["test"])


def executed(clean):
    """The notebook with what a run leaves in it."""
    book = deepcopy(clean)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.metadata.collapsed = 3, True
            cell.outputs = [nbformat.v4.new_output("stream", text="printed")]
    book.metadata.language_info |= {"version": "3.12.3", "mimetype": "text/x-python", "file_extension": ".py",
                                    "codemirror_mode": {"name": "ipython", "version": 3},
                                    "nbconvert_exporter": "python", "pygments_lexer": "ipython3"}  # fmt: skip
    book.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    return book


@pytest.fixture(scope="module")
def stripped(tmp_path_factory):
    """What the hook makes of all notebooks at once: the folder of those that had been executed, and of the others."""
    ran, untouched = tmp_path_factory.mktemp("executed"), tmp_path_factory.mktemp("untouched")
    for source in notebook_paths():
        nbformat.write(executed(nbformat.read(source, as_version=4)), ran / source.name)
        shutil.copy(source, untouched)
    tool, *arguments = shlex.split(hooks()["nbstripout"]["entry"])
    files = [str(path) for folder in (ran, untouched) for path in sorted(folder.iterdir())]
    subprocess.run([sys.executable, "-m", tool, *arguments, *files], check=True)
    return ran, untouched


@pytest.mark.parametrize("source", notebook_paths(), ids=lambda path: path.stem[:2])
def test_the_hook_takes_out_what_a_run_left_and_nothing_else(source, stripped):
    ran, untouched = stripped
    assert re.search(hooks()["nbstripout"]["files"], source.relative_to(ROOT).as_posix())
    clean = nbformat.read(source, as_version=4)
    assert any(cell.metadata.get("tags") == ["parameters"] for cell in clean.cells)
    assert nbformat.read(ran / source.name, as_version=4) == clean != executed(clean)
    assert (untouched / source.name).read_bytes() == source.read_bytes()
