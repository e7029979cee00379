"""majority@k: how often the most frequent of k sampled answers is right, and what agreement says of being right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np

from nbhelpers.evaluation.pass_at_k import intervals, powers_of_two, rounded
from nbhelpers.evaluation.statistics import by_problem
from nbhelpers.grading import GRADING_COLUMNS, same_answer

AGREEMENT_BINS = 4


@lru_cache(maxsize=4096)
def majority_curve(right: int, wrong: tuple[int, ...], silent: int) -> tuple[float, ...]:
    """majority@k for k = 1 to n: the share of k-subsets of n samples in which the right answer has the most votes.

    A tie counts as its share (two answers ahead: half), and a sample without an answer does not vote. Like pass@k this
    is the mean over all subsets, without bias; they are counted, not drawn.

    Args:
        right: samples with the right answer.
        wrong: samples of each different wrong answer.
        silent: samples in which no answer was found.
    """
    n = right + sum(wrong) + silent
    earned = np.zeros(n + 1)
    for votes in range(1, right + 1):
        # (samples drawn, wrong answers with as many votes) -> number of ways
        ways = Counter({(drawn, 0): comb(silent, drawn) for drawn in range(silent + 1)})
        for size in wrong:
            grown: Counter[tuple[int, int]] = Counter()
            for (drawn, ties), count in ways.items():
                for more in range(min(size, votes) + 1):
                    grown[drawn + more, ties + (more == votes)] += count * comb(size, more)
            ways = grown
        for (drawn, ties), count in ways.items():
            earned[drawn + votes] += comb(right, votes) * count / (ties + 1) / comb(n, drawn + votes)
    return tuple(earned[1:].tolist())


def votes(rows: Sequence[Mapping[str, Any]], protocol: str = "strict") -> tuple[int, tuple[int, ...], int]:
    """One problem's samples as `majority_curve` takes them: right ones, each wrong answer's, those without an answer.

    Two answers are one where the grader, with either as the gold answer, would call the other right.
    """
    wrong: dict[str, int] = {}
    for row in rows:
        if row["correct"] or row["parsed"] is None:
            continue
        columns = {key: row.get(key) for key in GRADING_COLUMNS}
        found = (answer for answer in wrong if same_answer(row["parsed"], answer, protocol=protocol, **columns))
        answer = next(found, row["parsed"])
        wrong[answer] = wrong.get(answer, 0) + 1
    right = sum(bool(row["correct"]) for row in rows)
    return right, tuple(sorted(wrong.values(), reverse=True)), len(rows) - right - sum(wrong.values())


def vote_curve(rows: Iterable[Mapping[str, Any]], protocol: str = "strict") -> dict[str, Any]:
    """What voting over the samples of each problem gives, and how the samples of one problem spread.

    Args:
        rows: sampled predictions, the rows of `pass_at_k.jsonl` of one phase.

    Returns:
        {"majority": [majority@k for the ks of the pass curve], "majority_interval": [[low, high], ...],
        "variance": {"within": mean variance of a sample's verdict inside a problem, "between": variance of the
        problems' own rates}, "agreement": [{"low", "high", "problems", "accuracy"}, ...]}: the share of the most
        frequent answer among all samples, in bins, against how often that answer is right.
    """
    problems = by_problem(rows)
    if not problems:
        return {}
    n = min(map(len, problems.values()))
    counted = [votes(samples[:n], protocol) for samples in problems.values()]
    table = np.array([majority_curve(*counts) for counts in counted])[:, [k - 1 for k in powers_of_two(n)]]
    return {
        "majority": rounded(table.mean(axis=0)),
        "majority_interval": intervals(table, problems),
        "variance": _variance([right / n for right, _, _ in counted], n),
        "agreement": _agreement(counted, n),
    }


def _variance(rates: Sequence[float], n: int) -> dict[str, float]:
    """Both parts without bias: the spread of problems' observed rates holds a part of the spread inside them."""
    spread = np.array(rates)
    within = float(np.mean(spread * (1 - spread))) * n / max(n - 1, 1)
    between = float(spread.var(ddof=1)) - within / n if len(spread) > 1 else 0.0
    return {"within": round(within, 4), "between": round(max(between, 0.0), 4)}


def _agreement(counted: Iterable[tuple[int, tuple[int, ...], int]], n: int) -> list[dict[str, Any]]:
    bins: dict[int, list[float]] = defaultdict(list)
    for right, wrong, _ in counted:
        most = max((right, *wrong))
        ahead = (right == most) + wrong.count(most)
        score = (right == most) / ahead if most else 0.0
        bins[min(int(AGREEMENT_BINS * most / n), AGREEMENT_BINS - 1)].append(score)
    return [
        {"low": place / AGREEMENT_BINS, "high": (place + 1) / AGREEMENT_BINS, "problems": len(scores),
         "accuracy": round(float(np.mean(scores)), 4)}
        for place, scores in sorted(bins.items())
    ]  # fmt: skip
