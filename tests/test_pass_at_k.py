"""pass@k is the share of k-subsets with a right answer, and its curve is what many draws would give."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from nbhelpers.evaluation.pass_at_k import pass_at_k, pass_curve, powers_of_two


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_it_is_the_share_of_subsets_that_hold_a_right_one(n):
    for right in range(n + 1):
        marks = [place < right for place in range(n)]
        for k in range(1, n + 1):
            subsets = [any(subset) for subset in combinations(marks, k)]
            assert pass_at_k(right, n, k) == pytest.approx(sum(subsets) / len(subsets))


def test_it_has_no_bias_where_the_plain_formula_has():
    generator, chance, n, k = np.random.default_rng(1), 0.2, 8, 4
    draws = generator.binomial(n, chance, 20_000)
    truth = 1 - (1 - chance) ** k
    assert np.mean([pass_at_k(int(c), n, k) for c in draws]) == pytest.approx(truth, abs=0.01)
    assert abs(np.mean(1 - (1 - draws / n) ** k) - truth) > 0.02


@pytest.mark.parametrize(("right", "n", "k"), [(0, 4, 0), (0, 4, 5), (5, 4, 1), (-1, 4, 1)])
def test_what_cannot_be_estimated_is_refused(right, n, k):
    with pytest.raises(ValueError, match=r"k may be 1 to 4"):
        pass_at_k(right, n, k)


def test_the_curve_goes_over_problems_in_all_and_by_kind():
    rows = [{"pid": f"{kind}-{p}", "kind": kind, "correct": s < right}
            for kind, right in (("dots", 1), ("free", 0)) for p in range(5) for s in range(4)]  # fmt: skip
    curve = pass_curve(rows)
    assert curve["k"] == [1, 2, 4] and curve["n"] == 4 and curve["problems"] == 10
    assert curve["all"] == [0.125, 0.25, 0.5] and curve["by_group"] == {
        "dots": [0.25, 0.5, 1.0],
        "free": [0.0, 0.0, 0.0],
    }
    for value, (low, high) in zip(curve["all"], curve["interval"], strict=True):
        assert low < value < high
    assert pass_curve([]) == {} and powers_of_two(12) == [1, 2, 4, 8, 12]
