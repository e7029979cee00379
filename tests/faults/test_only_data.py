"""What was only data does not run: a parameter file brings no code, publishes nothing and connects to nothing."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml

from nbhelpers import cli, series
from nbhelpers.params.files import LARGEST, parse_overrides
from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sentences import ParamsError
from nbhelpers.params.trust import TRUST, trusting
from nbhelpers.sweep import load_sweep

CODE = ["payload:r", "os:system", "builtins:eval", "a.b.c:d"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a parameter file over smoke; gives its path."""
    monkeypatch.delenv(TRUST, raising=False)

    def write(name="own.yaml", **sections) -> str:
        (tmp_path / name).write_text(yaml.safe_dump({"preset": "smoke", **sections}))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", CODE)
def test_code_that_a_file_names_is_refused_before_it_is_imported(file, name):
    with pytest.raises(ParamsError, match=rf"own.yaml: reward.functions names {name}, which is code.*--trust-code"):
        RunParams.load(file(reward={"functions": ["formatting", name]}))


def test_code_that_a_file_inherits_is_refused_too(file):
    base = file("base.yaml", reward={"functions": ["payload:r"]})
    with pytest.raises(ParamsError, match="base.yaml: reward.functions names payload:r"):
        RunParams.load(file(preset=base, training={"max_steps": 3}))


def test_a_person_may_trust_a_file_or_bring_code_themselves(file, monkeypatch):
    own, clean = file(reward={"functions": ["payload:r"]}), file("clean.yaml")
    assert RunParams.load(own, trust_code=True).reward.functions == ["payload:r"]
    assert RunParams.load(clean, reward={"functions": ["mine:r"]}).needs_trust
    assert not RunParams.load(own, reward={"functions": ["formatting"]}).needs_trust  # what it named is not run
    monkeypatch.setenv(TRUST, "1")
    assert RunParams.load(own).reward.functions == ["payload:r"]


@pytest.mark.parametrize("value", ["wandb", "all", ["tensorboard", "trackio"]])
def test_a_file_asks_for_no_logger_and_the_command_line_may(file, value):
    own = file(training={"grpo": {"report_to": value}})
    with pytest.raises(ParamsError, match=r"training.grpo.report_to names .* connects this run.*--report-to"):
        RunParams.load(own)
    assert RunParams.load("smoke", training={"grpo": {"report_to": value}}).training.grpo["report_to"] == value
    assert RunParams.load(file(training={"grpo": {"report_to": "none"}})).training.grpo["report_to"] == "none"


def test_a_file_names_no_server_and_the_command_line_may(file):
    address = {"vllm_server": "http://203.0.113.1:8000", "fast_inference": True}
    with pytest.raises(ParamsError, match=r"model.vllm_server names http.* connects this run"):
        RunParams.load(file(model=address))
    assert RunParams.load("smoke", model=address).model.served
    assert RunParams.load(file(model={"vllm_server": "auto", "fast_inference": True})).model.served


def test_every_field_of_trl_that_publishes_is_refused_whoever_asks():
    from dataclasses import fields

    from trl import GRPOConfig

    publishing = [f.name for f in fields(GRPOConfig) if "hub" in f.name or f.name.startswith("trackio_")]
    assert {"push_to_hub", "hub_model_id", "hub_token", "trackio_space_id"} <= set(publishing)
    for key in publishing:
        with pytest.raises(ParamsError, match=f"{key} would publish the run"):
            RunParams.load("smoke", training={"grpo": {key: "somebody/else"}})


def test_remote_code_is_never_on():
    for name in ("trust_remote_code", "save_only_model", "ignore_data_skip", "auto_find_batch_size"):
        with pytest.raises(ParamsError, match=f"{name} is never on: "):
            RunParams.load("smoke", training={"grpo": {name: True}})


# files that are no parameter file

HOSTILE = {
    "an alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias; write the value out"),
    "a merge of an alias": ("a: &a {r: 1}\nlora:\n  <<: *a", "alias"),
    "depth": ("model: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    "size": ("#" * (LARGEST + 1), f"at most {LARGEST:,}"),
    "a Python object": ("model: !!python/object/apply:os.system [id]", "not valid YAML"),
    "a byte that is not UTF-8": (b"preset: smoke\nmodel: {name: \xff}", "cannot be read"),
    "a NUL": ("preset: smoke\nmodel: {name: \0}", "not valid YAML"),
    "a key twice": ("preset: smoke\nlora: {r: 1}\nlora: {r: 2}", "written twice"),
    "a list": ("- preset", "expected sections"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_file_is_a_sentence(tmp_path, fault):
    content, says = HOSTILE[fault]
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParamsError, match=says):
        RunParams.load(str(path))


@pytest.mark.parametrize("setting", ["lora.r=*a", "training.grpo.x=" + "[" * 3000])
def test_a_hostile_value_on_the_command_line_is_a_sentence(setting):
    with pytest.raises(ParamsError, match="cannot be read as YAML"):
        parse_overrides([setting])


# through the command, papermill and notebooks

LOAD = "from nbhelpers.params import RunParams\nprint(RunParams.load(preset, reward=reward).reward.functions)"


def notebook(path, cell):
    """A notebook with this parameters cell, which prints the rewards that it ends up with."""
    tagged = nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "p", "language": "python"}
    cells = [tagged, nbformat.v4.new_code_cell(LOAD)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def executed(tmp_path, *, cell="preset = 'smoke'\nreward = {}", **parameters) -> str:
    """What that notebook prints under papermill."""
    paths = str(notebook(tmp_path / "in.ipynb", cell)), str(tmp_path / "out.ipynb")
    done = papermill.execute_notebook(*paths, parameters=parameters, progress_bar=False)
    return str(done.cells[-1].outputs)


def test_papermill_counts_as_a_file_unless_the_person_trusts_it(file, tmp_path, monkeypatch):
    own = {"functions": ["payload:r"]}
    with pytest.raises(papermill.PapermillExecutionError, match="payload:r, which is code"):
        executed(tmp_path, reward=own)
    monkeypatch.setenv(TRUST, "1")
    assert "payload:r" in executed(tmp_path, reward=own)


def test_a_parameters_cell_that_a_person_edited_is_their_own_code(file, tmp_path):
    edited = 'preset = "full"\nreward = {"functions": ["mine:r"]}'
    assert "mine:r" in executed(tmp_path, cell=edited)
    assert "mine:r" in executed(tmp_path, cell=edited, preset="smoke")


def test_what_the_command_line_allowed_reaches_the_kernels_and_stays_nowhere(file, tmp_path):
    params = RunParams.load("smoke", output_dir=tmp_path / "run", reward={"functions": ["mine:r"]})
    book = notebook(tmp_path / "01_a.ipynb", "preset = 'smoke'\noutput_dir = None\nreward = {}")
    lines = []
    overrides = {"reward": {"functions": ["mine:r"]}}
    series.run_series(params, overrides=overrides, notebooks=[book], echo=lines.append)
    assert any("mine:r" in line for line in lines) and TRUST not in os.environ


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_the_commands_refuse_code_of_a_file_in_a_sentence(file, capsys, command):
    assert cli.main([command, file(reward={"functions": ["os:system"]})]) == 1
    said = capsys.readouterr().err
    assert said.startswith("nbhelpers: ") and "os:system, which is code" in said and "--trust-code" in said


def test_a_sweep_file_is_data_as_well(file, tmp_path):
    sweep_file = tmp_path / "sweep.yaml"
    content = {"preset": "smoke", "seeds": [1], "overrides": {"a": {"reward": {"functions": ["payload:r"]}}}}
    sweep_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError, match="sweep.yaml, a: reward.functions names payload:r, which is code"):
        load_sweep(sweep_file)
    assert load_sweep(sweep_file, trust_code=True)[0].params.needs_trust
    assert load_sweep(sweep_file, overrides={"reward": {"functions": ["mine:r"]}})[0].params.needs_trust
    sweep_file.write_text(
        yaml.safe_dump(content | {"preset": file(reward={"functions": ["b:r"]}), "overrides": {"a": {}}})
    )
    with pytest.raises(ParamsError, match="own.yaml: reward.functions names b:r"):
        load_sweep(sweep_file)


# What papermill 2.7.0 makes of a file by itself; TRAP stands for Python that opens the trap. README names them.
PROGRAMS = {
    "a key at the top": "'TRAP #': 1",
    "!!pairs": "reward: !!pairs [a: '\" + str(TRAP) + \"']",
    "!!omap": "reward: {x: !!omap [a: '\" + str(TRAP) + \"']}",
    "!!binary": "reward: {x: [!!binary 'BASE64']}",
}
NO_PROGRAMS = {
    "a key further in": "reward: {'\": TRAP, \"': 1}",
    "a text": "reward: {x: '\" + str(TRAP) + \"'}",
    "a text with a backslash": "reward: {x: '\\\" + str(TRAP) #'}",
}


@pytest.mark.parametrize("case", [*PROGRAMS, *NO_PROGRAMS])
def test_what_papermill_runs_of_a_file_and_the_command_refuses(case, tmp_path, capsys):
    trap, own = tmp_path / "trap", tmp_path / "own.yaml"
    opens = f'open("{trap}", "w")'
    encoded = base64.b64encode(f'" + str({opens}) + "'.encode()).decode()
    own.write_text((PROGRAMS | NO_PROGRAMS)[case].replace("TRAP", opens).replace("BASE64", encoded))
    assert cli.main(["run", str(own)]) == 1 and not trap.exists()
    assert "own.yaml" in capsys.readouterr().err
    book = notebook(tmp_path / "in.ipynb", "preset = 'smoke'\nreward = {}")
    command = [sys.executable, "-m", "papermill", book, tmp_path / "out.ipynb", "-f", own, "--no-progress-bar"]
    subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert trap.exists() is (case in PROGRAMS)


def test_trust_ends_with_its_block(monkeypatch):
    monkeypatch.setenv(TRUST, "0")
    with trusting():
        assert os.environ[TRUST] == "1"
    assert os.environ[TRUST] == "0"
    with trusting(False):
        assert os.environ[TRUST] == "0"
