"""A command line or a file that makes no sense ends with a sentence that names it and says what is allowed: never with
a traceback, and before anything is loaded.
"""

from __future__ import annotations

import pytest

from nbhelpers import cli, series, sweep

LONG = "a" * 5000
SET = ["run", "smoke", "--set"]

LINES = {
    "nothing": ([], 2, "required: COMMAND"),
    "an unknown command": (["runn"], 2, "choose from 'run', 'sweep'"),
    "no preset": (["run"], 2, "preset --from-manifest is required"),
    "two presets": (["run", "smoke", "full"], 2, "unrecognized arguments: full"),
    "a misspelt preset": (["run", "smok"], 1, "did you mean smoke?"),
    "an empty preset": (["run", ""], 1, "preset was given ''; expected the name of a preset"),
    "a preset in full-width letters": (["run", "ｓｍｏｋｅ"], 1, "there is no preset 'ｓｍｏｋｅ'"),
    "a folder for a file": (["run", "FOLDER"], 1, "there is no parameter file 'FOLDER'; looked for FOLDER"),
    "a name that no disk holds": (["run", f"{LONG}.yaml"], 1, "there is no parameter file"),
    "nobody's home": (["run", "~nobody9/a.yaml"], 1, "there is no parameter file '~nobody9/a.yaml'"),
    "a path with a NUL": (["run", "a\0.yaml"], 1, "there is no parameter file"),
    "a setting without a value": ([*SET, "training.max_steps="], 1, "no value given; write null"),
    "a setting without a section": ([*SET, "max_steps=5"], 1, "expected section.key=value"),
    "a misspelt section": ([*SET, "trainings.max_steps=5"], 1, "did you mean training?"),
    "a misspelt key": ([*SET, "training.max_step=5"], 1, "did you mean max_steps?"),
    "a word for a number": ([*SET, "training.max_steps=five"], 1, "given the text 'five'; expected a whole number"),
    "a number of 5,000 digits": ([*SET, f"training.max_steps={'9' * 5000}"], 1, "cannot be read as YAML"),
    "not a number": ([*SET, "training.learning_rate=.nan"], 1, "was given nan; expected a number above 0"),
    "a seed that NumPy does not take": ([*SET, "training.seed=4294967296"], 1, "from 0 to 4294967295 (default 42)"),
    "clock time for a number": ([*SET, "lora.r=12:30"], 1, "12:30 is a number to the base 60"),
    "an octal number": ([*SET, "lora.r=010"], 1, "010 is a number to the base 8"),
    "half a bracket": ([*SET, "lora.r={"], 1, "cannot be read as YAML"),
    "a Python object": ([*SET, "lora.r=!!python/name:os.system"], 1, "cannot be read as YAML"),
    "a share above 1": (
        [*SET, "evaluation.select_on=1.5"],
        1,
        "select_on was given 1.5; expected a whole number of at",
    ),
    "a server that is none": (
        [*SET, "model.vllm_server=ftp://a"],
        1,
        "expected auto, an address such as http://host:8000",
    ),
    "a text as a list": ([*SET, "reward.functions=correctness"], 1, "expected a list of text"),
    "half a character": ([*SET, 'reward.solution_start="<\\ud83d>"'], 1, "a NUL or half a character"),
    "steps that are no number": (
        [*SET, "training.grpo.steps_per_generation=x"],
        1,
        "steps_per_generation was given the",
    ),
    "no steps": (
        [*SET, "training.grpo.generation_batch_size=0"],
        1,
        "was given 0; expected a whole number of at least 1",
    ),
    "a notebook that there is not": (["run", "smoke", "--notebooks", "5"], 1, "expected numbers from 1 to 4"),
    "notebooks backwards": (["run", "smoke", "--notebooks", "4-3"], 1, "expected numbers from 1 to 4"),
    "a notebook of 5,000 digits": (["run", "smoke", "--notebooks", "9" * 5000], 1, "expected numbers from 1 to 4"),
    "no output": (["run", "smoke", "--output-dir", ""], 1, "output_dir was given the text ''; expected the path of a"),
    "an output that no disk holds": (["run", "smoke", "--output-dir", LONG], 1, "…: File name too long."),
    "an output with a NUL": (["run", "smoke", "--output-dir", "a\0b"], 1, "expected the path of a folder"),
    "an output that is not UTF-8": (["run", "smoke", "--output-dir", "\udcff"], 1, "expected the path of a folder"),
    "no logger": (["run", "smoke", "--report-to", ""], 1, "no value given"),
    "code as a logger": (["run", "smoke", "--report-to", "import os"], 1, "there is no logger 'import os'"),
    "no manifest": (["run", "--from-manifest", "nowhere"], 1, "nowhere is no manifest.json of a run"),
    "a preset and a manifest": (["run", "smoke", "--from-manifest", "a"], 2, "not allowed with argument preset"),
    "no jobs": (["sweep", "FILE.yaml", "--jobs", "0"], 1, "--jobs 0: expected a whole number of at least 1"),
    "no such sweep": (["sweep", "nowhere.yaml"], 1, "there is no sweep file 'nowhere.yaml'; looked for"),
    "no model": (["evaluate", "--model", ""], 1, "holds no config.json"),
    "no such run": (["evaluate", "nowhere"], 1, "is no run directory"),
    "a file for a run": (["report", "FILE.yaml"], 1, "there is no run directory"),
    "a run whose name no disk holds": (["report", LONG], 1, "…: File name too long."),
    "a run with a NUL": (["export", "a\0"], 1, "is no run directory"),
    "one run to compare": (["compare"], 2, "the following arguments are required: RUN"),
}

FILES = {
    "an empty file": ("", "does not say what it builds on: begin it with a line such as `preset: full`"),
    "a word": (
        "smoke",
        "expected sections (model, lora, dataset, reward, training, evaluation), found the text 'smoke'",
    ),
    "a list": ("[]", "expected sections"),
    "no preset": ("preset:", "does not say what it builds on"),
    "a number as preset": ("preset: 5", "preset was given 5; expected the name of a preset"),
    "itself as preset": ("preset: own.yaml", "build on each other in a circle"),
    "a number as section": ("preset: smoke\nmodel: 5", "the section model holds its keys and values, but was given 5"),
    "a number as key": ("preset: smoke\nmodel: {5: 6}", "model.5 is not a known key"),
    "a list as key": ("preset: smoke\n? [a]\n: 1", "found unhashable key"),
    "a tab": ("preset: smoke\n\tlora: 5", "cannot start any token"),
    "two documents": ("---\npreset: smoke\n---\npreset: full", "expected a single document"),
    "another YAML": ("%YAML 2.0\n---\npreset: smoke", "found incompatible YAML document"),
    "a date as number": (
        "preset: smoke\ntraining: {max_steps: 2026-01-01}",
        "was given the text '2026-01-01'; expected",
    ),
    "pairs": ("preset: smoke\ntraining: {grpo: {x: !!pairs [a: b]}}", "could not determine a constructor"),
    "bytes": ("preset: smoke\ntraining: {grpo: {x: !!binary aGk=}}", "could not determine a constructor"),
    "a merge": ("preset: smoke\nmodel: {<<: {name: x}}", "model.<< is not a known key"),
    "a NUL in a path": ('preset: smoke\noutput_dir: "a\\0b"', "a NUL or half a character"),
    "two lengths": ("preset: smoke\ntraining: {max_steps: 5, num_train_epochs: 1}", "set one and leave the other null"),
    "UTF-16": ("preset: smoke".encode("utf-16"), "cannot be read"),
    "a field that TRL has not": ("preset: smoke\ntraining: {grpo: {betta: 1}}", "Did you mean beta?"),
}

SWEEPS = {
    "an empty file": ("", "seeds is missing; expected a list of whole numbers"),
    "a list": ("[1]", "was given [1]; expected the keys preset, seeds, overrides, common"),
    "no seeds": ("seeds: []\noverrides: {a: }", "seeds was given []; expected a list of whole numbers"),
    "a misspelt key": ("seed: [1]\noverrides: {a: }", "did you mean seeds?"),
    "a path as name": ("seeds: [1]\noverrides: {../a: }", "'../a'; expected names (of letters, digits, _, . and -)"),
    "a number as section": ("seeds: [1]\noverrides: {a: {lora: 5}}", "overrides.a.lora was given 5; expected names"),
    "a misspelt section": ("seeds: [1]\noverrides: {a: {lorra: {}}}", "'lorra' is not a section"),
}

MANIFESTS = {
    "a list": ("[]", "it holds no parameters of one"),
    "brackets without end": ("[" * 100_000, "maximum recursion depth"),
    "bytes": (b"\xff", "codec can't decode"),
    "a misspelt key": ('{"parameters": {"training": {"seeds": 1}}}', "did you mean seed?"),
    "another name": ('{"parameters": {"training": {}, "layers": {"a": 1}}}', "'layers' is not a section"),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command line, of which nothing may begin; gives the exit code and what was said."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((series, "run_series"), (sweep, "run_sweep")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it began"))

    def run(*line: str) -> tuple[int, str]:
        try:
            code = cli.main(list(line))
        except SystemExit as stopped:  # argparse
            code = stopped.code
        said = capsys.readouterr().err
        assert "Traceback" not in said and said.startswith("usage: " if code == 2 else "nbhelpers: ")
        return code, said

    return run


@pytest.mark.parametrize("fault", LINES)
def test_a_command_line_that_makes_no_sense_is_refused_in_a_sentence(fault, refused, tmp_path):
    line, code, says = LINES[fault]
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE.yaml").write_text("seeds: [1]\noverrides: {a: }")
    places = {word: str(tmp_path / word) for word in ("FOLDER", "FILE.yaml")}
    for word, place in places.items():
        line, says = [part.replace(word, place) for part in line], says.replace(word, place)
    found, said = refused(*line)
    assert (found, says in said) == (code, True), said


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("fault", FILES)
def test_a_parameter_file_that_makes_no_sense_is_refused_by_name(fault, refused, tmp_path):
    content, says = FILES[fault]
    code, said = refused("run", write(tmp_path / "own.yaml", content))
    assert (code, "own.yaml" in said, says in said) == (1, True, True), said


@pytest.mark.parametrize("fault", SWEEPS)
def test_a_sweep_file_that_makes_no_sense_is_refused_by_name(fault, refused, tmp_path):
    content, says = SWEEPS[fault]
    code, said = refused("sweep", write(tmp_path / "many.yaml", content))
    assert (code, "many.yaml" in said, says in said) == (1, True, True), said


@pytest.mark.parametrize("fault", MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_refused_by_name_and_leaves_nothing(fault, refused, tmp_path):
    content, says = MANIFESTS[fault]
    (tmp_path / "run").mkdir()
    code, said = refused("run", "--from-manifest", write(tmp_path / "run" / "manifest.json", content))
    assert (code, "manifest.json" in said, says in said) == (1, True, True), said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
