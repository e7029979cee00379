"""Rates of predictions, and the difference of two policies on the same problems with its interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

BOOTSTRAP_RESAMPLES = 9_999
# Of a hundred problems so many are taken to change their verdict, where no run has been measured yet.
USUAL_FLIPS = 0.12


def summarise(rows: Sequence[dict]) -> dict:
    """Rates over one phase's predictions; `unparsed_rate` counts those in which the grader found no answer to judge."""
    return {
        "accuracy": _mean(row["correct"] for row in rows),
        "format_rate": _mean(row["format_ok"] for row in rows),
        "unparsed_rate": _mean(row["parsed"] is None for row in rows),
        "n": len({row["pid"] for row in rows}),
    }


def compare(predictions: Sequence[dict], *, seed: int = 0) -> dict:
    """`evaluation.json` without protocol and decoding, from the rows of both phases (or of "after" alone).

    Each kind of problem gets its own paired difference; as many kinds are tested at once, `p_holm` is the exact
    McNemar test's p after Holm's correction over the kinds.
    """
    phases = {phase: [row for row in predictions if row["phase"] == phase] for phase in ("before", "after")}
    result: dict[str, Any] = {phase: summarise(rows) for phase, rows in phases.items() if rows}
    accuracy = {phase: problem_accuracy(rows) for phase, rows in phases.items()}
    pictures = picture_clusters(predictions)
    kinds: dict[str, set] = defaultdict(set)
    for row in predictions:
        kinds[row["kind"]].add(row["pid"])
    result["by_group"] = {
        kind: {phase: _mean(rates[pid] for pid in sorted(pids & rates.keys())) for phase, rates in accuracy.items()}
        | {"n": len(pids)}
        for kind, pids in sorted(kinds.items())
    }
    if phases["before"]:
        result["difference"] = paired_difference(accuracy["before"], accuracy["after"], pictures, seed=seed)
        for kind, group in result["by_group"].items():
            both = ({pid: rates[pid] for pid in kinds[kind] & rates.keys()} for rates in accuracy.values())
            group["difference"] = paired_difference(*both, pictures, seed=seed)
        tests = [group["difference"]["mcnemar"] for group in result["by_group"].values()]
        for test, adjusted in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = adjusted
    return result


def problem_accuracy(rows: Iterable[dict]) -> dict[str, float]:
    """Share of correct samples by problem id."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        verdicts[row["pid"]].append(row["correct"])
    return {pid: float(np.mean(values)) for pid, values in verdicts.items()}


def picture_clusters(rows: Iterable[Mapping[str, Any]]) -> dict[str, Hashable]:
    """The picture of each problem id: questions about one picture are right or wrong together, and count as one draw.

    The picture's name is a digest of its content. A row without one is a cluster of its own.
    """
    return {row["pid"]: row.get("image") or ("pid", row["pid"]) for row in rows}


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, Hashable] | None = None,
    *,
    seed: int = 0,
) -> dict:
    """Mean of `second - first` over the problems that both hold, with a bootstrap 95 % interval.

    Each problem is compared with itself, so what all share, such as their difficulty, cancels.

    Args:
        first: share of right answers by problem id.
        clusters: problem ids to what is drawn as a whole, see `picture_clusters`; by default each problem is.

    Returns:
        {"accuracy", "ci95": [low, high], "n_paired": problems, "n_clusters", "mcnemar": see `mcnemar`}. A difference
        that is the same for every problem has an interval of width 0.
    """
    shared = sorted(first.keys() & second.keys())
    labels = [clusters.get(pid, pid) if clusters else pid for pid in shared]
    counts = {"n_paired": len(shared), "n_clusters": len(set(labels)), "mcnemar": mcnemar(first, second)}
    if not shared:
        return {"accuracy": None, "ci95": [None, None], **counts}
    differences = np.array([second[pid] - first[pid] for pid in shared])
    low, high = cluster_interval(differences, labels, seed=seed)
    return {"accuracy": float(differences.mean()), "ci95": [low, high], **counts}


def cluster_interval(
    values: np.ndarray, labels: Sequence[Hashable], *, seed: int = 0, resamples: int = BOOTSTRAP_RESAMPLES
) -> tuple[float, float]:
    """A 95 % interval of the mean of `values` (n,) from a bootstrap that draws whole clusters with replacement.

    The percentiles are Hesterberg's expanded ones (2015, https://arxiv.org/abs/1411.5279, section 4.3), which allow
    for few clusters as Student's t does. `tests/benchmarks/bench_intervals.py` counts how often the truth is inside.
    """
    from scipy.stats import bootstrap, norm, t

    places = np.unique([repr(label) for label in labels], return_inverse=True)[1]
    sums, sizes = np.bincount(places, weights=values), np.bincount(places)
    mean = float(np.mean(values))
    if np.ptp(values) == 0 or len(sums) < 2:
        return mean, mean
    tail = norm.cdf(t.ppf(0.025, len(sums) - 1) * math.sqrt(len(sums) / (len(sums) - 1)))
    found = bootstrap(
        (sums, sizes), lambda total, count, axis: total.sum(axis) / count.sum(axis), paired=True, vectorized=True,
        confidence_level=1 - 2 * tail, n_resamples=resamples, method="percentile", batch=500,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


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
    pictures' means over seeds (crossed random effects; the noise that both hold is taken off once). Student's t with
    Satterthwaite's degrees of freedom, as a handful of seeds is too few to resample.

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
    of_seeds, of_problems = table.mean(axis=1), table.mean(axis=0)
    variances = [float((of_seeds**2).sum()) / (seeds - 1) / seeds]
    if count > 1:
        unbiased = count / (count - 1)
        offsets = np.bincount(places, weights=of_problems) / problems
        variances.append(float((offsets**2).sum()) * unbiased)
        rest = [np.bincount(places, weights=row) / problems for row in table - of_seeds[:, None] - of_problems]
        noise = float((np.array(rest) ** 2).sum()) / seeds / (seeds - 1) * unbiased
    whole = max(sum(variances) - noise, *variances) if count > 1 else variances[0]
    if whole <= 0:
        return 0.0
    freedom = sum(variances) ** 2 / sum(v**2 / (size - 1) for v, size in zip(variances, (seeds, count), strict=False))
    return float(t.ppf(0.975, freedom)) * math.sqrt(whole)


def detectable_difference(problems: int, *, flips: float = USUAL_FLIPS, power: float = 0.8) -> float:
    """The smallest true difference of two accuracies that `problems` paired problems show in `power` of all runs.

    A two-sided test at 5 %, by the normal approximation of McNemar's test. With the default 1,000 problems show about
    3 points, 200 about 7.

    Args:
        flips: share of problems whose verdict differs between the two; the difference cannot be larger.
    """
    from scipy.stats import norm

    needed = float(norm.ppf(0.975) + norm.ppf(power)) ** 2
    # difference**2 * problems = needed * (flips - difference**2), solved for the difference
    return min(flips, math.sqrt(needed * flips / (problems + needed)))


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
