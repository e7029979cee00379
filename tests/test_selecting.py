"""The best checkpoint is chosen on problems of the training side, and the evaluation says so."""

from __future__ import annotations

import pytest

from nbhelpers.evaluation import evaluate
from nbhelpers.policy import load_final_model, load_policy
from nbhelpers.problems import load_problems
from nbhelpers.runs import RunDirectory, read_seal
from nbhelpers.training import selecting, train
from nbhelpers.training.selecting import best_folder, set_aside_selection


def test_the_selection_set_shares_no_picture_with_what_is_trained_on(tiny_params, tmp_path):
    train_side = load_problems(tiny_params(tmp_path).dataset).train
    for wanted, number in ((8, 8), (0.25, round(len(train_side) / 4))):
        params = tiny_params(tmp_path, evaluation={"select_on": wanted})
        rest, chosen = set_aside_selection(train_side, params)
        assert abs(len(chosen) - number) <= 2 and len(rest) + len(chosen) == len(train_side)
        pictures = [{image.tobytes() for image in part["image"]} for part in (rest, chosen)]
        assert not pictures[0] & pictures[1]
    rest, chosen = set_aside_selection(train_side, tiny_params(tmp_path))
    assert len(chosen) == 0 and len(rest) == len(train_side)


def test_more_than_there_are_is_refused_in_a_sentence(tiny_params, tmp_path):
    params = tiny_params(tmp_path, evaluation={"select_on": 5000})
    with pytest.raises(selecting.TrainingError, match="nothing would be left to train on"):
        set_aside_selection(load_problems(params.dataset).train, params)


@pytest.mark.slow
def test_the_best_and_not_the_last_is_kept_evaluated_and_named(tiny_params, tmp_path, monkeypatch):
    params = tiny_params(tmp_path, training={"eval_steps": 1}, evaluation={"select_on": 6, "plain_problems": 0})
    run, problems, shares = RunDirectory(tmp_path), load_problems(params.dataset), iter([2, 5, 3])

    def answered(policy, rows, *_, **__):
        right = next(shares)
        return [{"correct": place < right} for place in range(len(rows))]

    monkeypatch.setattr(selecting, "predict", answered)
    policy = load_policy(params.model, params.lora, seed=params.training.seed)
    train(policy, problems, params, run)
    count = read_seal(best_folder(run))["problems"]
    curve = [line["selection/accuracy"] for line in run.read_jsonl(run.metrics_path)]
    assert curve == pytest.approx([2 / count, 5 / count, 3 / count])
    assert read_seal(best_folder(run))["step"] == 2
    assert (run.checkpoints_dir / "checkpoint-3").is_dir(), "the last is kept beside it"
    final, best = ((folder / "adapter_model.safetensors").read_bytes() for folder in (run.final_model_dir,
                                                                                       best_folder(run)))  # fmt: skip
    assert final == best
    result = evaluate(load_final_model(run.final_model_dir, params.model), problems, params, run)
    assert result["checkpoint"]["step"] == 2 and "problems cut from the training side" in result["checkpoint"]["chosen"]
    asked = {row["pid"] for row in run.read_jsonl(run.predictions_path)}
    assert asked <= set(problems.evaluation["pid"])


def test_without_a_selection_set_it_is_the_last_step(trained_run):
    selected = read_seal(trained_run["run"].final_model_dir)["selected"]
    assert selected == {"step": 3, "chosen": "the last step"}
