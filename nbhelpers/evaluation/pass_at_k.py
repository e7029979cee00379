"""pass@k: how often at least one of k sampled answers is right, which tells what a policy can do from what it usually
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbhelpers.evaluation.statistics import by_problem, interval_of_rate, picture_clusters


def pass_at_k(right: int, n: int, k: int) -> float:
    """The unbiased estimate 1 - C(n - right, k) / C(n, k) from `right` right ones among n samples of one problem.

    Source: Chen et al. 2021 (https://arxiv.org/abs/2107.03374), equation 1, as a product that does not overflow.

    Raises:
        ValueError: k is below 1 or above n, of which no estimate without bias can be made.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(
            f"pass@{k} of {n} samples, {right} of them right: k may be 1 to {n}, and the right ones 0 to {n}."
        )
    if n - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself: the ks of a curve."""
    ks = [2**power for power in range(n.bit_length())]
    return ks if ks[-1] == n else [*ks, n]


def pass_curve(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean pass@k over problems, in all and by kind, with a 95 % interval over their pictures.

    Args:
        rows: sampled predictions with `pid`, `kind` and `correct`; every problem has the same number of samples.

    Returns:
        {"n": samples per problem, "problems": ..., "k": [1, 2, ...], "all": [...], "interval": [[low, high], ...],
        "by_group": {kind: [...]}}.
    """
    problems = by_problem(rows)
    if not problems:
        return {}
    n = min(map(len, problems.values()))
    ks = powers_of_two(n)
    right = [sum(bool(row["correct"]) for row in samples[:n]) for samples in problems.values()]
    table = np.array([[pass_at_k(count, n, k) for k in ks] for count in right])
    kinds = np.array([samples[0]["kind"] for samples in problems.values()])
    return {
        "n": n,
        "problems": len(table),
        "k": ks,
        "all": rounded(table.mean(axis=0)),
        "interval": intervals(table, problems),
        "by_group": {kind: rounded(table[kinds == kind].mean(axis=0)) for kind in sorted(set(kinds.tolist()))},
    }


def intervals(table: np.ndarray, problems: Mapping[str, Sequence[Mapping]]) -> list[list[float]]:
    """The 95 % interval of each column's mean, over the pictures of the problems that the rows are about."""
    pictures = picture_clusters(samples[0] for samples in problems.values())
    return [rounded(interval_of_rate(dict(zip(problems, column, strict=True)), pictures)) for column in table.T]


def rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
