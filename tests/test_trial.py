"""First contact with a model, and the card that a trained one carries."""

from __future__ import annotations

import yaml

from nbhelpers import cli
from nbhelpers.evaluation.trial import Trial
from nbhelpers.params import RunParams
from nbhelpers.runs import flaw
from nbhelpers.training.card import UNKNOWN, card_text, licence_of, write_card


def trial(**changes):
    figures = {"accuracy": 0.5, "interval": (0.3, 0.7), "anywhere": 0.5, "format_rate": 0.8, "cut_off": 0.0}
    return Trial(model="m", problems=32, seconds=3.0, parity="the same", **(figures | changes))


def test_a_sound_model_raises_no_doubt_and_a_broken_one_says_what_to_look_at():
    assert trial().doubts == []
    assert "max_completion_length" in trial(cut_off=0.5).doubts[0]
    assert "format" in trial(format_rate=0.0).doubts[0]
    assert "weights" in trial(accuracy=0.0, anywhere=0.0).doubts[0]


def test_the_doctor_tries_the_embedded_model(capsys):
    assert cli.main(["doctor", "smoke", "--try-model", "--set", "dataset.max_samples=80"]) == 0
    said = capsys.readouterr().out
    assert "32 problems answered" in said and "nothing to compare" in said
    assert "format kept" in said and "cut off" in said and "95 % interval" in said


def test_the_card_says_base_data_licence_settings_and_figures(trained_run):
    run, params = trained_run["run"], trained_run["params"]
    run.evaluation_path.unlink(missing_ok=True)  # another test may have evaluated the run
    write_card(run, params)
    card = (run.final_model_dir / "README.md").read_text()
    assert "Not evaluated yet" in card and "step 3, the last step" in card and "dr_grpo" in card
    difference = {"accuracy": 0.25, "ci95": [0.1, 0.4], "n_paired": 16}
    sides = {"before": {"accuracy": 0.25}, "after": {"accuracy": 0.5, "format_rate": 1.0, "n": 16}}
    evaluated = sides | {"difference": difference, "protocol": "strict", "decoding": {"temperature": 0.0}}
    run.write_json(run.evaluation_path, evaluated)
    try:
        write_card(run, params)
    finally:
        run.evaluation_path.unlink()
    card = (run.final_model_dir / "README.md").read_text()
    assert "+25.0 points (95 % interval +10.0 to +40.0, paired)" in card
    assert flaw(run.final_model_dir) is None, "a card that is written again does not break the seal"
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"


def test_the_card_of_gemma_names_its_terms_and_those_of_the_data():
    params = RunParams.load("full_geometry3k")
    card = card_text(params, {"step": 10}, {}, None)
    assert "Gemma Terms of Use" in card and "MIT" in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == params.model.name
    assert "forbids training" in licence_of("AI4Math/MathVista") and licence_of("my/data") == UNKNOWN
