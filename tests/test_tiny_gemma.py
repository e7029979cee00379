from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Gemma3ForConditionalGeneration

from nbhelpers.embedded import recipe
from nbhelpers.embedded.model import embedded_path
from nbhelpers.params.sections import RewardParams
from nbhelpers.problems.asking import prompt_text
from nbhelpers.problems.drawn import make_problems


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(embedded_path())


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForImageTextToText.from_pretrained(embedded_path(), dtype=torch.float32, output_loading_info=True)


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


def test_the_shipped_checkpoint_loads_whole_by_the_auto_classes(loaded):
    model, report = loaded
    assert isinstance(model, Gemma3ForConditionalGeneration)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 2e6


def test_the_weights_carry_the_published_names():
    from safetensors import safe_open

    with safe_open(embedded_path() / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
    heads = ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector.")
    assert all(name.startswith(heads) for name in names) and {name.split(".")[0] for name in names} == {
        head.split(".")[0] for head in heads
    }
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names


def test_the_config_says_what_other_loaders_look_for():
    config = json.loads((embedded_path() / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert config["vision_config"]["vision_use_head"] is False
    assert config["text_config"]["head_dim"] in (64, 128, 256)  # the sizes every vLLM attention backend takes
    preprocessing = json.loads((embedded_path() / "processor_config.json").read_text())
    assert preprocessing["image_processor"]["image_processor_type"] == "Gemma3ImageProcessor"


def test_generation_stops_at_the_end_of_the_turn_as_well_as_at_eos(model, processor):
    stops = [processor.tokenizer.convert_tokens_to_ids(token) for token in ("<eos>", "<end_of_turn>")]
    assert model.generation_config.eos_token_id == stops == model.config.eos_token_id


def test_special_and_newline_tokens_are_single_tokens_of_the_vocabulary(processor):
    vocabulary = processor.tokenizer.get_vocab()
    for token in ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "\n", "\n\n", "\n\n\n", "\n\n\n\n"):
        assert processor.tokenizer.encode(token, add_special_tokens=False) == [vocabulary[token]]


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(32, 127))),
        "设三角形的面积为 x, 求 $\\frac{\\sqrt{3}}{2}$ in m² – «ça va» 🙂",
        "two  spaces\tand a tab\n\n\n\n\nfive newlines",
    ],
)
def test_any_text_survives_the_tokenizer(processor, text):
    ids = processor.tokenizer.encode(text, add_special_tokens=False)
    assert processor.tokenizer.unk_token_id not in ids
    assert processor.tokenizer.decode(ids) == text


def test_the_instruction_costs_few_tokens_and_delimiters_cost_one(processor):
    problem = make_problems(1, kinds=["count"])[0]
    assert len(processor.tokenizer.encode(prompt_text(problem, RewardParams()))) < 48
    for tag in ("<REASONING>", "</REASONING>", "<SOLUTION>", "</SOLUTION>"):
        assert len(processor.tokenizer.encode(tag, add_special_tokens=False)) == 1


def test_a_prompt_of_the_length_of_real_problems_gets_a_finite_answer(model, processor):
    inputs = recipe._batch(processor, [make_problems(1)[0]["image"]], ["求 the angle ABC. " * 80])
    assert inputs["input_ids"].shape[1] > 600
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_the_model_answers_the_real_prompt_in_the_asked_format_part_of_the_time(model, processor):
    """Fails when the prompt was changed without rebuilding the weights."""
    torch.manual_seed(0)
    figures = recipe.measure(model, processor, make_problems(64, seed=1, part="evaluation"), temperature=1.0)
    assert 0.3 < figures["format_rate"] < 0.9  # and leaves GRPO something to teach


def test_the_model_sees_the_pictures(model, processor):
    problems = make_problems(96, seed=2, part="evaluation")
    seeing = recipe.measure(model, processor, problems)["accuracy"]
    swapped = [{**p, "image": q["image"]} for p, q in zip(problems, problems[1:] + problems[:1], strict=True)]
    assert seeing > recipe.measure(model, processor, swapped)["accuracy"] + 0.15


def test_it_round_trips_through_save_pretrained(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    picture = make_problems(1)[0]["image"]
    inputs = recipe._batch(AutoProcessor.from_pretrained(tmp_path), [picture] * 2, ["What is it?", "How many?"])
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


def test_a_rebuild_is_repeatable_and_is_laid_out_like_the_shipped_one(tmp_path):
    short = (recipe.ROUNDS[0]._replace(steps=2), recipe.ROUNDS[2]._replace(steps=1))
    for folder in ("a", "b"):
        recipe.rebuild(tmp_path / folder, rounds=short, batch_size=12, problems=6)
    shipped = {path.name for path in embedded_path().iterdir()}
    assert {path.name for path in (tmp_path / "a").iterdir()} == shipped
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (embedded_path() / "tokenizer.json").read_bytes()


def test_the_command_rebuilds_where_it_is_told_to(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(recipe, "rebuild", lambda out, **more: asked.update(more, out=out) or {"seed": 5})
    recipe.main(["--out", str(tmp_path), "--seed", "5"])
    assert asked == {"out": tmp_path, "seed": 5} and '"seed": 5' in capsys.readouterr().out
