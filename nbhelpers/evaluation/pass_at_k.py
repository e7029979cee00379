"""pass@k: how often at least one of k sampled answers is right, which tells what a policy can do from what it usually
does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbhelpers.evaluation.statistics import cluster_interval, picture_clusters


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
    right: dict[str, list[bool]] = defaultdict(list)
    kinds: dict[str, str] = {}
    pictures: dict[str, Hashable] = {}
    for row in rows:
        right[row["pid"]].append(bool(row["correct"]))
        pictures |= picture_clusters([row])
        kinds[row["pid"]] = row["kind"]
    if not right:
        return {}
    n = min(map(len, right.values()))
    ks = powers_of_two(n)
    by_problem = {pid: [pass_at_k(sum(marks[:n]), n, k) for k in ks] for pid, marks in right.items()}
    table = np.array(list(by_problem.values()))
    labels = [pictures[pid] for pid in by_problem]
    by_group: dict[str, list] = defaultdict(list)
    for pid, values in by_problem.items():
        by_group[kinds[pid]].append(values)
    return {
        "n": n,
        "problems": len(table),
        "k": ks,
        "all": _rounded(table.mean(axis=0)),
        "interval": [_rounded(cluster_interval(column, labels, (0.0, 1.0))) for column in table.T],
        "by_group": {kind: _rounded(np.mean(values, axis=0)) for kind, values in sorted(by_group.items())},
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
