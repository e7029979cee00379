"""Before and after: rates, groups, the paired interval."""

from __future__ import annotations

import json

import pytest

from nbhelpers.evaluation.evaluating import evaluate, headline
from nbhelpers.evaluation.statistics import compare, paired_difference
from nbhelpers.problems import loading


def row(pid, phase, correct, kind="count", parsed="1", format_ok=True):
    return {"pid": pid, "phase": phase, "correct": correct, "kind": kind, "parsed": parsed, "format_ok": format_ok}


def test_rates_are_counted_by_phase_and_kind():
    result = compare(
        [
            row("a", "before", False, parsed=None, format_ok=False),
            row("b", "before", True, kind="bars"),
            row("a", "after", True),
            row("b", "after", True, kind="bars"),
        ]
    )
    assert result["before"] == {"accuracy": 0.5, "format_rate": 0.5, "unparsed_rate": 0.5, "n": 2}
    assert result["after"]["accuracy"] == 1.0
    assert result["by_group"] == {
        "bars": {"before": 1.0, "after": 1.0, "n": 1},
        "count": {"before": 0.0, "after": 1.0, "n": 1},
    }


def test_the_interval_is_paired():
    """Hard and easy problems differ much more than before and after do: a paired interval does not see that."""
    first = {str(i): float(i % 2) for i in range(200)}
    second = {**first, **{str(i): 1.0 for i in range(0, 20, 2)}}
    difference = paired_difference(first, second)
    assert difference["accuracy"] == pytest.approx(0.05)
    low, high = difference["ci95"]
    assert 0.015 < low < 0.05 < high < 0.09


def test_the_interval_covers_as_often_as_it_says():
    import numpy as np

    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        before = rng.random(150) < 0.5
        after = np.where(rng.random(150) < 0.2, rng.random(150) < 0.9, before)  # expected gain 0.2 * (0.9 - 0.5)
        low, high = paired_difference(dict(enumerate(before * 1.0)), dict(enumerate(after * 1.0)), seed=seed)["ci95"]
        covered += low <= 0.08 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_problems_that_only_one_side_answered_are_not_compared():
    assert paired_difference({"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 1.0}) == {
        "accuracy": 1.0,
        "ci95": [1.0, 1.0],
        "n_paired": 1,
    }
    assert paired_difference({"a": 1.0}, {"b": 1.0})["n_paired"] == 0


def test_several_samples_a_problem_are_averaged_before_they_are_paired():
    result = compare(
        [row("a", "before", False), row("a", "before", True), row("a", "after", True), row("a", "after", True)]
    )
    assert result["difference"] == {"accuracy": 0.5, "ci95": [0.5, 0.5], "n_paired": 1}
    assert result["after"]["n"] == 1


@pytest.mark.parametrize(
    ("interval", "word"), [([0.01, 0.1], "a gain"), ([-0.1, -0.01], "a loss"), ([-0.02, 0.1], "no difference")]
)
def test_the_headline_does_not_claim_more_than_the_interval(interval, word):
    difference = {"accuracy": 0.05, "ci95": interval, "n_paired": 9}
    result = {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.55, "n": 9}, "difference": difference}
    assert word in headline(result)


def test_a_trained_run_is_evaluated_on_unseen_problems(trained_run):
    params, run = trained_run["params"], trained_run["run"]
    problems = loading.load_problems(params.dataset)
    seen = []
    result = evaluate(
        trained_run["policy"],
        problems,
        params,
        run,
        progress=lambda phase, done, total: seen.append((phase, done, total)),
    )
    assert json.loads(run.evaluation_path.read_text()) == result
    rows = run.read_jsonl(run.predictions_path)
    assert [r["phase"] for r in rows] == ["before"] * 16 + ["after"] * 16
    assert [r["pid"] for r in rows[:16]] == [r["pid"] for r in rows[16:]]
    assert result["difference"]["n_paired"] == 16 and result["protocol"] == "strict"
    assert seen[-1] == ("after", 16, 16)
    trained_on = {r["pid"] for r in run.read_jsonl(run.samples_path)}
    assert not trained_on & {r["pid"] for r in rows}


def test_pass_at_k_is_sampled_before_and_after_and_its_answers_are_kept(tiny_params, tmp_path):
    from nbhelpers.policy import load_policy
    from nbhelpers.runs import RunDirectory

    params = tiny_params(tmp_path, evaluation={"num_samples": 6, "pass_k": 4, "pass_problems": 3})
    problems, run = loading.load_problems(params.dataset), RunDirectory(tmp_path)
    result = evaluate(load_policy(params.model, params.lora), problems, params, run)
    curves = result["pass_at_k"]
    assert curves["before"]["k"] == [1, 2, 4] and curves["before"]["problems"] == 3 and curves["temperature"] == 1.0
    assert curves["before"] == curves["after"]  # the adapter is fresh, and the seed the same
    rows = run.read_jsonl(run.pass_path)
    assert len(rows) == 2 * 3 * 4 and len({row["pid"] for row in rows}) == 3
    assert run.read_json(run.evaluation_path)["pass_at_k"] == curves
    assert {row["pid"] for row in rows} <= {row["pid"] for row in run.read_jsonl(run.predictions_path)}
