"""What README and notebooks say of the code holds: settings, labels, files, names, commands, defaults."""

from __future__ import annotations

import importlib
import math
import re
import shlex

import nbformat
import pytest
import yaml
from safetensors import safe_open

from nbhelpers import cli
from nbhelpers.embedded.model import embedded_path
from nbhelpers.params.files import parse_overrides
from nbhelpers.params.places import available_presets, presets_folder, repository_root
from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import SECTIONS
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.samples import CHANGES, FILTERS
from nbhelpers.series import notebook_paths

ROOT = repository_root()
if ROOT is None:
    pytest.skip("README lies in the checkout, not in the wheel", allow_module_level=True)


def markdown(path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


DOCUMENTS = {path.name: markdown(path) for path in (ROOT / "README.md", *notebook_paths())}
README = DOCUMENTS["README.md"]
each_document = pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
WINGS = {path.parent.name for path in (ROOT / "nbhelpers").glob("*/__init__.py")}
# Every text in which a name may be at home.
SOURCE = "\n".join(
    path.read_text()
    for folder, pattern in (("nbhelpers", "*.py"), ("params", "*.yaml"), ("tests", "*.py"), (".", "Dockerfile"))
    for path in sorted((ROOT / folder).rglob(pattern))
    if path.name != "test_prose.py" and ".venv" not in path.parts
)
WORDS = set(re.findall(r"\w+", SOURCE))


def fences(text: str, *languages: str) -> str:
    return "".join(code for language, code in FENCE.findall(text) if language in languages)


def quoted(text: str) -> list[str]:
    """What stands in backticks outside the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def exists(dotted: str) -> bool:
    """A module of the package, or a name in one: `nbhelpers.embedded.recipe`, `rewards.RECIPES`."""
    dotted = dotted if dotted.startswith("nbhelpers") else f"nbhelpers.{dotted}"
    try:
        importlib.import_module(dotted)
        return True
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return bool(module) and exists(module) and hasattr(importlib.import_module(module), name)


# names


@each_document
def test_a_setting_that_is_named_exists(text):
    for section, key in re.findall(rf"\b({'|'.join(SECTIONS)})\.([a-z_0-9]+)\b", " ".join(quoted(text))):
        assert key in SECTIONS[section].model_fields or f"{section}.{key}" == "evaluation.json", f"{section}.{key}"


@each_document
def test_a_filter_that_is_named_exists(text):
    for sentence in re.split(r"(?<=[.:;])\s", FENCE.sub("", text)):
        if re.search(r"\bfilters?\b", sentence):
            for label in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", sentence):
                assert label in {*FILTERS, *FILTERS.values(), *CHANGES, *CHANGES.values()}, f"{label!r} in: {sentence}"


@each_document
def test_a_file_that_is_named_is_written_or_lies_there(text):
    run = {path.name for path in vars(RunDirectory("run")).values()}
    defined = re.findall(r"# (\w+\.py)", fences(text, "python"))  # a file of the reader's own
    for name in quoted(text):
        if re.fullmatch(r"[\w<>./*-]+(\.(jsonl|json|html|yaml|yml|py|ipynb)|/)", name):
            there = any(ROOT.glob(name.replace("<preset>", "*").rstrip("/")))
            in_run = name.rstrip("/").removeprefix("outputs/smoke").strip("/").split("/")[0] in {*run, ""}
            assert there or in_run or name in defined or f"{name.rstrip('/')}" in SOURCE, name


@each_document
def test_a_name_from_the_code_that_is_quoted_is_in_the_code(text):
    for name in quoted(text):
        if re.fullmatch(r"[A-Za-z]\w*_\w+(\(\.*\))?(: .*|=.*)?", name):
            word = re.match(r"\w+", name)[0]
            assert word in WORDS or (ROOT / "notebooks" / f"{word}.ipynb").is_file(), name


@each_document
def test_a_module_or_function_that_is_quoted_is_found(text):
    both = [*quoted(text), *fences(text, "bash", "python").splitlines()]
    for said in both:
        for module in re.findall(r"-m (nbhelpers[\w.]*)", said) + re.findall(r"from (nbhelpers[\w.]*) import", said):
            assert exists(module), said
        for module, names in re.findall(r"from (nbhelpers[\w.]*) import ([\w, ]+)", said):
            assert all(exists(f"{module}.{name.strip()}") for name in names.split(",")), said
    for dotted in quoted(text):
        wing = re.match(r"(?:nbhelpers\.)?(\w+)\.\w", dotted)
        if re.fullmatch(r"[\w.]+", dotted) and wing and wing[1] in WINGS - SECTIONS.keys():
            assert dotted.endswith(tuple(f".{end}" for end in ("json", "jsonl", "yaml"))) or exists(dotted), dotted


def test_the_plan_of_the_house_names_every_room_and_no_other():
    plan = re.search(r"## The house\n.*?```\n(.*?)```", README, re.S)[1]
    rooms = re.findall(r"^  (\w+)/  +\S", plan, re.M)
    assert sorted(rooms) == sorted(WINGS), "one line for each folder"
    (modules,) = re.findall(r"^  ((?:\w+\.py )+)", plan, re.M)
    assert set(modules.split()) == {path.name for path in (ROOT / "nbhelpers").glob("*.py")} - {"__init__.py"}
    for folder in re.findall(r"(?:^|  )(\w+)/ ", plan.partition("nbhelpers/")[0], re.M):
        assert (ROOT / folder).is_dir(), folder


# settings


def stated_defaults() -> dict[str, dict[str, list]]:
    """Section, key and the values that README's table gives for it."""
    table = re.search(r"\| section \| keys \|\n\|---\|---\|\n((?:\|.*\n)+)", README)[1]
    stated = {}
    for row in table.splitlines():
        section, keys = re.fullmatch(r"\| `(\w+)` \| (.*) \|", row).groups()
        stated[section] = {}
        for item in re.sub(r"\(.*?\)", "", keys).split(" · "):
            for said in re.findall(r"`([^`]+)`", re.sub(r" or `.*`", "", item)):
                if said in SECTIONS[section].model_fields:
                    key = said
                    stated[section][key] = []
                else:
                    stated[section][key].append(yaml.safe_load(said))
    return stated


def test_readme_lists_every_setting_with_the_default_that_it_has():
    stated = stated_defaults()
    assert {section: set(keys) for section, keys in stated.items()} == {
        section: set(fields.model_fields) for section, fields in SECTIONS.items()
    }
    full = RunParams.load("full")
    for section, keys in stated.items():
        for key, values in keys.items():
            if values:
                stated_value = RunParams.load("full", **{section: {key: values[0]}})
                assert getattr(stated_value, section) == getattr(full, section), f"{section}.{key}: {values[0]}"
                assert len(values) == 1, f"{section}.{key}: {values}"
    assert sum(bool(values) for keys in stated.values() for values in keys.values()) > 20


def test_readme_lists_every_preset_with_its_data():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", README, re.M)
    listed = {name: (model, data, length) for name, model, data, length in rows if name in available_presets()}
    assert sorted(listed) == available_presets()
    for name, (model, _, length) in listed.items():
        params = RunParams.load(name)
        if "`" in model:
            assert params.model.name in model
        steps, epochs = params.training.max_steps, params.training.num_train_epochs
        assert length.startswith(f"{steps} steps" if steps else f"{epochs:g} epochs"), name


@each_document
def test_a_preset_that_is_named_exists(text):
    named = re.findall(r'preset = "(\w+)"', text) + re.findall(r"params/(\w+)\.yaml", text)
    assert set(named) <= set(available_presets())


# commands


def command_lines() -> list[str]:
    lines = [
        part
        for text in DOCUMENTS.values()
        for line in fences(text, "bash").replace("\\\n", " ").splitlines()
        for part in line.split(" && ")
    ]
    lines += [said for text in DOCUMENTS.values() for said in quoted(text) if " " in said]
    return [line.strip().removeprefix(".venv/bin/") for line in lines]


def load(preset: str, overrides: list[str]) -> None:
    sections = parse_overrides(overrides)
    RunParams.load(preset, **sections)


def test_every_command_of_ours_is_one_that_we_understand():
    ours = [line for line in command_lines() if line.startswith("nbhelpers ")]
    assert len(ours) >= 7
    for line in ours:
        arguments = cli.make_parser().parse_args(shlex.split(line, comments=True)[1:])
        if getattr(arguments, "preset", None):
            load(arguments.preset, arguments.overrides)


def test_every_override_that_is_quoted_is_accepted():
    quoted_alone = [line for line in command_lines() if line.startswith("--set ")]
    assert quoted_alone
    for line in quoted_alone:
        load("smoke", shlex.split(line)[1:])


def test_every_papermill_command_names_files_and_settings_that_there_are():
    lines = [line for line in command_lines() if line.startswith("papermill ")]
    assert len(lines) >= 2
    for line in lines:
        _, notebook, _, *options = shlex.split(line, comments=True)
        assert (ROOT / notebook).is_file()
        options = [option for option in options if option != "--log-output"]
        given = dict(zip(options[::2], options[1::2], strict=True))
        assert set(given) <= {"-f", "-y"}
        RunParams.load(str(ROOT / given["-f"]), **yaml.safe_load(given.get("-y", "{}")))
        assert (ROOT / given["-f"]).parent == presets_folder()


def test_containers_start_presets_that_there_are():
    started = [shlex.split(line, comments=True) for line in command_lines()]
    presets = [words[words.index("vision-grpo") + 1] for words in started if words[:2] == ["docker", "run"]]
    assert len(presets) >= 2 and set(presets) <= set(available_presets())


# figures and spelling


def test_readme_counts_the_embedded_models_parameters_as_they_are():
    (millions,) = re.findall(r"Gemma-3\s+\((\d+\.\d+) M parameters\)", README)
    count = 0
    for file in embedded_path().glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    assert f"{count / 1e6:.{len(millions.partition('.')[2])}f}" == millions


def plain(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


@each_document
def test_one_thing_is_spelt_one_way(text):
    assert not re.findall(r".*\d%.*", plain(text)), "51.6 %, with a space"
    assert not re.findall(r".*(?:->|=>).*", plain(text)), "→"


def test_rates_are_per_something():
    units = r"(?:seconds|ms|nats|completions|tokens|prompts|lines?|kernels?)"
    assert not re.findall(rf".*\b{units} an? (?:step|token|second|norm|prompt|group)\b.*", plain(README))
