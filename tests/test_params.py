"""Parameters: what a person writes is what the run uses, or a sentence says why not."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from nbhelpers.params.files import parse_overrides
from nbhelpers.params.places import available_presets, presets_folder, repository_root, resolve_path
from nbhelpers.params.run_params import RunParams
from nbhelpers.params.sections import _OWN_PLACE, SECTIONS, TrainingParams
from nbhelpers.params.sentences import ParamsError


def test_every_shipped_preset_loads_and_names_itself():
    assert {"smoke", "gemma3_smoke", "full", "full_geometry3k"} <= set(available_presets())
    for name in available_presets():
        assert RunParams.load(name).preset == name
        assert yaml.safe_load((presets_folder() / f"{name}.yaml").read_text())["preset"] == name


def test_full_yaml_spells_out_every_key_and_equals_the_defaults():
    written = yaml.safe_load((presets_folder() / "full.yaml").read_text())
    for name, section in SECTIONS.items():
        assert set(written[name]) == set(section.model_fields)
        assert getattr(RunParams.load("full"), name) == section()


def test_full_is_the_reference_recipe():
    params = RunParams.load("full")
    assert (params.model.name, params.model.load_in_4bit) == ("unsloth/gemma-3-4b-it", True)
    assert params.model.use_gradient_checkpointing == "unsloth"
    assert (params.lora.r, params.lora.alpha) == (16, 16)
    assert (params.lora.finetune_vision_layers, params.lora.finetune_language_layers) == (False, True)
    assert (params.dataset.path, params.dataset.split) == ("AI4Math/MathVista", "testmini")
    assert (params.dataset.image_size, params.dataset.max_samples) == (512, None)
    assert (params.reward.formatting_reward, params.reward.correctness_reward) == (1.0, 2.0)
    assert (params.reward.reasoning_start, params.reward.solution_end) == ("<REASONING>", "</SOLUTION>")
    training = params.training
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (1, 2)
    assert (training.learning_rate, training.num_generations, training.loss_type) == (5e-6, 4, "dr_grpo")
    assert (training.max_steps, training.num_train_epochs) == (None, 2)


def test_gemma3_smoke_is_60_steps_on_50_samples():
    params = RunParams.load("gemma3_smoke")
    assert (params.training.max_steps, params.training.num_train_epochs) == (60, None)
    assert params.dataset.max_samples == 50
    assert params.model == RunParams.load("full").model


def test_the_presets_use_only_fields_that_trl_has():
    from trl import GRPOConfig

    fields = {field.name for field in dataclasses.fields(GRPOConfig)}
    ours = {"grpo", "resume", "probes", "probe_steps", "num_processes"}
    assert set(_OWN_PLACE) | set(TrainingParams.model_fields) - ours <= fields
    for name in available_presets():
        assert set(RunParams.load(name).training.grpo) <= fields


def test_sections_override_the_preset_key_by_key():
    params = RunParams.load("full", training={"max_steps": 5, "grpo": {"beta": 0.04}}, dataset={"image_size": 256})
    assert params.training.max_steps == 5
    assert params.training.learning_rate == 5e-6
    assert params.training.grpo["beta"] == 0.04
    assert params.training.grpo["warmup_steps"] == 0.1
    assert params.dataset.image_size == 256
    assert params.dataset.path == "AI4Math/MathVista"


def test_the_later_of_max_steps_and_epochs_takes_back_the_earlier():
    assert RunParams.load("full", training={"max_steps": 5}).training.num_train_epochs is None
    epochs = RunParams.load("gemma3_smoke", dataset={"max_samples": None}, training={"num_train_epochs": 2})
    assert (epochs.training.max_steps, epochs.training.num_train_epochs) == (None, 2)
    with pytest.raises(ParamsError, match="both of max_steps and num_train_epochs"):
        RunParams.load("full", training={"max_steps": 5, "num_train_epochs": 1})
    with pytest.raises(ParamsError, match="neither of max_steps and num_train_epochs"):
        RunParams.load("smoke", training={"max_steps": None})


@pytest.mark.parametrize("text", ["5e-6", "5E-06", "5.0e-6", ".5e-5"])
def test_numbers_with_an_exponent_are_numbers_however_yaml_reads_them(text):
    value = yaml.safe_load(f"learning_rate: {text}")["learning_rate"]
    assert RunParams.load("smoke", training={"learning_rate": value}).training.learning_rate == 5e-6
    grpo = RunParams.load("smoke", training={"grpo": {"epsilon": value}}).training.grpo
    assert grpo["epsilon"] == 5e-6


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("training", "max_steps", "5", "a whole number of at least 1"),
        ("training", "max_steps", 4.5, "a whole number of at least 1"),
        ("training", "max_steps", True, "a whole number of at least 1"),
        ("training", "max_steps", 0, "a whole number of at least 1"),
        ("training", "num_generations", 1, "a whole number of at least 2"),
        ("training", "learning_rate", "5", "a number above 0"),
        ("training", "learning_rate", float("nan"), "a number above 0"),
        ("training", "loss_type", "dr_grppo", "did you mean dr_grpo?"),
        ("training", "grpo", [1], "keys and values"),
        ("model", "load_in_4bit", "yes", "true or false"),
        ("model", "gpu_memory_utilization", 1.5, "expected the word auto, or a number above 0 and below 1 (default"),
        ("model", "gpu_memory_utilization", "atuo", "the text 'atuo'; expected the word auto, or a number"),
        ("model", "use_gradient_checkpointing", "on", "one of unsloth, true, false"),
        ("model", "name", "", "text that is not empty"),
        ("lora", "dropout", 1, "a number of at least 0 and below 1"),
        ("dataset", "answer_types", ["integr"], "did you mean integer?"),
        ("reward", "weights", ["a", 1], "a list of numbers, or null"),
        ("evaluation", "protocol", "mathvist", "did you mean mathvista?"),
    ],
)
def test_a_wrong_value_is_refused_with_place_and_expectation(section, key, value, expected):
    with pytest.raises(ParamsError) as error:
        RunParams.load("smoke", **{section: {key: value}})
    assert str(error.value).startswith(f"parameters cell: {section}.{key}")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"max_step": 5}}, "training.max_step is not a known key .*did you mean max_steps"),
        ({"training": {"max_samples": 5}}, "it is a key of dataset: write it there"),
        ({"training": {5: 1}}, "training.5 is not a known key"),
        ({"training": {"epsilon": 0.2}}, "other fields of TRL's GRPOConfig go into training.grpo"),
        ({"training": {"grpo": {"temperature": 1}}}, "temperature has its own place, training.temperature"),
        ({"training": {"grpo": {"use_vllm": True}}}, "use_vllm has its own place, model.fast_inference"),
        ({"trainng": {"max_steps": 5}}, "parameters cell: 'trainng' is not a section .*did you mean training"),
        ({"reward": {"functions": ["formating"]}}, "did you mean formatting"),
        ({"reward": {"weights": [1.0]}}, "1 entries for 2 functions"),
        ({"reward": {"solution_start": "<REASONING>"}}, "could not be told apart"),
        ({"reward": {"functions": ["correctness", "correctness"]}}, "named twice"),
        ({"lora": {"finetune_language_layers": False}}, "nothing would be trained"),
        ({"training": {"max_completion_length": 4000}}, "max_seq_length is 1024"),
        ({"evaluation": {"samples_per_problem": 4}}, "raise the temperature"),
        ({"training": 5}, "the section training holds its keys and values, but was given 5"),
    ],
)
def test_what_does_not_fit_together_is_refused(sections, message):
    with pytest.raises(ParamsError, match=message):
        RunParams.load("smoke", **sections)


def test_every_wrong_value_of_a_section_is_named_at_once():
    with pytest.raises(ParamsError) as error:
        RunParams.load("smoke", training={"max_steps": "a", "seed": -1})
    assert "training.max_steps" in str(error.value) and "training.seed" in str(error.value)


def test_a_users_own_reward_is_named_by_module_and_function():
    reward = RunParams.load("smoke", reward={"functions": ["my.rewards:brevity"], "weights": [2]}).reward
    assert (reward.functions, reward.weights) == (["my.rewards:brevity"], [2.0])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ParamsError, match="no preset 'smok' among .*did you mean smoke"):
        RunParams.load("smok")
    with pytest.raises(ParamsError, match="there is no parameter file 'mine.yaml'"):
        RunParams.load("mine.yaml")


class TestOwnFiles:
    def write(self, folder: Path, name: str, text: str) -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    def test_a_file_builds_on_a_shipped_preset(self, tmp_path):
        own = self.write(tmp_path, "mine.yaml", "preset: smoke\ntraining: {max_steps: 7, grpo: {beta: 1e-2}}\n")
        params = RunParams.load(own, training={"seed": 3})
        assert (params.training.max_steps, params.training.seed) == (7, 3)
        assert params.training.grpo == RunParams.load("smoke").training.grpo | {"beta": 0.01}
        assert params.model.name == "embedded"
        assert params.output_dir.name == "mine"
        assert RunParams.load(params.preset, training={"seed": 3}) == params

    def test_a_file_builds_on_a_file_beside_it(self, tmp_path, monkeypatch):
        self.write(tmp_path, "base.yaml", "preset: smoke\noutput_dir: runs/base\ntraining: {max_steps: 7}\n")
        own = self.write(tmp_path, "mine.yaml", "preset: base.yaml\ntraining: {seed: 1}\n")
        monkeypatch.chdir(tmp_path)
        params = RunParams.load(own)
        assert (params.training.max_steps, params.training.seed) == (7, 1)
        assert params.output_dir == tmp_path / "runs" / "base"

    def test_files_that_build_on_each_other_are_refused(self, tmp_path):
        self.write(tmp_path, "a.yaml", "preset: b.yaml\n")
        with pytest.raises(ParamsError, match="circle"):
            RunParams.load(self.write(tmp_path, "b.yaml", "preset: a.yaml\n"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("training: {max_steps: 5}\n", "does not say what it builds on"),
            ("preset: smoke\ntraning: {}\n", "'traning' is not a section .*did you mean training"),
            ("preset: smoke\nmax_steps: 5\n", "it is a key of training: write it there"),
            ("preset: smoke\ntraining: {max_steps: five}\n", "mine.yaml: training.max_steps was given the text 'five'"),
            ("preset: smoke\ntraining: [1\n", "is not valid YAML"),
            ("preset: smoke\ntraining:\n  seed: 1\n  seed: 2\n", "line 4: the key 'seed' is written twice"),
            ("- smoke\n", "expected sections"),
            ("preset: smok\n", "mine.yaml: there is no preset 'smok'"),
            ("preset: smoke\noutput_dir: 5\n", "output_dir was given 5"),
        ],
    )
    def test_what_is_wrong_in_a_file_is_named_with_the_file(self, tmp_path, text, message):
        with pytest.raises(ParamsError, match=message) as error:
            RunParams.load(self.write(tmp_path, "mine.yaml", text))
        assert "mine.yaml" in str(error.value)

    def test_the_effective_parameters_load_again(self, tmp_path):
        own = self.write(tmp_path, "mine.yaml", "preset: full\ntraining: {learning_rate: 1e-6, max_steps: 9}\n")
        params = RunParams.load(own, output_dir=tmp_path / "out", dataset={"max_samples": 10})
        os.remove(own)
        again = RunParams.load(self.write(tmp_path, "params.yaml", params.to_yaml()))
        changed = {"preset": again.preset}
        assert again.as_dict() == params.as_dict() | changed

    def test_the_effective_parameters_are_what_papermill_passes(self):
        params = RunParams.load("full", training={"max_steps": 9})
        cell = yaml.safe_load(params.to_yaml())
        assert RunParams.load(cell.pop("preset"), **cell) == params


def test_output_goes_to_the_checkout_wherever_the_notebook_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunParams.load("smoke").output_dir == repository_root() / "outputs" / "smoke"
    assert RunParams.load("smoke", output_dir="here").output_dir == tmp_path / "here"


def test_a_relative_path_is_looked_for_here_then_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("params") == repository_root() / "params"
    (tmp_path / "params").mkdir()
    assert resolve_path("params") == tmp_path / "params"
    assert resolve_path("nowhere") is None


def test_overrides_are_read_as_yaml():
    settings = [
        "training.max_steps=5",
        "training.grpo.beta=0.04",
        "dataset.max_samples=null",
        "model.load_in_4bit=false",
    ]
    assert parse_overrides([*settings, "reward.functions=[correctness]", "dataset.path=a=b"]) == {
        "training": {"max_steps": 5, "grpo": {"beta": 0.04}},
        "dataset": {"max_samples": None, "path": "a=b"},
        "model": {"load_in_4bit": False},
        "reward": {"functions": ["correctness"]},
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainin.max_steps=5", "'trainin' is not a section .*did you mean training"),
        ("training.max_steps", "expected section.key=value"),
        ("max_steps=5", "expected section.key=value"),
        ("dataset.max_samples=", "write null for none"),
        ("reward.functions=[a", "cannot be read as YAML"),
        ("training.grpo={beta: 1, beta: 2}", r"YAML \(line 1: the key 'beta' is written twice\); put text"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(setting, message):
    with pytest.raises(ParamsError, match=message):
        parse_overrides([setting])


class TestBatchPlan:
    def test_the_reference_recipe_is_rounded_to_whole_groups_and_says_so(self):
        plan = RunParams.load("full").training.batch_plan()
        assert (plan.per_device_train_batch_size, plan.completions_per_step, plan.prompts_per_step) == (4, 8, 2)
        (notice,) = plan.notices
        assert "4 instead of 1" in notice and "num_generations = 4" in notice

    def test_a_batch_of_whole_groups_is_left_alone(self):
        plan = RunParams.load(
            "smoke", training={"per_device_train_batch_size": 128, "num_generations": 4}
        ).training.batch_plan()
        assert (plan.per_device_train_batch_size, plan.completions_per_step, plan.prompts_per_step) == (128, 128, 32)
        assert plan.notices == []

    def test_every_plan_holds_whole_groups(self):
        for device in (1, 2, 3, 5):
            for accumulation in (1, 2, 3):
                for group in (2, 3, 4, 8):
                    section = TrainingParams(
                        per_device_train_batch_size=device,
                        gradient_accumulation_steps=accumulation,
                        num_generations=group,
                    )
                    plan = section.batch_plan()
                    assert plan.completions_per_step % group == 0
                    assert plan.completions_per_step == plan.per_device_train_batch_size * accumulation
                    assert plan.per_device_train_batch_size - device < group
