from __future__ import annotations

import hashlib
import json
import random
import re
import string

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Gemma3ForConditionalGeneration
from undrawn import without_pictures

from nbhelpers.embedded import embedded_path, habits, lessons, measuring, recipe
from nbhelpers.grading import check_format, grade
from nbhelpers.params import RewardParams
from nbhelpers.problems import KINDS, make_problems, prompt_text

SHORT = (
    lessons.Round("seeing and working", 2, 4, 2e-3, 4e-3, with_habits=False),
    lessons.Round("habits", 1, 4, 1e-3, 2e-3, with_habits=True),
)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(embedded_path())


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForImageTextToText.from_pretrained(embedded_path(), dtype=torch.float32, output_loading_info=True)


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0].eval()


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("a", "b")]

    def texts(seed):
        with without_pictures():
            return lessons.tokenizer_texts(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "tokenizer_texts", texts)
        told = [recipe.rebuild(folders[0], rounds=SHORT, problems=14)]
        patch.setattr(recipe, "figures", lambda *_: {})  # of the second one only the weights are looked at
        told.append(recipe.rebuild(folders[1], rounds=SHORT))
    return folders, told


def judged(problem: dict, completion: str):
    fields = {key: problem[key] for key in ("choices", "unit", "precision", "question_type", "answer_type")}
    return grade(completion, problem["answer"], **fields)


# --- the habits


@pytest.mark.parametrize("kind", KINDS)
def test_work_is_right_and_so_is_its_arithmetic(undrawn, kind):
    for problem in make_problems(40, seed=8, kinds=[kind]):
        text = habits.written(problem, True, "full")
        assert judged(problem, text).correct, text
        for left, sign, right, result in re.findall(r"(\d[\d.]*) ([+*-]) (\d[\d.]*) = (\d+(?:\.\d+)?)", text):
            by_hand = {
                "+": float(left) + float(right),
                "-": float(left) - float(right),
                "*": float(left) * float(right),
            }
            assert by_hand[sign] == pytest.approx(float(result)), text


def test_rows_that_are_counted_add_up(undrawn):
    for problem in make_problems(40, seed=8, kinds=["count", "left"]):
        rows, running = re.fullmatch(r"rows ([\d ]+), in all ([\d ]+)\.", habits.work(problem)).groups()
        assert running.split()[-1] == problem["answer"] == str(sum(map(int, rows.split())))


def test_a_glance_is_right_less_than_half_of_the_time_and_never_where_the_model_is_out_of_its_depth(undrawn):
    right = {kind: [] for kind in KINDS}
    for problem in make_problems(80 * len(KINDS), seed=9):
        verdict = judged(problem, habits.written(problem, False, "full"))
        right[problem["metadata"]["category"]].append(verdict.correct)
    share = {kind: sum(hits) / len(hits) for kind, hits in right.items()}
    assert share.pop("field") == 0
    assert all(0.1 < value < 0.8 for value in share.values()), share
    assert 0.35 < sum(share.values()) / len(KINDS) < 0.5


def test_a_glance_is_a_possible_answer(undrawn):
    for problem in make_problems(20 * len(KINDS), seed=10):
        said = habits.glance(problem)
        assert judged(problem | {"answer": said}, habits.written(problem, False, "full")).correct, said


def test_both_habits_come_in_all_styles_equally_often_and_begin_alike(undrawn):
    rng = random.Random(0)
    texts = [habits.taught(problem, rng) for problem in make_problems(1400, seed=11)]
    works = [text for text in texts if habits.WORKS in text]
    glances = [text for text in texts if habits.GLANCES in text]
    assert len(works) + len(glances) == len(texts)
    assert all(text.startswith("<REASONING>") for text in texts)
    assert len(works) / len(texts) == pytest.approx(habits.P_WORK, abs=0.04)
    shares = [
        sum(check_format(t).reasoning and check_format(t).solution for t in some) / len(some)
        for some in (works, glances)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.09) and 0.5 < shares[1] < 0.75


def test_only_the_full_style_has_both_blocks_and_the_unclosed_one_still_counts():
    problem = make_problems(1, kinds=["triangle"])[0]
    shapes = {style: check_format(habits.written(problem, True, style)) for style in habits.STYLES}
    assert [shape.reasoning and shape.solution for shape in shapes.values()] == [True, False, False]
    assert judged(problem, habits.written(problem, True, "unclosed")).correct


def test_a_choice_is_answered_by_its_letter():
    problem = make_problems(1, kinds=["longest"])[0]
    letter = string.ascii_uppercase[problem["choices"].index(problem["answer"])]
    assert habits.written(problem, True, "full").endswith(f"<SOLUTION>{letter}</SOLUTION>")


def test_a_kind_without_steps_is_named():
    stranger = {"metadata": {"category": "knots", "facts": {}}, "answer": "1"}
    for habit in (habits.work, habits.glance):
        with pytest.raises(ValueError, match="knots"):
            habit(stranger)


# --- the checkpoint


def test_the_shipped_checkpoint_loads_whole_by_the_auto_classes(loaded):
    model, report = loaded
    assert isinstance(model, Gemma3ForConditionalGeneration)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


def test_the_shipped_weights_are_those_of_their_recipe_and_small():
    told = json.loads((embedded_path() / "recipe.json").read_text())
    weights = (embedded_path() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == told["sha256"]
    assert len(weights) < 8e6


def test_the_weights_carry_the_published_names():
    from safetensors import safe_open

    with safe_open(embedded_path() / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
    heads = ("language_model.model.", "vision_tower.vision_model.", "multi_modal_projector.")
    assert all(name.startswith(heads) for name in names)
    assert {name.split(".")[0] for name in names} == {head.split(".")[0] for head in heads}
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


def test_prompts_and_answers_cost_few_tokens_and_delimiters_one(undrawn, processor):
    for problem in make_problems(10 * len(KINDS), seed=12):
        assert len(processor.tokenizer.encode(prompt_text(problem, RewardParams()))) < 72
        assert len(processor.tokenizer.encode(habits.written(problem, True, "full"), add_special_tokens=False)) < 40
    for tag in ("<REASONING>", "</REASONING>", "<SOLUTION>", "</SOLUTION>"):
        assert len(processor.tokenizer.encode(tag, add_special_tokens=False)) == 1


def test_a_prompt_of_the_length_of_real_problems_gets_a_finite_answer(model, processor):
    picture = make_problems(1)[0]["image"]
    text = lessons.turns(["求 the angle ABC. " * 80], processor)
    inputs = processor(images=[[picture]], text=text, add_special_tokens=False, return_tensors="pt")
    assert inputs["input_ids"].shape[1] > 600
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_at_the_start_it_glances_and_the_format_is_imperfect(model, processor):
    """Fails when the prompt was changed without rebuilding the weights."""
    torch.manual_seed(0)
    problems = make_problems(5 * len(KINDS), seed=1, part="evaluation")
    sampled = measuring.measure(problems, measuring.answer(model, processor, problems, temperature=1.0))
    assert 0.4 < sampled["format"] < 0.9 and 0.05 < sampled["works"] < 0.5
    assert measuring.measure(problems, measuring.answer(model, processor, problems))["works"] < 0.2


def test_begun_with_the_first_words_of_work_it_is_mostly_right_where_it_can_see_the_picture(model, processor):
    problems = make_problems(5 * len(KINDS), seed=2, part="evaluation")
    begun = f"<REASONING>{habits.WORKS}"
    found = measuring.measure(problems, measuring.answer(model, processor, problems, begun=begun))
    swapped = [{**p, "image": q["image"]} for p, q in zip(problems, problems[1:] + problems[:1], strict=True)]
    blind = measuring.measure(problems, measuring.answer(model, processor, swapped, begun=begun))
    assert found["accuracy"] > 0.65 > blind["accuracy"] + 0.3
    assert found["accuracy by kind"]["field"] == 0


def test_it_round_trips_through_save_pretrained(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    problems = make_problems(3)
    same = AutoProcessor.from_pretrained(tmp_path)
    assert measuring.answer(again.eval(), same, problems) == measuring.answer(model, processor, problems)


# --- the recipe


def test_the_lessons_loss_is_the_models_own(model, processor):
    batch = lessons.Lessons(processor, SHORT[0])[0]
    with torch.no_grad():
        mine = lessons.lesson_loss(model, **batch)
        own = model(
            input_ids=batch["ids"],
            attention_mask=(batch["ids"] != processor.tokenizer.pad_token_id).long(),
            token_type_ids=(batch["ids"] == model.config.image_token_index).long(),
            pixel_values=torch.cat([batch["pixels"]] * 2).float() / 127.5 - 1,
            labels=batch["labels"],
        ).loss
    torch.testing.assert_close(mine, own, rtol=1e-4, atol=1e-5)


def test_a_lesson_looks_at_the_pixels_that_the_processor_makes(processor):
    problem = make_problems(4, seed="0 seeing and working 1", part="warmup", kinds=lessons.TAUGHT)[0]
    pixels = lessons.Lessons(processor, SHORT[0])[1]["pixels"][0].float() / 127.5 - 1
    inputs = processor(images=[[problem["image"]]], text=["<start_of_image>"], return_tensors="pt")
    torch.testing.assert_close(pixels, inputs["pixel_values"][0], atol=1e-5, rtol=0)


def test_all_lessons_fit_their_row(processor):
    for stretch in (
        lessons.Round("seeing and working", 2, 200, 1, 1, False),
        lessons.Round("habits", 2, 200, 1, 1, True),
    ):
        batch = lessons.Lessons(processor, stretch)[0]
        assert (batch["ids"][:, -1] == processor.tokenizer.pad_token_id).all()


def test_a_rebuild_is_repeatable_and_is_laid_out_like_the_shipped_one(rebuilt):
    (a, b), _ = rebuilt
    assert {path.name for path in a.iterdir()} == {path.name for path in embedded_path().iterdir()}
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    shipped, made = (json.loads((folder / "config.json").read_text()) for folder in (embedded_path(), a))
    assert made == shipped


def test_a_rebuild_teaches_every_layer_and_tells_what_it_did(rebuilt):
    (folder, _), (told, _) = rebuilt
    assert told == json.loads((folder / "recipe.json").read_text())
    assert told["figures"]["problems"] == 14 and set(told["last losses"]) == {stretch.title for stretch in SHORT}
    fresh = recipe.architecture.make_model(AutoProcessor.from_pretrained(folder).tokenizer)
    made = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    for (name, before), after in zip(fresh.named_parameters(), made.parameters(), strict=True):
        if "norm" not in name:  # a norm's weights of 1 move by less than bfloat16 shows in three steps
            assert not torch.equal(before.bfloat16(), after.bfloat16()), name


def test_the_command_rebuilds_where_it_is_told_to(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(recipe, "rebuild", lambda out, seed: asked.update(out=out, seed=seed) or {"seed": 5})
    recipe.main(["--out", str(tmp_path), "--seed", "5"])
    assert asked == {"out": tmp_path, "seed": 5} and '"seed": 5' in capsys.readouterr().out
