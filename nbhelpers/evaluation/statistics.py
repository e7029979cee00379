"""Rates of predictions, and the difference of two policies on the same problems with its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

BOOTSTRAP_RESAMPLES = 9_999


def summarise(rows: Sequence[dict]) -> dict:
    """Rates over one phase's predictions; `unparsed_rate` counts those in which the grader found no answer to judge."""
    return {
        "accuracy": _mean(row["correct"] for row in rows),
        "format_rate": _mean(row["format_ok"] for row in rows),
        "unparsed_rate": _mean(row["parsed"] is None for row in rows),
        "n": len({row["pid"] for row in rows}),
    }


def compare(predictions: Sequence[dict], *, seed: int = 0) -> dict:
    """`evaluation.json` without protocol and decoding, from the rows of both phases (or of "after" alone)."""
    phases = {phase: [row for row in predictions if row["phase"] == phase] for phase in ("before", "after")}
    result: dict[str, Any] = {phase: summarise(rows) for phase, rows in phases.items() if rows}
    accuracy = {phase: problem_accuracy(rows) for phase, rows in phases.items()}
    if phases["before"]:
        result["difference"] = paired_difference(accuracy["before"], accuracy["after"], seed=seed)
    kinds: dict[str, set] = defaultdict(set)
    for row in predictions:
        kinds[row["kind"]].add(row["pid"])
    result["by_group"] = {
        kind: {phase: _mean(rates[pid] for pid in sorted(pids & rates.keys())) for phase, rates in accuracy.items()}
        | {"n": len(pids)}
        for kind, pids in sorted(kinds.items())
    }
    return result


def problem_accuracy(rows: Iterable[dict]) -> dict[str, float]:
    """Share of correct samples by problem id."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        verdicts[row["pid"]].append(row["correct"])
    return {pid: float(np.mean(values)) for pid, values in verdicts.items()}


def paired_difference(first: dict[str, float], second: dict[str, float], *, seed: int = 0) -> dict:
    """Mean of `second - first` over the problems that both hold, with a bootstrap 95 % interval.

    The interval resamples problems (scipy.stats.bootstrap, percentile method), so what all problems share, such as
    their difficulty, cancels. A difference that is the same for every problem has an interval of width 0.
    """
    from scipy.stats import bootstrap

    shared = sorted(first.keys() & second.keys())
    if not shared:
        return {"accuracy": None, "ci95": [None, None], "n_paired": 0}
    differences = np.array([second[pid] - first[pid] for pid in shared])
    low = high = mean = float(differences.mean())
    if np.ptp(differences) > 0:
        rng = np.random.default_rng(seed)
        draws = {"n_resamples": BOOTSTRAP_RESAMPLES, "method": "percentile", "batch": 500, "rng": rng}
        low, high = map(float, bootstrap((differences,), np.mean, **draws).confidence_interval)
    return {"accuracy": mean, "ci95": [low, high], "n_paired": len(shared)}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
