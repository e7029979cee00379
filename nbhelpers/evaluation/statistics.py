"""Rates of predictions, and the difference of two policies on the same problems with its interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Of a hundred problems so many are taken to change their verdict, where no run has been measured yet.
USUAL_FLIPS = 0.12


def summarise(rows: Sequence[dict]) -> dict:
    """Rates over one phase's predictions; `unparsed_rate` counts those in which the grader found no answer to judge."""
    return {
        "accuracy": mean(row["correct"] for row in rows),
        "format_rate": mean(row["format_ok"] for row in rows),
        "unparsed_rate": mean(row["parsed"] is None for row in rows),
        "n": len(by_problem(rows)),
    }


def compare(predictions: Sequence[dict]) -> dict:
    """`evaluation.json` without protocol and decoding, from the rows of both phases (or of "after" alone).

    `ci95` holds the interval of each phase's accuracy alone. Each kind of problem gets the same, and its own paired
    difference; as many kinds are tested at once, `p_holm` is the exact McNemar test's p after Holm's correction over
    the kinds.
    """
    phases = {phase: [row for row in predictions if row["phase"] == phase] for phase in ("before", "after")}
    result: dict[str, Any] = {phase: summarise(rows) for phase, rows in phases.items() if rows}
    accuracy = {phase: problem_accuracy(rows) for phase, rows in phases.items()}
    pictures = picture_clusters(predictions)
    result["ci95"] = {phase: interval_of_rate(rates, pictures) for phase, rates in accuracy.items() if rates}
    kinds: dict[str, set] = defaultdict(set)
    for row in predictions:
        kinds[row["kind"]].add(row["pid"])
    result["by_group"] = {}
    for kind, pids in sorted(kinds.items()):
        own = {phase: {pid: rates[pid] for pid in sorted(pids & rates.keys())} for phase, rates in accuracy.items()}
        group = {phase: mean(rates.values()) for phase, rates in own.items()} | {"n": len(pids)}
        group["ci95"] = {phase: interval_of_rate(rates, pictures) for phase, rates in own.items() if rates}
        if phases["before"]:
            group["difference"] = paired_difference(*own.values(), pictures)
        result["by_group"][kind] = group
    if phases["before"]:
        result["difference"] = paired_difference(*accuracy.values(), pictures)
        tests = [group["difference"]["mcnemar"] for group in result["by_group"].values()]
        for test, adjusted in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = adjusted
    return result


def by_problem(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each problem id, in the order of asking."""
    problems: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        problems[row["pid"]].append(row)
    return problems


def problem_accuracy(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Share of correct samples by problem id."""
    return {pid: mean(row["correct"] for row in samples) for pid, samples in by_problem(rows).items()}


def picture_clusters(rows: Iterable[Mapping[str, Any]]) -> dict[str, Hashable]:
    """The picture of each problem id: questions about one picture are right or wrong together, and count as one draw.

    The picture's name is a digest of its content. A row without one is a cluster of its own.
    """
    return {row["pid"]: row.get("image") or ("pid", row["pid"]) for row in rows}


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], clusters: Mapping[str, Hashable] | None = None
) -> dict:
    """Mean of `second - first` over the problems that both hold, with its 95 % interval (`cluster_interval`).

    Each problem is compared with itself, so what all share, such as their difficulty, cancels.

    Args:
        first: share of right answers by problem id.
        clusters: problem ids to what moves as a whole, see `picture_clusters`; by default each problem does.

    Returns:
        {"accuracy", "ci95": [low, high], "n_paired": problems, "n_clusters", "mcnemar": see `mcnemar`}.
    """
    shared = sorted(first.keys() & second.keys())
    labels = [clusters.get(pid, pid) if clusters else pid for pid in shared]
    counts = {"n_paired": len(shared), "n_clusters": len(set(labels)), "mcnemar": mcnemar(first, second)}
    if not shared:
        return {"accuracy": None, "ci95": [None, None], **counts}
    differences = np.array([second[pid] - first[pid] for pid in shared])
    return {"accuracy": float(differences.mean()), "ci95": list(cluster_interval(differences, labels)), **counts}


def interval_of_rate(rates: Mapping[str, float], clusters: Mapping[str, Hashable]) -> list[float]:
    """The 95 % interval of the mean of `rates` by problem id (`cluster_interval`): of one phase alone, not paired."""
    return list(cluster_interval(np.array(list(rates.values())), [clusters[pid] for pid in rates], (0.0, 1.0)))


def cluster_interval(
    values: np.ndarray, labels: Sequence[Hashable], bounds: tuple[float, float] = (-1.0, 1.0)
) -> tuple[float, float]:
    """A 95 % interval of the mean of `values` (n,), each within `bounds`, which move together inside a cluster.

    The cluster jackknife: how far the mean moves when each cluster in turn is left out, as Student's t with the
    effective number of clusters (Carter et al. 2017, https://doi.org/10.1162/REST_a_00639) less one. Two made-up
    clusters of mean size are added before, one at each bound, as Bonett and Price do for paired proportions (2012,
    https://doi.org/10.3102/1076998611411915): without them no change among few problems would look like certainty.
    `tests/benchmarks/bench_intervals.py` counts how often the truth is inside, of a bootstrap over clusters as well.
    """
    from scipy.stats import t

    places = np.unique([repr(label) for label in labels], return_inverse=True)[1]
    sums, sizes = np.bincount(places, weights=values), np.bincount(places).astype(float)
    sums = np.append(sums, np.multiply(bounds, sizes.mean()))
    sizes = np.append(sizes, [sizes.mean()] * 2)
    whole, count = sizes.sum(), len(sizes)
    centre = sums.sum() / whole
    moves = (sums - centre * sizes) / (whole - sizes)
    freedom = whole**2 / (sizes**2).sum() - 1
    reach = float(t.ppf(0.975, freedom)) * math.sqrt((count - 1) / count * float((moves**2).sum()))
    return float(max(centre - reach, bounds[0])), float(min(centre + reach, bounds[1]))


def mcnemar(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Any]:
    """The exact McNemar test: had training changed nothing, as many problems would be fixed as broken.

    Returns {"fixed": n, "broken": n, "p": two-sided}. With several samples per problem a problem counts as fixed where
    its share of right ones rose, which makes it a sign test. It takes problems as independent; where questions share
    pictures, trust the interval.
    """
    from scipy.stats import binomtest

    shared = first.keys() & second.keys()
    fixed = sum(second[pid] > first[pid] for pid in shared)
    broken = sum(second[pid] < first[pid] for pid in shared)
    p = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return {"fixed": fixed, "broken": broken, "p": p}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of several tests made at once: each p such that no true null is refused in 95 of 100 cases.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def difference_over_seeds(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], clusters: Mapping[str, Hashable] | None = None
) -> dict:
    """Mean of `second - first` over several pairs of runs, a pair per training seed, on the problems that all hold.

    Seeds and pictures are both draws, so the interval has a variance for each: of the seeds' means, and of the
    pictures' means over seeds (crossed random effects; the noise that both hold is taken off once, and the seeds'
    variance is never taken to be less than it). Student's t with Satterthwaite's degrees of freedom of that sum. Two
    seeds hardly tell how far seeds spread, so their interval is wide; three are much better.

    Returns {"accuracy", "ci95", "n_seeds", "n_paired", "n_clusters", "by_seed": [a difference per pair]}.

    Raises:
        ValueError: fewer than two pairs, or no problem that all hold.
    """
    shared = sorted(set.intersection(*(set(first) & set(second) for first, second in pairs))) if pairs else []
    if len(pairs) < 2 or not shared:
        raise ValueError(f"{len(pairs)} pairs of runs with {len(shared)} problems in common: two and one are needed.")
    table = np.array([[second[pid] - first[pid] for pid in shared] for first, second in pairs])
    labels = [clusters.get(pid, pid) if clusters else pid for pid in shared]
    places = np.unique([repr(label) for label in labels], return_inverse=True)[1]
    mean, count = float(table.mean()), int(places.max()) + 1
    reach = _crossed_reach(table - mean, places, count)
    return {
        "accuracy": mean, "ci95": [mean - reach, mean + reach], "n_seeds": len(pairs), "n_paired": len(shared),
        "n_clusters": count, "by_seed": table.mean(axis=1).tolist(),
    }  # fmt: skip


def _crossed_reach(table: np.ndarray, places: np.ndarray, count: int) -> float:
    """Half a 95 % interval of the mean of a centred table (seeds, problems) whose problems lie in `count` clusters."""
    from scipy.stats import t

    seeds, problems = table.shape
    parts = np.array([np.bincount(places, weights=row) for row in table]) / problems  # of a seed's mean, by picture
    of_seeds, of_pictures = parts.sum(axis=1), parts.mean(axis=0)
    rest = parts - np.outer(of_seeds, np.bincount(places) / problems) - of_pictures
    free_seeds, free_pictures = seeds - 1, max(count - 1, 1)
    noise = float((rest**2).sum()) / seeds / free_seeds * count / free_pictures
    by_seed = max(float((of_seeds**2).sum()) / seeds / free_seeds, noise)
    by_picture = float((of_pictures**2).sum()) * count / free_pictures
    whole = max(by_seed + by_picture - noise, by_seed, by_picture)
    if whole <= 0:
        return 0.0
    spread = by_seed**2 / free_seeds + by_picture**2 / free_pictures + noise**2 / (free_seeds * free_pictures)
    return float(t.ppf(0.975, whole**2 / spread)) * math.sqrt(whole)


def detectable_difference(problems: int, *, flips: float = USUAL_FLIPS) -> float:
    """The smallest true difference of two accuracies that `problems` paired problems show in four of five runs.

    A two-sided test at 5 %, by the normal approximation of McNemar's test. With the default 1,000 problems show about
    3 points, 200 about 7.

    Args:
        flips: share of problems whose verdict differs between the two; the difference cannot be larger.
    """
    from scipy.stats import norm

    needed = float(norm.ppf(0.975) + norm.ppf(0.8)) ** 2
    # difference**2 * problems = needed * (flips - difference**2), solved for the difference
    return min(flips, math.sqrt(needed * flips / (problems + needed)))


def mean(values: Iterable[float]) -> float | None:
    """None where there is nothing to take the mean of."""
    values = list(values)
    return float(np.mean(values)) if values else None
