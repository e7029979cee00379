"""Before and after: rates, groups, the paired interval."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nbhelpers.evaluation.evaluating import evaluate
from nbhelpers.evaluation.statistics import (
    cluster_interval,
    compare,
    detectable_difference,
    difference_over_seeds,
    holm,
    mcnemar,
    paired_difference,
    picture_clusters,
)
from nbhelpers.evaluation.telling import headline, power_sentence
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
    rates = {kind: [group[key] for key in ("before", "after", "n")] for kind, group in result["by_group"].items()}
    assert rates == {"bars": [1.0, 1.0, 1], "count": [0.0, 1.0, 1]}


def test_the_interval_is_paired():
    """Hard and easy problems differ much more than before and after do: a paired interval does not see that."""
    first = {str(i): float(i % 2) for i in range(200)}
    second = {**first, **{str(i): 1.0 for i in range(0, 20, 2)}}
    difference = paired_difference(first, second)
    assert difference["accuracy"] == pytest.approx(0.05)
    low, high = difference["ci95"]
    assert 0.015 < low < 0.05 < high < 0.09


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        before = rng.random(150) < 0.5
        after = np.where(rng.random(150) < 0.2, rng.random(150) < 0.9, before)  # expected gain 0.2 * (0.9 - 0.5)
        low, high = paired_difference(dict(enumerate(before * 1.0)), dict(enumerate(after * 1.0)))["ci95"]
        covered += low <= 0.08 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_problems_that_only_one_side_answered_are_not_compared():
    difference = paired_difference({"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 1.0})
    assert (difference["accuracy"], difference["n_paired"]) == (1.0, 1)
    assert paired_difference({"a": 1.0}, {"b": 1.0})["n_paired"] == 0


def test_several_samples_a_problem_are_averaged_before_they_are_paired():
    result = compare(
        [row("a", "before", False), row("a", "before", True), row("a", "after", True), row("a", "after", True)]
    )
    difference = result["difference"]
    assert (difference["accuracy"], difference["n_paired"]) == (0.5, 1)
    assert result["after"]["n"] == 1


def clustered(rng, pictures, questions, share=0.9):
    """Differences of many questions about few pictures, which mostly share what happens to their picture."""
    of_picture = np.repeat(rng.choice([-1.0, 0.0, 1.0], pictures, p=[0.1, 0.6, 0.3]), questions)
    alone = rng.choice([-1.0, 0.0, 1.0], pictures * questions, p=[0.1, 0.6, 0.3])
    return np.where(rng.random(pictures * questions) < share, of_picture, alone)


def test_questions_about_one_picture_are_drawn_together():
    differences = clustered(np.random.default_rng(1), 40, 5)
    labels = np.repeat(np.arange(40), 5)
    low, high = cluster_interval(differences, labels)
    alone = cluster_interval(differences, np.arange(200))
    assert high - low > 1.7 * (alone[1] - alone[0])
    first, second = {str(at): 0.0 for at in range(200)}, {str(at): float(d) for at, d in enumerate(differences)}
    found = paired_difference(first, second, {str(at): int(label) for at, label in enumerate(labels)})
    assert found["ci95"] == [low, high] and (found["n_paired"], found["n_clusters"]) == (200, 40)


@pytest.mark.parametrize(("pictures", "questions"), [(20, 4), (100, 3)])
def test_the_clustered_interval_covers_as_often_as_it_says_and_the_plain_one_does_not(pictures, questions):
    rng, covered, plain, trials = np.random.default_rng(2), 0, 0, 300
    labels, alone = np.repeat(np.arange(pictures), questions), np.arange(pictures * questions)
    for _ in range(trials):
        differences = clustered(rng, pictures, questions)
        for name, of in (("clustered", labels), ("plain", alone)):
            low, high = cluster_interval(differences, of)
            covered += name == "clustered" and low <= 0.2 <= high
            plain += name == "plain" and low <= 0.2 <= high
    assert covered / trials >= 0.94 and plain / trials < 0.85


@pytest.mark.parametrize(
    ("chances", "bounds"),
    [((0.01, 0.97, 0.02), (-1.0, 1.0)), ((0.0, 0.1, 0.9), (-1.0, 1.0)), ((0.0, 0.05, 0.95), (0.0, 1.0))],
)
def test_what_hardly_varies_among_few_problems_is_no_certainty(chances, bounds):
    """A bootstrap of 36 problems of which none changed has an interval of width 0, and held the truth in half."""
    rng, trials, held = np.random.default_rng(6), 400, 0
    truth = chances[2] - chances[0]
    for _ in range(trials):
        values = rng.choice([-1.0, 0.0, 1.0], 36, p=chances)
        low, high = cluster_interval(values, range(36), bounds)
        assert bounds[0] <= low <= values.mean() <= high <= bounds[1] and high - low < 0.4
        held += low <= truth <= high
    assert held / trials >= 0.94
    low, high = cluster_interval(np.zeros(36), range(36))
    assert low == -high and 0.05 < high < 0.1


def test_one_picture_with_most_questions_is_not_many():
    rng, held, trials = np.random.default_rng(7), 0, 300
    labels = np.repeat(np.arange(20), [20] + [1] * 19)
    for _ in range(trials):
        low, high = cluster_interval(rng.choice([-1.0, 0.0, 1.0], 20, p=[0.1, 0.6, 0.3])[labels], labels)
        held += low <= 0.2 <= high
    assert held / trials >= 0.94


def test_rows_share_a_cluster_where_they_share_a_picture():
    rows = [{"pid": "a", "image": "images/1.png"}, {"pid": "b", "image": "images/1.png"}, {"pid": "c"}]
    clusters = picture_clusters(rows)
    assert clusters["a"] == clusters["b"] != clusters["c"]


def test_mcnemar_is_the_sign_test_of_what_was_fixed_against_what_was_broken():
    first = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0, "e": 1.0, "f": 0.0, "g": 0.0}
    second = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0, "e": 1.0, "f": 1.0, "g": 1.0}
    test = mcnemar(first, second)
    assert (test["fixed"], test["broken"]) == (5, 1) and test["p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(first, first)["p"] == 1.0


def test_holm_keeps_the_order_and_never_goes_above_one():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_many_kinds_without_any_change_are_rarely_called_changed():
    """With 14 kinds and no correction about every second evaluation would find one below 5 %."""
    rng, called, trials = np.random.default_rng(3), 0, 120
    for _ in range(trials):
        flips = rng.binomial(20, 0.5, 14)
        p = [mcnemar({str(i): float(i >= f) for i in range(20)}, {str(i): float(i < f) for i in range(20)})["p"]
             for f in flips]  # fmt: skip
        called += min(holm(p)) < 0.05
    assert called / trials <= 0.06


def test_each_kind_has_its_own_difference_with_a_corrected_p():
    rows = [row(f"{kind}{at}", phase, phase == "after" and kind == "bars", kind=kind)
            for kind in ("bars", "dots") for at in range(12) for phase in ("before", "after")]  # fmt: skip
    groups = compare(rows)["by_group"]
    assert groups["bars"]["difference"]["accuracy"] == 1.0 and groups["dots"]["difference"]["accuracy"] == 0.0
    tests = {kind: group["difference"]["mcnemar"] for kind, group in groups.items()}
    assert tests["bars"]["p_holm"] == pytest.approx(2 * tests["bars"]["p"]) and tests["dots"]["p_holm"] == 1.0


def test_seeds_are_a_second_level():
    """Five seeds that disagree say less than the many problems of one of them."""
    rng, problems = np.random.default_rng(4), [str(at) for at in range(400)]
    first = {pid: float(rng.random() < 0.5) for pid in problems}
    gains = [0.02, 0.18, 0.04, 0.16, 0.10]
    pairs = [(first, {pid: was or float(rng.random() < 2 * g) for pid, was in first.items()}) for g in gains]
    one = paired_difference(*pairs[4])["ci95"]
    result = difference_over_seeds(pairs)
    low, high = result["ci95"]
    assert low < 0.1 < high and high - low > 1.5 * (one[1] - one[0])
    assert result["n_seeds"] == 5 and result["accuracy"] == pytest.approx(np.mean(result["by_seed"]))
    with pytest.raises(ValueError, match="1 pairs"):
        difference_over_seeds(pairs[:1])


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.03), (3, 0.05), (5, 0.02)])
def test_the_interval_over_seeds_covers_as_often_as_it_says(seeds, spread):
    rng, held, trials, problems = np.random.default_rng(8), 0, 200, [str(at) for at in range(120)]
    zeros = dict.fromkeys(problems, 0.0)
    for _ in range(trials):
        gains, ease = np.clip(rng.normal(0.2, spread, seeds), 0.02, 0.38), 2 * rng.random(120)
        rates = [dict(zip(problems, (rng.random(120) < gain * ease) * 1.0, strict=True)) for gain in gains]
        low, high = difference_over_seeds([(zeros, after) for after in rates])["ci95"]
        held += low <= 0.2 <= high
    assert held / trials >= 0.93


def test_what_a_number_of_problems_can_show_holds_in_a_simulation():
    assert detectable_difference(1000) == pytest.approx(0.03, abs=0.002)
    assert detectable_difference(200) == pytest.approx(0.07, abs=0.004)
    shown, rng, trials = detectable_difference(400, flips=0.2), np.random.default_rng(5), 400
    found = 0
    for _ in range(trials):
        change = rng.choice([1, -1, 0], 400, p=[0.1 + shown / 2, 0.1 - shown / 2, 0.8])
        fixed, broken = int((change > 0).sum()), int((change < 0).sum())
        found += (fixed - broken) ** 2 > 1.96**2 * (fixed + broken)  # McNemar's test by its normal approximation
    assert found / trials == pytest.approx(0.8, abs=0.07)
    assert "512 problems show a true difference of 4.3 points" in power_sentence(512)
    assert power_sentence(512, pictures=512) == power_sentence(512)
    assert "512 problems about 200 pictures show a true difference of 4.3 to 6.7 points" in power_sentence(
        512, pictures=200
    )


@pytest.mark.parametrize(
    ("interval", "word"), [([0.01, 0.1], "a gain"), ([-0.1, -0.01], "a loss"), ([-0.02, 0.1], "no difference")]
)
def test_the_headline_does_not_claim_more_than_the_interval(interval, word):
    difference = {"accuracy": 0.05, "ci95": interval, "n_paired": 9}
    result = {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.55, "n": 9}, "difference": difference}
    assert word in headline(result)


def test_without_a_baseline_the_headline_has_the_interval_of_the_share():
    result = compare([row(str(at), "after", at < 6) for at in range(12)])
    low, high = result["ci95"]["after"]
    assert f"50.0 % of 12 problems (95 % interval {100 * low:.1f} % to {100 * high:.1f} %)" in headline(result)
    assert "1 problem (" in headline(compare([row("a", "after", True)]))


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
    assert ("before", 16, 16) in seen and seen[-2:] == [("after", 16, 16), ("after, sampled", 16, 16)]
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
